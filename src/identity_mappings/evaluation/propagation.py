"""How signals run through a network: forward and backward norms by unit, and the spread of layer responses.

`identity-mappings signals` and `responses` measure and record them.
"""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..networks.batch_norm import BatchNorm2d
from ..records import measurement, provenance, run
from ..records.experiment import Experiment
from ..records.files import canonical, sha256
from ..records.measurement import SIGNALS_CSV, get_responses_folder, get_signals_folder
from ..training import checkpoint, devices
from ..training.trained_run import say
from ..training.trainer import Options, Trainer

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

    def norm(tensor: Tensor) -> float:
        return float(torch.linalg.vector_norm(tensor.detach().double().flatten(1), dim=1).mean())

    network = copy.deepcopy(network).train()
    for module in (network.stem, *network.units):
        module.register_forward_hook(keep)
    losses = F.cross_entropy(network(x).float(), y, reduction="none")
    losses.sum().backward()
    found = [
        UnitSignal(unit, output.shape[1], output.shape[2], norm(output), norm(output.grad))
        for unit, output in enumerate(outputs)
    ]
    return float(losses.detach().double().mean()), found


class LayerResponse(NamedTuple):
    """The response of a 3x3 layer."""

    layer: int  # from 1, in the order of the forward pass
    name: str  # of the module that gives the response
    standard_deviation: float  # over all images, channels and positions


def find_response_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """What gives the response of each 3x3 layer: the batch norm right behind it, or itself (pre-activation).

    he2015, Section 4.2 and Figure 7: "the output of each 3x3 layer, after BN and before other nonlinearity".
    """
    found = []
    for parent, sequence in network.named_modules():
        children = list(sequence.named_children()) if isinstance(sequence, nn.Sequential) else []
        for place, (name, module) in enumerate(children):
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                behind = children[place + 1 : place + 2]
                if behind and isinstance(behind[0][1], BatchNorm2d):
                    name, module = behind[0]
                found.append((f"{parent}.{name}", module))
    return found


@torch.no_grad()
def compute_responses(
    network: nn.Module, images: Tensor, normalize: Callable[[Tensor], Tensor], batch_size: int = 500
) -> list[LayerResponse]:
    """Standard deviation of the response of each 3x3 layer (he2015, Figure 7), the network as in a test.

    Args:
        network: trained; batch norm uses its moving statistics. It stays as it is.
        images: uint8 (N, C, H, W).
        normalize: from uint8 images to what the network sees.
    """
    network = copy.deepcopy(network).eval()
    modules = find_response_modules(network)
    sums = [[0, 0.0, 0.0] for _ in modules]  # elements, sum, sum of squares

    def add(total: list, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = output.double()
        total[0] += values.numel()
        total[1] += float(values.sum())
        total[2] += float(values.square().sum())

    for (_, module), total in zip(modules, sums, strict=True):
        module.register_forward_hook(partial(add, total))
    for batch in images.split(batch_size):
        network(normalize(batch))
    rows = []
    for layer, ((name, _), (elements, total, squares)) in enumerate(zip(modules, sums, strict=True), 1):
        variance = max(0.0, squares / elements - (total / elements) ** 2)
        rows.append(LayerResponse(layer, name, variance**0.5))
    return rows


def format_csv(rows: Iterable[UnitSignal | LayerResponse | dict[str, Any]]) -> bytes:
    """Rows as CSV, numbers with nine digits."""
    return pandas.DataFrame(rows).to_csv(index=False, float_format="%.9g", na_rep="nan").encode()


def _check(experiment: Experiment) -> None:
    if reason := experiment.untrainable:
        raise UserError(reason)
    if experiment.streamed:
        raise UserError(f"{experiment.name}: measured where all images are in memory: name an experiment on CIFAR")


def _record(
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
    measurement.write(folder, f"{rule}.csv", content, origin)


def measure_signals(experiment: Experiment, iterations: int, options: Options) -> Path:
    """Measure the norms of signal and gradient at each unit, before and after a short training, and record them.

    The batch is that of the recipe's first iteration, both times; the training is the recipe's own first iterations.
    A record that is there is kept: the same bytes would come again.

    Args:
        iterations: length of the training; 0: at initialization only.

    Raises:
        UserError: nothing can be trained of the experiment, no data, no device, or the record there is damaged.
    """
    _check(experiment)
    folder = get_signals_folder(options.results, experiment, iterations)
    if measurement.read(folder, SIGNALS_CSV) is not None:
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
    _record("signals", arguments, folder, format_csv(rows), experiment, trainer, options, {}, **more)
    say(f"{folder}: loss {losses['0']} at initialization, {losses[str(iterations)]} after {iterations} iterations")
    return folder


def measure_responses(experiment: Experiment, seed: int, options: Options, file: Path | None = None) -> Path:
    """Measure the standard deviation of a trained network's layer responses (he2015, Figure 7) and record it.

    Args:
        file: a checkpoint or kept weights of the run; None: the weights of the finished run, or else the last
            checkpoint of the unfinished one.

    Raises:
        UserError: no weights, or not those of the run's record.
    """
    _check(experiment)
    kept = run.get_checkpoint_folder(options.results, experiment, seed)
    name, last = f"{experiment.name}, seed {seed}", experiment.parameters["recipe"]["iterations"]
    path = file or run.find_weights(options.results, experiment, seed, options.root)
    saved = checkpoint.read(path) if path else checkpoint.load(kept, torch.device("cpu"))
    if saved is None:
        raise UserError(f"{kept}: no weights and no checkpoint here; they stay where the run was trained: fetch them")
    weights, iteration = saved.get("network", saved), last
    if "progress" in saved:
        iteration, expected = saved["progress"]["iteration"], {"digest": experiment.digest, "seed": seed}
        if saved.get("run", expected) != expected:  # checkpoints of older versions do not say
            raise UserError(f"{path}: of another run ({saved['run']}) than {name}: name that one")
    parents = {"weights": checkpoint.weights_sha256(weights)}
    if iteration == last:
        record = run.read(run.get_folder(options.results, experiment, seed), experiment, seed)
        if record is None or record.metrics["weights_sha256"] != parents["weights"]:
            cure = "train the run, or name the experiment and seed that they are of"
            raise UserError(f"{path}: not the weights of a finished record of {name}: {cure}")
        parents[run.METRICS] = sha256(record.path.read_bytes())
    trainer = Trainer(experiment, seed, devices.set_up(options.device, experiment, options.root), options)
    try:
        trainer.network.load_state_dict(weights)
    except RuntimeError:
        cure = "name the experiment that they are of"
        raise UserError(f"{path}: not weights of the network of {experiment.name}: {cure}") from None
    images = trainer.feed.test_images
    rows = compute_responses(trainer.network, images, trainer.feed.augmentation.normalize)
    folder = get_responses_folder(options.results, experiment, seed, iteration == last)
    more = {"iteration": iteration, "images": len(images)}
    _record("responses", f"--seed {seed}", folder, format_csv(rows), experiment, trainer, options, parents, **more)
    say(f"{folder}: {len(rows)} layers, after {iteration} iterations")
    return folder
