"""`identity-mappings doctor`: whether this machine will do, in a minute or two, before anything long is started."""

import json
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .data.images import Images
from .data.prepare import list_problems
from .errors import UserError
from .parameters import Project, load
from .records.experiment import ARITHMETICS, Experiment
from .records.provenance import find_version
from .records.speed import Speeds, Spent, name_device
from .reporting.run_states import find_runs
from .reporting.store import Records
from .reporting.times import estimate_left
from .training import devices, driver
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
        if (found := project.resolve(name)) is None:
            continue
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


def find_problem(experiment: Experiment, device: torch.device, root: Path) -> str | None:
    """What is wrong with a network's first steps, as at the start of a training: a GPU's compare their CUDA graphs."""
    try:
        trainer = Trainer(experiment, 0, device, Options(Path(), root=root), make_images())
        try:
            losses = torch.stack([trainer.step(iteration)[0] for iteration in range(STEPS)])
        finally:
            trainer.close()
    except (RuntimeError, UserError) as error:
        return f"cannot be computed here ({str(error).splitlines()[0]})"
    if not losses.isfinite().all():
        return "its loss is not a number: this build of torch or this device computes wrongly"
    return trainer.why_eager


def check_steps(project: Project, arithmetic: str, device: torch.device) -> Line:
    devices.prepare(arithmetic, 1)
    kinds = list_kinds(project, arithmetic)
    problems = {experiment.name: find_problem(experiment, device, project.root) for experiment in kinds}
    wrong = [f"{name}: {problem}" for name, problem in problems.items() if problem]
    if wrong:
        return Line(f"steps, {arithmetic}", WRONG, f"{'; '.join(wrong)}: report it, with the whole output of doctor")
    graphs = "; their CUDA graphs give the same bits" if device.type == "cuda" else ""
    return Line(f"steps, {arithmetic}", OK, f"{len(kinds)} kinds of network{graphs}")


def check_versions(root: Path) -> Line:
    lock = root / "requirements.lock"
    if not lock.is_file():
        return Line("versions", WRONG, f"no requirements.lock in {root.absolute()}: call this from the project's root")
    # A package may have several lines, for versions of Python.
    pinned = {tuple(line.split()[0].split("==")) for line in lock.read_text().splitlines() if "==" in line[:60]}
    found = {package: find_version(package) for package in ("torch", "torchvision", "numpy")}
    text = ", ".join([f"Python {platform.python_version()}", *(f"{name} {found[name]}" for name in found)])
    if missing := [package for package, version in found.items() if version is None]:
        return Line("versions", WRONG, f"{text}: {', '.join(missing)} not installed: make env")
    others = [name for name, version in found.items() if version and (name, version.partition("+")[0]) not in pinned]
    if others:
        others_are = f"{', '.join(others)}: not what requirements.lock pins"
        return Line("versions", NOTE, f"{text}; {others_are}: numbers may differ in bits (make env)")
    return Line("versions", OK, text)


def check_devices() -> Line:
    answer, count = driver.query_driver(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not answer.gpus and not count:
        return Line("GPUs", NOTE, f"none ({answer.problem}): everything below is of the CPU")
    if not count:
        return Line("GPUs", WRONG, devices.explain_unseen(answer))
    found = [torch.cuda.get_device_properties(number) for number in range(count)]
    names = [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}" for gpu in found]
    versions = f"driver {answer.version or 'unknown'}, CUDA {torch.version.cuda}"
    text = f"{'; '.join(names)}; {versions}, cuDNN {torch.backends.cudnn.version()}"
    return Line("GPUs", NOTE, f"{text}; {answer.problem}") if answer.problem else Line("GPUs", OK, text)


def check_room(root: Path) -> Line:
    free, shared = shutil.disk_usage(root).free, Path("/dev/shm")
    text = f"{free / 2**30:.0f} GiB free"
    if free < DISK_BYTES:
        needed = f"checkpoints and weights of all CIFAR runs take up to {DISK_BYTES / 2**30:.0f}"
        return Line("disk", WRONG, f"{text}: {needed}: make room")
    if shared.is_dir() and shutil.disk_usage(shared).free < SHARED_BYTES:
        text += "; shared memory is too little for processes that decode ImageNet (in a container: --shm-size=8g)"
        return Line("disk", NOTE, text)
    return Line("disk", OK, text)


def check_data(project: Project, folder: Path) -> Line:
    here, missing = [], []
    for name in (name for name, entry in project.datasets.items() if entry.format == "cifar"):
        if not (folder / name).is_dir():
            missing.append(name)
        elif wrong := list_problems(name, folder):
            return Line("data", WRONG, f"{name} is damaged: {wrong[0]}; identity-mappings data fetch {name}")
        else:
            here.append(name)
    archives = [folder / "imagenet" / file for file in project.datasets["imagenet"].archives or ()]
    prepared = (folder / "shards/imagenet").is_dir() or all(file.is_file() for file in archives)
    (here if prepared else missing).append("imagenet")
    text = f"here: {', '.join(here) or 'none'}"
    if missing:
        return Line("data", NOTE, f"{text}; not here: {', '.join(missing)}: identity-mappings data fetch NAME")
    return Line("data", OK, text)


def measure_step(experiment: Experiment, device: torch.device, root: Path) -> float:
    """Seconds of a step of an experiment on CIFAR, in float32."""
    devices.prepare("float32", experiment.parameters["recipe"]["cpu_threads"])
    steps = 50
    trainer = Trainer(experiment, 0, device, Options(Path(), root=root), make_images())

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


def check_speed(project: Project, device: torch.device) -> Line:
    experiment = project.resolve("cifar10-resnet110")
    assert experiment is not None
    seconds, records = measure_step(experiment, device, project.root), Records(project, "paper")
    speeds, name = Speeds(records.costs), name_device(devices.get_name(device), "")
    speeds.add(experiment, Spent(name, seconds, 1, None))
    left = [run for run in find_runs(records)[0] if not run.experiment.streamed]
    hours = estimate_left(left, speeds, [name]).in_words or "none"
    text = f"a step of ResNet-110 on CIFAR-10 takes {seconds:.3g} s in float32"
    return Line("speed", OK, f"{text}; all runs of CIFAR that are left, one after the other: {hours}")


def examine(root: Path, data: Path) -> Iterator[Line]:
    """A line for each kind of check, as they come."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield check_versions(root)
    yield check_devices()
    yield check_room(root)
    project = load(root)
    yield check_data(project, data)
    for arithmetic in ARITHMETICS if device.type == "cuda" else ("float32",):  # most CPUs have no other
        yield check_steps(project, arithmetic, device)
    if device.type == "cuda":
        yield check_speed(project, device)


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
