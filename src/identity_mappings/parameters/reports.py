"""The typed form of what is shown: cells, tables, figures and the rule of verdicts."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ..records.run import DETECTION_PROTOCOLS
from .models import DatasetName, ExperimentName, Name, Natural, Parameters, Percent, Positive, Runs
from .reading import known

AboveZero = Annotated[float, Field(gt=0, le=100)]
Published = Percent | Literal["fail"] | str | None

TEST_ERROR, BEST_RUN = "test error %", "test error %, best run"
MEAN = "test error %, mean ± standard deviation"
TOP_1, TOP_5 = "top-1 error %", "top-5 error %"
MAP_50, MAP = "mAP %", "mAP@[.5, .95] %"
PARAMETERS, MULTIPLY_ADDS = "parameters", "multiply-adds"
COUNTS = (PARAMETERS, MULTIPLY_ADDS)
TEST_BOUND, TRAINING_BOUND = "test error %, bound", "training error %, bound"
TRAINING_TIME, SPLIT = "training time", "training and validation images"
CHOSEN_BIAS = "gate bias of the lowest validation error"
CHOICES = (SPLIT, CHOSEN_BIAS)  # of runs on the split by which the papers choose
FACTS = (TEST_BOUND, TRAINING_BOUND, TRAINING_TIME, *CHOICES)  # of the text: no error that a table prints
SINGLE_VIEW = "single-view"
FORMS = {  # of published values that are not plain numbers, by metric
    MEAN: (r"\d+\.\d+±\d+\.\d+", "a mean like 4.89±0.14"),
    PARAMETERS: (r"\d*\.?\d+M", "a number of weights like 1.7M"),
    TEST_BOUND: (r"[<>]\d+(\.\d+)?", "a bound like >60"),
    TRAINING_BOUND: (r"[<>]\d+(\.\d+)?", "a bound like <0.1"),
    TRAINING_TIME: (r"\d+ (hours|weeks)", "a time like 27 hours"),
    SPLIT: (r"\d+k/\d+k", "two numbers of images like 45k/5k"),
    CHOSEN_BIAS: (r"-?\d+", "a bias like -6, in quotes"),
    MULTIPLY_ADDS: (r"\d+(\.\d+)?(×10\^9|%)", "a count like 3.6×10^9, or a share like 18%"),
}


class Cell(Parameters):
    """A number of a table: what was published, and which experiment makes it again."""

    metric: Literal[
        "test error %",
        "test error %, best run",
        "test error %, mean ± standard deviation",
        "top-1 error %",
        "top-5 error %",
        "mAP %",
        "mAP@[.5, .95] %",
        "parameters",
        "multiply-adds",
        "test error %, bound",
        "training error %, bound",
        "training time",
        "training and validation images",
        "gate bias of the lowest validation error",
    ] = "test error %"
    """errors: the median over the runs, at the last iteration, unless it says mean or best run"""
    protocol: (
        Literal["single-view", "centre-224", "centre-320", "10-crop", "multi-scale", "voc-11-point", "coco"] | None
    ) = None
    """how the trained network is tested; null: single-view, on CIFAR. centre-224: of shorter side 256; centre-320: of
    shorter side 320; 10-crop: of shorter side 256, softmax averaged; multi-scale: fully convolutional, scores averaged
    over shorter sides 224, 256, 384, 480, 640; boxes: voc-11-point, coco"""
    counted: Literal["with batch norm", "without batch norm", "with linear layers", "without linear layers"] | None = (
        None
    )
    """of weights or multiply-adds: by which convention; papers differ, also within themselves"""
    share_of: ExperimentName | None = None
    """the multiply-adds are a percentage of this experiment's network"""
    published: Annotated[Published, Field(description="as the paper prints it; null: the paper has no such number")]
    experiments: list[Annotated[Name, known("experiments and detections")]] = []  # noqa: RUF012 (pydantic copies it)
    """experiments that rebuild it; of several, the best counts (he2016's 'b_g = 0 to -5' is one row)"""
    dataset: Annotated[str, Field(description="for quoted rows, which have no experiment")] = ""
    network: Annotated[str, Field(description="as the paper calls it")]
    decimals: Annotated[int, Field(ge=0, le=4, description="of an error, as the paper prints it")] = 2
    published_runs: Annotated[Runs, Field(description="runs behind the published number")] = 5
    published_deviation: Percent | None = None
    """standard deviation that the paper states; null: the prior spread"""
    quoted: Annotated[bool, Field(description="the paper quotes it from another paper; it is not made again")] = False
    not_rebuilt: str | None = None
    """why nobody outside can make the paper's own number again"""

    @property
    def is_cost(self) -> bool:
        """Whether it needs a cost record, not a training."""
        return self.metric in COUNTS

    @property
    def is_fact(self) -> bool:
        """Whether it is a fact of the text: a bound, a time, a number of images."""
        return self.metric in FACTS

    @property
    def is_error(self) -> bool:
        return not self.is_cost and not self.is_fact

    @property
    def tested_by(self) -> str | None:
        """The protocol of an error; None where there is none, or a quoted one that is not among ours."""
        return None if self.is_cost else self.protocol or (None if self.quoted else SINGLE_VIEW)

    @field_validator("published")
    @classmethod
    def _is_comparable(cls, published: Published, info: ValidationInfo) -> Published:
        metric = info.data.get("metric", "")
        if published is None or (metric not in COUNTS and published == "fail"):
            return published
        if metric not in COUNTS and not isinstance(published, str):
            if not 0 <= published <= 100:
                raise ValueError(f"{published} is no error in %: give a number from 0 to 100")
            return published
        form, example = FORMS.get(metric, ("(?!)", "a number or fail"))
        if not isinstance(published, str) or not re.fullmatch(form, published):
            raise ValueError(f"{published!r} is not {example}, which this metric needs: correct it")
        if metric == MEAN and float(published.partition("±")[0]) > 100:
            raise ValueError(f"{published!r}: a mean of errors is from 0 to 100: correct it")
        return published

    @model_validator(mode="after")
    def _is_whole(self) -> "Cell":
        if sum(map(bool, (self.experiments, self.quoted, self.not_rebuilt))) != 1:
            raise ValueError("a cell needs either experiments, or 'quoted: true', or 'not_rebuilt: REASON'")
        if self.is_cost and not self.quoted:
            conventions = {PARAMETERS: "batch norm", MULTIPLY_ADDS: "linear layers"}[self.metric]
            if not (self.counted or "").endswith(conventions):
                raise ValueError(
                    f"{self.metric} need 'counted: with {conventions}' or 'counted: without {conventions}'"
                )
        elif self.counted:
            raise ValueError(f"counted: nothing is counted for {self.metric}, or it is quoted: remove it")
        if self.metric in (TOP_1, TOP_5) and not self.protocol and not self.quoted:
            raise ValueError(f"{self.metric} needs a protocol: centre-224, centre-320, 10-crop or multi-scale")
        if (self.metric in (MAP_50, MAP)) != (self.protocol in DETECTION_PROTOCOLS):
            raise ValueError("mAP belongs to the protocols voc-11-point and coco: give both or neither")
        percent = isinstance(self.published, str) and self.published.endswith("%")
        if bool(self.share_of) != percent:
            raise ValueError("share_of belongs to a published share like 18%: give both or neither")
        return self


class Row(Parameters):
    """A row: plain text, and cells by the name they have in `texts` ({name} stands for a cell)."""

    name: Annotated[str, Field(description="tells the row apart; unique in the table")]
    texts: Annotated[list[str], Field(description="one for each column; {name} puts the cell of that name there")]
    cells: Annotated[dict[str, Cell], Field(description="by the name used in texts")]

    @model_validator(mode="after")
    def _cells_are_placed(self) -> "Row":
        named = set(re.findall(r"\{([^}]*)\}", " ".join(self.texts)))
        if wrong := named ^ set(self.cells):
            raise ValueError(f"row {self.name!r}: {', '.join(sorted(wrong))} must stand in both texts and cells")
        return self


class Table(Parameters):
    """A table of a paper, in the paper's own layout."""

    paper: Annotated[Name, Field(description="he2015 or he2016; 'own' for rows that no paper has")]
    table: Annotated[str, Field(description="as the paper calls it")]
    title: str
    columns: list[str]
    rows: list[Row]

    @model_validator(mode="after")
    def _rectangular(self) -> "Table":
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError("two rows have the same name")
        for row in self.rows:
            if len(row.texts) != len(self.columns):
                raise ValueError(f"row {row.name!r} has {len(row.texts)} texts for {len(self.columns)} columns")
        return self


class Curve(Parameters):
    """One network's curves in a figure."""

    label: str
    experiment: ExperimentName


class Panel(Parameters):
    title: str
    curves: Annotated[list[Curve], Field(min_length=1)]


class _Figure(Parameters):
    paper: Annotated[Name, Field(description="he2015 or he2016; 'own' for figures that no paper has")]
    figure: Annotated[str, Field(description="as the paper calls it")]
    title: str
    kind: str
    panels: list[Any]

    @property
    def experiments(self) -> list[str]:
        """All experiments that it names."""
        return [curve.experiment for panel in self.panels for curve in getattr(panel, "curves", [panel])]

    @property
    def runs(self) -> list[str]:
        """The experiments whose runs it shows."""
        return self.experiments if self.kind in ("curves", "responses") else []


class _Panels(_Figure):
    panels: Annotated[list[Panel], Field(min_length=1)]


class TrainingCurves(_Panels):
    """Training curves: training loss or error dashed, test error solid."""

    kind: Literal["curves"]
    dashed: Literal["training loss", "training error"] = "training loss"
    """loss: on an axis of its own (he2016); error: on the axis of the test error (he2015)"""
    loss_limits: Annotated[
        list[Annotated[float, Field(gt=0, le=1_000_000)]],
        Field(min_length=2, max_length=2, description="axis of training loss"),
    ] = [0.002, 2.0]  # noqa: RUF012
    error_limit: Annotated[float, Field(gt=0, le=100, description="upper end of the axis of test error, in %")] = 20


class Responses(_Panels):
    """Standard deviation of layer responses of trained networks (he2015, Figure 7)."""

    kind: Literal["responses"]


class Signals(_Panels):
    """Norms of signal and gradient at each unit, at initialization and after a scale's `signal_iterations`."""

    kind: Literal["signals"]


class Drawn(Parameters):
    """Consecutive units of a network, to be drawn from their module graph."""

    title: str
    experiment: ExperimentName
    first: Annotated[Natural, Field(description="index of the first unit that is drawn")] = 1
    count: Annotated[Positive, Field(description="how many units are drawn")] = 1
    asymmetric: bool = False
    """in the form of he2016, Figure 5(b): each activation behind the addition before it"""


class Units(_Figure):
    """Residual units as he2016 draws them (Figures 2, 4 and 5), from the modules that are trained."""

    kind: Literal["units"]
    panels: Annotated[list[Drawn], Field(min_length=1)]


def _with_kind(data: Any) -> Any:
    return {"kind": "curves", **data} if isinstance(data, dict) else data


Figure = Annotated[
    TrainingCurves | Responses | Signals | Units, Field(discriminator="kind"), BeforeValidator(_with_kind)
]


AnyDatasetName = Annotated[Name, known("datasets of images and boxes")]


class Limits(Parameters):
    """What a scale judges by other numbers, by dataset; see `Reporting`."""

    fail_above: dict[AnyDatasetName, AboveZero] = {}  # noqa: RUF012
    prior_deviation: dict[AnyDatasetName, AboveZero] = {}  # noqa: RUF012
    resolution: dict[AnyDatasetName, AboveZero] = {}  # noqa: RUF012


class Reporting(Parameters):
    """The rule by which a measured number agrees with a published one, and its constants."""

    fail_above: dict[DatasetName, AboveZero]
    """a test error above this is 'fail' (he2016, Table 1); where nothing is given none is"""
    prior_deviation: dict[Name, AboveZero]
    """standard deviation over runs, in points, where n < 3 or none is published"""
    resolution: dict[Name, AboveZero]
    """agreement within a wider band than this, in points, says nothing"""
    agrees_within: Annotated[AboveZero, Field(description="standard errors of the difference")]
    differs_beyond: Annotated[AboveZero, Field(description="standard errors of the difference")]
    gradient_factor: Annotated[float, Field(gt=1, le=1_000_000_000)]
    """of two networks' gradients, below which neither passes more than the other"""
    scales: dict[Annotated[Name, known("scales")], Limits] = {}  # noqa: RUF012
    """by scale: values that differ there"""
    side_by_side: list[Annotated[Name, known("scales")]] = []  # noqa: RUF012
    """scales that results/report.html, `explain` and the README show together, the largest first"""

    def list_beside(self, scale: str) -> list[str]:
        """The scales that are shown together with one."""
        return self.side_by_side if scale in self.side_by_side else [scale]

    def get_limits(self, scale: str) -> "Reporting":
        """The rule with the values of a scale."""
        limits = self.scales.get(scale, Limits())
        return self.model_copy(update={key: {**getattr(self, key), **value} for key, value in limits})

    @model_validator(mode="after")
    def _ordered(self) -> "Reporting":
        if self.differs_beyond < self.agrees_within:
            raise ValueError("differs_beyond must not be below agrees_within: correct one")
        return self
