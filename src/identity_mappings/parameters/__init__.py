"""Everything under params/: typed, checked, and resolved into experiments."""

from .project import Project, load

__all__ = ["Project", "load"]
