"""ILSVRC 2012 (Russakovsky et al. 2015): its archives, and what the development kit says of them.

`imagenet-small` has archives of the same names and layout, made by workflow/scripts/make_small_data.py. Everything
after them is one code.
"""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy

from ..errors import UserError

if TYPE_CHECKING:
    from ..parameters.datasets import Dataset

TRAINING, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def require(name: str, folder: Path, dataset: "Dataset") -> None:
    """Explain how to get the archives.

    Raises:
        UserError: an archive is missing, or is smaller than the published one; says which, and what to do.
    """
    states = {}
    for file, archive in dataset.archives.items():
        path, size = folder / name / file, archive.bytes
        if not path.is_file():
            states[path] = f"missing ({size:,} bytes)" if size else "missing"
        elif size not in (None, found := path.stat().st_size):
            states[path] = f"{found:,} of {size:,} bytes are there: finish the download"
        else:
            states[path] = "there"
    if set(states.values()) == {"there"}:
        return
    cure = f"{name}: make them with `python workflow/scripts/make_small_data.py {name}`"
    if dataset.source:
        cure = (
            f"{name}: ILSVRC 2012 is behind a registration: register at image-net.org, download the training and "
            f"validation images and the development kit of tasks 1 and 2 from {dataset.source}, and put each archive "
            "at the path above; do not unpack it"
        )
    raise UserError("\n".join([*(f"{path}: {state}" for path, state in states.items()), cure]))


class Devkit(NamedTuple):
    """What the development kit says.

    Attributes:
        words: {wnid: words of the class}; sorted: label k is the k-th, as in torchvision.datasets.ImageNet.
        validation_labels: of each validation image, in the order of their numbers.
    """

    words: dict[str, str]
    validation_labels: list[int]


def read_devkit(name: str, folder: Path, dataset: "Dataset") -> Devkit:
    """Read meta.mat and the ground truth, once the archive is known to be the published one.

    Raises:
        UserError: the archive is missing or another one, or disagrees with the counts of the dataset.
    """
    from scipy.io import loadmat

    path, published = folder / name / DEVKIT, dataset.archives[DEVKIT].md5
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: see `identity-mappings data fetch {name}`") from None
    if (found := hashlib.md5(content).hexdigest()) != published:
        raise UserError(f"{path}: its MD5 is {found}, published is {published}: get it again")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:

        def member(wanted: str) -> bytes:
            try:
                return tar.extractfile(wanted).read()
            except (KeyError, AttributeError):
                raise UserError(f"{path}: no file {wanted} in it: get the kit of tasks 1 and 2 (t12)") from None

        synsets = loadmat(io.BytesIO(member(META)), squeeze_me=True)["synsets"]
        validation = numpy.array(member(GROUND_TRUTH).split(), dtype="int64")
    leaves = {int(s["ILSVRC2012_ID"]): (str(s["WNID"]), str(s["words"])) for s in synsets if s["num_children"] == 0}
    classes, images = dataset.classes, dataset.test_images
    if sorted(leaves) != list(range(1, classes + 1)):
        raise UserError(
            f"{path}: {META}: {len(leaves)} classes, not numbered 1 to {classes}: correct params/datasets.yaml"
        )
    if len(validation) != images or not all(1 <= number <= classes for number in validation.tolist()):
        numbers = f"{images} numbers from 1 to {classes}"
        raise UserError(f"{path}: {GROUND_TRUTH}: {len(validation)} lines, not {numbers}")
    words = dict(sorted(leaves.values()))
    labels = {wnid: label for label, wnid in enumerate(words)}
    return Devkit(words, [labels[leaves[number][0]] for number in validation.tolist()])
