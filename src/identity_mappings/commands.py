"""What the commands of the command line do: functions of the parsed arguments that return the exit status (None: 0).

Imports what a command needs when it is called.
"""

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .records.experiment import Experiment

if TYPE_CHECKING:
    from .parameters import Project
    from .training.trainer import Options


EAGER = "IDENTITY_MAPPINGS_EAGER"  # variable with the reason why a process that starts again records no CUDA graph


def _load() -> "Project":
    from .parameters import load

    return load()


def _resolve(arguments: argparse.Namespace, name: str | None = None) -> Experiment:
    """The experiment that a command, or this name in it, names: by a resolved parameter file, or by name and scale."""
    name = name or arguments.experiment
    if name.endswith(".json"):
        experiment = Experiment.load(Path(name))
    elif not (experiment := _load().resolve(name, arguments.scale)):
        raise UserError(f"{name} has no counterpart at scale {arguments.scale}")
    if arguments.arithmetic:
        experiment = experiment.in_arithmetic(arguments.arithmetic)
    if arguments.digest and experiment.digest != arguments.digest:
        raise UserError(
            f"{experiment.name}: params/ now give the digest {experiment.digest}, not {arguments.digest} (--digest): "
            "they changed meanwhile: call Snakemake again, or leave --digest out"
        )
    return experiment


def _results_folder(arguments: argparse.Namespace, experiment: Experiment, name: str | None = None) -> Path:
    if arguments.results:
        return arguments.results
    if (name or arguments.experiment).endswith(".json"):
        return Path("results")
    return Path(_load().scale(experiment.scale).results)


def _options(arguments: argparse.Namespace, results: Path, **settings: Any) -> "Options":
    from .training.trainer import Options

    eager = arguments.eager or os.environ.get(EAGER, False)
    return Options(results, arguments.data, device=arguments.device, eager=eager, **settings)


def _resolve_trainable(arguments: argparse.Namespace, name: str | None = None) -> Experiment:
    experiment = _resolve(arguments, name)
    if experiment.untrainable:
        raise UserError(experiment.untrainable)
    return experiment


def _prepare(arguments: argparse.Namespace, name: str | None = None, **settings: Any) -> tuple[Experiment, "Options"]:
    """The experiment, which can be trained, and the options of its runs."""
    experiment = _resolve_trainable(arguments, name)
    return experiment, _options(arguments, _results_folder(arguments, experiment, name), **settings)


def call(module: str, function: str, *names: str) -> Callable[[argparse.Namespace], int | None]:
    """A command that is a function of a module, called with these arguments of the command line."""

    def command(arguments: argparse.Namespace) -> int | None:
        found = getattr(import_module(f".{module}", __package__), function)
        return found(*(getattr(arguments, name) for name in names))

    return command


def resolve(arguments: argparse.Namespace) -> None:
    experiment = _resolve(arguments)
    if arguments.output:
        experiment.save(arguments.output)
        print(f"{arguments.output}: {experiment.folder}")
    else:
        from .records.files import json_bytes

        sys.stdout.write(json_bytes(experiment.as_json()).decode())


def _check_digest(arguments: argparse.Namespace) -> None:
    if arguments.digest and len(arguments.experiments) > 1:
        raise UserError("--digest is of one experiment: leave it out, or name one")


def train(arguments: argparse.Namespace) -> int:
    _check_digest(arguments)
    by_name = {name: _resolve_trainable(arguments, name) for name in arguments.experiments}
    if arguments.backbone:
        return _train_on_imported(arguments, by_name)
    folders = {_results_folder(arguments, experiment, name) for name, experiment in by_name.items()}
    if len(folders) > 1:
        names = ", ".join(arguments.experiments)
        raise UserError(f"{names}: their records lie in several folders: give one (--results)")
    return _train(arguments, list(by_name.values()), folders.pop())


def _train_on_imported(arguments: argparse.Namespace, by_name: dict[str, Experiment]) -> int:
    """Detections on weights that were trained elsewhere; their records lie apart, and rebuild no cell."""
    from .detection.backbone import import_backbone

    if not all(experiment.detects for experiment in by_name.values()):
        raise UserError("--backbone: only detections begin from other weights (params/detection.yaml)")
    if not (arguments.backbone_name and arguments.backbone_source):
        raise UserError("--backbone needs --backbone-name and --backbone-source, which stand in the table")
    statuses = []
    for name, experiment in by_name.items():
        results = _results_folder(arguments, experiment, name) / "imported"
        weights = arguments.backbone, arguments.backbone_name, arguments.backbone_source
        statuses.append(_train(arguments, [import_backbone(experiment, *weights, results)], results))
    return max(statuses)


def _train(arguments: argparse.Namespace, experiments: list[Experiment], results: Path) -> int:
    from .training.loop import train

    names = ("stop_after", "checkpoint_seconds", "log", "recompute", "workers")
    options = _options(arguments, results, **{name: getattr(arguments, name) for name in names})
    return train(experiments, arguments.seed, options)


def verify(arguments: argparse.Namespace) -> int:
    from .training import verify

    _check_digest(arguments)
    if not arguments.twice and (arguments.digest or arguments.arithmetic):
        cure = "leave these options out, or say --twice"
        raise UserError(f"verify: a record has digest and arithmetic of its own: {cure}")
    statuses = []
    for name in arguments.experiments:
        try:
            if arguments.twice:
                experiment, options = _prepare(arguments, name)
                statuses.append(verify.verify_twice(experiment, arguments.seed, options, arguments.iterations))
            else:
                options = _options(arguments, Path("results"))
                statuses.append(verify.verify_record(Path(name), options, arguments.iterations))
        except UserError as error:  # the others are compared all the same
            print(f"identity-mappings: {error}", file=sys.stderr)
            statuses.append(2)
    return max(statuses)


def evaluate(arguments: argparse.Namespace) -> None:
    experiment, options = _prepare(arguments, workers=arguments.workers)
    from .training.evaluate import evaluate, evaluate_checkpoint

    wanted = (experiment, arguments.seed, arguments.protocol, options)
    file = arguments.checkpoint
    for path in evaluate_checkpoint(*wanted, file) if file else evaluate(*wanted):
        print(path)


def import_weights(arguments: argparse.Namespace) -> None:
    from .training import imported

    project = _load()
    settings = project.scale(arguments.scale)
    name = settings.overlay.datasets.get("imagenet", "imagenet")
    if name is None:
        raise UserError(f"scale {arguments.scale} has no counterpart of imagenet: take another (--scale)")
    recipe = settings.overlay.recipes.get("he2016-imagenet", {})
    dataset = project.resolve_dataset(name)
    options = _options(arguments, Path(settings.results), workers=arguments.workers)
    for path in imported.test_imported(
        arguments.file,
        arguments.name,
        arguments.source,
        dataset,
        options,
        arguments.protocol,
        recipe.get("crop_size", 224),
        arguments.depth,
        (arguments.mean or imported.MEAN, arguments.deviation or imported.DEVIATION),
    ):
        print(path)


def export(arguments: argparse.Namespace) -> None:
    from .reporting.export import export, track
    from .training.trainer import Options

    if arguments.track and arguments.output:
        raise UserError("export: --track is of models/, the folder that models.dvc names: leave --output out")
    for folder in arguments.runs:
        print(export(folder, Options(Path("results"), arguments.data), arguments.output))
    if arguments.track:
        track(Path())
        print("models.dvc: commit it; `dvc push` sends the weights to a remote of yours, `dvc pull models` brings them")


def responses(arguments: argparse.Namespace) -> None:
    experiment, options = _prepare(arguments)
    from .evaluation.propagation import measure_responses

    measure_responses(experiment, arguments.seed, options, arguments.checkpoint)


def signals(arguments: argparse.Namespace) -> None:
    if arguments.experiment is None:
        from .reporting.signals import measure_all

        results = Path(_load().scale(arguments.scale).results)
        measure_all(arguments.scale, _options(arguments, results))
        return
    experiment, options = _prepare(arguments)
    from .evaluation.propagation import measure_signals

    iterations = arguments.iterations
    if iterations is None:
        iterations = _load().scale(arguments.scale).signal_iterations
    measure_signals(experiment, iterations, options)


def cost(arguments: argparse.Namespace) -> int:
    from .reporting import cost

    if arguments.record:
        cost.record(arguments.scale)
        return 0
    return cost.show(arguments.scale)


def data(arguments: argparse.Namespace) -> None:
    from .data import sources
    from .parameters.load import DATASETS, DETECTION, read

    if arguments.name not in read(DATASETS, "datasets") and arguments.name in read(DETECTION, "detection").datasets:
        from .detection import datasets

        print(getattr(datasets, arguments.action)(arguments.name, arguments.data))
        return
    if message := getattr(sources, arguments.action)(arguments.name, arguments.data):
        print(message)
    if arguments.commit or sources.read_entry(arguments.name).format == "cifar":
        sources.commit(arguments.name, arguments.data)
        print(f"{arguments.data / arguments.name}: as pinned, and in DVC's cache")


def lease(arguments: argparse.Namespace) -> None:
    from .training.lease import run

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UserError("lease: no command to run: add it after --")
    run(arguments.gpus, arguments.granted, command, arguments.patience)


def device(arguments: argparse.Namespace) -> None:
    experiment = _resolve_trainable(arguments)
    from .training.devices import choose

    print(f"{choose(arguments.device, experiment)} for {experiment.name}")


doctor = call("doctor", "show", "json", "data")
tables = call("reporting.tables", "write", "scale")
figures = call("reporting.figures", "write", "scale")
report = call("reporting.page", "write", "scale")
explain = call("reporting.explain", "show", "scale", "table", "row", "column")
rocrate = call("reporting.archive", "write", "scale", "output")
diff = call("reporting.explain", "show_differences", "scale")
audit = call("reporting.audit", "audit", "scale")
schemas = call("parameters.schemas", "write")
status = call("reporting.status", "show", "scale", "watch", "json")
