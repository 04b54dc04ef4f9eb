"""`identity-mappings signals`: forward and backward norms by unit, before and after a short training."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..records import measurement, provenance
from ..records.experiment import Experiment
from ..records.files import canonical, sha256
from ..records.measurement import SIGNALS_CSV, get_signals_folder
from . import devices
from .trained_run import say
from .trainer import Options, Trainer

SEED = 0  # of the short training before which and after which signals are measured


class UnitSignal(NamedTuple):
    """What passes the output of a residual unit (x_{l+1} of he2016, Equation 1)."""

    unit: int  # from 1; 0 is the stem's output, x of the first unit
    channels: int  # of the output
    size: int
    forward_norm: float  # mean over the images of the L2 norm of x
    gradient_norm: float  # mean over the images of the L2 norm of dE/dx, E the sum of the images' losses


def compute_signals(network: nn.Module, x: Tensor, y: Tensor) -> tuple[float, list[UnitSignal]]:
    """Mean loss of a batch, and the norms at the stem and at every unit, as a training iteration would see them.

    Batch norm uses the batch's statistics. The network stays as it is.

    Args:
        network: with `stem` and `units`.
        x: images as the network sees them, (N, C, H, W).
        y: their labels, (N).
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    def norm(tensor: Tensor | None) -> float:
        assert tensor is not None
        return float(torch.linalg.vector_norm(tensor.detach().double().flatten(1), dim=1).mean())

    network = copy.deepcopy(network).train()
    for module in (network.get_submodule("stem"), *network.get_submodule("units").children()):
        module.register_forward_hook(keep)
    losses = F.cross_entropy(network(x).float(), y, reduction="none")
    losses.sum().backward()
    found = [
        UnitSignal(unit, output.shape[1], output.shape[2], norm(output), norm(output.grad))
        for unit, output in enumerate(outputs)
    ]
    return float(losses.detach().double().mean()), found


def format_csv(rows: Iterable[Any]) -> bytes:
    """Rows, named tuples or dictionaries, as CSV; numbers with nine digits."""
    return pandas.DataFrame(rows).to_csv(index=False, float_format="%.9g", na_rep="nan").encode()


def check_measurable(experiment: Experiment) -> None:
    """Raise UserError where nothing can be trained of an experiment, or its images are not all in memory."""
    if reason := experiment.untrainable:
        raise UserError(reason)
    if experiment.streamed:
        raise UserError(f"{experiment.name}: measured where all images are in memory: name an experiment on CIFAR")


def write_measured(
    rule: str,
    arguments: str,
    folder: Path,
    content: bytes,
    experiment: Experiment,
    trainer: Trainer,
    options: Options,
    parents: dict[str, str],
    **more: Any,
) -> None:
    """Write the record of a measurement, whose data are a CSV file."""
    settings = {
        "experiment": experiment.name,
        "digest": experiment.digest,
        "params": {"resolved": experiment.parameters, "sha256": sha256(canonical(experiment.parameters))},
        "data": {key: experiment.parameters["dataset"][key] for key in ("name", "md5")},
        "seed": trainer.seed,
        "device": trainer.device_name,
        "hardware": devices.describe(trainer.device),
        "cpu_threads": torch.get_num_threads(),
        **more,
    }
    command = f"identity-mappings {rule} {experiment.name} --scale {experiment.scale} {arguments}"
    origin = provenance.describe_measurement(rule, command, options.root, parents=parents, settings=settings)
    measurement.write_measurement(folder, f"{rule}.csv", content, origin)


def measure_signals(experiment: Experiment, iterations: int, options: Options) -> Path:
    """Measure the norms of signal and gradient at each unit, before and after a short training, and record them.

    The batch is that of the recipe's first iteration, both times; the training is the recipe's own first iterations.
    A record that is there is kept: the same bytes would come again.

    Args:
        iterations: length of the training; 0: at initialization only.

    Raises:
        UserError: nothing can be trained of the experiment, no data, no device, or the record there is damaged.
    """
    check_measurable(experiment)
    folder = get_signals_folder(options.results, experiment, iterations)
    if measurement.read_measurement(folder, SIGNALS_CSV) is not None:
        return folder
    trainer = Trainer(experiment, SEED, devices.set_up(options.device, experiment, options.root), options)
    rows, losses = [], {}
    for iteration in dict.fromkeys((0, iterations)):
        for step in range(iteration):
            trainer.step(step)
        trainer.masks.manual_seed(SEED)
        view = trainer.feed.sampler.view(0)
        x, y = trainer.feed.augmentation.view(view), trainer.feed.labels[view.image.to(trainer.device)]
        with devices.autocast(trainer.device, trainer.recipe.arithmetic):
            loss, found = compute_signals(trainer.network, x, y)
        losses[str(iteration)] = format(loss, ".9g")  # text: it may be no number
        rows += [{"iteration": iteration, **signal._asdict()} for signal in found]
    trainer.close()
    more = {"iterations": iterations, "images": len(y), "losses": losses}
    if trainer.why_eager:
        more["eager"] = trainer.why_eager
    arguments = f"--iterations {iterations}"
    write_measured("signals", arguments, folder, format_csv(rows), experiment, trainer, options, {}, **more)
    say(f"{folder}: loss {losses['0']} at initialization, {losses[str(iterations)]} after {iterations} iterations")
    return folder
