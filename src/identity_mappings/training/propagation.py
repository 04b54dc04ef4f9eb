"""`identity-mappings signals` and `responses`: measuring how signals run through the papers' networks."""

from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..evaluation import propagation
from ..records import measurement, provenance, run
from ..records.experiment import Experiment
from ..records.files import canonical, sha256
from ..records.propagation import RESPONSES_CSV, SIGNALS_CSV, responses_of, signals_of
from . import checkpoint, devices
from .loop import say
from .trainer import Options, Trainer

SEED = 0  # of the short training before which and after which signals are measured


def _trainer(experiment: Experiment, seed: int, options: Options) -> Trainer:
    recipe = experiment.parameters["recipe"]
    if experiment.streamed:
        raise UserError(f"{experiment.name}: measured where all images are in memory: name an experiment on CIFAR")
    device = devices.choose(options.device, experiment, options.root)
    devices.prepare(recipe["arithmetic"], recipe["cpu_threads"])
    return Trainer(experiment, seed, device, options)


def _origin(
    rule: str,
    command: str,
    experiment: Experiment,
    trainer: Trainer,
    options: Options,
    parents: dict[str, str],
    **more: Any,
) -> dict[str, Any]:
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
    return provenance.of_measurement(rule, command, options.root, parents=parents, settings=settings)


def signals(experiment: Experiment, iterations: int, options: Options) -> Path:
    """Measure the norms of signal and gradient at each unit, before and after a short training, and record them.

    The batch is that of the recipe's first iteration, both times; the training is the recipe's own first iterations.
    A record that is there is kept: the same bytes would come again.

    Args:
        iterations: length of the training; 0: at initialization only.

    Raises:
        UserError: nothing can be trained of the experiment, no data, no device, or the record there is damaged.
    """
    if reason := experiment.untrainable:
        raise UserError(reason)
    folder = signals_of(options.results, experiment, iterations)
    try:
        if measurement.read(folder, SIGNALS_CSV) is not None:
            return folder
    except run.BadRecord as error:
        raise UserError(str(error)) from None
    trainer = _trainer(experiment, SEED, options)
    content, losses = b"", {}
    for iteration in dict.fromkeys((0, iterations)):
        for step in range(iteration):
            trainer.step(step)
        trainer.wait()
        trainer.masks.manual_seed(SEED)
        view = trainer.feed.sampler.view(0)
        x, y = trainer.feed.augmentation.view(view), trainer.feed.labels[view.image.to(trainer.device)]
        with devices.autocast(trainer.device, trainer.recipe.arithmetic):
            loss, rows = propagation.signals(trainer.network, x, y)
        losses[str(iteration)] = format(loss, ".9g")  # text: it may be no number
        header, _, lines = propagation.csv(rows, ("iteration", iteration)).partition(b"\n")
        content = (content or header + b"\n") + lines
    origin = _origin(
        "signals",
        f"identity-mappings signals {experiment.name} --scale {experiment.scale} --iterations {iterations}",
        experiment,
        trainer,
        options,
        {},
        iterations=iterations,
        images=len(y),
        losses=losses,
    )
    measurement.write(folder, SIGNALS_CSV, content, origin)
    say(f"{folder}: loss {losses['0']} at initialization, {losses[str(iterations)]} after {iterations} iterations")
    return folder


def responses(experiment: Experiment, seed: int, options: Options, file: Path | None = None) -> Path:
    """Measure the standard deviation of a trained network's layer responses (he2015, Figure 7) and record it.

    Args:
        file: a checkpoint or kept weights of the run; None: the weights of the finished run, or else the last
            checkpoint of the unfinished one.

    Raises:
        UserError: no weights, or not those of the run's record.
    """
    if reason := experiment.untrainable:
        raise UserError(reason)
    kept = run.checkpoints_of(options.results, experiment, seed)
    weights, iteration = None, experiment.parameters["recipe"]["iterations"]
    path = file or run.weights_of(options.results, experiment, seed, options.root)
    if path:
        saved = checkpoint.read(path)
    elif (saved := checkpoint.load(kept, torch.device("cpu"))) is None:
        raise UserError(f"{kept}: no weights and no checkpoint here; they stay where the run was trained: fetch them")
    weights = saved.get("network", saved)
    of_run = {"digest": experiment.digest, "seed": seed}
    if "progress" in saved:
        iteration = saved["progress"]["iteration"]
        if saved.get("run", of_run) != of_run:  # checkpoints of older versions do not say
            raise UserError(
                f"{path}: of another run ({saved['run']}) than {experiment.name}, seed {seed}: name that one"
            )
    finished = iteration == experiment.parameters["recipe"]["iterations"]
    digest = checkpoint.weights_sha256(weights)
    parents = {"weights": digest}
    if finished:
        try:
            record = run.read(run.folder_of(options.results, experiment, seed), experiment, seed)
        except run.BadRecord as error:
            raise UserError(f"{error}: not measured") from None
        if record is None or record.metrics["weights_sha256"] != digest:
            raise UserError(
                f"{path}: not the weights of a finished record of {experiment.name}, seed {seed}: train the run, or "
                "name the experiment and seed that they are of"
            )
        parents[run.METRICS] = sha256(record.path.read_bytes())
    trainer = _trainer(experiment, seed, options)
    try:
        trainer.network.load_state_dict(weights)
    except RuntimeError:
        raise UserError(
            f"{path}: not weights of the network of {experiment.name}: name the experiment that they are of"
        ) from None
    rows = propagation.responses(trainer.network, trainer.feed.test_images, trainer.feed.augmentation.normalize)
    folder = responses_of(options.results, experiment, seed, finished)
    origin = _origin(
        "responses",
        f"identity-mappings responses {experiment.name} --scale {experiment.scale} --seed {seed}",
        experiment,
        trainer,
        options,
        parents,
        iteration=iteration,
        images=len(trainer.feed.test_images),
    )
    measurement.write(folder, RESPONSES_CSV, propagation.csv(rows), origin)
    say(f"{folder}: {len(rows)} layers, after {iteration} iterations")
    return folder
