"""imagenet-small: archives in the form of ILSVRC 2012's, made of real images that scikit-learn brings.

Each image is one of its handwritten digits, enlarged and coloured, over a crop of one of its two photographs; the ten
digits are the ten classes. The bytes are the same at every making: nothing is random, and sizes, places and colours are
taken from a hash of the image's name.
"""

import gzip
import hashlib
import importlib.util
import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy
from PIL import Image
from scipy.io import savemat

from identity_mappings.data.images import read_digits
from identity_mappings.data.sources import DEVKIT, GROUND_TRUTH, META, TRAINING, VALIDATION

NAME = "imagenet-small"
TRAINING_IMAGES, VALIDATION_IMAGES = 320, 100
DIGITS_MD5 = "f56197afa9f663014f842d53728e084a"
ENLARGED = 9  # times 8 pixels: the digit fills most of the shorter side
# As ILSVRC has them: number of the training image to its form.
ODD = {37: "CMYK", 121: "PNG", 205: "L"}
# Numbers of the classes in the devkit's own order, which is not that of the wnids.
IDENTITIES = [(7 * digit + 3) % 10 + 1 for digit in range(10)]
WORDS = (
    "zero, nought, 0", "one, 1", "two, 2", "three, 3", "four, 4", "five, 5", "six, 6", "seven, 7", "eight, 8", "nine, 9"
)  # fmt: skip
# Of the digits, before each image's own darkening: a hint, so that a few dozen iterations teach a network something.
COLOURS = (
    (255, 64, 64), (255, 160, 64), (255, 255, 64), (128, 255, 64), (64, 255, 160),
    (64, 255, 255), (64, 128, 255), (160, 64, 255), (255, 64, 255), (255, 255, 255),
)  # fmt: skip


def wnid(digit: int) -> str:
    return f"n990000{digit:02d}"


def open_photographs() -> list[Image.Image]:
    """The two photographs that scikit-learn brings, 640x427."""
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    return [Image.open(folder / f"{name}.jpg").convert("RGB") for name in ("china", "flower")]


def _image(name: str, digit: numpy.ndarray, label: int, photographs: list[Image.Image]) -> Image.Image:
    """One image of about 120 x 90 pixels, lying or standing. Integer operations only."""
    numbers = iter(hashlib.sha256(name.encode()).digest())
    size = (108 + next(numbers) % 25, 81 + next(numbers) % 19)
    width, height = size if next(numbers) % 4 else size[::-1]
    photograph = photographs[next(numbers) % 2]
    left, top = (
        (next(numbers) * 256 + next(numbers)) % (whole - part)
        for whole, part in zip(photograph.size, (width, height), strict=True)
    )
    image = photograph.crop((left, top, left + width, top + height)).point([value // 3 for value in range(256)] * 3)
    mask = Image.fromarray(digit).resize((8 * ENLARGED, 8 * ENLARGED), Image.Resampling.NEAREST)
    corner = tuple(next(numbers) % (whole - 8 * ENLARGED + 1) for whole in (width, height))
    image.paste(tuple(channel - next(numbers) % 48 for channel in COLOURS[label]), corner, mask)
    return image


def encode(image: Image.Image, form: str = "RGB") -> bytes:
    content = io.BytesIO()
    if form == "PNG":
        image.save(content, "PNG", compress_level=0)  # what zlib makes differs between its builds
    else:
        image.convert(form).save(content, "JPEG", quality=90)
    return content.getvalue()


def pack_tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, value in members:
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return content.getvalue()


def pack_zip(members: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as packed:
        for name, value in members.items():
            packed.writestr(zipfile.ZipInfo(name), value)  # of 1980: no clock
    return content.getvalue()


def _meta() -> bytes:
    """meta.mat: the ten digits, and above them synsets that are no classes."""
    fields = (
        "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"
    )  # fmt: skip
    parents = [
        (11, "n99001000", "even digit", [IDENTITIES[digit] for digit in range(0, 10, 2)]),
        (12, "n99001001", "odd digit", [IDENTITIES[digit] for digit in range(1, 10, 2)]),
        (13, "n99001002", "digit", [11, 12]),
    ]
    training = TRAINING_IMAGES // 10
    rows = [
        (IDENTITIES[digit], wnid(digit), WORDS[digit], f"the digit {digit}", 0, [], 0, training) for digit in range(10)
    ]
    rows += [(number, name, words, words, len(below), below, 1, 0) for number, name, words, below in parents]
    synsets = numpy.array([[row] for row in sorted(rows)], dtype=[(field, object) for field in fields])
    content = io.BytesIO()
    savemat(content, {"synsets": synsets})
    text = b"MATLAB 5.0 MAT-file, imagenet-small"  # scipy writes the date and the platform here
    return text.ljust(116) + content.getvalue()[116:]


def archives() -> dict[str, bytes]:
    """File name to bytes of the three archives."""
    data, photographs = read_digits("digits", DIGITS_MD5), open_photographs()
    images, labels = data.training[:, 0].numpy(), data.training_labels.tolist()
    each, number, classes = TRAINING_IMAGES // 10, 0, []
    for digit in range(10):
        members = []
        for index in [index for index, label in enumerate(labels) if label == digit][:each]:
            name = f"{wnid(digit)}_{index}.JPEG"
            members.append((name, encode(_image(name, images[index], digit, photographs), ODD.get(number, "RGB"))))
            number += 1
        classes.append((f"{wnid(digit)}.tar", pack_tar(members)))

    validation, truth = [], []
    tests = zip(data.test[:VALIDATION_IMAGES, 0].numpy(), data.test_labels.tolist(), strict=False)
    for index, (image, label) in enumerate(tests, 1):
        name = f"ILSVRC2012_val_{index:08d}.JPEG"
        validation.append((name, encode(_image(name, image, label, photographs))))
        truth.append(f"{IDENTITIES[label]}\n")

    kit, packed = pack_tar([(META, _meta()), (GROUND_TRUTH, "".join(truth).encode())]), io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=0, fileobj=packed, mtime=0) as file:
        file.write(kit)
    return {TRAINING: pack_tar(classes), VALIDATION: pack_tar(validation), DEVKIT: packed.getvalue()}
