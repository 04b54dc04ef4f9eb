"""The typed form of everything under params/; the JSON Schemas of workflow/schemas/ are generated from it."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from ..networks.depth import units_per_stage

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Parameters(BaseModel):
    """Base of all: no unknown keys, no change after reading, no numbers written as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Dataset(Parameters):
    """A set of images, pinned by its hash."""

    md5: Annotated[str, Field(description="DVC's hash of the output data/NAME; for digits, of its bytes")]
    classes: Annotated[Positive, Field(description="number of classes")]
    channels: Annotated[Positive, Field(description="colour channels of an image")]
    size: Annotated[Positive, Field(description="height and width of an image in pixels")]
    training_images: Positive
    test_images: Positive


class Identity(Parameters):
    """y = h(x) + F(x)."""

    kind: Literal["identity"] = "identity"


class Scaled(Parameters):
    """Constant scaling (he2016, Figure 2b)."""

    kind: Literal["scaled"]
    shortcut_scale: Annotated[float, Field(description="factor of the shortcut; 0 makes a plain net")]
    residual_scale: Annotated[float, Field(description="factor of F")]


class Gated(Parameters):
    """A gate g(x) = sigmoid(W x + b) (he2016, Figures 2c and 2d)."""

    kind: Literal["exclusive-gate", "shortcut-only-gate"]
    gate_bias: Annotated[float, Field(description="initial b_g; the paper searched 0 to -10")]


class Convolution(Parameters):
    """1x1 convolution with batch norm on every unit (he2016, Figure 2e)."""

    kind: Literal["convolution"]


class DropoutShortcut(Parameters):
    """Dropout on the output of the identity shortcut (he2016, Figure 2f)."""

    kind: Literal["dropout"]
    ratio: Annotated[float, Field(ge=0, lt=1, description="share of the elements that is dropped")]


class Custom(Parameters):
    """A shortcut of your own: a class in a Python file of the project, derived from networks.shortcuts.Shortcut."""

    kind: Literal["custom"]
    source: Annotated[str, Field(pattern=r"^[^/].*\.py$", description="the file, relative to the project's root")]
    class_name: Annotated[str, Field(description="the class in it")]
    arguments: Annotated[dict[str, Any], Field(description="keyword arguments of the class")] = {}


Shortcut = Annotated[Identity | Scaled | Gated | Convolution | DropoutShortcut | Custom, Field(discriminator="kind")]


class Network(Parameters):
    """A CIFAR network (networks.CifarResNet)."""

    depth: Annotated[Positive, Field(description="weighted layers: 6n+2 (basic, single) or 9n+2 (bottleneck)")]
    unit: Annotated[
        Literal["basic", "bottleneck", "single"],
        Field(description="two 3x3; 1x1, 3x3, 1x1; or one 3x3 layer in a unit (he2016, Table 3: 1-layer skip)"),
    ] = "basic"
    activation: Annotated[
        Literal[
            "original",
            "bn-after-addition",
            "relu-before-addition",
            "relu-only-pre-activation",
            "full-pre-activation",
        ],
        Field(description="place of the activations (he2016, Figure 4 and Table 2)"),
    ] = "original"
    shortcut: Annotated[Shortcut, Field(description="what every unit's shortcut does (he2016, Table 1)")] = Identity()
    shape_change: Annotated[
        Literal["A", "B"] | None,
        Field(description="shortcut where size or width changes: A zero padding, B projection; default by unit"),
    ] = None
    shortcut_at_shape_change: Annotated[
        Literal["apply", "identity"],
        Field(description="open choice: gates and scaling at the two units that change dimensions"),
    ] = "apply"  # Table 1's caption: "applied to all Residual Units"
    projection_batch_norm: Annotated[
        bool | None, Field(description="batch norm behind a projection; null: as the activation has it")
    ] = None  # open choice for "BN after addition": the normalization after the addition serves both branches
    pre_activate_zero_padding: Annotated[
        bool, Field(description="open choice: option A sees the pre-activated input")
    ] = False  # option A stands for the identity, and the identity is not activated

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_unit(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("shape_change") is None:
            data = {**data, "shape_change": "B" if data.get("unit") == "bottleneck" else "A"}
        return data

    @model_validator(mode="after")
    def _depth_fits_unit(self) -> "Network":
        units_per_stage(self.unit, self.depth)
        return self


class Recipe(Parameters):
    """How a network is trained and tested. Iterations count from 0; rates are per iteration."""

    description: str
    batch_size: Annotated[Positive, Field(description="images an iteration")]
    batch_norm_samples: Annotated[
        Positive, Field(description="images that share batch norm statistics: the paper's batch on one of its GPUs")
    ]
    epoch_end: Annotated[
        Literal["continue", "short-batch"],
        Field(description="a batch goes on into the next epoch, or the last batch of an epoch is short"),
    ]
    iterations: Annotated[Positive, Field(description="length of the training")]
    learning_rate: Annotated[
        dict[Annotated[int, Field(ge=0)], Annotated[float, Field(gt=0)]],
        Field(description="from which iteration on which rate; must begin at 0"),
    ]
    momentum: Fraction
    nesterov: bool
    momentum_form: Annotated[
        Literal["caffe", "torch"],
        Field(description="v = mu v + lr g (caffe) or v = mu v + g (torch); they differ after a switch of the rate"),
    ]
    weight_decay: Annotated[float, Field(ge=0)]
    weight_decay_on: Annotated[
        list[Literal["convolution", "linear", "batch-norm", "bias", "other"]], Field(description="which weights decay")
    ]
    normalization: Literal["per-pixel-mean", "channel-mean-and-deviation"]
    channel_mean: Annotated[list[float] | None, Field(description="by colour channel, in 0 to 255")] = None
    channel_deviation: Annotated[list[float] | None, Field(description="by colour channel, in 0 to 255")] = None
    crop_padding: Annotated[int, Field(ge=0, description="pixels padded on each side before the random crop")]
    padding_colour: Annotated[
        Literal["mean", "black"], Field(description="pad after the normalization (zeros: the mean), or black before it")
    ]
    flip: Annotated[bool, Field(description="random horizontal flip")]
    convolution_initialization: Literal["he-fan-in", "he-fan-out"]
    linear_initialization: Literal["he-fan-in", "torch"]
    batch_norm_eps: Annotated[float, Field(gt=0)]
    batch_norm_momentum: Fraction
    running_statistics: Annotated[
        Literal["first-replica", "mean"], Field(description="whose moving statistics are kept when replicas differ")
    ]
    test_statistics: Annotated[
        Literal["moving", "recomputed"],
        Field(description="batch norm's statistics in the test: moving averages, or averages over the training set"),
    ]
    evaluate_every: Annotated[Positive, Field(description="iterations between tests")]
    log_every: Annotated[Positive, Field(description="iterations between rows of curve.csv; divides evaluate_every")]
    arithmetic: Annotated[Literal["float32", "tf32", "bfloat16"], Field(description="of convolutions and products")]
    cpu_threads: Annotated[Positive, Field(description="threads of a run on a CPU, whatever the machine has")]

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.batch_size % self.batch_norm_samples:
            raise ValueError(
                f"batch_norm_samples {self.batch_norm_samples} does not divide batch_size {self.batch_size}"
            )
        if 0 not in self.learning_rate:
            raise ValueError("learning_rate has no rate for iteration 0: add the line '0: RATE'")
        if list(self.learning_rate) != sorted(self.learning_rate):
            raise ValueError("learning_rate is not in the order of iterations: sort its lines")
        if self.evaluate_every % self.log_every:
            raise ValueError(f"log_every {self.log_every} does not divide evaluate_every {self.evaluate_every}")
        if self.normalization == "channel-mean-and-deviation" and not (self.channel_mean and self.channel_deviation):
            raise ValueError("channel-mean-and-deviation needs channel_mean and channel_deviation")
        return self


class Experiment(Parameters):
    """A dataset, a network and a recipe; the digest of all that is an experiment's identity."""

    dataset: Name
    network: Network
    recipe: Name
    gpus: Annotated[Positive, Field(description="devices that a run wants")] = 1


class Overlay(Parameters):
    """What a scale changes in every experiment."""

    datasets: Annotated[
        dict[Name, Name | None],
        Field(description="takes another dataset instead; null: experiments on it have no counterpart at this scale"),
    ] = {}
    depths: Annotated[
        dict[Literal["basic", "bottleneck", "single"], dict[int, int | None]],
        Field(description="by unit: takes another depth instead; null: no counterpart"),
    ] = {}
    recipe: Annotated[dict[str, Any], Field(description="keys of the recipe that take other values")] = {}


class Scale(Parameters):
    """A size at which the whole graph runs: the papers' own, or a smaller one."""

    description: Annotated[str, Field(description="one honest sentence: stands at the head of the tables")]
    results: Annotated[str, Field(pattern=r"^results(/[a-z0-9-]+)?$", description="folder of everything it makes")]
    runs: Annotated[Positive, Field(description="seeds 0 to runs - 1 are wanted of every experiment")]
    device: Annotated[
        Literal["gpu", "cpu"], Field(description="where its runs train unless a call says otherwise; never guessed")
    ] = "gpu"
    published: Annotated[bool, Field(description="whether its numbers are to be compared with the papers'")]
    overlay: Overlay = Overlay()
    experiments: Annotated[
        list[Name] | None, Field(description="experiments that are wanted; null: those of the tables and figures")
    ] = None
    leave_out: Annotated[list[Name], Field(description="experiments with no counterpart at this scale")] = []


Published = float | Literal["fail"] | str | None


class Cell(Parameters):
    """A number of a table: what was published, and which experiment makes it again."""

    metric: Annotated[
        Literal["test error %", "test error %, mean ± standard deviation", "parameters"],
        Field(description="error: the median over the runs, at the last iteration"),
    ] = "test error %"
    published: Annotated[Published, Field(description="as the paper prints it; null: the paper has no such number")]
    experiments: Annotated[
        list[Name],
        Field(description="who makes it again; several: the lowest counts (he2016's 'b_g = 0 to -5' is one row)"),
    ] = []
    dataset: Annotated[str, Field(description="for quoted rows, which have no experiment")] = ""
    network: Annotated[str, Field(description="as the paper calls it")]
    published_runs: Annotated[Positive, Field(description="runs behind the published number")] = 5
    published_deviation: Annotated[
        float | None, Field(ge=0, description="standard deviation that the paper states; null: the prior spread")
    ] = None
    quoted: Annotated[bool, Field(description="the paper quotes it from another paper; it is not made again")] = False

    @field_validator("published")
    @classmethod
    def _is_comparable(cls, published: Published, info: ValidationInfo) -> Published:
        known = not isinstance(published, str) or published == "fail" or info.data.get("metric") == "parameters"
        if not known and not re.fullmatch(r"\d+\.\d+±\d+\.\d+", published):
            raise ValueError(f"{published!r} is neither a number, nor fail, nor a mean like 4.89±0.14: correct it")
        return published

    @model_validator(mode="after")
    def _has_a_source(self) -> "Cell":
        if bool(self.experiments) == self.quoted and self.metric != "parameters":
            raise ValueError("a cell needs either experiments or 'quoted: true'")
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
    experiment: Name


class Panel(Parameters):
    title: str
    curves: Annotated[list[Curve], Field(min_length=1)]


class Figure(Parameters):
    """A figure of training curves: loss dashed on the left axis, test error solid on the right."""

    paper: Name
    figure: str
    title: str
    panels: Annotated[list[Panel], Field(min_length=1)]
    loss_limits: Annotated[
        list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2, description="axis of training loss")
    ] = [0.002, 2.0]
    error_limit: Annotated[float, Field(gt=0, description="upper end of the axis of test error, in %")] = 20


class Reporting(Parameters):
    """The rule by which a measured number agrees with a published one, and its constants."""

    fail_above: Annotated[float, Field(description="a test error above this is 'fail' (he2016, Table 1)")]
    prior_deviation: Annotated[
        dict[Name, float],
        Field(description="standard deviation over runs, in points, where n < 3 or none is published"),
    ]
    resolution: Annotated[
        dict[Name, float], Field(description="agreement within a wider band than this, in points, says nothing")
    ]
    agrees_within: Annotated[float, Field(gt=0, description="standard errors of the difference")]
    differs_beyond: Annotated[float, Field(gt=0, description="standard errors of the difference")]

    @model_validator(mode="after")
    def _ordered(self) -> "Reporting":
        if not math.inf > self.differs_beyond >= self.agrees_within:
            raise ValueError("differs_beyond must not be below agrees_within")
        return self
