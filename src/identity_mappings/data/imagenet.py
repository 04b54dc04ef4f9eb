"""ILSVRC 2012 (Russakovsky et al. 2015): its three archives, their published MD5s, and what the devkit says of them.

`imagenet-small` has archives of the same names and layout, made by `small_imagenet`. Everything after them is one code.
"""

import hashlib
import io
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy

from ..errors import UserError
from .listing import dvc_md5

TRAINING, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META = "ILSVRC2012_devkit_t12/data/meta.mat"
GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
SOURCE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"


@dataclass(frozen=True)
class Layout:
    """A dataset's archives, and how many images are in them and go to how many shards.

    Attributes:
        files: archive below data/NAME to published MD5 (those that torchvision checks).
        sizes: archive to bytes, where they are known.
        classes, training, validation: counts; of images the last two.
        training_shards, validation_shards: tar files of the prepared form.
    """

    files: dict[str, str]
    classes: int
    training: int
    validation: int
    training_shards: int
    validation_shards: int
    sizes: dict[str, int]

    @property
    def md5(self) -> str:
        """DVC's hash of the output."""
        return dvc_md5(self.files)


LAYOUTS = {
    "imagenet": Layout(
        {
            TRAINING: "1d675b47d978889d74fa0da5fadfb00e",
            VALIDATION: "29b22e2961454d5413ddabcf34fc5622",
            DEVKIT: "fa75699e90414af021442c21a62c3abf",
        },
        classes=1000,
        training=1_281_167,
        validation=50_000,
        training_shards=512,
        validation_shards=16,
        sizes={TRAINING: 147_897_477_120, VALIDATION: 6_744_924_160},
    ),
    "imagenet-small": Layout(
        {
            TRAINING: "b3c459de56b273cea6891b79d48db0ca",
            VALIDATION: "b9bd0c5c54f1c1d88fbabfa526689fc7",
            DEVKIT: "91d1041c714ee463abe8bcff6e7d892c",
        },
        classes=10,
        training=320,
        validation=100,
        training_shards=4,
        validation_shards=1,
        sizes={},
    ),
}


def require(name: str, folder: Path) -> None:
    """Explain how to get the archives.

    Raises:
        UserError: an archive is missing, or is smaller than the published one; says which, and what to do.
    """
    layout, lines, lacking = LAYOUTS[name], [], False
    for file in layout.files:
        path, size = folder / name / file, layout.sizes.get(file)
        of = f" of {size:,}" if size else ""
        if not path.is_file():
            state = f"missing{f' ({size:,} bytes)' if size else ''}"
        elif size not in (None, found := path.stat().st_size):
            state = f"{found:,}{of} bytes are there: finish the download"
        else:
            state = "there"
        lacking |= state != "there"
        lines.append(f"{path}: {state}")
    if not lacking:
        return
    if name == "imagenet":
        cure = (
            "imagenet: ILSVRC 2012 is behind a registration: register at image-net.org, download the training and "
            f"validation images and the development kit of tasks 1 and 2 from {SOURCE}, and put each archive at the "
            "path above; do not unpack it"
        )
    else:
        cure = f"{name}: make them with `identity-mappings data fetch {name}`"
    raise UserError("\n".join([*lines, cure]))


@dataclass(frozen=True)
class Devkit:
    """What the development kit says.

    Attributes:
        words: wnid to the words of the class, of all classes; non-leaf synsets are left out.
        wnids: by ILSVRC2012_ID - 1.
        validation: (N) ILSVRC2012_ID of each validation image, in the order of their numbers.
    """

    words: dict[str, str]
    wnids: list[str]
    validation: numpy.ndarray

    @cached_property
    def classes(self) -> list[str]:
        """wnids, sorted: label k is the k-th, as in torchvision.datasets.ImageNet."""
        return sorted(self.wnids)

    @cached_property
    def validation_labels(self) -> list[int]:
        """Label of each validation image, in the order of their numbers."""
        label = {wnid: number for number, wnid in enumerate(self.classes)}
        return [label[self.wnids[identity - 1]] for identity in self.validation.tolist()]


def read_devkit(name: str, folder: Path) -> Devkit:
    """Read meta.mat and the ground truth, once the archive is known to be the published one.

    Raises:
        UserError: the archive is missing or another one, or disagrees with the counts of the dataset.
    """
    from scipy.io import loadmat

    layout, path = LAYOUTS[name], folder / name / DEVKIT
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: see `identity-mappings data fetch {name}`") from None
    if (found := hashlib.md5(content).hexdigest()) != layout.files[DEVKIT]:
        raise UserError(f"{path}: its MD5 is {found}, published is {layout.files[DEVKIT]}: get it again")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:

        def member(wanted: str) -> bytes:
            try:
                return tar.extractfile(wanted).read()
            except (KeyError, AttributeError):
                raise UserError(f"{path}: no file {wanted} in it: get the kit of tasks 1 and 2 (t12)") from None

        synsets = loadmat(io.BytesIO(member(META)), squeeze_me=True)["synsets"]
        validation = numpy.array(member(GROUND_TRUTH).split(), dtype="int64")
    leaves = {int(s["ILSVRC2012_ID"]): (str(s["WNID"]), str(s["words"])) for s in synsets if s["num_children"] == 0}
    if sorted(leaves) != list(range(1, layout.classes + 1)):
        raise UserError(f"{path}: {META}: {len(leaves)} classes, not those of numbers 1 to {layout.classes}")
    numbers = f"{layout.validation} numbers from 1 to {layout.classes}"
    if len(validation) != layout.validation or not all(1 <= i <= layout.classes for i in validation.tolist()):
        raise UserError(f"{path}: {GROUND_TRUTH}: {len(validation)} lines, not {numbers}")
    return Devkit(dict(leaves.values()), [leaves[number][0] for number in sorted(leaves)], validation)
