"""The one command line: `identity-mappings COMMAND`. Imports what a command needs when it is called."""

import argparse
import os
import re
import sys
from pathlib import Path

from .errors import UserError
from .records.experiment import ARITHMETICS, Experiment
from .records.run import CIFAR_PROTOCOLS, IMAGENET_PROTOCOLS


def _resolved(arguments: argparse.Namespace) -> Experiment:
    """The experiment that a command names: by a resolved parameter file, or by name and scale."""
    if arguments.experiment.endswith(".json"):
        experiment = Experiment.load(Path(arguments.experiment))
    else:
        from .parameters import load

        experiment = load().resolve(arguments.experiment, arguments.scale)
        if experiment is None:
            raise UserError(f"{arguments.experiment} has no counterpart at scale {arguments.scale}")
    if arguments.arithmetic:
        experiment = experiment.in_arithmetic(arguments.arithmetic)
    if arguments.digest and experiment.digest != arguments.digest:
        raise UserError(
            f"{experiment.name}: params/ now give the digest {experiment.digest}, asked for is {arguments.digest}: "
            "they changed meanwhile; call it again"
        )
    return experiment


def _results(arguments: argparse.Namespace, experiment: Experiment) -> Path:
    if arguments.results:
        return arguments.results
    if arguments.experiment.endswith(".json"):
        return Path("results")
    from .parameters import load

    return Path(load().scale(experiment.scale).results)


def _to_train(arguments: argparse.Namespace) -> Experiment:
    experiment = _resolved(arguments)
    if experiment.untrainable:
        raise UserError(experiment.untrainable)
    return experiment


def resolve(arguments: argparse.Namespace) -> int:
    experiment = _resolved(arguments)
    if arguments.output:
        experiment.save(arguments.output)
        print(f"{arguments.output}: {experiment.folder}")
    else:
        from .records.files import json_bytes

        sys.stdout.write(json_bytes(experiment.as_json()).decode())
    return 0


def train(arguments: argparse.Namespace) -> int:
    # Must be there before CUDA starts, or deterministic cuBLAS refuses to work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    experiment = _to_train(arguments)
    from .training.loop import train
    from .training.trainer import Options

    options = Options(
        results=_results(arguments, experiment),
        data_folder=arguments.data,
        device=arguments.device,
        stop_after=arguments.stop_after,
        checkpoint_seconds=arguments.checkpoint_seconds,
        log=arguments.log,
        eager=arguments.eager,
        recompute=arguments.recompute,
        workers=arguments.workers,
    )
    return train(experiment, arguments.seed, options)


def verify(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from .training.trainer import Options

    if arguments.twice:
        experiment = _to_train(arguments)
        from .training.verify import twice

        options = Options(_results(arguments, experiment), arguments.data, device=arguments.device)
        return twice(experiment, arguments.seed, options, arguments.iterations)
    from .training.verify import record

    options = Options(Path("results"), arguments.data, device=arguments.device)
    return record(Path(arguments.experiment), options, arguments.iterations)


def evaluate(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    experiment = _to_train(arguments)
    from .training.evaluate import evaluate
    from .training.trainer import Options

    results = _results(arguments, experiment)
    options = Options(results, arguments.data, device=arguments.device, workers=arguments.workers)
    for path in evaluate(experiment, arguments.seed, arguments.protocol, options):
        print(path)
    return 0


def import_weights(arguments: argparse.Namespace) -> int:
    from .parameters import load
    from .training import imported
    from .training.trainer import Options

    project = load()
    settings, crop_size = project.scale(arguments.scale), 224
    name = settings.overlay.datasets.get("imagenet", "imagenet")
    recipe = settings.overlay.recipes.get("he2016-imagenet", {})
    dataset = {"name": name, **project.datasets[name].model_dump()}
    options = Options(Path(settings.results), arguments.data, device=arguments.device, workers=arguments.workers)
    for path in imported.test(
        arguments.file,
        arguments.name,
        arguments.source,
        dataset,
        options,
        arguments.protocol,
        recipe.get("crop_size", crop_size),
        arguments.depth,
        (arguments.mean or imported.MEAN, arguments.deviation or imported.DEVIATION),
    ):
        print(path)
    return 0


def responses(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    experiment = _to_train(arguments)
    from .training.propagation import responses
    from .training.trainer import Options

    options = Options(_results(arguments, experiment), arguments.data, device=arguments.device)
    responses(experiment, arguments.seed, options, arguments.checkpoint)
    return 0


def signals(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if arguments.experiment is None:
        from .reporting.signals import measure_all

        measure_all(arguments.scale, arguments.data, arguments.device)
        return 0
    experiment = _to_train(arguments)
    from .training.propagation import signals
    from .training.trainer import Options

    iterations = arguments.iterations
    if iterations is None:
        from .parameters import load

        iterations = load().scale(arguments.scale).signal_iterations
    options = Options(_results(arguments, experiment), arguments.data, device=arguments.device)
    signals(experiment, iterations, options)
    return 0


def cost(arguments: argparse.Namespace) -> int:
    from .reporting import cost

    if arguments.record:
        cost.record(arguments.scale)
        return 0
    return cost.show(arguments.scale)


def data(arguments: argparse.Namespace) -> int:
    from .data import sources

    actions = {"fetch": sources.fetch, "prepare": sources.prepare, "verify": sources.verify}
    said = actions[arguments.action](arguments.name, arguments.data)
    if arguments.commit or not arguments.name.startswith("imagenet"):
        sources.commit(arguments.name, arguments.data)
        said = f"{arguments.data / arguments.name}: as published, and in DVC's cache"
    print(said)
    return 0


def bench(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from .bench import measure
    from .parameters import load

    project = load()
    results = Path(project.scale("paper").results)
    if not arguments.show:
        names = arguments.experiments or [*measure.COMPARED, *measure.BY_DEPTH]
        experiments = [project.resolve(name) for name in names]
        peers = arguments.experiments or measure.COMPARED
        measure.run(
            experiments,
            arguments.device,
            results,
            Path(),
            arguments.rounds,
            arguments.arithmetic or (),
            [] if arguments.no_peers else peers,
        )
    from .reporting.bench import write

    write(Path())
    return 0


def lease(arguments: argparse.Namespace) -> int:
    from .training.lease import run

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UserError("lease: no command to run: add it after --")
    run(arguments.gpus, arguments.granted, command, arguments.patience)
    return 0


def device(arguments: argparse.Namespace) -> int:
    experiment = _to_train(arguments)
    from .training.devices import choose

    print(f"{choose(arguments.device, experiment)} for {experiment.name}")
    return 0


def tables(arguments: argparse.Namespace) -> int:
    from .reporting.tables import write

    write(arguments.scale)
    return 0


def figures(arguments: argparse.Namespace) -> int:
    from .reporting.figures import write

    write(arguments.scale)
    return 0


def diff(arguments: argparse.Namespace) -> int:
    from .reporting.diff import show

    return show(arguments.scale)


def status(arguments: argparse.Namespace) -> int:
    from .reporting.status import show

    show(arguments.scale)
    return 0


def schemas(_: argparse.Namespace) -> int:
    from .parameters.schemas import write

    write()
    return 0


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give lower case letters, digits and dashes")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="identity-mappings", description=__doc__)
    commands = top.add_subparsers(dest="name_of_command", required=True, metavar="COMMAND")

    def command(function, text: str, name: str | None = None) -> argparse.ArgumentParser:
        added = commands.add_parser(name or function.__name__, help=text, description=text)
        added.set_defaults(function=function)
        return added

    def of_experiment(added: argparse.ArgumentParser, number: str | None = None, target: str | None = None) -> None:
        text = target or "name of an experiment, or a .json file made by `resolve`"
        added.add_argument(
            "experiment", nargs=number, help=text if number is None else f"{text} (default: the figures')"
        )
        added.add_argument("--scale", default="paper", help="a scale of params/scales (default: paper)")
        added.add_argument("--arithmetic", choices=ARITHMETICS, help="(default: the recipe's)")
        added.add_argument("--digest", help="refuse unless the parameters have this digest")

    def of_run(
        added: argparse.ArgumentParser,
        experiment: str | None = None,
        seed: bool = True,
        seeds: bool = False,
        target: str | None = None,
    ) -> None:
        of_experiment(added, experiment, target)
        if seeds:
            added.add_argument("--seed", type=_natural, nargs="+", default=[0], help="several are trained at once")
        elif seed:
            added.add_argument("--seed", type=_natural, default=0)
        added.add_argument("--results", type=Path, help="folder of records (default: the scale's)")
        added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")
        added.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="the CPU is never taken silently")

    added = command(train, "train a run to its record, or go on with it")
    of_run(added, seeds=True)
    added.add_argument("--stop-after", type=_positive, metavar="N", help="stop after N iterations with a checkpoint")
    added.add_argument("--checkpoint-seconds", type=float, default=300, metavar="S", help="(default: 300)")
    added.add_argument("--log", type=Path, help="file that takes standard error, for the provenance")
    added.add_argument("--eager", action="store_true", help="on a GPU: launch kernel by kernel, record no CUDA graph")
    added.add_argument(
        "--recompute",
        action=argparse.BooleanOptionalAction,
        help="compute units again in the backward pass, to save memory (default: where it is short)",
    )
    added.add_argument(
        "--workers", type=_natural, help="processes that decode images, for each that trains (default: as many as suit)"
    )

    added = command(verify, "train the first iterations again, and compare bit by bit")
    of_run(added, target="name of an experiment, with --twice; or folder of a record, results/runs/EXPERIMENT/seedK")
    added.add_argument("--twice", action="store_true", help="compare two trainings with each other, not with a record")
    added.add_argument("--iterations", type=_positive, default=50, metavar="N", help="at most 50 of a record")

    added = command(evaluate, "test a trained run again")
    of_run(added)
    added.add_argument(
        "--protocol",
        nargs="+",
        default=(),
        choices=(*CIFAR_PROTOCOLS, *IMAGENET_PROTOCOLS),
        help="(default: on CIFAR single-view, on ImageNet all)",
    )
    added.add_argument("--workers", type=_natural, help="processes that decode images (default: as many as suit)")

    added = command(
        import_weights, "test a torchvision-style ResNet that was trained elsewhere on ImageNet", "import-weights"
    )
    added.add_argument("file", type=Path, help="of torch.save(model.state_dict()); only weights are read, no code")
    added.add_argument("--name", required=True, type=_name, help="of the record: lower case, digits and dashes")
    added.add_argument("--source", required=True, help="where the weights come from, in words; stands in the table")
    added.add_argument("--depth", type=_positive, help="of the network (default: by the names in the file)")
    added.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="(default: torchvision's x 255)")
    added.add_argument(
        "--deviation", type=float, nargs=3, metavar=("R", "G", "B"), help="(default: torchvision's x 255)"
    )
    added.add_argument("--protocol", nargs="+", default=(), choices=IMAGENET_PROTOCOLS, help="(default: all)")
    added.add_argument("--scale", default="paper")
    added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")
    added.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="the CPU is never taken silently")
    added.add_argument("--workers", type=_natural, help="processes that decode images (default: as many as suit)")

    added = command(responses, "measure the layer responses of a trained network (he2015, Figure 7)")
    of_run(added)
    added.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="(default: the run's weights or last checkpoint)"
    )

    added = command(signals, "measure norms of signal and gradient by unit, before and after a short training")
    of_run(added, experiment="?", seed=False)
    added.add_argument("--iterations", type=_natural, metavar="N", help="of the training (default: the scale's)")

    added = command(cost, "count weights and multiply-adds of every network; exit status 1 if a paper says otherwise")
    added.add_argument("--scale", default="paper")
    added.add_argument("--record", action="store_true", help="write the cost record, from which tables take them")

    added = command(resolve, "write an experiment with all its parameters; `train` takes the file anywhere")
    of_experiment(added)
    added.add_argument("--output", "-o", type=Path, metavar="FILE.json")

    added = command(data, "get a dataset, check it, or prepare it for training (ImageNet: archives to shards)")
    added.add_argument("action", choices=("fetch", "prepare", "verify"))
    added.add_argument("name", help="cifar10, cifar100, imagenet or imagenet-small")
    added.add_argument("--commit", action="store_true", help="put imagenet into DVC's cache; CIFAR always is")
    added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")

    added = command(bench, "measure steps per second against two other implementations and the device's bound")
    added.add_argument("experiments", nargs="*", help="(default: what the README shows)")
    added.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="the CPU is never taken silently")
    added.add_argument("--rounds", type=_positive, default=7, help="medians are taken over so many (default: 7)")
    added.add_argument("--arithmetic", nargs="+", choices=ARITHMETICS, help="(default: those that the device has)")
    added.add_argument("--no-peers", action="store_true", help="measure only our own step")
    added.add_argument("--show", action="store_true", help="measure nothing: make the table and plot from the records")

    added = command(lease, "run a command with GPUs of its own, held exactly as long as it lives")
    added.add_argument("--gpus", type=_natural, required=True, help="how many; 0 hides all")
    added.add_argument("--granted", type=_natural, help="how many Snakemake granted; refused if it differs")
    added.add_argument("--patience", type=float, default=86400, metavar="S", help="seconds to wait (default: a day)")
    added.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")

    added = command(device, "say whether there is a device for an experiment")
    of_experiment(added)
    added.add_argument("--device", choices=("gpu", "cpu"), default="gpu")

    for function, text in (
        (tables, "make the tables from the records that are there"),
        (figures, "make the figures from the records that are there"),
        (diff, "compare with the papers; exit status 1 if a cell contradicts them"),
        (status, "what is wanted, finished, unfinished"),
    ):
        command(function, text).add_argument("--scale", default="paper")
    command(schemas, "write workflow/schemas/ from the typed parameters")
    return top


def main(arguments: list[str] | None = None) -> int:
    parsed = parser().parse_args(arguments)
    try:
        return parsed.function(parsed)
    except UserError as error:
        print(f"identity-mappings: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
