"""The typed form of what others report of the papers' networks (params/reproductions.yaml)."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .models import Name, Parameters, Percent, Runs

Epoch = Literal["last", "best of test", "best of validation", "unknown"]
Summary = Literal["single", "median", "mean", "best run"]


class Source(Parameters):
    """A project or an article of others."""

    name: Annotated[str, Field(description="as it calls itself")]
    kind: Literal["repository", "article"] = "repository"
    address: Annotated[str, Field(pattern=r"^https://\S+$")]


class Report(Parameters):
    """Numbers of one source that may be compared with each other: of one recipe and one statistic."""

    source: Annotated[Name, Field(description="one of `sources`")]
    at: Annotated[str, Field(description="the file, or the issue, where they stand")]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """of the file as it was read; null: not known, or not a file"""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None
    """of an issue or comment; null: the commit has it, or not known"""
    epoch: Annotated[Epoch, Field(description="whose error a run counts with")]
    runs: Runs | None = 1
    """behind each number; null: several, and the source does not say how many"""
    summary: Annotated[Summary, Field(description="what several runs are summarized by")] = "single"
    recipe: Literal["same", "other"]
    """same: the papers' recipe but for details; the head of params/reproductions.yaml says which"""
    differs: Annotated[str | None, Field(description="what an other recipe does otherwise")] = None
    remark: str | None = None

    def get_link(self, source: Source) -> str:
        """To the file as it was read, or the issue; to the source where there is no such."""
        place = self.at.partition(",")[0]
        if re.match(r"(issues|pull)/\d+$", place):
            return f"{source.address}/{place}"
        is_file = self.commit and not re.search(r"[*\s]", place)
        return f"{source.address}/blob/{self.commit}/{place}" if is_file else source.address

    @model_validator(mode="after")
    def _is_whole(self) -> "Report":
        if (self.recipe == "other") != bool(self.differs):
            raise ValueError("differs belongs to recipe 'other': give both or neither")
        if (self.summary == "single") != (self.runs == 1):
            raise ValueError("summary 'single' belongs to one run: correct summary or runs")
        return self


class Number(Parameters):
    """An error that a report has for a cell."""

    report: Annotated[Name, Field(description="one of `reports`")]
    value: Annotated[Percent, Field(description="in %")]
    deviation: Percent | None = None
    """standard deviation over the runs; null: none is reported"""
    remark: str | None = None
    counts: bool = True
    """false: it stands here as a warning, and counts for nothing"""
    reason: Annotated[str | None, Field(description="why it does not count")] = None

    @model_validator(mode="after")
    def _says_why(self) -> "Number":
        if self.counts == bool(self.reason):
            raise ValueError("reason belongs to 'counts: false': give both or neither")
        return self


class CellNumbers(Parameters):
    """What others report for a cell of params/tables."""

    paper: Annotated[Name, Field(description="of the table")]
    table: Annotated[str, Field(description="as its file calls it")]
    row: Annotated[str, Field(description="the row's name")]
    column: Annotated[str, Field(description="the cell's name in the row")]
    numbers: Annotated[list[Number], Field(min_length=1)]

    @property
    def place(self) -> str:
        return " / ".join((self.paper, self.table, self.row, self.column))


class Reproductions(Parameters):
    """Numbers of others, apart from ours and the papers'."""

    sources: dict[Name, Source]
    reports: dict[Name, Report]
    cells: list[CellNumbers]
