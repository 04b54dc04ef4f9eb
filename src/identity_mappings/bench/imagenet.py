"""What surrounds a step on ImageNet: preparing archives, making training views, exchanging gradients; what limits."""

import io
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data import small_imagenet
from ..data.imagenet import TRAINING
from ..data.listing import hash_md5
from ..data.prepare import prepare
from ..errors import UserError
from ..parameters.datasets import Archive
from ..parameters.load import read_entry
from ..records import machine
from ..records.experiment import Experiment
from ..training.assembly import build, get_recipe
from ..training.group import Group
from . import pipeline

NAME = "imagenet-bench"
SHARDS = {"training": 512, "validation": 1}  # as many are open at once as for ImageNet


def measure_surroundings(
    experiment: Experiment, device: torch.device, entry: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Images per second of what feeds a step and joins its gradients, and what limits a training on this machine.

    Args:
        experiment: with the recipe's whole batch.
        entry: of `measure.compare`.
        rounds: medians are taken over so many.
    """
    recipe = get_recipe(experiment)
    with tempfile.TemporaryDirectory() as folder:
        prepared = measure_preparing(Path(folder), rounds=rounds)
        views = pipeline.measure(Path(folder), rounds=rounds, workers=machine.count_cores())
    with torch.device("meta"):
        gradients = sum(parameter.numel() for parameter in build(experiment).parameters())
    exchanged = measure_exchange(device, gradients)
    step = next(r for r in entry["rows"] if r["implementation"] == "ours" and r["arithmetic"] == recipe.arithmetic)
    devices = exchanged["processes"] if exchanged and device.type == "cuda" else 1
    rates = {
        "data": views["images_per_second"][f"ours, {recipe.decoder}"],
        "step": round(step["images_per_second"] * devices, 1),
        "exchange": exchanged and round(recipe.batch_size / exchanged["seconds"], 1),
    }
    limit = min((name for name, rate in rates.items() if rate), key=rates.__getitem__)
    images = recipe.iterations * recipe.batch_size
    limits = {"devices": devices, "images_per_second": rates, "limit": limit, "images_of_a_run": images}
    limits["hours_of_a_run"] = round(images / rates[limit] / 3600, 1)
    return {"prepare": prepared, "pipeline": views, "exchange": exchanged, "limits": limits}


def _write_archive(path: Path, size: int) -> int:
    """Write a training archive of ten classes and about `size` bytes; returns how many images are in it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        jpegs = [file.read_bytes() for file in pipeline.write_photographs(Path(folder), 16)]
    each = round(size / 10 / statistics.mean(map(len, jpegs)))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for wnid in map(small_imagenet.wnid, range(10)):
            images = ((f"{wnid}_{number}.JPEG", jpegs[number % len(jpegs)]) for number in range(each))
            content, member = small_imagenet.pack_tar(images), tarfile.TarInfo(f"{wnid}.tar")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return 10 * each


def _time(action: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds (user and system, all threads) and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_preparing(folder: Path, megabytes: int = 1500, rounds: int = 5) -> dict[str, Any]:
    """Prepare an archive of JPEGs of ILSVRC's size, in turns with reading it and taking its MD5, both from warm cache.

    Args:
        folder: takes a temporary folder of twice the size.
        megabytes: of the archive.

    Returns:
        seconds (medians), of CPU and by the clock, of both; "ratio": of their bytes per second and core.
    """
    import scipy.io  # noqa: F401  (reading the devkit needs it; its import is no work of preparing)

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        data = Path(temporary)
        small_imagenet.make(data)
        archive = (data / small_imagenet.NAME).rename(data / NAME) / TRAINING
        images = _write_archive(archive, megabytes * 1_000_000)
        small = read_entry(small_imagenet.NAME)
        archives = {**small.archives, TRAINING: Archive(md5=hash_md5(archive))}
        dataset = small.model_copy(update={"archives": archives, "training_images": images})
        found: dict[str, list[tuple[float, float]]] = {"read_and_md5": [], "prepare": []}
        for _ in range(rounds):
            found["read_and_md5"].append(_time(lambda: hash_md5(archive)))
            found["prepare"].append(_time(lambda: prepare(NAME, data, dataset, SHARDS)))
            shutil.rmtree(data / "shards")
        size = archive.stat().st_size
    cpu, wall = ({what: statistics.median(t[n] for t in times) for what, times in found.items()} for n in (0, 1))
    ratio = cpu["read_and_md5"] / cpu["prepare"]
    facts = {"bytes": size, "images": images, "shards": SHARDS["training"], "rounds": rounds}
    return {**facts, "cpu_seconds": cpu, "seconds": wall, "ratio": ratio}


def measure_exchange(device: torch.device, numbers: int) -> dict[str, Any] | None:
    """Median seconds to sum so many float32 over the GPUs of this machine, or over two processes of its CPU.

    Returns:
        {"processes", "bytes", "seconds"}; None where there is one GPU only.
    """
    processes = torch.cuda.device_count() if device.type == "cuda" else 2
    if processes < 2:
        return None
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", __name__]
    done = subprocess.run([sys.executable, *words, "--", device.type, str(numbers)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"bench: the exchange could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def exchange() -> None:
    """A process of those that sum their gradients, started by torchrun; the first prints the seconds as JSON."""
    group = Group.from_environment()
    device = torch.device("cuda", group.local_rank) if sys.argv[1] == "cuda" else torch.device("cpu")
    with group.joined(device):
        gradients, seconds = torch.zeros(int(sys.argv[2]), device=device), []
        for _ in range(11):
            group.any()  # all begin together
            begin = time.perf_counter()
            group.sum(gradients)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
    if group.leads:
        median = statistics.median(seconds[1:])
        print(json.dumps({"processes": group.size, "bytes": gradients.nbytes, "seconds": round(median, 6)}))


if __name__ == "__main__":
    exchange()
