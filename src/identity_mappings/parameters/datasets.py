"""The typed form of params/datasets.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .models import Name, Parameters, Positive


class MadeFrom(Parameters):
    """How a dataset follows from another: the mean of each block of pixels (data.block_mean)."""

    name: Annotated[Name, Field(description="the dataset whose files are read")]
    block_mean: Annotated[int, Field(ge=2, le=1000)]
    """height and width of the blocks; each becomes a pixel: its mean, rounded half up"""


class Archive(Parameters):
    """A published file, or one that the project makes."""

    md5: Annotated[str, Field(description="as published")]
    url: Annotated[str | None, Field(description="null: only a person can get it, or the project makes it")] = None
    bytes: Annotated[int | None, Field(gt=0, description="its size, where it is known")] = None


class Dataset(Parameters):
    """A set of images, pinned by its hash. For images and arrays `data prepare` fills in all but format and size."""

    format: Literal["cifar", "imagenet", "voc", "coco", "images", "arrays", "digits"] | None = None
    """how its files are read. cifar: pickles; imagenet: ILSVRC's archives; voc, coco: their archives of images with
    boxes, which also say how it is scored (11 points at IoU 0.5, or COCO's way); images: a folder a class in
    data/NAME/train and data/NAME/val; arrays: an .npz file in data/NAME; digits: scikit-learn's; null: it is made from
    another"""
    md5: str | None = None
    """DVC's hash of the output data/NAME, or of the list of its archives and their MD5s; for digits, of its bytes; of a
    dataset that is made from another, of that one's hash and how it is made; null: nothing trains on it yet"""
    made_from: Annotated[MadeFrom | None, Field(description="null: it has files of its own")] = None
    archives: Annotated[dict[str, Archive] | None, Field(description="imagenet, voc, coco: by file name")] = None
    source: Annotated[str | None, Field(description="imagenet: where to register; null: the project makes it")] = None
    classes: Annotated[Positive | None, Field(description="number of classes")] = None
    channels: Annotated[Positive | None, Field(description="colour channels of an image")] = None
    size: Positive | None = None
    """height and width of an image in pixels; images, imagenet: of a crop; voc, coco: null"""
    training_images: Positive | None = None
    test_images: Positive | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether it is prepared as shards, and its images are decoded while a network trains."""
        return self.format in ("imagenet", "images")

    @property
    def has_boxes(self) -> bool:
        """Whether it is for detections."""
        return self.format in ("voc", "coco")

    @property
    def is_complete(self) -> bool:
        """Whether all numbers are there: those of `images` and `arrays` are once it is prepared."""
        shape = () if self.has_boxes else (self.channels, self.size)
        return None not in (self.classes, *shape, self.training_images, self.test_images)

    @model_validator(mode="after")
    def _fits_together(self) -> "Dataset":
        if (self.format is None) == (self.made_from is None):
            raise ValueError(
                "a dataset needs either a format (cifar, imagenet, images, arrays, digits, voc, coco) or made_from"
            )
        if (self.format == "imagenet" or self.has_boxes) != bool(self.archives):
            raise ValueError("archives belong to format: imagenet, voc or coco: give both or neither")
        if self.format == "images" and self.size is None:
            raise ValueError("format: images needs size, the height and width of a crop: add the line 'size: 224'")
        if not self.is_complete and (self.md5 or self.format not in ("images", "arrays")):
            raise ValueError(
                "classes, channels, size, training_images and test_images belong to an md5: add what is missing, or of "
                "your own data remove md5 and prepare it again"
            )
        return self
