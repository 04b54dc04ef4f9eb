"""`identity-mappings responses`: the spread of a trained network's layer responses (he2015, Figure 7)."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..networks.batch_norm import BatchNorm2d
from ..records import run
from ..records.experiment import Experiment
from ..records.files import sha256
from ..records.measurement import get_responses_folder
from . import checkpoint, devices
from .signals import check_measurable, format_csv, write_measured
from .trained_run import say
from .trainer import Options, Trainer


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
    for layer, ((name, _), (elements, summed, squares)) in enumerate(zip(modules, sums, strict=True), 1):
        variance = max(0.0, squares / elements - (summed / elements) ** 2)
        rows.append(LayerResponse(layer, name, variance**0.5))
    return rows


def measure_responses(experiment: Experiment, seed: int, options: Options, file: Path | None = None) -> Path:
    """Measure the standard deviation of a trained network's layer responses (he2015, Figure 7) and record it.

    Args:
        file: a checkpoint or kept weights of the run; None: the weights of the finished run, or else the last
            checkpoint of the unfinished one.

    Raises:
        UserError: no weights, or not those of the run's record.
    """
    check_measurable(experiment)
    kept = run.get_checkpoint_folder(options.results, experiment, seed)
    name, last = f"{experiment.name}, seed {seed}", experiment.parameters["recipe"]["iterations"]
    path = file or run.find_weights(options.results, experiment, seed, options.root)
    saved = checkpoint.read_saved(path) if path else checkpoint.load_checkpoint(kept, torch.device("cpu"))
    if saved is None:
        raise UserError(f"{kept}: no weights and no checkpoint here; they stay where the run was trained: fetch them")
    weights, iteration = saved.get("network", saved), last
    if "progress" in saved:
        iteration, expected = saved["progress"]["iteration"], {"digest": experiment.digest, "seed": seed}
        if saved.get("run", expected) != expected:  # checkpoints of older versions do not say
            raise UserError(f"{path}: of another run ({saved['run']}) than {name}: name that one")
    parents = {"weights": checkpoint.weights_sha256(weights)}
    if iteration == last:
        record = run.read_record(run.get_folder(options.results, experiment, seed), experiment, seed)
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
    write_measured(
        "responses", f"--seed {seed}", folder, format_csv(rows), experiment, trainer, options, parents, **more
    )
    say(f"{folder}: {len(rows)} layers, after {iteration} iterations")
    return folder
