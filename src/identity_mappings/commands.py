"""The commands that compute: the options of each stand above its function, whose docstring is the help text.

A command imports what it needs when it is called: torch alone takes two seconds.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from .arguments import (
    SCALE,
    command,
    make_options,
    option,
    parse_deviation,
    parse_name,
    parse_positive,
    parse_whole,
    prepare_run,
    resolve_experiment,
    resolve_trainable,
)
from .errors import RecordingFailed, UserError
from .records.experiment import ARITHMETICS
from .records.files import json_bytes
from .records.run import CIFAR_PROTOCOLS, IMAGENET_PROTOCOLS

NAMED_BY = "name of an experiment, or a .json file made by `resolve`"
EXPERIMENT = option("experiment", help=NAMED_BY)
ARITHMETIC = option("--arithmetic", choices=ARITHMETICS, help="(default: the recipe's)")
DIGEST = option("--digest", help="refuse unless the parameters have this digest")
RESULTS = option("--results", type=Path, help="folder of records (default: the scale's)")
DATA = option("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")
NO_FALLBACK = "no silent fallback to the CPU (default: gpu)"
DEVICE = option("--device", choices=("gpu", "cpu"), default="gpu", help=NO_FALLBACK)
EAGER = option("--eager", action="store_true", help="on a GPU: launch kernel by kernel, record no CUDA graph")
SEED = option("--seed", type=parse_whole, default=0)
WORKERS = option("--workers", type=parse_whole, help="processes that decode images (default: as many as suit)")
OF_EXPERIMENT = SCALE, ARITHMETIC, DIGEST, EXPERIMENT
OF_TEST = SCALE, DATA, DEVICE, EAGER, WORKERS
OF_RUN = SCALE, ARITHMETIC, DIGEST, RESULTS, DATA, DEVICE, EAGER
BY_CHANNEL: dict[str, Any] = {"nargs": 3, "metavar": ("R", "G", "B"), "help": "(default: torchvision's x 255)"}
PROTOCOLS = *CIFAR_PROTOCOLS, *IMAGENET_PROTOCOLS
TRAINING_SETTINGS = "stop_after", "checkpoint_seconds", "log", "recompute", "workers"


def check_digest(arguments: argparse.Namespace) -> None:
    if arguments.digest and len(arguments.experiments) > 1:
        raise UserError("--digest is of one experiment: leave it out, or name one")


@command(
    *OF_RUN,
    option("experiments", nargs="+", help=NAMED_BY),
    option("--seed", type=parse_whole, nargs="+", default=[0], help="of each experiment (default: 0)"),
    option("--stop-after", type=parse_positive, metavar="N", help="stop after N iterations with a checkpoint"),
    option("--checkpoint-seconds", type=float, default=300, metavar="S", help="(default: 300)"),
    option("--log", type=Path, help="file that takes standard error, for the provenance"),
    option("--recompute", action=argparse.BooleanOptionalAction, help="save memory (default: where it is short)"),
    WORKERS,
    option("--backbone", type=Path, metavar="FILE", help="weights for detections, in torchvision's names"),
    option("--backbone-name", type=parse_name, help="name of the weights: lower case, digits and dashes"),
    option("--backbone-source", help="where the weights come from, in words; the table shows it"),
)
def train(arguments: argparse.Namespace) -> int:
    """train runs to their records, or resume them; several at once"""
    from .training import loop

    check_digest(arguments)
    settings = {name: vars(arguments)[name] for name in TRAINING_SETTINGS}
    runs = [prepare_run(arguments, name, **settings) for name in arguments.experiments]
    if arguments.backbone:
        from .detection.backbone import import_backbone  # and with it torchvision

        if not all(experiment.detects for experiment, _ in runs):
            raise UserError("--backbone: only detections begin from other weights (params/detection.yaml)")
        if not (arguments.backbone_name and arguments.backbone_source):
            raise UserError("--backbone needs --backbone-name and --backbone-source, which stand in the table")
        weights, statuses = (arguments.backbone, arguments.backbone_name, arguments.backbone_source), []
        for experiment, options in runs:
            options = replace(options, results=options.results / "imported")  # their records rebuild no cell
            imported = import_backbone(experiment, *weights, options.results)
            statuses.append(loop.train(imported, arguments.seed, options))
        return max(statuses)
    if len({options.results for _, options in runs}) > 1:
        names = ", ".join(arguments.experiments)
        raise UserError(f"{names}: their records lie in several folders: give one (--results)")
    return loop.train([experiment for experiment, _ in runs], arguments.seed, runs[0][1])


@command(
    *OF_RUN,
    SEED,
    option("experiments", nargs="+", help="with --twice; or folders of records, results/runs/EXPERIMENT/seedK"),
    option("--twice", action="store_true", help="compare two trainings with each other, not with a record"),
    option("--iterations", type=parse_positive, default=50, metavar="N", help="at most 50 of a record"),
)
def verify(arguments: argparse.Namespace) -> int:
    """train the first iterations again, and compare bit by bit"""
    from .training.verify import verify_record, verify_twice

    check_digest(arguments)
    if not arguments.twice and (arguments.digest or arguments.arithmetic):
        cure = "leave these options out, or say --twice"
        raise UserError(f"verify: a record has digest and arithmetic of its own: {cure}")
    statuses = []
    for name in arguments.experiments:
        try:
            if arguments.twice:
                experiment, options = prepare_run(arguments, name)
                statuses.append(verify_twice(experiment, arguments.seed, options, arguments.iterations))
            else:
                options = make_options(arguments, Path("results"))
                statuses.append(verify_record(Path(name), options, arguments.iterations))
        except RecordingFailed:
            raise
        except UserError as error:  # the others are compared all the same
            print(f"identity-mappings: {error}", file=sys.stderr)
            statuses.append(2)
    return max(statuses)


@command(
    *OF_RUN,
    SEED,
    WORKERS,
    EXPERIMENT,
    option("--protocol", nargs="+", default=(), choices=PROTOCOLS, help="(default: see docs/imagenet.md)"),
    option("--checkpoint", type=Path, metavar="FILE", help="test this file; no table shows it"),
)
def evaluate(arguments: argparse.Namespace) -> None:
    """test a trained run again"""
    from .training import evaluate

    experiment, options = prepare_run(arguments, arguments.experiment, workers=arguments.workers)
    wanted, file = (experiment, arguments.seed, arguments.protocol, options), arguments.checkpoint
    for path in evaluate.evaluate_checkpoint(*wanted, file) if file else evaluate.evaluate(*wanted):
        print(path)


@command(
    *OF_TEST,
    option("file", type=Path, help="from torch.save(model.state_dict()); only weights are read, no code"),
    option("--name", required=True, type=parse_name, help="of the record: lower case, digits and dashes"),
    option("--source", required=True, help="where the weights come from, in words; stands in the table"),
    option("--depth", type=parse_positive, help="of the network (default: by the names in the file)"),
    option("--mean", type=float, **BY_CHANNEL),
    option("--deviation", type=parse_deviation, **BY_CHANNEL),
    option("--protocol", nargs="+", default=(), choices=IMAGENET_PROTOCOLS, help="(default: all that fit)"),
)
def import_weights(arguments: argparse.Namespace) -> None:
    """test a ResNet or VGG of torchvision's form that was trained elsewhere"""
    from .parameters import load
    from .training import imported

    project = load()
    settings = project.scale(arguments.scale)
    name = settings.overlay.datasets.get("imagenet", "imagenet")
    if name is None:
        raise UserError(f"scale {arguments.scale} has no counterpart of imagenet: take another (--scale)")
    for path in imported.test_imported(
        arguments.file,
        arguments.name,
        arguments.source,
        project.resolve_dataset(name),
        make_options(arguments, Path(settings.results), workers=arguments.workers),
        arguments.protocol,
        settings.overlay.recipes.get("he2016-imagenet", {}).get("crop_size", 224),
        arguments.depth,
        (arguments.mean or imported.MEAN, arguments.deviation or imported.DEVIATION),
    ):
        print(path)


@command(
    DATA,
    option("runs", type=Path, nargs="+", metavar="RUN", help="results/runs/EXPERIMENT-DIGEST/seedK"),
    option("--output", "-o", type=Path, metavar="FOLDER", help="of all exports (default: models)"),
    option("--track", action="store_true", help="put models/ into DVC's cache and write models.dvc"),
)
def export(arguments: argparse.Namespace) -> None:
    """write a finished run's weights as safetensors, with a model card and its network"""
    from .reporting import export
    from .training.trainer import Options

    if arguments.track and arguments.output:
        raise UserError("export: --track is of models/, the folder that models.dvc names: leave --output out")
    for folder in arguments.runs:
        print(export.export(folder, Options(Path("results"), arguments.data), arguments.output))
    if arguments.track:
        export.track(Path())
        print("models.dvc: commit it; `dvc push` sends the weights to a remote of yours, `dvc pull models` brings them")


@command(
    *OF_RUN,
    SEED,
    EXPERIMENT,
    option("--checkpoint", type=Path, metavar="FILE", help="(default: the run's weights or last checkpoint)"),
)
def responses(arguments: argparse.Namespace) -> None:
    """measure the layer responses of a trained network (he2015, Figure 7)"""
    from .training.responses import measure_responses

    experiment, options = prepare_run(arguments, arguments.experiment)
    measure_responses(experiment, arguments.seed, options, arguments.checkpoint)


@command(
    *OF_RUN,
    option("experiment", nargs="?", help=f"{NAMED_BY} (default: the figures')"),
    option("--iterations", type=parse_whole, metavar="N", help="of the training (default: the scale's)"),
)
def signals(arguments: argparse.Namespace) -> None:
    """measure norms of signal and gradient by unit, before and after a short training"""
    from .parameters import load
    from .training.signals import measure_signals

    project = load()
    settings = project.scale(arguments.scale)
    if arguments.experiment is None:
        options = make_options(arguments, Path(settings.results))
        for experiment in project.list_for_signals(arguments.scale):
            measure_signals(experiment, settings.signal_iterations, options)
        return
    experiment, options = prepare_run(arguments, arguments.experiment)
    iterations = settings.signal_iterations if arguments.iterations is None else arguments.iterations
    measure_signals(experiment, iterations, options)


@command(SCALE, option("--record", action="store_true", help="write the cost record, from which tables take them"))
def cost(arguments: argparse.Namespace) -> int:
    """count weights and multiply-adds of every network; exit status 1 if a paper says otherwise"""
    from .reporting import cost

    if arguments.record:
        cost.record_costs(arguments.scale)
        return 0
    return cost.print_costs(arguments.scale)


@command(*OF_EXPERIMENT, option("--output", "-o", type=Path, metavar="FILE.json"))
def resolve(arguments: argparse.Namespace) -> None:
    """write an experiment with all its parameters; `train` takes the file anywhere"""
    experiment = resolve_experiment(arguments, arguments.experiment)
    if arguments.output:
        experiment.save(arguments.output)
        print(f"{arguments.output}: {experiment.folder}")
    else:
        sys.stdout.write(json_bytes(experiment.as_json()).decode())


@command(
    DATA,
    option("action", choices=("fetch", "prepare", "verify")),
    option("name", help="dataset of params/datasets.yaml, for example imagenet"),
    option("--commit", action="store_true", help="put it into DVC's cache, too; CIFAR always is"),
)
def data(arguments: argparse.Namespace) -> None:
    """get a dataset, check it, or prepare it for training (ImageNet: archives to shards)"""
    from .data import prepare
    from .parameters.load import read_entry

    name, folder = arguments.name, arguments.data
    actions = {"fetch": prepare.fetch, "prepare": prepare.prepare, "verify": prepare.verify}
    if message := actions[arguments.action](name, folder):
        print(message)
    if arguments.commit or read_entry(name).format == "cifar":
        prepare.commit(name, folder)
        print(f"{folder / name}: as pinned, and in DVC's cache")


@command(
    option("--gpus", type=parse_whole, required=True, help="how many; 0 hides all"),
    option("--granted", type=parse_whole, help="how many Snakemake granted; refused if it differs"),
    option("--patience", type=float, default=86400, metavar="S", help="seconds to wait (default: a day)"),
    option("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ..."),
)
def lease(arguments: argparse.Namespace) -> None:
    """run a command on reserved GPUs, which are released when it ends"""
    from .training.lease import run_leased

    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not words:
        raise UserError("lease: no command to run: add it after --")
    run_leased(arguments.gpus, arguments.granted, words, arguments.patience)


@command(*OF_EXPERIMENT, DEVICE)
def device(arguments: argparse.Namespace) -> None:
    """say whether there is a device for an experiment"""
    from .training.devices import choose

    experiment = resolve_trainable(arguments, arguments.experiment)
    print(f"{choose(arguments.device, experiment)} for {experiment.name}")


@command(DATA, option("--json", action="store_true", help="a list of {name, status, text}"))
def doctor(arguments: argparse.Namespace) -> int:
    """check this machine in two minutes; exit status 1 if something is wrong"""
    from . import doctor

    return doctor.show(arguments.json, arguments.data)


@command()
def schemas(arguments: argparse.Namespace) -> None:
    """write workflow/schemas/ from the typed parameters"""
    from .parameters import schemas

    schemas.write()
