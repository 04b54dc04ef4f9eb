"""The device of a run, and the settings that make it repeatable."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

from ..durations import format_duration
from ..errors import UserError
from ..records.experiment import Experiment
from ..records.provenance import find_cpu_model
from ..records.speed import CPU, name_device, read_speeds
from . import memory
from .assembly import get_recipe
from .driver import Driver, query_driver
from .group import Group

OLDEST_DRIVER = 580  # that runs the pinned torch, which is of CUDA 13.0


def prepare(arithmetic: str, cpu_threads: int) -> None:
    """Deterministic algorithms, no tuning by timing, the recipe's arithmetic and its number of threads."""
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms, without seconds of torch._inductor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    torch.set_num_threads(cpu_threads)
    memory.keep_freed_memory()
    with contextlib.suppress(RuntimeError):  # can be set once in a process
        torch.set_num_interop_threads(1)


def autocast(device: torch.device, arithmetic: str) -> contextlib.AbstractContextManager:
    """bfloat16 products and convolutions, or nothing."""
    if arithmetic == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def choose(kind: str, experiment: Experiment, root: Path = Path(), group: Group | None = None) -> torch.device:
    """The device, "gpu" or "cpu", for a run, or for this process of those that train it.

    Raises:
        UserError: there is no GPU for each process; without any, says how long a CPU takes.
    """
    if kind == "cpu":
        return torch.device("cpu")
    group = group or Group()
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found >= group.local_size:
        return torch.device("cuda", group.local_rank) if group.size > 1 else torch.device("cuda")
    if found:
        raise UserError(
            f"{experiment.name}: {group.local_size} processes, but {found} GPU(s): start {found} (--nproc-per-node)"
        )
    if (driver := query_driver()).usable and torch.version.cuda:
        raise UserError(f"no GPU for {experiment.name}: {explain_unseen(driver)}")
    if experiment.detects:
        raise UserError(f"no GPU for {experiment.name}: if you want the CPU, say --device cpu")
    speeds, hours = read_speeds(root), "How long it takes on a CPU is not known"
    if speed := speeds.find(experiment, speeds.list_devices(CPU, name_device(None, find_cpu_model()))):
        duration = format_duration(speed.seconds * get_recipe(experiment).iterations)
        how = f"estimated from {speed.scaled_from} by multiply-adds" if speed.scaled_from else "measured"
        hours = f"A run takes about {duration} on {speed.device}, {how}"
    raise UserError(
        f"no GPU for {experiment.name}. {hours}: if you want that, say --device cpu "
        "(with Snakemake: --config device=cpu)"
    )


def explain_unseen(driver: Driver) -> str:
    """Why torch may see none of the GPUs that the driver lists, and what to do."""
    found, needed = driver.version or "unknown", OLDEST_DRIVER
    listed = f"the driver lists {len(driver.usable)}, torch {torch.__version__} (CUDA {torch.version.cuda}) sees none"
    if found.partition(".")[0].isdecimal() and int(found.partition(".")[0]) < needed:
        return f"{listed}: the driver {found} is too old, install {needed} or newer"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"{listed}: CUDA_VISIBLE_DEVICES={visible!r} hides them or names others: unset it, or correct it"
    return f"{listed}, though the driver is {found}: see what `nvidia-smi` and `python -m torch.utils.collect_env` say"


def set_up(kind: str, experiment: Experiment, root: Path = Path(), group: Group | None = None) -> torch.device:
    """`choose` a device for an experiment, and `prepare` this process for its recipe."""
    device, recipe = choose(kind, experiment, root, group), get_recipe(experiment)
    prepare(recipe.arithmetic, recipe.cpu_threads)
    return device


def use_stream(stream: torch.cuda.Stream | None) -> contextlib.AbstractContextManager:
    """Context for the work of a run that has a CUDA stream of its own, as runs have that are trained at once."""
    return torch.cuda.stream(stream) if stream else contextlib.nullcontext()


def get_name(device: torch.device) -> str:
    """The kind of a device, as records state it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware and drivers for the provenance."""
    found: dict[str, Any] = {"cpu": find_cpu_model(), "gpu": None}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "model": properties.name,
            "uuid": f"GPU-{properties.uuid}",
            "memory_bytes": properties.total_memory,
            "driver": query_driver().version,
        }
    return found


def libraries(device: torch.device) -> dict[str, object]:
    """What computes on a device, for the provenance."""
    cuda = device.type == "cuda"
    versions = (torch.version.cuda, torch.backends.cudnn.version()) if cuda else (None, None)
    return {"cuda": versions[0], "cudnn": versions[1], "cpu_capability": torch.backends.cpu.get_cpu_capability()}
