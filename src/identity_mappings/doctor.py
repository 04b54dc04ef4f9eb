"""`identity-mappings doctor`: whether this machine will do, in a minute or two, before anything long is started."""

import json
import math
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .data import sources
from .data.images import Images
from .errors import UserError
from .parameters import Project, load
from .records.experiment import ARITHMETICS, Experiment
from .records.speed import Speeds, Spent, name_device
from .reporting.cells import Records
from .reporting.run_states import find_runs
from .reporting.times import estimate_left
from .training import checkpoint, devices, driver, memory
from .training.streamed import MOST_WORKERS
from .training.trainer import Options, Trainer

OK, NOTE, WRONG = "ok", "note", "wrong"
STEPS, BATCH, SIZE = 3, 8, 16  # of each kind of step
SHORTEST = {"basic": 8, "single": 8, "bottleneck": 11}  # depth of a network with a unit in each stage; on ImageNet:
SHORTEST_ON_IMAGENET = {"basic": 10, "bottleneck": 14}
DISK_BYTES = 10 * 2**30  # checkpoints and weights of all CIFAR runs
SHARED_BYTES = MOST_WORKERS * 2 * 256 * 3 * 224 * 224  # what workers that decode ImageNet pass on: two batches each


@dataclass(frozen=True)
class Line:
    """One finding: what was looked at, whether it is "ok", a "note" or "wrong", and what to do about it."""

    name: str
    status: str
    text: str


def list_kinds(project: Project, arithmetic: str) -> list[Experiment]:
    """An experiment for every kind of step in params/: the unit, activation and shortcut of its network, shortened."""
    recipe = project.recipes["he2016-cifar"].resolve()
    recipe |= {"batch_size": BATCH, "batch_norm_samples": BATCH // 2, "arithmetic": arithmetic, "cpu_threads": 1}
    dataset = {"name": "random", "md5": "none", "classes": 10, "channels": 3, "size": SIZE}
    kinds: dict[tuple, Experiment] = {}
    for name, stated in project.experiments.items():
        family, shortcut = stated.network.family, stated.network.shortcut
        if family == "vgg":
            continue
        shortest = (SHORTEST_ON_IMAGENET if family else SHORTEST)[stated.network.unit]
        found = project.resolve(name)
        parameters = {
            "dataset": dataset,
            "network": found.parameters["network"] | {"depth": shortest},
            "recipe": recipe,
        }
        key = (family, stated.network.unit, stated.network.activation, shortcut.kind, getattr(shortcut, "source", None))
        kinds.setdefault(key, Experiment(name, "doctor", parameters, custom_source=found.custom_source))
    return list(kinds.values())


def make_images() -> Images:
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (4 * BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(10, (4 * BATCH,), generator=numbers)
    return Images(pixels, labels, pixels[:BATCH], labels[:BATCH])


def train_steps(experiment: Experiment, device: torch.device, root: Path) -> tuple[list[float], str, str | None]:
    """The losses of a network's first steps, the hash of its weights behind them, and why no CUDA graph was used."""
    trainer = Trainer(experiment, 0, device, Options(Path(), root=root), make_images())
    try:
        losses = [trainer.step(iteration)[0] for iteration in range(STEPS)]
        weights = checkpoint.weights_sha256(trainer.state()["network"])
        return torch.stack(losses).tolist(), weights, trainer.why_eager
    finally:
        trainer.close()


def find_problem(experiment: Experiment, device: torch.device, root: Path) -> str | None:
    """What is wrong with a network's first steps, made twice; on a GPU each also compares its CUDA graph."""
    try:
        first, again = (train_steps(experiment, device, root) for _ in range(2))
    except (RuntimeError, UserError) as error:
        return f"cannot be computed here ({str(error).splitlines()[0]})"
    if not all(map(math.isfinite, first[0])):
        return "its loss is not a number: this build of torch or this device computes wrongly"
    if first[:2] != again[:2]:
        return "the same steps give other bits: records of this device cannot be repeated"
    return first[2] or again[2]


def check_steps(project: Project, arithmetic: str, device: torch.device) -> Line:
    devices.prepare(arithmetic, 1)
    kinds = list_kinds(project, arithmetic)
    problems = {experiment.name: find_problem(experiment, device, project.root) for experiment in kinds}
    wrong = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    if wrong:
        return Line(f"steps, {arithmetic}", WRONG, f"{'; '.join(wrong)}: report it, with the whole output of doctor")
    graphs = ", and as CUDA graphs" if device.type == "cuda" else ""
    return Line(f"steps, {arithmetic}", OK, f"{len(kinds)} kinds of network twice, bit by bit{graphs}")


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
        yield Line("GPU", WRONG, devices.explain_unseen(asked))
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


def check_data(project: Project, folder: Path) -> Iterator[Line]:
    for name in (name for name, entry in project.datasets.items() if entry.format == "cifar"):
        if not (folder / name).is_dir():
            yield Line(f"data: {name}", NOTE, f"not here: identity-mappings data fetch {name}")
        elif wrong := sources.list_problems(name, folder):
            yield Line(f"data: {name}", WRONG, f"damaged: {wrong[0]}; identity-mappings data fetch {name}")
        else:
            yield Line(f"data: {name}", OK, "as published")
    archives = [folder / "imagenet" / file for file in project.datasets["imagenet"].archives]
    if (folder / "shards/imagenet").is_dir() or all(file.is_file() for file in archives):
        yield Line("data: imagenet", OK, "here")
    else:
        yield Line("data: imagenet", NOTE, "not here: identity-mappings data fetch imagenet says how to get it")


def measure_step(project: Project, device: torch.device) -> float:
    """Seconds of a step of ResNet-110 on CIFAR-10, in float32."""
    parameters = project.resolve("cifar10-resnet110").parameters
    experiment, steps = Experiment("cifar10-resnet110", "doctor", parameters), 50
    devices.prepare("float32", parameters["recipe"]["cpu_threads"])
    trainer = Trainer(experiment, 0, device, Options(Path(), root=project.root), make_images())

    def run(begin: int) -> float:
        start = time.perf_counter()
        for iteration in range(begin, begin + steps):
            loss, _, _ = trainer.step(iteration)
        loss.item()
        return (time.perf_counter() - start) / steps

    run(0)
    seconds = run(steps)
    trainer.close()
    return seconds


def check_speed(project: Project, device: torch.device) -> Iterator[Line]:
    seconds, records = measure_step(project, device), Records(project, "paper")
    yield Line("speed", OK, f"a step of ResNet-110 on CIFAR-10 takes {seconds:.3g} s in float32")
    speeds, name = Speeds(records.costs), name_device(devices.get_name(device), "")
    speeds.add(project.resolve("cifar10-resnet110"), Spent(name, seconds, 1, None))
    left = [run for run in find_runs(records)[0] if not run.experiment.streamed]
    text = estimate_left(left, speeds, [name]).in_words or "none"
    yield Line("hours", OK, f"all runs of CIFAR that are left, one after the other: {text}")


def examine(root: Path, data: Path) -> Iterator[Line]:
    """All findings, as they come."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield from check_versions(root)
    yield from check_devices()
    yield from check_room(root)
    project = load(root)
    yield from check_data(project, data)
    for arithmetic in ARITHMETICS if device.type == "cuda" else ("float32",):  # most CPUs have no other
        yield check_steps(project, arithmetic, device)
    if device.type == "cuda":
        yield from check_speed(project, device)
    yield Line("memory", OK, f"{memory.get_peak_bytes(device) / 2**30:.2f} GiB at most")


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
