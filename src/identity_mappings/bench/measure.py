"""`identity-mappings bench`: the step of a network against two others, in rounds in turn, as a record."""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..records import bench, measurement, provenance
from ..records.experiment import Experiment
from ..records.files import json_bytes
from ..training import devices, memory
from ..training.assembly import recipe_of
from . import bound, imagenet

# The package's names for our networks; what it lacks is measured against eager PyTorch alone.
PYTORCHCV = {
    "cifar10-resnet20": "resnet20_cifar10",
    "cifar10-resnet56": "resnet56_cifar10",
    "cifar10-resnet110": "resnet110_cifar10",
    "cifar10-resnet110-full-pre-activation": "preresnet110_cifar10",
    "cifar10-resnet164": "resnet164bn_cifar10",
    "cifar10-resnet164-full-pre-activation": "preresnet164bn_cifar10",
    "cifar10-resnet1001": "resnet1001_cifar10",
    "cifar10-resnet1001-full-pre-activation": "preresnet1001_cifar10",
    "cifar10-resnet1202": "resnet1202_cifar10",
}
TIMM = {"imagenet-resnet50": "resnet50", "imagenet-resnet101": "resnet101", "imagenet-resnet152": "resnet152"}
COMPARED = ("cifar10-resnet20", "cifar10-resnet110", "cifar10-resnet164-full-pre-activation", "imagenet-resnet50")
BY_DEPTH = ("cifar10-resnet56", "cifar10-resnet1001-full-pre-activation", "cifar10-resnet1202")
SECONDS = 2.0  # that a round takes of each implementation, if one step is not longer
AT_ONCE = (1, 5, 8)  # runs on a GPU


class Worker:
    """An implementation in its own process (`worker`)."""

    def __init__(self, experiment: Experiment, device: torch.device, implementation: str, runs: int = 1):
        self.name = implementation if runs == 1 else f"{implementation}, {runs} at once"
        self.implementation, self.runs = implementation, runs
        self.arithmetic = recipe_of(experiment).arithmetic
        specification = {
            "experiment": experiment.name,
            "parameters": experiment.parameters,
            "custom_source": experiment.custom_source,
            "device": device.type,
            "implementation": implementation,
            "pytorchcv": PYTORCHCV.get(experiment.name),
            "timm": TIMM.get(experiment.name),
            "runs": runs,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "identity_mappings.bench.worker", json.dumps(specification)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seconds: list[float] = []
        self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, command: str) -> dict[str, Any]:
        print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"bench: {self.name} in {self.arithmetic} ended with an error, which stands above")
        return json.loads(line)

    def round(self) -> None:
        """Seconds of a step of one run, over steps of about `SECONDS` in all."""
        one = self.seconds[-1] * self.runs if self.seconds else self.ask("1")["seconds"]
        steps = max(1, min(200, round(SECONDS / one)))
        self.seconds.append(self.ask(str(steps))["seconds"] / self.runs)


def implementations(name: str, device: torch.device, arithmetics: Sequence[str], peers: bool) -> list[tuple]:
    """What is measured of a network: (arithmetic, implementation, runs at once)."""
    wanted = []
    for arithmetic in arithmetics:
        several = device.type == "cuda" and name not in TIMM
        wanted += [(arithmetic, "ours", runs) for runs in (AT_ONCE if several else (1,))]
        if peers:
            wanted.append((arithmetic, "eager", 1))
            for package, names in (("pytorchcv", PYTORCHCV), ("timm", TIMM)):
                if name in names and _has(package):
                    wanted.append((arithmetic, package, 1))
    return wanted


def _has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def compare(experiment: Experiment, device: torch.device, wanted: Iterable[tuple], rounds: int) -> dict[str, Any]:
    """The entry of a network in the record: seconds of a step by implementation, in rounds in turn."""
    recipe, dataset = recipe_of(experiment), experiment.parameters["dataset"]
    with ExitStack() as running:
        workers = [
            running.enter_context(Worker(experiment.in_arithmetic(arithmetic), device, implementation, runs))
            for arithmetic, implementation, runs in wanted
        ]
        for _ in range(rounds):
            for worker in workers:
                worker.round()
        rows = [
            {
                "implementation": worker.implementation,
                "arithmetic": worker.arithmetic,
                "runs_at_once": worker.runs,
                "seconds": [round(value, 6) for value in worker.seconds],
                "median_seconds": round(statistics.median(worker.seconds), 6),
                "images_per_second": round(recipe.batch_size / statistics.median(worker.seconds), 1),
                **worker.ask("memory"),
            }
            for worker in workers
        ]
        profiles = {
            f"{worker.implementation}, {worker.arithmetic}": worker.ask("profile")["operations"]
            for worker in workers
            if worker.runs == 1 and worker.implementation in ("ours", "eager")
        }
    bounds = {}
    for arithmetic in dict.fromkeys(arithmetic for arithmetic, _, _ in wanted):
        found = bound.rates(device, arithmetic, recipe.cpu_threads)
        operations, traffic = bound.work(experiment.in_arithmetic(arithmetic))
        bounds[arithmetic] = {
            "copy_bytes_per_second": round(found.copy),
            "operations_per_second": round(found.arithmetic),
            "operations": operations,
            "traffic_bytes": traffic,
            "seconds": round(bound.seconds(operations, traffic, found), 6),
        }
    for row in rows:
        row["ratios"] = ratios(row, rows)
    kept = memory.kept(_meta(experiment), recipe.batch_norm_samples, (dataset["channels"], *2 * [dataset["size"]]))
    return {
        "experiment": experiment.name,
        "layers": experiment.parameters["network"]["depth"],
        "batch_size": recipe.batch_size,
        "rounds": rounds,
        "rows": rows,
        "bounds": bounds,
        "kept_for_backward_bytes": kept,
        "profiles": profiles,
    }


def _meta(experiment: Experiment) -> torch.nn.Module:
    from ..training.assembly import build

    with torch.device("meta"):
        return build(experiment)


def ratios(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many times as fast as the faster peer, in the same arithmetic and in float32: the median over the rounds."""
    found = {}
    for arithmetic in dict.fromkeys((row["arithmetic"], "float32")):
        peers = [r for r in rows if r["implementation"] != "ours" and r["arithmetic"] == arithmetic]
        if row["implementation"] != "ours" or not peers:
            continue
        fastest = min(peers, key=lambda peer: peer["median_seconds"])
        by_round = [theirs / mine for theirs, mine in zip(fastest["seconds"], row["seconds"], strict=True)]
        found[arithmetic] = round(statistics.median(by_round), 3)
    return found


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()


def run(
    experiments: Sequence[Experiment],
    kind: str,
    results: Path,
    root: Path,
    rounds: int,
    arithmetics: Sequence[str] = (),
    peers: Sequence[str] = COMPARED,
) -> None:
    """Measure each network and leave results/bench/DEVICE/NETWORK/bench.json with its provenance.

    Args:
        experiments: in their own arithmetic.
        kind: "gpu" or "cpu".
        rounds: of which the medians are taken.
        arithmetics: (): float32, and where the device has them tf32 (a GPU) and bfloat16.
        peers: names of the experiments that are measured against the peers.
    """
    for experiment in experiments:
        device = devices.choose(kind, experiment, root)
        chosen = list(arithmetics)
        if not chosen:
            compared = experiment.name in peers
            chosen = ["float32", *(["tf32"] if device.type == "cuda" else [])]
            chosen += ["bfloat16"] if compared and has_bfloat16(device) else []
        hardware = devices.describe(device)
        wanted = implementations(experiment.name, device, chosen, experiment.name in peers)
        entry = compare(imagenet.measurable(experiment, device), device, wanted, rounds)
        if experiment.streamed:
            entry |= imagenet.surroundings(experiment, device, entry, rounds)
        folder = bench.folder_of(results, hardware, experiment.name)
        origin = provenance.of_measurement(
            "bench",
            f"identity-mappings bench {experiment.name} --device {kind} --rounds {rounds}",
            root,
            parents={},
            settings={
                "digest": experiment.digest,
                "hardware": hardware,
                "libraries": devices.libraries(device),
                "cpu_threads": recipe_of(experiment).cpu_threads,
                **{package: version(package) if _has(package) else None for package in ("pytorchcv", "timm")},
            },
        )
        measurement.write(folder, bench.NAME, json_bytes(entry), origin)
        ours = [row for row in entry["rows"] if row["implementation"] == "ours"]
        said = "; ".join(f"{r['arithmetic']} {r['median_seconds'] * 1e3:.0f} ms a step, {r['ratios']}" for r in ours)
        print(f"{folder / bench.NAME}: {said}", flush=True)
