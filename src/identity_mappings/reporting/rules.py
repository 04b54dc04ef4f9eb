"""The rules by which numbers and claims are judged, in words with their constants; the words are in rules.md.jinja."""

import math

from ..parameters import Project
from .rendering import render_macro
from .verdict import variance_of_median

RUNS_OF_THE_PAPERS = 5  # behind each of their medians
COUNTS = "counts"


def state_rules(project: Project, scale: str) -> dict[str, str]:
    """The rules for errors, counts, bounds and claims, each as one line."""
    reporting = project.reporting
    names = {name for claim in project.claims.claims for pair in claim.pairs() for name in pair}
    experiments = filter(None, (project.resolve(name, scale) for name in sorted(names)))
    compared = sorted({experiment.parameters["dataset"]["name"] for experiment in experiments})
    smallest = {
        name: float(f"{reporting.differs_beyond * math.sqrt(2 * variance_of_median(prior, RUNS_OF_THE_PAPERS)):.2g}")
        for name, prior in reporting.prior_deviation.items()
    }
    return {
        "errors": render_macro("rules.md.jinja", "errors", reporting, project.datasets_shown(scale)),
        COUNTS: state_count_rule(),
        "bounds": render_macro("rules.md.jinja", "bounds", reporting),
        "claims": render_macro("rules.md.jinja", "claims", reporting, compared, smallest),
    }


def state_count_rule() -> str:
    return render_macro("rules.md.jinja", "counts")
