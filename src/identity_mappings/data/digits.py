"""The embedded dataset: scikit-learn's bundled handwritten digits (UCI, Alpaydin and Kaynak 1998), 8x8, 17 greys."""

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy
import torch

from ..errors import UserError
from .images import Images

TEST_IMAGES = 500  # the last ones; the file's order keeps writers together, so this is not the easiest split


def load(name: str, md5: str, folder: Path | None = None) -> Images:
    """1,297 training and 500 test images, one channel, 0 to 240.

    Raises:
        UserError: the installed scikit-learn brings other digits than the pinned ones.
    """
    # What sklearn.datasets.load_digits reads, without the seconds that importing scikit-learn takes.
    if (package := importlib.util.find_spec("sklearn")) is None:
        raise UserError(f"{name}: scikit-learn, which has the images, is missing: make env")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = numpy.loadtxt(file, delimiter=",", dtype="uint8")
    images, labels = (table[:, :-1] * 15).reshape(-1, 8, 8), table[:, -1]
    found = hashlib.md5(images.tobytes() + labels.tobytes()).hexdigest()
    if found != md5:
        raise UserError(
            f"{name}: scikit-learn's images have the MD5 {found}, params/datasets.yaml pins {md5}: install the "
            "versions of requirements.lock (make env)"
        )
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(labels).long()
    return Images(x[:-TEST_IMAGES], y[:-TEST_IMAGES], x[-TEST_IMAGES:], y[-TEST_IMAGES:])
