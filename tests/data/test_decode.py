"""Decoding against the field's way, torchvision's default loader, which is Pillow's convert("RGB")."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from identity_mappings.data import decode
from identity_mappings.errors import UserError
from small_imagenet import open_photographs

PIECE = open_photographs()[0].crop((100, 50, 301, 184))


def encoded(mode="RGB", kind="JPEG", **options):
    content = io.BytesIO()
    PIECE.convert(mode).save(content, kind, **options)
    return content.getvalue()


FILES = {
    "subsampled": encoded(),
    "not subsampled": encoded(subsampling=0, quality=95),
    "progressive": encoded(progressive=True),
    "greyscale": encoded("L"),
    "CMYK": encoded("CMYK"),
    "PNG": encoded(kind="PNG"),
    "PNG with transparency": encoded("RGBA", "PNG"),
    "PNG with a palette": encoded("P", "PNG"),
    "greyscale PNG": encoded("L", "PNG"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("decoder", decode.DECODERS)
def test_every_kind_of_file_is_red_green_and_blue_as_torchvisions_loader_has_it(decoder, kind):
    image = decode.rgb(FILES[kind], decoder, "n0_1.JPEG")
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, Image.open(io.BytesIO(FILES[kind])).convert("RGB"))


@pytest.mark.parametrize("kind", FILES)
def test_what_crops_are_cut_from(kind):
    pixels = decode.read(FILES[kind], "torchvision", "n0_1.JPEG")
    assert pixels.shape == (3, 134, 201)
    np.testing.assert_array_equal(pixels.permute(1, 2, 0), decode.read(FILES[kind], "pillow", "n0_1.JPEG"))


BROKEN = {
    "truncated": FILES["subsampled"][:3000],
    "truncated PNG": FILES["PNG"][:3000],
    "header only": FILES["subsampled"][:30],
    "PNG header only": FILES["PNG"][:20],
    "CMYK, truncated": FILES["CMYK"][:3000],
    "empty": b"",
    "text": b"404 Not Found",
    "GIF": encoded("P", "GIF"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("decoder", decode.DECODERS)
def test_a_broken_file_is_named_in_one_line(decoder, kind):
    with pytest.raises(UserError, match=r"^n0_1\.JPEG: this image cannot be decoded \(.+\): [^\n]+$"):
        decode.rgb(BROKEN[kind], decoder, "n0_1.JPEG")


def test_wrong_exif_data_is_not_spoken_of():
    content = encoded(exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(io.BytesIO(content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode.rgb(content, "pillow", "n0_1.JPEG")


def test_an_unknown_decoder_is_named():
    with pytest.raises(UserError, match="decoder: 'opencv': there are pillow, torchvision"):
        decode.rgb(FILES["CMYK"], "opencv", "n0_1.JPEG")
