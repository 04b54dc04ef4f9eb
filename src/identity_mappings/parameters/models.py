"""The typed form of what is trained: networks, recipes, experiments, scales.

`datasets`, `reports` and `claims` have that of the rest. The JSON Schemas of workflow/schemas/ are generated from all.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..networks.depth import stages
from .reading import UNKNOWN_KEY, known, nearest

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
LARGEST = 1_000_000_000  # of whatever is counted
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Runs = Annotated[int, Field(gt=0, le=10_000)]
Percent = Annotated[float, Field(ge=0, le=100)]
Brightness = Annotated[float, Field(ge=0, le=255)]


DatasetName = Annotated[Name, known("datasets")]
RecipeName = Annotated[Name, known("recipes")]
ExperimentName = Annotated[Name, known("experiments")]
RecipeKey = Annotated[str, known("keys of recipes")]


class Parameters(BaseModel):
    """Base of all: no unknown keys, no change after reading, no numbers written as text, none that is not finite.

    What a key says stands beside it or, where it is longer, below it; schemas show both.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _knows_its_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                cure = nearest(key, cls.model_fields)
                raise PydanticCustomError(UNKNOWN_KEY, "unknown key: {cure}", {"key": key, "cure": cure})
        return data


class Identity(Parameters):
    """y = h(x) + F(x)."""

    kind: Literal["identity"] = "identity"


class NoShortcut(Parameters):
    """y = F(x): the plain networks of he2015."""

    kind: Literal["none"]


class Scaled(Parameters):
    """Constant scaling (he2016, Figure 2b)."""

    kind: Literal["scaled"]
    shortcut_scale: Annotated[float, Field(ge=-10, le=10, description="factor of the shortcut; 0 makes a plain net")]
    residual_scale: Annotated[float, Field(ge=-10, le=10, description="factor of F")]


class Gated(Parameters):
    """A gate g(x) = sigmoid(W x + b) (he2016, Figures 2c and 2d)."""

    kind: Literal["exclusive-gate", "shortcut-only-gate"]
    gate_bias: Annotated[float, Field(ge=-100, le=100, description="initial b_g; the paper searched 0 to -10")]


class Convolution(Parameters):
    """1x1 convolution with batch norm on every unit (he2016, Figure 2e; option C of he2015)."""

    kind: Literal["convolution"]


class DropoutShortcut(Parameters):
    """Dropout on the output of the identity shortcut (he2016, Figure 2f)."""

    kind: Literal["dropout"]
    ratio: Annotated[float, Field(ge=0, lt=1, description="share of the elements that is dropped")]
    inverted: bool | None = None
    """open choice: null or true: the expectation of the shortcut stays x, as with Caffe's layer; false: it is
    (1 - ratio) x, as he2016, Section 3.1, says ("a scale of lambda with an expectation of 0.5")"""

    @field_validator("inverted")
    @classmethod
    def _one_name_for_a_network(cls, inverted: bool | None) -> bool | None:
        """Digests of before have no such key."""
        return None if inverted else inverted


class Custom(Parameters):
    """A shortcut of your own: a class in a Python file of the project, derived from networks.shortcuts.Shortcut."""

    kind: Literal["custom"]
    source: Annotated[str, Field(pattern=r"^[^/].*\.py$", description="the file, relative to the project's root")]
    class_name: Annotated[str, Field(description="the class in it")]
    arguments: Annotated[dict[str, Any], Field(description="keyword arguments of the class")] = {}

    @field_validator("arguments")
    @classmethod
    def _are_plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """They are part of the digest, as JSON: keys are texts, and numbers finite."""

        def check(value: Any) -> None:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{value} is not a finite number: write a number")
            if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
                raise ValueError("a key is no text: write it in quotes")
            for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
                check(item)

        check(arguments)
        return arguments


Shortcut = Annotated[
    Identity | NoShortcut | Scaled | Gated | Convolution | DropoutShortcut | Custom, Field(discriminator="kind")
]


class Network(Parameters):
    """A network of the papers (networks.resnet), or VGG (networks.vgg)."""

    family: Literal["cifar", "imagenet", "vgg"] | None = None
    """null: cifar; which stem, stages and widths"""
    depth: Positive
    """weighted layers: on CIFAR 6n+2 (basic, single) or 9n+2 (bottleneck); on ImageNet 18 to 200"""
    unit: Literal["basic", "bottleneck", "single"] = "basic"
    """two 3x3; 1x1, 3x3, 1x1; or one 3x3 layer in a unit (he2016, Table 3: 1-layer skip)"""
    activation: Literal[
        "original",
        "bn-after-addition",
        "relu-before-addition",
        "relu-only-pre-activation",
        "full-pre-activation",
    ] = "original"
    """place of the activations (he2016, Figure 4 and Table 2)"""
    shortcut: Annotated[Shortcut, Field(description="what every unit's shortcut does (he2016, Table 1)")] = Identity()
    shape_change: Literal["A", "B"] | None = None
    """shortcut where size or width changes: A zero padding, B projection; default by unit"""
    shortcut_at_shape_change: Literal["apply", "identity"] = (
        "apply"  # Table 1's caption: "applied to all Residual Units"
    )
    """open choice: gates and scaling at the two units that change dimensions"""
    projection_batch_norm: bool | None = (
        None  # open choice for "BN after addition": the normalization after the addition serves both branches
    )
    """batch norm behind a projection; null: as the activation has it"""
    pre_activate_zero_padding: bool = False  # option A stands for the identity, and the identity is not activated
    """open choice: option A sees the pre-activated input"""
    bottleneck_stride: Literal["1x1", "3x3"] | None = None
    """null: on a bottleneck's first 1x1, as in the papers; the released ImageNet code: 3x3"""
    stem_activation: Literal["before-pooling", "after-pooling"] | None = None
    """null: the ImageNet stem's BN-ReLU stands before its pooling, as in the papers"""

    @model_validator(mode="before")
    @classmethod
    def _one_name_for_a_network(cls, data: Any) -> Any:
        """The papers' own choices of the later keys are null, so that one network has one digest."""
        if isinstance(data, dict):
            if data.get("shape_change") is None and data.get("family") != "vgg":
                data = {**data, "shape_change": "B" if data.get("unit") == "bottleneck" else "A"}
            papers = {"family": "cifar", "bottleneck_stride": "1x1", "stem_activation": "before-pooling"}
            data = {key: None if papers.get(key) == value else value for key, value in data.items()}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> "Network":
        stages(self.family or "cifar", self.unit, self.depth)
        if self.bottleneck_stride and self.unit != "bottleneck":
            raise ValueError(f"bottleneck_stride is of bottleneck units, not of {self.unit} ones: remove it")
        if self.stem_activation and self.family != "imagenet":
            raise ValueError("stem_activation is of ImageNet networks: remove it, or write family: imagenet")
        if self.family == "vgg" and (wrong := self.model_fields_set - {"family", "depth"}):
            raise ValueError(f"VGG has no {', '.join(sorted(wrong))}: remove it")
        return self


class Training(Parameters):
    """What every recipe says. Iterations count from 0."""

    description: str
    batch_size: Annotated[Positive, Field(description="images an iteration")]
    iterations: Annotated[Positive, Field(description="length of the training")]
    learning_rate: dict[Natural, Annotated[float, Field(gt=0, le=100)]]
    """from which iteration on which rate; must begin at 0"""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    momentum_form: Literal["caffe", "torch"]
    """v = mu v + lr g (caffe) or v = mu v + g (torch); they differ after a switch of the rate"""
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    weight_decay_on: list[Literal["convolution", "linear", "batch-norm", "bias", "other"]]
    """which weights decay"""
    flip: Annotated[bool, Field(description="random horizontal flip")]
    evaluate_every: Annotated[Positive, Field(description="iterations between tests")]
    log_every: Annotated[Positive, Field(description="iterations between rows of curve.csv; divides evaluate_every")]
    arithmetic: Annotated[Literal["float32", "tf32", "bfloat16"], Field(description="of convolutions and products")]
    cpu_threads: Annotated[int, Field(gt=0, le=4096, description="threads of a run on a CPU, whatever the machine has")]

    def resolve(self) -> dict[str, Any]:
        """As an experiment has it: JSON has no integer keys, so the schedule is a list of pairs."""
        schedule = [list(pair) for pair in self.learning_rate.items()]
        return {**self.model_dump(exclude={"description"}), "learning_rate": schedule}

    @model_validator(mode="after")
    def _has_a_schedule(self) -> "Training":
        if 0 not in self.learning_rate:
            raise ValueError("learning_rate has no rate for iteration 0: add the line '0: RATE'")
        if list(self.learning_rate) != sorted(self.learning_rate):
            raise ValueError("learning_rate is not in the order of iterations: sort its lines")
        if self.evaluate_every % self.log_every:
            raise ValueError(f"log_every {self.log_every} does not divide evaluate_every {self.evaluate_every}")
        return self


class Recipe(Training):
    """How a network is trained and tested."""

    batch_norm_samples: Positive
    """images that share batch norm statistics: the paper's batch on one of its GPUs"""
    epoch_end: Literal["continue", "short-batch"]
    """a batch goes on into the next epoch, or the last batch of an epoch is short"""
    nesterov: bool
    normalization: Literal["per-pixel-mean", "channel-mean-and-deviation"]
    channel_mean: Annotated[list[Brightness] | None, Field(description="by colour channel, in 0 to 255")] = None
    channel_deviation: list[Annotated[float, Field(gt=0, le=255)]] | None = None
    """by colour channel, in 0 to 255"""
    validation: Positive | None = None
    """training images that are held out, the same for all seeds: the training sees the others, and every test is of
    these, never of the test set; for choices (he2015, Section 4.2: 5,000); null: none"""
    crop_padding: Annotated[int, Field(ge=0, le=1000, description="pixels padded on each side before the random crop")]
    padding_colour: Literal["mean", "black"]
    """pad after the normalization (zeros: the mean), or black before it"""
    crop: Literal["scale", "scale-and-aspect-ratio"] | None = None
    """null: of the padded image, as on CIFAR; on ImageNet of an image resized by shorter_side, or of a part of random
    area and aspect ratio"""
    crop_size: Annotated[Positive | None, Field(description="height and width of an ImageNet crop in pixels")] = None
    shorter_side: Annotated[list[Positive] | None, Field(min_length=2, max_length=2)] = None
    """crop: scale: lowest and highest shorter side after resizing"""
    colour: Literal["pca", "pca-and-jitter"] | None = None
    """ImageNet: colour augmentation by principal components, with brightness, contrast, saturation"""
    decoder: Literal["pillow", "torchvision"] | None = None
    """ImageNet: what decodes and resizes JPEG files; pixels differ by it"""
    shuffle_shards: Positive | None = None
    """open choice: images are permuted over so many shards at a time; null: over all"""
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """VGG: of the outputs of its hidden linear layers; null: none"""
    convolution_initialization: Literal["he-fan-in", "he-fan-out"]
    linear_initialization: Literal["he-fan-in", "torch"]
    batch_norm_eps: Annotated[float, Field(gt=0, le=1)]
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1, description="weight of a batch in the averages")]
    running_statistics: Literal["first-replica", "mean"]
    """whose moving statistics are kept when replicas differ"""
    test_statistics: Literal["moving", "recomputed"]
    """batch norm's statistics in the test: moving averages, or averages over the training set"""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.batch_size % self.batch_norm_samples:
            raise ValueError(
                f"batch_norm_samples {self.batch_norm_samples} does not divide batch_size {self.batch_size}"
            )
        if self.crop and self.validation:
            raise ValueError("validation is of data sets in memory (CIFAR), not of recipes with a crop: remove it")
        for key in ("crop_size", "decoder"):
            if self.crop and not getattr(self, key):
                raise ValueError(f"crop: {self.crop} needs {key}")
        if (self.crop == "scale") != bool(self.shorter_side):
            raise ValueError("shorter_side belongs to crop: scale: give both or neither")
        if self.shorter_side and not (self.crop_size or 0) <= self.shorter_side[0] <= self.shorter_side[1]:
            raise ValueError(
                f"shorter_side {self.shorter_side} must rise from crop_size, {self.crop_size}, or more: correct one"
            )
        if len(self.channel_mean or ()) != len(self.channel_deviation or ()):
            raise ValueError("channel_mean and channel_deviation differ in length: give each channel both")
        if self.normalization == "channel-mean-and-deviation" and not (self.channel_mean and self.channel_deviation):
            raise ValueError("channel-mean-and-deviation needs channel_mean and channel_deviation")
        return self


class Experiment(Parameters):
    """A dataset, a network and a recipe; the digest of all that is an experiment's identity."""

    dataset: DatasetName
    network: Network
    recipe: Annotated[RecipeName | None, Field(description="null: never trained here; only what it costs is counted")]
    gpus: Annotated[int, Field(gt=0, le=4096, description="devices that a run wants")] = 1


class Overlay(Parameters):
    """What a scale changes in every experiment."""

    datasets: dict[DatasetName, DatasetName | None] = {}
    """takes another dataset instead; null: experiments on it have no counterpart at this scale"""
    depths: dict[Literal["basic", "bottleneck", "single"], dict[Positive, Positive | None]] = {}
    """by unit: takes another depth instead; null: no counterpart"""
    recipe: Annotated[dict[RecipeKey, Any], Field(description="keys of every recipe that take other values")] = {}
    recipes: dict[RecipeName, dict[RecipeKey, Any]] = {}
    """by recipe: keys that take other values, in the end"""

    @field_validator("depths")
    @classmethod
    def _are_depths_of_experiments(cls, depths: dict[str, dict[int, int | None]], info: ValidationInfo) -> Any:
        for unit, changed in depths.items():
            known_depths = (info.context or {}).get("depths", {}).get(unit, changed)
            if unknown := changed.keys() - known_depths:
                depth = min(unknown)
                raise ValueError(f"{unit}: no experiment has the depth {depth}: {nearest(depth, known_depths)}")
        return depths


class Scale(Parameters):
    """A size at which the whole graph runs: the papers' own, or a smaller one."""

    description: Annotated[str, Field(description="one honest sentence: stands at the head of the tables")]
    caption: str = ""
    """what figures say of it under their titles; empty: they are the papers' own"""
    results: Annotated[str, Field(pattern=r"^results(/[a-z0-9-]+)?$", description="folder of everything it makes")]
    runs: Annotated[Runs, Field(description="seeds 0 to runs - 1 are wanted of every experiment")]
    runs_on: Annotated[dict[DatasetName, Runs], Field(description="by dataset: so many runs instead")] = {}
    device: Literal["gpu", "cpu"] = "gpu"
    """where its runs train unless a call says otherwise; never guessed"""
    published: Annotated[bool, Field(description="whether its numbers are to be compared with the papers'")]
    cannot_say: list[str] = []
    """what its numbers say nothing of; stands beside its verdicts on the claims"""
    signal_iterations: Natural = 100
    """length of the short training after which signal propagation is measured again"""
    overlay: Overlay = Overlay()
    experiments: list[ExperimentName] | None = None
    """experiments that are wanted; null: those of the tables and figures"""
    order: list[Annotated[Name, known("experiments and detections")]] = []
    """experiments that are trained before the others, in this order; lower seeds of all come before higher ones"""
    leave_out: Annotated[list[ExperimentName], Field(description="experiments with no counterpart at this scale")] = []
