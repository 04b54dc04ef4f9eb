"""The parser of the command line, and what its arguments stand for."""

import argparse
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .records.experiment import Experiment

if TYPE_CHECKING:
    from .training.trainer import Options

RESTART_EAGER = "IDENTITY_MAPPINGS_EAGER"  # variable with the reason why a restarted process records no CUDA graph
Option = tuple[tuple[str, ...], dict[str, Any]]  # arguments of `argparse.ArgumentParser.add_argument`
Function = Callable[[argparse.Namespace], int | None]

parser = argparse.ArgumentParser(prog="identity-mappings", description="Trains, tests, makes tables, and checks them.")
commands = parser.add_subparsers(required=True, metavar="COMMAND")


def option(*names: str, **settings: Any) -> Option:
    return names, settings


def command(*options: Option) -> Callable[[Function], Function]:
    """Add a command: a function of the parsed arguments that returns the exit status (None: 0).

    Its name is the function's, its help text the docstring.
    """

    def add(function: Function) -> Function:
        name, text = function.__name__.replace("_", "-"), function.__doc__
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        for names, settings in options:
            added.add_argument(*names, **settings)
        return function

    return add


def parse_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give lower case letters, digits and dashes")
    return text


def parse_deviation(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return float(text)


def parse_whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        what = "positive whole number" if least else "whole number from 0"
        raise argparse.ArgumentTypeError(f"{text!r} is not a {what}")
    return int(text)


parse_positive = partial(parse_whole, least=1)

SCALE = option("--scale", default="paper", help="a scale of params/scales (default: paper)")


def resolve_experiment(arguments: argparse.Namespace, name: str) -> Experiment:
    """The experiment of this name: of a resolved parameter file, or of params/ at the scale that is asked for."""
    from .parameters import load

    experiment = Experiment.load(Path(name)) if name.endswith(".json") else load().resolve(name, arguments.scale)
    if experiment is None:
        raise UserError(f"{name} has no counterpart at scale {arguments.scale}")
    if arguments.arithmetic:
        experiment = experiment.in_arithmetic(arguments.arithmetic)
    if arguments.digest and experiment.digest != arguments.digest:
        raise UserError(
            f"{experiment.name}: params/ now give the digest {experiment.digest}, not {arguments.digest} (--digest): "
            "they changed meanwhile: call Snakemake again, or leave --digest out"
        )
    return experiment


def resolve_trainable(arguments: argparse.Namespace, name: str) -> Experiment:
    """The same; raises UserError where nothing can be trained of it."""
    experiment = resolve_experiment(arguments, name)
    if experiment.untrainable:
        raise UserError(experiment.untrainable)
    return experiment


def make_options(arguments: argparse.Namespace, results: Path, **settings: Any) -> "Options":
    from .detection import make_trainer
    from .training.trainer import Options

    eager = arguments.eager or os.environ.get(RESTART_EAGER, False)
    return Options(results, arguments.data, device=arguments.device, eager=eager, make_trainer=make_trainer, **settings)


def prepare_run(arguments: argparse.Namespace, name: str, **settings: Any) -> tuple[Experiment, "Options"]:
    """An experiment that can be trained, and the options of its runs."""
    from .parameters import load

    experiment, results = resolve_trainable(arguments, name), arguments.results
    if results is None:
        results = Path("results" if name.endswith(".json") else load().scale(experiment.scale).results)
    return experiment, make_options(arguments, results, **settings)
