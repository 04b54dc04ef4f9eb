"""`identity-mappings doctor`: whether this machine will do, in two minutes, before anything long is started.

Needs torch alone; what reads params/ (the datasets) says so where pydantic is missing.
"""

import json
import math
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .data.images import Images
from .errors import UserError
from .records.experiment import ARITHMETICS, Experiment
from .training import checkpoint, devices, driver, memory
from .training.trainer import Options, Trainer

OK, NOTE, WRONG = "ok", "note", "wrong"
STEPS, BATCH = 20, 16  # of each kind of step
FEW_STEPS = 4  # in bfloat16 on a CPU, most of which have no instructions for it
DISK_BYTES = 10 * 2**30  # checkpoints and weights of all CIFAR runs
SHARED_BYTES = 2**30  # what workers that decode ImageNet pass on
RECIPE: dict[str, Any] = {
    "batch_size": BATCH, "batch_norm_samples": BATCH // 2, "epoch_end": "continue", "iterations": STEPS,
    "learning_rate": [[0, 0.01]], "momentum": 0.9, "nesterov": False, "momentum_form": "caffe",
    "weight_decay": 0.0001, "weight_decay_on": ["convolution", "linear"], "normalization": "per-pixel-mean",
    "channel_mean": None, "channel_deviation": None, "crop_padding": 4, "padding_colour": "mean", "flip": True,
    "crop": None, "convolution_initialization": "he-fan-in", "linear_initialization": "he-fan-in",
    "batch_norm_eps": 1e-5, "batch_norm_momentum": 0.1, "running_statistics": "first-replica",
    "test_statistics": "moving", "evaluate_every": STEPS, "log_every": STEPS, "cpu_threads": 1,
}  # fmt: skip
SHORTCUTS: dict[str, dict[str, Any]] = {
    "identity": {"kind": "identity"},
    "none": {"kind": "none"},
    "scaled": {"kind": "scaled", "shortcut_scale": 0.5, "residual_scale": 0.5},
    "exclusive gate": {"kind": "exclusive-gate", "gate_bias": -6.0},
    "shortcut-only gate": {"kind": "shortcut-only-gate", "gate_bias": 0.0},
    "convolution": {"kind": "convolution"},
    "dropout": {"kind": "dropout", "ratio": 0.5},
}
ACTIVATIONS = ("bn-after-addition", "relu-before-addition", "relu-only-pre-activation", "full-pre-activation")


@dataclass(frozen=True)
class Line:
    """One finding: what was looked at, whether it is "ok", a "note" or "wrong", and what to do about it."""

    name: str
    status: str
    text: str


def list_kinds() -> dict[str, tuple[dict[str, Any], int]]:
    """Every kind of step by name: the parameters of a short network, and the height and width of its images."""
    basic = {"depth": 8, "unit": "basic", "activation": "original", "shortcut": SHORTCUTS["identity"]}
    kinds = {f"{name} shortcut": ({**basic, "shortcut": shortcut}, 32) for name, shortcut in SHORTCUTS.items()}
    kinds |= {activation: ({**basic, "activation": activation}, 32) for activation in ACTIVATIONS}
    bottleneck = {**basic, "depth": 11, "unit": "bottleneck", "shape_change": "B"}
    kinds["bottleneck"] = bottleneck, 32
    kinds["bottleneck, full-pre-activation"] = {**bottleneck, "activation": ACTIVATIONS[-1]}, 32
    kinds["1-layer skip"] = {**basic, "unit": "single"}, 32
    imagenet = {**basic, "family": "imagenet", "depth": 18}
    kinds["ImageNet, basic"] = imagenet, 32
    kinds["ImageNet, bottleneck"] = {**imagenet, **bottleneck, "depth": 14}, 32
    return {name: ({"shape_change": "A", **network}, size) for name, (network, size) in kinds.items()}


def make_experiment(name: str, network: dict[str, Any], size: int, arithmetic: str) -> Experiment:
    dataset = {"name": "random", "md5": "none", "classes": 10, "channels": 3, "size": size}
    recipe = {**RECIPE, "arithmetic": arithmetic}
    return Experiment(name, "doctor", {"dataset": dataset, "network": network, "recipe": recipe})


def make_images(size: int) -> Images:
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (4 * BATCH, 3, size, size), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(10, (4 * BATCH,), generator=numbers)
    return Images(pixels, labels, pixels[:BATCH], labels[:BATCH])


def _make_short_trainer(experiment: Experiment, device: torch.device, cpu_threads: int, eager: bool = False) -> Trainer:
    devices.prepare(experiment.parameters["recipe"]["arithmetic"], cpu_threads)
    options = Options(Path(), device="gpu" if device.type == "cuda" else "cpu", eager=eager)
    return Trainer(experiment, 0, device, options, make_images(experiment.parameters["dataset"]["size"]))


def train_steps(experiment: Experiment, device: torch.device, steps: int, eager: bool) -> tuple[list[float], str]:
    """The losses of a network's first steps, and the hash of its weights behind them."""
    trainer = _make_short_trainer(experiment, device, 1, eager)
    losses = [trainer.step(iteration)[0] for iteration in range(steps)]
    return torch.stack(losses).tolist(), checkpoint.weights_sha256(trainer.state()["network"])


def check_step(name: str, network: dict[str, Any], size: int, arithmetic: str, device: torch.device) -> Line:
    """The same steps twice, and on a GPU recorded as a CUDA graph against launched one by one, bit by bit."""
    experiment = make_experiment(name, network, size, arithmetic)
    title = f"step: {name}, {arithmetic}"
    steps = FEW_STEPS if device.type == "cpu" and arithmetic == "bfloat16" else STEPS
    try:
        first, again = (train_steps(experiment, device, steps, False) for _ in range(2))
        eager = train_steps(experiment, device, steps, True) if device.type == "cuda" else first
    except (RuntimeError, UserError) as error:
        cause = str(error).splitlines()[0]
        return Line(title, WRONG, f"cannot be computed here ({cause}): report it, with the whole output of doctor")
    if not all(map(math.isfinite, first[0])):
        return Line(title, WRONG, "its loss is not a number: this build of torch or this device computes wrongly")
    if first != again:
        return Line(title, WRONG, "the same steps give other bits: records of this device cannot be repeated")
    if first != eager:
        return Line(title, WRONG, "a CUDA graph gives other bits than its kernels: train with --eager, and report it")
    return Line(title, OK, f"{steps} steps twice, bit by bit" + (", and as a CUDA graph" * (device.type == "cuda")))


def check_versions(root: Path) -> Iterator[Line]:
    yield Line("Python", OK, platform.python_version())
    lock = root / "requirements.lock"
    if not lock.is_file():
        yield Line("requirements.lock", WRONG, f"not in {root.absolute()}: call this from the project's root")
        return
    # A package may have several lines, for versions of Python.
    pinned = {tuple(line.split()[0].split("==")) for line in lock.read_text().splitlines() if "==" in line[:60]}
    for package in ("torch", "torchvision", "numpy"):
        try:
            found = version(package)
        except PackageNotFoundError:
            yield Line(package, NOTE if package == "torchvision" else WRONG, "not installed: make env")
            continue
        same = (package, found.partition("+")[0]) in pinned
        text = found if same else f"{found} is not what requirements.lock pins: numbers may differ in bits (make env)"
        yield Line(package, OK if same else NOTE, text)


def check_devices() -> Iterator[Line]:
    asked, count = driver.query_driver(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not asked.gpus and not count:
        yield Line("GPU", NOTE, f"none ({asked.problem}): everything below is of the CPU")
        return
    text = f"{asked.version or 'version unknown'} {asked.problem or ''}".strip()
    yield Line("driver", NOTE if asked.problem else OK, text)
    if not count:
        text = f"the driver lists {len(asked.usable)}, torch {torch.__version__} sees none: is CUDA_VISIBLE_DEVICES"
        yield Line("GPU", WRONG, f"{text} empty? Does the driver suit CUDA {torch.version.cuda}?")
        return
    for number in range(count):
        found = torch.cuda.get_device_properties(number)
        text = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"
        yield Line(f"GPU {number}", OK, text)
    yield Line("CUDA, cuDNN", OK, f"{torch.version.cuda}, {torch.backends.cudnn.version()}")


def check_room(root: Path) -> Iterator[Line]:
    free = shutil.disk_usage(root).free
    text = f"{free / 2**30:.0f} GiB free"
    if free < DISK_BYTES:
        text += f": checkpoints and weights of all CIFAR runs take up to {DISK_BYTES / 2**30:.0f}: make room"
    yield Line("disk", OK if free >= DISK_BYTES else WRONG, text)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        text = f"{free / 2**30:.1f} GiB free for processes that decode ImageNet"
        if free < SHARED_BYTES:
            text += ": too little for them (in a container: --shm-size=8g)"
        yield Line("shared memory", OK if free >= SHARED_BYTES else NOTE, text)


def check_data(folder: Path) -> Iterator[Line]:
    try:
        from .data import sources
        from .parameters.load import DATASETS, read
    except ImportError as error:
        yield Line("data", NOTE, f"not checked without {error.name}: make env")
        return
    entries = read(DATASETS, "datasets")
    for name in (name for name, entry in entries.items() if entry.format == "cifar"):
        if not (folder / name).is_dir():
            yield Line(f"data: {name}", NOTE, f"not here: identity-mappings data fetch {name}")
            continue
        if wrong := sources.list_problems(name, folder):
            yield Line(f"data: {name}", WRONG, f"damaged: {wrong[0]}; identity-mappings data fetch {name}")
        else:
            yield Line(f"data: {name}", OK, "as published")
    archives = [folder / "imagenet" / file for file in entries["imagenet"].archives]
    if (folder / "shards/imagenet").is_dir() or all(file.is_file() for file in archives):
        yield Line("data: imagenet", OK, "here")
    else:
        yield Line("data: imagenet", NOTE, "not here: identity-mappings data fetch imagenet says how to get it")


def measure_step(device: torch.device) -> float:
    """Seconds of a step of ResNet-110 on CIFAR-10 in float32."""
    network = {**list_kinds()["identity shortcut"][0], "depth": 110}
    experiment = make_experiment("ResNet-110", network, 32, "float32")
    experiment.parameters["recipe"] |= {"batch_size": 128, "batch_norm_samples": 64}
    steps, threads = (3, 2) if device.type == "cpu" else (50, 1)
    trainer = _make_short_trainer(experiment, device, threads)

    def run(begin: int) -> float:
        start = time.perf_counter()
        for iteration in range(begin, begin + steps):
            loss, _, _ = trainer.step(iteration)
        trainer.wait()
        loss.item()
        return (time.perf_counter() - start) / steps

    run(0)
    return run(steps)


def check_speed(device: torch.device) -> Iterator[Line]:
    seconds = measure_step(device)
    yield Line("speed", OK, f"a step of ResNet-110 on CIFAR-10 takes {seconds:.3g} s in float32")


def examine(root: Path, data: Path) -> Iterator[Line]:
    """All findings, as they come."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield from check_versions(root)
    yield from check_devices()
    yield from check_room(root)
    yield from check_data(data)
    for arithmetic in ARITHMETICS:
        if device.type == "cpu" and arithmetic == "tf32":
            continue  # a CPU has none
        for name, (network, size) in list_kinds().items():
            yield check_step(name, network, size, arithmetic, device)
    yield Line("memory", OK, f"{memory.get_peak_bytes(device) / 2**30:.2f} GiB at most so far")
    yield from check_speed(device)


def show(as_json: bool = False, data: Path = Path("data"), root: Path = Path()) -> int:
    """Print a line for each finding; returns the exit status: 1 if something is wrong."""
    found = []
    for line in examine(root, data):
        found.append(line)
        if not as_json:
            print(f"{line.status:5}  {line.name}: {line.text}")
    wrong = sum(line.status == WRONG for line in found)
    if as_json:
        print(json.dumps([asdict(line) for line in found], indent=1))
    else:
        print(f"{len(found)} lines: " + (f"{wrong} wrong, see above" if wrong else "this machine will do"))
    return int(wrong > 0)
