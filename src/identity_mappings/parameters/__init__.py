"""Everything under params/: typed, checked, and resolved into experiments."""

from .load import Project, load

__all__ = ["Project", "load"]
