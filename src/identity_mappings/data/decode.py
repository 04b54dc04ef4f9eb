"""From the bytes of an ILSVRC file to pixels: red, green and blue, whatever the file has."""

import io
import struct
import warnings
from collections.abc import Callable

import numpy
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import decode_jpeg

from ..errors import UserError

# "pillow": decoded and resized by Pillow, as the field's pipelines do it. "torchvision": the same pixels after decoding
# (both are libjpeg-turbo), but crops are resized by torch, which is quicker and differs (`crops.cut`).
DECODERS = ("pillow", "torchvision")
BROKEN = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)  # what Pillow raises
PNG = b"\x89PNG"
Name = str | Callable[[], str]  # a function where finding the name costs something


def rgb(content: bytes, decoder: str, name: Name) -> Image.Image:
    """The image of a JPEG or PNG file, in mode RGB; greyscale, CMYK and transparent ones are converted by Pillow.

    Raises:
        UserError: the file is truncated, broken, or of another kind.
    """
    image = read(content, decoder, name)
    return image if isinstance(image, Image.Image) else Image.fromarray(image.permute(1, 2, 0).numpy())


def read(content: bytes, decoder: str, name: Name) -> Image.Image | Tensor:
    """As `rgb`, in the form that `crops.cut` takes: for "torchvision" uint8 (3, H, W), channels_last in memory."""
    if decoder == "pillow":
        return _pillow(content, name)
    if decoder != "torchvision":
        raise UserError(f"decoder: {decoder!r}: there are {', '.join(DECODERS)}")
    pixels = None if content.startswith(PNG) else _torchvision(content, name)
    if pixels is None:
        pixels = torch.from_numpy(numpy.array(_pillow(content, name))).permute(2, 0, 1)
    return pixels


def _pillow(content: bytes, name: Name) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF data that some of the files have wrong; no pixel depends on it
            image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except BROKEN as error:
        raise _broken(name, error) from None


def _torchvision(content: bytes, name: Name) -> Tensor | None:
    """None: four channels, whose conversion is left to Pillow."""
    try:
        pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    except (RuntimeError, ValueError) as error:  # ValueError: no bytes at all
        raise _broken(name, error) from None
    if len(pixels) == 1:
        return torch.cat([pixels] * 3)
    return pixels if len(pixels) == 3 else None


def _broken(name: Name, error: Exception) -> UserError:
    said = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(
        f"{name if isinstance(name, str) else name()}: this image cannot be decoded ({said}): check the archives with "
        "`identity-mappings data verify NAME`"
    )
