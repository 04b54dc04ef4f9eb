"""`identity-mappings verify`: the first iterations again, against another time or against a record."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import UserError
from ..parameters import load
from ..records import run
from ..records.experiment import Experiment
from ..records.files import parse_json
from ..records.provenance import environment
from . import checkpoint, devices
from .assembly import get_recipe
from .trainer import Options, Trainer

# On another kind of device sums are added up in another order, and training magnifies that from step to step. Measured
# on ten networks of Tables 1, 2 and 6, AVX2 against AVX-512: at most 2.4 % over three iterations, 4.2 % over six.
ELSEWHERE_STEPS, ELSEWHERE_TOLERANCE = 3, 0.05


def compute_first_losses(
    experiment: Experiment, seed: int, options: Options, iterations: int
) -> tuple[list[float], str]:
    """Losses of a run's first iterations, trained from its beginning, and the hash of the weights behind them."""
    device = devices.set_up(options.device, experiment, options.root)
    trainer = (options.make_trainer or Trainer)(experiment, seed, device, options)
    try:
        losses = [trainer.step(iteration)[0] for iteration in range(iterations)]
        if trainer.why_eager:
            print(f"{experiment.name}: computed without CUDA graphs: {trainer.why_eager}")
        return torch.stack(losses).tolist(), checkpoint.weights_sha256(trainer.state()["network"])
    finally:
        trainer.close()


def verify_twice(experiment: Experiment, seed: int, options: Options, iterations: int = run.FIRST_LOSSES) -> int:
    """Train the first iterations two times and compare all bits; returns the exit status."""
    first, second = (compute_first_losses(experiment, seed, options, iterations) for _ in range(2))
    name = f"{experiment.name}, seed {seed}, {get_recipe(experiment).arithmetic}"
    if first == second:
        print(f"{name}: {iterations} iterations twice: the same losses and weights, bit by bit")
        return 0
    print(f"{name}: {iterations} iterations twice: {_difference(first[0], second[0])}")
    return 1


def verify_record(folder: Path, options: Options, iterations: int = run.FIRST_LOSSES) -> int:
    """Train the first iterations of a recorded run again and compare with its record; returns the exit status.

    On the same kind of device, with the same versions, every bit must agree. Elsewhere the losses of the first
    `ELSEWHERE_STEPS` iterations must agree within `ELSEWHERE_TOLERANCE` of their size.

    Raises:
        UserError: no record there, or one that is not to be believed.
    """
    experiment, found = read_record(folder, options.root)
    options = replace(options, results=folder.absolute().parents[2])  # a detection's backbone lies there
    recorded = found.metrics["first_losses"][:iterations]
    if not recorded:
        raise UserError(f"{folder}: its record has no losses: the run diverged at once; nothing to compare")
    device = devices.choose(options.device, experiment, options.root)
    differences = _list_differences(found, device, options.root)
    again, _ = compute_first_losses(experiment, found.metrics["seed"], options, len(recorded))
    if recorded == again:
        print(f"{folder}: {len(recorded)} iterations again: the recorded losses, bit by bit")
        return 0
    if not differences:
        print(f"{folder}: {len(recorded)} iterations again: {_difference(recorded, again)}")
        return 1
    compared = min(ELSEWHERE_STEPS, len(recorded))
    worst = max(abs(a - b) / max(abs(a), 1) for a, b in zip(recorded[:compared], again, strict=False))
    agrees = worst <= ELSEWHERE_TOLERANCE
    print(
        f"{folder}: {compared} iterations again, in another environment ({'; '.join(differences)}): the losses "
        f"differ by {worst:.2g} of their size, {'within' if agrees else 'BEYOND'} the tolerance {ELSEWHERE_TOLERANCE:g}"
    )
    return 0 if agrees else 1


def read_record(folder: Path, root: Path) -> tuple[Experiment, run.Record]:
    """A record and its experiment, from the parameters that it states."""
    path = folder / run.PARTIAL if not (folder / run.METRICS).is_file() else folder
    try:
        metrics = parse_json((path / run.METRICS).read_bytes())
        provenance = parse_json((path / run.PROVENANCE).read_bytes())
        parameters = provenance["params"]["resolved"]
        custom = parameters["network"]["shortcut"]["kind"] == "custom"
        name, scale, seed = metrics["experiment"], metrics["scale"], int(folder.name.removeprefix("seed"))
    except OSError:
        others = sorted(map(str, root.glob(f"results/**/runs/{folder.name}-*/seed*")))
        example = next(iter(others), "results/runs/EXPERIMENT-DIGEST/seed0")
        raise UserError(f"{folder}: no record of a run here: name a folder like {example}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a record of a run ({type(error).__name__}: {error})") from None
    experiment = Experiment(name, scale, parameters, custom_source=_find_shortcut(name, root) if custom else None)
    try:
        found = run.read_record(path, experiment, seed, partial=path != folder)
    except run.BadRecord as error:
        raise UserError(f"{error}: not verified") from None
    if found is None:
        raise UserError(f"{path}: no record of a run here")
    return experiment, found


def _find_shortcut(name: str, root: Path) -> str | None:
    """The file of an experiment's own shortcut, whose hash alone a record has."""
    experiment = load(root).experiments.get(name)
    return getattr(experiment.network.shortcut, "source", None) if experiment else None


def _list_differences(found: run.Record, device: torch.device, root: Path) -> list[str]:
    """In what this machine and environment differ from those of a record."""
    hardware, here = found.provenance["hardware"], devices.describe(device)
    made, now = ({"device": (on["gpu"] or {}).get("model") or on["cpu"]} for on in (hardware, here))
    made |= {**found.provenance["env"], "processes": found.provenance["seed"].get("world_size", 1)}
    now |= {**environment(root), **devices.libraries(device), "processes": 1}
    names = ["device", "processes", "torch", "cuda", "cudnn", *(["cpu_capability"] if device.type == "cpu" else [])]
    return [f"{name} {made.get(name)}, here {now.get(name)}" for name in names if made.get(name) != now.get(name)]


def _difference(first: Sequence[float], second: Sequence[float]) -> str:
    iteration = next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), None)
    if iteration is None:
        return "the losses are the same, the weights are NOT"
    return f"NOT the same from iteration {iteration} on ({first[iteration]!r} and {second[iteration]!r})"
