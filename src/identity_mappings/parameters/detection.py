"""The typed form of params/detection.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..records.experiment import Experiment
from .models import Brightness, Name, Parameters, Positive, Training

Fraction = Annotated[float, Field(ge=0, le=1)]


class Recipe(Training):
    """How a detector is trained and tested; images pass it one by one."""

    steps: Literal["joint", "alternating"]
    """both losses in each step (approximate joint training), or the four steps of the Faster R-CNN paper, a quarter of
    the iterations each: RPN; detector, from ImageNet's weights again; RPN, and then detector, on the shared layers,
    which stay fixed"""
    detector_batch_size: Positive | None = None
    """alternating: images an iteration of the detector's steps; null: the same"""
    nesterov: bool = False
    shorter_side: Annotated[Positive, Field(description="of an image after resizing, in pixels")]
    longer_side: Annotated[Positive, Field(description="that it does not exceed")]
    image_mean: Annotated[list[Brightness], Field(min_length=3, max_length=3)]
    """by channel, if the backbone's is a mean image"""
    frozen_stages: Annotated[int, Field(ge=0, le=4)]
    """of conv1 to conv4, counted from the image: not trained any more"""
    anchor_sizes: Annotated[list[Positive], Field(min_length=1, description="side of the square anchors in pixels")]
    anchor_ratios: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1)]
    """height / width of the anchors"""
    rpn_anchors: Annotated[Positive, Field(description="sampled of an image for the RPN's loss")]
    rpn_nms: Fraction
    proposals_before_nms: Positive
    proposals_training: Annotated[Positive, Field(description="after NMS")]
    proposals_test_before_nms: Positive
    proposals_test: Annotated[Positive, Field(description="after NMS")]
    roi: Annotated[Literal["pool", "align"], Field(description="RoI pooling, as in the paper, or RoIAlign")]
    pooled_size: Positive | None = None
    """side of the pooled regions; null: 7 for VGG, 14 for ResNet of images of 224"""
    regions: Annotated[Positive, Field(description="sampled of an image for the detector's loss")]
    positive_regions: Annotated[Fraction, Field(description="at most this share of them are objects")]
    score_threshold: Fraction
    nms: Annotated[Fraction, Field(description="of the detections of a class")]
    detections: Annotated[Positive, Field(description="at most of an image, in the test")]
    train_on_difficult: Annotated[bool, Field(description="whether objects marked difficult are learned, too")]

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.longer_side < self.shorter_side:
            raise ValueError(f"longer_side {self.longer_side} is below shorter_side {self.shorter_side}: swap them")
        if self.steps == "alternating" and self.iterations % 4:
            raise ValueError(f"iterations {self.iterations} are split into four equal steps: give a multiple of 4")
        return self


class Detection(Parameters):
    """A dataset, a trained network of params/experiments as the backbone, and a recipe."""

    dataset: Name
    backbone: Annotated[Name, Field(description="an experiment on ImageNet; its run with seed 0 is taken")]
    recipe: Name
    overrides: Annotated[dict[str, Any], Field(default={}, description="keys of the recipe that take other values")]
    gpus: Positive = 1


class Scale(Parameters):
    """What a scale changes in every detection."""

    datasets: Annotated[dict[Name, Name], Field(default={})]
    backbones: Annotated[dict[Name, Name], Field(default={}, description="takes the run of this experiment instead")]
    recipe: Annotated[dict[str, Any], Field(default={}, description="keys of every recipe that take other values")]


class Detections(Parameters):
    """params/detection.yaml."""

    recipes: dict[Name, Recipe]
    experiments: dict[Name, Detection]
    scales: Annotated[dict[Name, Scale], Field(description="by scale; one that is not here has no detections")]


def describe_backbone(backbone: Experiment, image_mean: list[float]) -> dict[str, Any]:
    """Which run's weights a detection begins from, and what its network needs to know of them.

    Args:
        backbone: a classification on ImageNet.
        image_mean: by channel, for a backbone whose recipe takes off a mean image.
    """
    trained, dataset = backbone.parameters["recipe"], backbone.parameters["dataset"]
    by_channel = trained["normalization"] == "channel-mean-and-deviation"
    return {
        "experiment": backbone.name,
        "digest": backbone.digest,
        "seed": 0,
        "classes": dataset["classes"],
        "size": dataset["size"],
        "mean": trained["channel_mean"] if by_channel else image_mean,
        "deviation": trained["channel_deviation"] if by_channel else [1.0, 1.0, 1.0],
        "batch_norm_eps": trained["batch_norm_eps"],
        "statistics": trained["test_statistics"],
        "dropout": trained["dropout"],
    }
