"""The one command line: `identity-mappings COMMAND`."""

import argparse
import errno
import math
import os
import re
import sys
from pathlib import Path

from . import commands
from .errors import UserError
from .records.experiment import ARITHMETICS
from .records.run import CIFAR_PROTOCOLS, IMAGENET_PROTOCOLS

_ROOM = "free some room, and call again: what was saved is kept"
_RIGHTS = "give yourself the right to write there, or take another folder (--results), and call again"
_PLACE = "put a folder or a file where it is expected, and call again"
_CURES = {  # of what a file system refuses; any other error of it is a mistake of the code
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), and call again: what was saved is kept",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.EIO: "the disk or its connection fails: see the system's log, and call again",
    errno.ESTALE: "the network file system has lost it: mount it again, and call again",
    errno.EEXIST: _PLACE,
    errno.ENOTDIR: _PLACE,
    errno.EISDIR: _PLACE,
    errno.ELOOP: _PLACE,
}


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give lower case letters, digits and dashes")
    return text


def _deviation(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return float(text)


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
    added_commands = top.add_subparsers(dest="name_of_command", required=True, metavar="COMMAND")

    def command(name: str, text: str, scale: bool = False) -> argparse.ArgumentParser:
        """Add the command `commands.NAME`, with the option --scale or without."""
        added = added_commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=getattr(commands, "next_runs" if name == "next" else name.replace("-", "_")))
        if scale:
            added.add_argument("--scale", default="paper", help="a scale of params/scales (default: paper)")
        return added

    def add_experiment(added: argparse.ArgumentParser, number: str | None = None, target: str | None = None) -> None:
        text = target or "name of an experiment, or a .json file made by `resolve`"
        added.add_argument(
            "experiments" if number == "+" else "experiment",
            nargs=number,
            help=f"{text} (default: the figures')" if number == "?" else text,
        )
        added.add_argument("--scale", default="paper", help="a scale of params/scales (default: paper)")
        added.add_argument("--arithmetic", choices=ARITHMETICS, help="(default: the recipe's)")
        added.add_argument("--digest", help="refuse unless the parameters have this digest")

    def add_run(
        added: argparse.ArgumentParser,
        experiment: str | None = None,
        seed: bool = True,
        seeds: bool = False,
        target: str | None = None,
    ) -> None:
        add_experiment(added, experiment, target)
        if seeds:
            added.add_argument(
                "--seed",
                type=_natural,
                nargs="+",
                default=[0],
                help="of each experiment; several runs are trained at once (default: 0)",
            )
        elif seed:
            added.add_argument("--seed", type=_natural, default=0)
        added.add_argument("--results", type=Path, help="folder of records (default: the scale's)")
        added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")
        added.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="the CPU is never taken silently")

    added = command("train", "train runs to their records, or go on with them; several at once")
    add_run(added, "+", seeds=True)
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

    added.add_argument(
        "--backbone", type=Path, metavar="FILE", help="a detection's, in torchvision's names, trained elsewhere"
    )
    added.add_argument("--backbone-name", type=_name, help="of these weights: lower case, digits and dashes")
    added.add_argument("--backbone-source", help="where they come from, in words; stands in the table")

    added = command("verify", "train the first iterations again, and compare bit by bit")
    add_run(added, "+", target="experiments, with --twice; or folders of records, results/runs/EXPERIMENT/seedK")
    added.add_argument("--twice", action="store_true", help="compare two trainings with each other, not with a record")
    added.add_argument("--iterations", type=_positive, default=50, metavar="N", help="at most 50 of a record")

    added = command("evaluate", "test a trained run again")
    add_run(added)
    added.add_argument(
        "--protocol",
        nargs="+",
        default=(),
        choices=(*CIFAR_PROTOCOLS, *IMAGENET_PROTOCOLS),
        help="(default: on CIFAR single-view, on ImageNet all)",
    )
    added.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="test this one, for no table (default: the trained weights)",
    )
    added.add_argument("--workers", type=_natural, help="processes that decode images (default: as many as suit)")

    added = command("import-weights", "test a ResNet of torchvision's form that was trained elsewhere", scale=True)
    added.add_argument("file", type=Path, help="of torch.save(model.state_dict()); only weights are read, no code")
    added.add_argument("--name", required=True, type=_name, help="of the record: lower case, digits and dashes")
    added.add_argument("--source", required=True, help="where the weights come from, in words; stands in the table")
    added.add_argument("--depth", type=_positive, help="of the network (default: by the names in the file)")
    added.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="(default: torchvision's x 255)")
    added.add_argument(
        "--deviation", type=_deviation, nargs=3, metavar=("R", "G", "B"), help="(default: torchvision's x 255)"
    )
    added.add_argument("--protocol", nargs="+", default=(), choices=IMAGENET_PROTOCOLS, help="(default: all)")
    added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")
    added.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="the CPU is never taken silently")
    added.add_argument("--workers", type=_natural, help="processes that decode images (default: as many as suit)")

    added = command("export", "write a finished run's weights as safetensors, with a model card and its network")
    added.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="results/runs/EXPERIMENT-DIGEST/seedK")
    added.add_argument("--output", "-o", type=Path, metavar="FOLDER", help="of all exports (default: models)")
    added.add_argument("--track", action="store_true", help="put models/ into DVC's cache and write models.dvc")
    added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")

    added = command("responses", "measure the layer responses of a trained network (he2015, Figure 7)")
    add_run(added)
    added.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="(default: the run's weights or last checkpoint)"
    )

    added = command("signals", "measure norms of signal and gradient by unit, before and after a short training")
    add_run(added, experiment="?", seed=False)
    added.add_argument("--iterations", type=_natural, metavar="N", help="of the training (default: the scale's)")

    added = command(
        "cost", "count weights and multiply-adds of every network; exit status 1 if a paper says otherwise", scale=True
    )
    added.add_argument("--record", action="store_true", help="write the cost record, from which tables take them")

    added = command("resolve", "write an experiment with all its parameters; `train` takes the file anywhere")
    add_experiment(added)
    added.add_argument("--output", "-o", type=Path, metavar="FILE.json")

    added = command("data", "get a dataset, check it, or prepare it for training (ImageNet: archives to shards)")
    added.add_argument("action", choices=("fetch", "prepare", "verify"))
    added.add_argument(
        "name", help="of params/datasets.yaml, your own among them, or voc-0712, coco-2014 or a small one"
    )
    added.add_argument("--commit", action="store_true", help="put it into DVC's cache, too; CIFAR always is")
    added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")

    added = command("bench", "measure steps per second against two other implementations and the device's bound")
    added.add_argument("experiments", nargs="*", help="(default: what the README shows)")
    added.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="the CPU is never taken silently")
    added.add_argument("--rounds", type=_positive, default=7, help="medians are taken over so many (default: 7)")
    added.add_argument("--arithmetic", nargs="+", choices=ARITHMETICS, help="(default: those that the device has)")
    added.add_argument("--no-peers", action="store_true", help="measure only our own step")
    added.add_argument("--show", action="store_true", help="measure nothing: make the table and plot from the records")

    added = command("lease", "run a command with GPUs of its own, held exactly as long as it lives")
    added.add_argument("--gpus", type=_natural, required=True, help="how many; 0 hides all")
    added.add_argument("--granted", type=_natural, help="how many Snakemake granted; refused if it differs")
    added.add_argument("--patience", type=float, default=86400, metavar="S", help="seconds to wait (default: a day)")
    added.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")

    added = command("device", "say whether there is a device for an experiment")
    add_experiment(added)
    added.add_argument("--device", choices=("gpu", "cpu"), default="gpu")

    added = command("doctor", "say in two minutes whether this machine will do; exit status 1 if something is wrong")
    added.add_argument("--json", action="store_true", help="a list of {name, status, text}")
    added.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets (default: data)")

    for name, text in (
        ("tables", "make the tables from the records that are there"),
        ("figures", "make the figures from the records that are there"),
        ("diff", "compare with the papers; exit status 1 if a cell contradicts them"),
        ("audit", "walk every number of the tables back to its bytes; exit status 1 at the first gap"),
        ("report", "make report.html, the page of tables and figures, from the records that are there"),
    ):
        command(name, text, scale=True)
    added = command(
        "status", "what is done, running, interrupted, failed and waiting, and how long the rest takes", scale=True
    )
    added.add_argument("--watch", action="store_true", help="show it every few seconds, until Ctrl-C")
    added.add_argument("--json", action="store_true", help="for programs; docs/monitoring.md explains the keys")
    added.add_argument(
        "--what-if",
        nargs="?",
        const="here",
        metavar="gpu=N|cpu=N",
        help="how long the rest would take on so many GPUs or CPU cores, and on which runs that rests "
        "(without a value: on this machine)",
    )
    added = command("explain", "walk a table's cell back to its runs, commit, data and parameters", scale=True)
    added.add_argument("table", help='for example "Table 1", or "he2016, Table 1"')
    added.add_argument("row", nargs="?", help="its name, or a part of it (default: all)")
    added.add_argument("column", nargs="?", help="(default: all)")
    added = command(
        "rocrate", "write results, parameters, workflow and provenance as an RO-Crate, for an archive", scale=True
    )
    added.add_argument("output", type=Path, metavar="OUT", help="a new folder, or a file that ends in .zip")
    added = command("next", "the next runs of the order of work, with the commands to type", scale=True)
    added.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: only what a CPU does in hours")
    added.add_argument("--count", type=_positive, default=3, metavar="N", help="of jobs (default: 3)")
    added.add_argument("--at-once", type=_positive, default=1, metavar="N", help="experiments of a job (default: 1)")
    command("schemas", "write workflow/schemas/ from the typed parameters")
    return top


def main(arguments: list[str] | None = None) -> int:
    # Must be there before CUDA starts, or deterministic cuBLAS refuses to work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parsed = parser().parse_args(arguments)
    try:
        return parsed.function(parsed)
    except UserError as error:
        print(f"identity-mappings: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return 0
        if error.errno not in _CURES:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"identity-mappings: {place}{error.strerror}: {_CURES[error.errno]}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        first = str(error).splitlines()[0]
        cure = (
            "is there too little memory? Take fewer (--workers), and call again: a training goes on where it was saved"
        )
        print(f"identity-mappings: a process that decodes images is gone ({first}): {cure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
