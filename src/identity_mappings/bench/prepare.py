"""What preparing ImageNet costs, against reading its archive once and taking the MD5."""

import importlib.util
import io
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data import small_imagenet
from ..data.imagenet import TRAINING
from ..data.listing import md5_of
from ..data.prepare import prepare
from ..parameters.datasets import Archive
from ..parameters.load import read_entry

NAME = "imagenet-bench"
SHARDS = {"training": 512, "validation": 1}  # as many are open at once as for ImageNet


def _jpegs() -> list[bytes]:
    """Photographs in ILSVRC's usual size, 500 x 375 pixels, of about 110 kB."""
    from PIL import Image

    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    made = []
    for name, quality in (("china", 94), ("flower", 99)):
        for left in range(0, 140, 20):
            content = io.BytesIO()
            photograph = Image.open(folder / f"{name}.jpg")
            photograph.crop((left, left // 3, left + 500, left // 3 + 375)).save(content, "JPEG", quality=quality)
            made.append(content.getvalue())
    return made


def _archive(path: Path, size: int) -> int:
    """Write a training archive of ten classes and about `size` bytes. Returns how many images are in it."""
    jpegs, images = _jpegs(), 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for digit in range(10):
            wnid, content = small_imagenet.wnid(digit), io.BytesIO()
            with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as class_tar:
                while content.tell() < size / 10:
                    member, jpeg = tarfile.TarInfo(f"{wnid}_{images}.JPEG"), jpegs[images % len(jpegs)]
                    member.size = len(jpeg)
                    class_tar.addfile(member, io.BytesIO(jpeg))
                    images += 1
            member = tarfile.TarInfo(f"{wnid}.tar")
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return images


def _cost(action: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds (user and system, all threads) and wall seconds."""
    cpu, wall = os.times(), time.perf_counter()
    action()
    done = os.times()
    return done.user - cpu.user + done.system - cpu.system, time.perf_counter() - wall


def measure(folder: Path, megabytes: int = 1500, rounds: int = 5) -> dict[str, Any]:
    """Prepare an archive of JPEGs of ILSVRC's size, in turns with reading it and taking its MD5, both from warm cache.

    Args:
        folder: takes a temporary folder of twice the size.
        megabytes: of the archive.
        rounds: medians are taken over so many.

    Returns:
        seconds (medians) of both, of CPU and by the clock; ratios of bytes per second and core, and by the clock
        (1: preparing costs no more than reading and MD5).
    """
    import scipy.io  # noqa: F401  (reading the devkit needs it; its import is no work of preparing)

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        data = Path(temporary)
        root = data / NAME
        small_imagenet.make(data)
        (data / small_imagenet.NAME).rename(root)
        images = _archive(root / TRAINING, megabytes * 1_000_000)
        small = read_entry(small_imagenet.NAME)
        archives = {**small.archives, TRAINING: Archive(md5=md5_of(root / TRAINING))}
        dataset = small.model_copy(update={"archives": archives, "training_images": images})
        found: dict[str, list[tuple[float, float]]] = {"read_and_md5": [], "prepare": []}
        for _ in range(rounds):
            found["read_and_md5"].append(_cost(lambda: md5_of(root / TRAINING)))
            found["prepare"].append(_cost(lambda: prepare(NAME, data, dataset, SHARDS)))
            shutil.rmtree(data / "shards")
        size = (root / TRAINING).stat().st_size
    cpu, wall = ({what: statistics.median(t[n] for t in times) for what, times in found.items()} for n in (0, 1))
    return {
        "bytes": size,
        "images": images,
        "shards": SHARDS["training"],
        "rounds": rounds,
        "cpu_seconds": cpu,
        "seconds": wall,
        "ratio": cpu["read_and_md5"] / cpu["prepare"],
        "ratio_by_the_clock": wall["read_and_md5"] / wall["prepare"],
        "ratios_of_rounds": [a[0] / b[0] for a, b in zip(*found.values(), strict=True)],
    }
