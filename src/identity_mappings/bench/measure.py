"""`identity-mappings bench`: the step of a network against two others, in rounds in turn, as a record."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..networks.cost import count
from ..records import measurement, provenance
from ..records.experiment import Experiment
from ..records.files import json_bytes
from ..training import devices, memory
from ..training.assembly import build, get_recipe
from .worker import serve

# The packages' names for our networks; what both lack is measured against eager PyTorch alone.
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
PACKAGES = {"pytorchcv": PYTORCHCV, "timm": TIMM}
COMPARED = ("cifar10-resnet20", "cifar10-resnet110", "cifar10-resnet164-full-pre-activation", "imagenet-resnet50")
BY_DEPTH = ("cifar10-resnet56", "cifar10-resnet1001-full-pre-activation", "cifar10-resnet1202")
SECONDS = 2.0  # that a round takes of each implementation, if one step is not longer
AT_ONCE = (1, 5, 8)  # runs on a GPU
# Of a tensor that the backward pass needs: written and read forward; read backward; its gradient written and read.
PASSES = 5


class Worker:
    """An implementation in its own process (`worker.serve`)."""

    def __init__(self, experiment: Experiment, device: torch.device, implementation: str, runs: int = 1):
        self.implementation, self.runs = implementation, runs
        self.arithmetic = get_recipe(experiment).arithmetic
        name = PACKAGES.get(implementation, {}).get(experiment.name)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, experiment, device, implementation, name, runs))
        self.process.start()
        theirs.close()
        self.seconds: list[float] = []
        self._receive()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join()

    def ask(self, command: str | int) -> Any:
        self.connection.send(command)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            raise UserError(
                f"bench: {self.implementation} in {self.arithmetic} ended with an error, which stands above"
            ) from None

    def run_round(self) -> None:
        """Note the seconds of a step of one run, over steps of about `SECONDS` in all."""
        last = self.seconds[-1] * self.runs if self.seconds else self.ask(1)
        steps = max(1, min(200, round(SECONDS / last)))
        self.seconds.append(self.ask(steps) / self.runs)


def list_implementations(name: str, device: torch.device, arithmetics: Sequence[str], peers: bool) -> list[tuple]:
    """What is measured of a network: (arithmetic, implementation, runs at once)."""
    at_once = AT_ONCE if device.type == "cuda" and name not in TIMM else (1,)
    others = ["eager", *(p for p, names in PACKAGES.items() if name in names and find_spec(p))] if peers else []
    wanted = []
    for arithmetic in arithmetics:
        wanted += [(arithmetic, "ours", runs) for runs in at_once] + [(arithmetic, other, 1) for other in others]
    return wanted


def compare(experiment: Experiment, device: torch.device, wanted: Iterable[tuple], rounds: int) -> dict[str, Any]:
    """The entry of a network in the record: seconds of a step by implementation, in rounds in turn."""
    recipe = get_recipe(experiment)
    with ExitStack() as running:
        workers = [
            running.enter_context(Worker(experiment.in_arithmetic(arithmetic), device, implementation, runs))
            for arithmetic, implementation, runs in wanted
        ]
        for _ in range(rounds):
            for worker in workers:
                worker.run_round()
        rows = [
            {
                "implementation": worker.implementation,
                "arithmetic": worker.arithmetic,
                "runs_at_once": worker.runs,
                "seconds": [round(value, 6) for value in worker.seconds],
                "median_seconds": round(statistics.median(worker.seconds), 6),
                "images_per_second": round(recipe.batch_size / statistics.median(worker.seconds), 1),
                "peak_memory_bytes": worker.ask("memory"),
            }
            for worker in workers
        ]
        profiles = {
            f"{worker.implementation}, {worker.arithmetic}": worker.ask("profile")
            for worker in workers
            if worker.runs == 1 and worker.implementation in ("ours", "eager")
        }
    for row in rows:
        row["ratios"] = compute_ratios(row, rows)
    arithmetics = dict.fromkeys(arithmetic for arithmetic, _, _ in wanted)
    return {
        "experiment": experiment.name,
        "layers": experiment.parameters["network"]["depth"],
        "batch_size": recipe.batch_size,
        "rounds": rounds,
        "rows": rows,
        "bounds": {arithmetic: bound(experiment.in_arithmetic(arithmetic), device) for arithmetic in arithmetics},
        "kept_for_backward_bytes": _kept(experiment.in_arithmetic("float32")),
        "profiles": profiles,
    }


def compute_ratios(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many times as fast as the faster peer, in the same arithmetic and in float32: the median over the rounds."""
    ratios = {}
    for arithmetic in dict.fromkeys((row["arithmetic"], "float32")):
        peers = [r for r in rows if r["implementation"] != "ours" and r["arithmetic"] == arithmetic]
        if row["implementation"] == "ours" and peers:
            fastest = min(peers, key=lambda peer: peer["median_seconds"])
            by_round = [theirs / ours for theirs, ours in zip(fastest["seconds"], row["seconds"], strict=True)]
            ratios[arithmetic] = round(statistics.median(by_round), 3)
    return ratios


def _kept(experiment: Experiment) -> int:
    """Bytes that a forward pass of one replica keeps for the backward pass."""
    recipe, dataset = get_recipe(experiment), experiment.parameters["dataset"]
    with torch.device("meta"):
        network = build(experiment)
    shape = (dataset["channels"], dataset["size"], dataset["size"])
    return memory.count_kept_bytes(network, recipe.batch_norm_samples, shape, recipe.arithmetic == "bfloat16")


def count_work(experiment: Experiment) -> tuple[float, float]:
    """Of a step: floating-point operations (three times those of the forward pass), and bytes of memory traffic."""
    recipe, dataset = get_recipe(experiment), experiment.parameters["dataset"]
    with torch.device("meta"):
        forward = 2 * count(build(experiment), dataset["channels"], dataset["size"]).multiply_adds
    replicas = recipe.batch_size // recipe.batch_norm_samples
    return 3.0 * forward * recipe.batch_size, float(PASSES * replicas * _kept(experiment))


def measure_rates(device: torch.device, arithmetic: str, threads: int) -> tuple[float, float]:
    """Bytes a second of copying 256 MiB, and floating-point operations a second of a product of square matrices."""
    devices.prepare(arithmetic, threads)

    def quickest(action: Callable[[], object]) -> float:
        seconds = []
        for _ in range(8):
            begin = time.perf_counter()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
        return min(seconds[1:])

    source = torch.zeros(1 << 26, device=device)
    target = torch.empty_like(source)
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device).to(torch.bfloat16 if arithmetic == "bfloat16" else torch.float32)
    copied = 2 * source.nbytes / quickest(lambda: target.copy_(source))
    return copied, 2 * size**3 / quickest(lambda: matrix @ matrix)


def bound(experiment: Experiment, device: torch.device) -> dict[str, float]:
    """The least time of a step, from measured rates: computing and moving can overlap, so the longer of the two."""
    recipe = get_recipe(experiment)
    copied, computed = measure_rates(device, recipe.arithmetic, recipe.cpu_threads)
    operations, traffic = count_work(experiment)
    return {
        "copy_bytes_per_second": round(copied),
        "operations_per_second": round(computed),
        "operations": operations,
        "traffic_bytes": traffic,
        "seconds": round(max(operations / computed, traffic / copied), 6),
    }


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpu = Path("/proc/cpuinfo")
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and cpu.exists() and "avx512_bf16" in cpu.read_text()


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
        kind: "gpu" or "cpu".
        rounds: of which the medians are taken.
        arithmetics: (): float32, and where the device has them tf32 (a GPU) and bfloat16.
        peers: names of the experiments that are measured against the peers.
    """
    from . import imagenet

    for experiment in experiments:
        device, compared = devices.choose(kind, experiment, root), experiment.name in peers
        tf32, bfloat16 = device.type == "cuda", compared and has_bfloat16(device)
        chosen = list(arithmetics) or ["float32", *["tf32"] * tf32, *["bfloat16"] * bfloat16]
        hardware, measured = devices.describe(device), experiment
        if experiment.streamed and device.type == "cpu":  # there, replicas follow one another: one is enough
            recipe = experiment.parameters["recipe"]
            recipe = {**recipe, "batch_size": recipe["batch_norm_samples"]}
            measured = replace(experiment, parameters={**experiment.parameters, "recipe": recipe})
        entry = compare(measured, device, list_implementations(experiment.name, device, chosen, compared), rounds)
        if experiment.streamed:
            entry |= imagenet.measure_surroundings(experiment, device, entry, rounds)
        folder = measurement.get_bench_folder(results, hardware, experiment.name)
        origin = provenance.describe_measurement(
            "bench",
            f"identity-mappings bench {experiment.name} --device {kind} --rounds {rounds}",
            root,
            parents={},
            settings={
                "digest": experiment.digest,
                "hardware": hardware,
                "libraries": devices.libraries(device),
                "cpu_threads": get_recipe(experiment).cpu_threads,
                **{package: provenance.find_version(package) for package in PACKAGES},
            },
        )
        measurement.write(folder, measurement.BENCH_JSON, json_bytes(entry), origin)
        ours = [row for row in entry["rows"] if row["implementation"] == "ours"]
        said = "; ".join(f"{r['arithmetic']} {r['median_seconds'] * 1e3:.0f} ms a step, {r['ratios']}" for r in ours)
        print(f"{folder / measurement.BENCH_JSON}: {said}", flush=True)
