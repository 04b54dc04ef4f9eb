"""The typed form of the papers' claims."""

from itertools import product
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from .models import ExperimentName, Name, Parameters
from .reading import nearest
from .reports import TEST_ERROR

TRAINING_ERROR, TRAINING_LOSS = "training error %", "training loss"
EARLY_GRADIENT, FIRST_GRADIENT = "gradient after the first iterations", "gradient at initialization"
GRADIENTS = (EARLY_GRADIENT, FIRST_GRADIENT)


def _check_each_once(names: list[str], what: str) -> None:
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two {what} have the name {double!r}: rename one")


class Comparison(Parameters):
    """Each of `lower` is said to lie below each of `higher`."""

    lower: Annotated[list[ExperimentName], Field(min_length=1, description="experiments")]
    higher: Annotated[list[ExperimentName], Field(min_length=1, description="experiments")]
    no_worse: bool = False
    """`lower` is only said to be no worse: it may lie above by the dataset's resolution (params/reporting.yaml); of
    test errors alone"""


class Claim(Parameters):
    """What a paper says of several networks, as comparisons of two each."""

    name: Annotated[Name, Field(description="tells the claim apart; unique")]
    paper: Annotated[Name, Field(description="he2015 or he2016; 'own' for what no paper says")]
    source: Annotated[str, Field(description="section, table, figure or equation")]
    says: Annotated[str, Field(description="the claim in a sentence")]
    short: str | None = None
    """the claim in a few words, for the README's table; null: it is not there"""
    metric: Literal[
        "test error %",
        "training error %",
        "training loss",
        "gradient after the first iterations",
        "gradient at initialization",
    ] = "test error %"
    """errors and loss: of the runs, at the last iteration; gradients: norm at the first unit by the norm at the last,
    from the records of signals"""
    seen: bool = False
    """made after its records were seen: it tells what they show, and they do not test it"""
    comparisons: Annotated[list[Comparison], Field(min_length=1)]

    def is_no_worse(self, lower: str, higher: str) -> bool:
        """Whether the first of a pair is only said to be no worse than the second."""
        return any(c.no_worse and lower in c.lower and higher in c.higher for c in self.comparisons)

    def pairs(self) -> list[tuple[str, str]]:
        """(lower, higher), each once."""
        pairs = [pair for comparison in self.comparisons for pair in product(comparison.lower, comparison.higher)]
        return list(dict.fromkeys(pairs))

    @model_validator(mode="after")
    def _compares_two(self) -> "Claim":
        if self.metric != TEST_ERROR and any(comparison.no_worse for comparison in self.comparisons):
            raise ValueError(f"no_worse is of test errors, not of {self.metric}: remove it")
        for lower, higher in self.pairs():
            if lower == higher or (higher, lower) in self.pairs():
                raise ValueError(f"{lower} and {higher}: each would lie below the other: correct lower and higher")
        return self


class Suspicion(Parameters):
    """The first suspicion where a number or a claim does not come out, and the experiment that tests it."""

    of: Annotated[Name, Field(description="a claim, or an experiment whose error differs from the paper's")]
    says: Annotated[str, Field(description="the suspicion in a sentence")]
    against: Annotated[ExperimentName, Field(description="the experiment as it is")]
    tested_by: Annotated[ExperimentName, Field(description="the experiment that differs in the suspected choice alone")]


class Claims(Parameters):
    """The claims that results/README.md judges, and what was suspected where they do not hold."""

    claims: list[Claim]
    suspicions: list[Suspicion] = []  # noqa: RUF012 (pydantic copies it)

    @model_validator(mode="after")
    def _each_once(self) -> "Claims":
        _check_each_once([claim.name for claim in self.claims], "claims")
        return self

    @model_validator(mode="after")
    def _suspects_what_is_there(self, info: ValidationInfo) -> "Claims":
        names = [*(claim.name for claim in self.claims), *(info.context or {}).get("experiments", ())]
        for suspicion in self.suspicions if info.context else ():
            if suspicion.of not in names:
                raise ValueError(f"suspicions.of: unknown name {suspicion.of!r}: {nearest(suspicion.of, names)}")
        return self
