"""Seconds of a training step, ours and others' in rounds in turn."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from identity_mappings.errors import UserError
from identity_mappings.records.experiment import Experiment
from identity_mappings.training import memory
from identity_mappings.training.assembly import get_recipe

from . import worker
from .worker import EAGER, NOT_RECORDED, OURS, PACKAGES

AT_ONCE = (5, 8)  # runs on a GPU


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def list_groups(experiment: Experiment, device: torch.device, peers: bool) -> list[tuple[str, list[tuple[str, int]]]]:
    """What is measured together: (arithmetic, [(implementation, runs at once), ...]).

    Each peer is paired with our step, so that a ratio is of the same minutes and memory holds two at most. Arithmetics:
    float32, and where the device has them tf32 (a GPU) and bfloat16.
    """
    cuda = device.type == "cuda"
    arithmetics = ["float32", *["tf32"] * cuda, *["bfloat16"] * (peers and has_bfloat16(device))]
    others = [NOT_RECORDED] if cuda else []
    if peers:
        others += [EAGER, *(p for p, names in PACKAGES.items() if experiment.name in names and find_spec(p))]
    groups = []
    for arithmetic in arithmetics:
        groups += [(arithmetic, [(OURS, 1), (other, 1)]) for other in others] or [(arithmetic, [(OURS, 1)])]
        if cuda and not experiment.streamed:
            groups += [(arithmetic, [(OURS, runs)]) for runs in AT_ONCE]
    return groups


def measure_group(
    experiment: Experiment, device: torch.device, wanted: Sequence[tuple[str, int]], rounds: int
) -> list[dict[str, Any]]:
    """Rows of the record, measured in rounds in turn, each in its own process, which ends with its memory.

    What cannot be measured here is named and left out.
    """
    implementation, runs = wanted[-1]
    try:
        if runs > 1 and len(list(memory.group_runs([(experiment, seed) for seed in range(runs)], device))) > 1:
            raise MemoryError("does not fit into memory")  # `train` would not hold them at once either
        with ExitStack() as running:
            pools = [running.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in wanted]
            for pool, each in zip(pools, wanted, strict=True):
                pool.submit(worker.start, experiment, device, *each).result()
            for _ in range(rounds):
                for pool in pools:
                    pool.submit(worker.run_round).result()
            return [pool.submit(worker.describe).result() for pool in pools]
    except (MemoryError, UserError, BrokenProcessPool) as reason:  # a process that Linux kills breaks its pool
        name = f"{experiment.name}, {implementation}" + (f", {runs} at once" if runs > 1 else "")
        print(f"skipped: {name}, {get_recipe(experiment).arithmetic}: {reason}", flush=True)
        return measure_group(experiment, device, wanted[:-1], rounds) if len(wanted) > 1 else []


def measure_steps(experiment: Experiment, device: torch.device, peers: bool, rounds: int) -> dict[str, Any]:
    """The record of a network's steps."""
    rows = []
    for arithmetic, wanted in list_groups(experiment, device, peers):
        rows += measure_group(experiment.in_arithmetic(arithmetic), device, wanted, rounds)
    return {
        "experiment": experiment.name,
        "layers": experiment.parameters["network"]["depth"],
        "batch_size": get_recipe(experiment).batch_size,
        "rounds": rounds,
        "rows": rows,
    }
