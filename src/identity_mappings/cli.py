"""The one command line: `identity-mappings COMMAND`."""

import argparse
import errno
import math
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from . import commands
from .errors import RecordingFailed, UserError
from .records.experiment import ARITHMETICS
from .records.run import CIFAR_PROTOCOLS, IMAGENET_PROTOCOLS

_ROOM = "free disk space, and rerun: saved work is kept"
_RIGHTS = "give yourself the right to write there, or take another folder (--results), and rerun"
_PLACE = "put a folder or a file where it is expected, and rerun"
_CURES = {  # of errors of file systems; any other OSError is a bug
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), and rerun: saved work is kept",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.EIO: "the disk or its connection fails: see the system's log, and rerun",
    errno.ESTALE: "the network file system has lost it: mount it again, and rerun",
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


def _whole(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        what = "positive whole number" if least else "whole number from 0"
        raise argparse.ArgumentTypeError(f"{text!r} is not a {what}")
    return int(text)


_positive = partial(_whole, least=1)
_OPTIONS: dict[str, dict[str, Any]] = {  # that several commands have
    "--scale": {"default": "paper", "help": "a scale of params/scales (default: paper)"},
    "--arithmetic": {"choices": ARITHMETICS, "help": "(default: the recipe's)"},
    "--digest": {"help": "refuse unless the parameters have this digest"},
    "--seed": {"type": _whole, "default": 0},
    "--results": {"type": Path, "help": "folder of records (default: the scale's)"},
    "--data": {"type": Path, "default": Path("data"), "help": "folder of datasets (default: data)"},
    "--device": {"choices": ("gpu", "cpu"), "default": "gpu", "help": "no silent fallback to the CPU (default: gpu)"},
    "--eager": {"action": "store_true", "help": "on a GPU: launch kernel by kernel, record no CUDA graph"},
    "--workers": {"type": _whole, "help": "processes that decode images (default: as many as suit)"},
}
_EXPERIMENT_OPTIONS = ("--scale", "--arithmetic", "--digest")
_RUN_OPTIONS = (*_EXPERIMENT_OPTIONS, "--results", "--data", "--device", "--eager")
_EXPERIMENT = "name of an experiment, or a .json file made by `resolve`"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="identity-mappings", description=__doc__)
    added_commands = top.add_subparsers(dest="name_of_command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *options: str) -> argparse.ArgumentParser:
        """Add the command `commands.NAME`, with some of the options that several have."""
        added = added_commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=getattr(commands, name.replace("-", "_")))
        for option in options:
            added.add_argument(option, **_OPTIONS[option])
        return added

    added = command("train", "train runs to their records, or go on with them; several at once", *_RUN_OPTIONS)
    added.add_argument("experiments", nargs="+", help=_EXPERIMENT)
    text = "of each experiment; several runs are trained at once (default: 0)"
    added.add_argument("--seed", type=_whole, nargs="+", default=[0], help=text)
    added.add_argument("--stop-after", type=_positive, metavar="N", help="stop after N iterations with a checkpoint")
    added.add_argument("--checkpoint-seconds", type=float, default=300, metavar="S", help="(default: 300)")
    added.add_argument("--log", type=Path, help="file that takes standard error, for the provenance")
    text = "compute units again in the backward pass, to save memory (default: where it is short)"
    added.add_argument("--recompute", action=argparse.BooleanOptionalAction, help=text)
    text = "processes that decode images, for each that trains (default: as many as suit)"
    added.add_argument("--workers", type=_whole, help=text)
    text = "weights of a detection's backbone that were trained elsewhere, in torchvision's names"
    added.add_argument("--backbone", type=Path, metavar="FILE", help=text)
    added.add_argument("--backbone-name", type=_name, help="name of the weights: lower case, digits and dashes")
    added.add_argument("--backbone-source", help="where the weights come from, in words; the table shows it")

    added = command("verify", "train the first iterations again, and compare bit by bit", *_RUN_OPTIONS, "--seed")
    text = "experiments, with --twice; or folders of records, results/runs/EXPERIMENT/seedK"
    added.add_argument("experiments", nargs="+", help=text)
    added.add_argument("--twice", action="store_true", help="compare two trainings with each other, not with a record")
    added.add_argument("--iterations", type=_positive, default=50, metavar="N", help="at most 50 of a record")

    added = command("evaluate", "test a trained run again", *_RUN_OPTIONS, "--seed", "--workers")
    added.add_argument("experiment", help=_EXPERIMENT)
    text = "(default: on CIFAR single-view, on ImageNet all that fit)"
    protocols = (*CIFAR_PROTOCOLS, *IMAGENET_PROTOCOLS)
    added.add_argument("--protocol", nargs="+", default=(), choices=protocols, help=text)
    text = "test this file; no table shows it (default: the trained weights)"
    added.add_argument("--checkpoint", type=Path, metavar="FILE", help=text)

    text = "test a ResNet or VGG of torchvision's form that was trained elsewhere"
    added = command("import-weights", text, "--scale", "--data", "--device", "--eager", "--workers")
    added.add_argument("file", type=Path, help="from torch.save(model.state_dict()); only weights are read, no code")
    added.add_argument("--name", required=True, type=_name, help="of the record: lower case, digits and dashes")
    added.add_argument("--source", required=True, help="where the weights come from, in words; stands in the table")
    added.add_argument("--depth", type=_positive, help="of the network (default: by the names in the file)")
    for name, kind in (("--mean", float), ("--deviation", _deviation)):
        added.add_argument(name, type=kind, nargs=3, metavar=("R", "G", "B"), help="(default: torchvision's x 255)")
    added.add_argument("--protocol", nargs="+", default=(), choices=IMAGENET_PROTOCOLS, help="(default: all that fit)")

    added = command(
        "export", "write a finished run's weights as safetensors, with a model card and its network", "--data"
    )
    added.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="results/runs/EXPERIMENT-DIGEST/seedK")
    added.add_argument("--output", "-o", type=Path, metavar="FOLDER", help="of all exports (default: models)")
    added.add_argument("--track", action="store_true", help="put models/ into DVC's cache and write models.dvc")

    text = "measure the layer responses of a trained network (he2015, Figure 7)"
    added = command("responses", text, *_RUN_OPTIONS, "--seed")
    added.add_argument("experiment", help=_EXPERIMENT)
    text = "(default: the run's weights or last checkpoint)"
    added.add_argument("--checkpoint", type=Path, metavar="FILE", help=text)

    added = command(
        "signals", "measure norms of signal and gradient by unit, before and after a short training", *_RUN_OPTIONS
    )
    added.add_argument("experiment", nargs="?", help=f"{_EXPERIMENT} (default: the figures')")
    added.add_argument("--iterations", type=_whole, metavar="N", help="of the training (default: the scale's)")

    text = "count weights and multiply-adds of every network; exit status 1 if a paper says otherwise"
    added = command("cost", text, "--scale")
    added.add_argument("--record", action="store_true", help="write the cost record, from which tables take them")

    added = command(
        "resolve", "write an experiment with all its parameters; `train` takes the file anywhere", *_EXPERIMENT_OPTIONS
    )
    added.add_argument("experiment", help=_EXPERIMENT)
    added.add_argument("--output", "-o", type=Path, metavar="FILE.json")

    added = command(
        "data", "get a dataset, check it, or prepare it for training (ImageNet: archives to shards)", "--data"
    )
    added.add_argument("action", choices=("fetch", "prepare", "verify"))
    text = "dataset of params/datasets.yaml or params/detection.yaml, for example voc-0712"
    added.add_argument("name", help=text)
    added.add_argument("--commit", action="store_true", help="put it into DVC's cache, too; CIFAR always is")

    added = command("lease", "run a command on reserved GPUs, which are released when it ends")
    added.add_argument("--gpus", type=_whole, required=True, help="how many; 0 hides all")
    added.add_argument("--granted", type=_whole, help="how many Snakemake granted; refused if it differs")
    added.add_argument("--patience", type=float, default=86400, metavar="S", help="seconds to wait (default: a day)")
    added.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")

    added = command("device", "say whether there is a device for an experiment", *_EXPERIMENT_OPTIONS, "--device")
    added.add_argument("experiment", help=_EXPERIMENT)

    text = "check this machine in two minutes; exit status 1 if something is wrong"
    added = command("doctor", text, "--data")
    added.add_argument("--json", action="store_true", help="a list of {name, status, text}")

    for name, text in (
        ("tables", "make the tables from the records that are there"),
        ("figures", "make the figures from the records that are there"),
        ("diff", "compare with the papers; exit status 1 if a cell contradicts them"),
        ("audit", "trace every number of the tables to its records; exit status 1 at the first gap"),
        ("report", "make report.html, the page of tables and figures, from the records that are there"),
    ):
        command(name, text, "--scale")
    text = "what is done, running, interrupted, failed and waiting, and how long the rest takes"
    added = command("status", text, "--scale")
    added.add_argument("--watch", action="store_true", help="show it every few seconds, until Ctrl-C")
    added.add_argument("--json", action="store_true", help="for programs; docs/monitoring.md explains the keys")
    added = command("explain", "trace a table's cell to its runs, commit, data and parameters", "--scale")
    added.add_argument("table", help='for example "Table 1", or "he2016, Table 1"')
    added.add_argument("row", nargs="?", help="its name, or a part of it (default: all)")
    added.add_argument("column", nargs="?", help="(default: all that fit)")
    text = "write results, parameters, workflow and provenance as an RO-Crate, for an archive"
    added = command("rocrate", text, "--scale")
    added.add_argument("output", type=Path, metavar="OUT", help="a new folder, or a file that ends in .zip")
    command("schemas", "write workflow/schemas/ from the typed parameters")
    return top


def main(arguments: list[str] | None = None) -> int:
    # Must be there before CUDA starts, or deterministic cuBLAS refuses to work.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    parsed = parser().parse_args(arguments)
    try:
        return parsed.function(parsed) or 0
    except RecordingFailed as error:
        print(f"identity-mappings: {error}: starts again without recording", file=sys.stderr, flush=True)
        os.environ[commands.EAGER] = str(error)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except UserError as error:
        message = str(error)
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in _CURES:
            raise
        file = f"{error.filename}: " if error.filename else ""
        message = f"{file}{error.strerror}: {_CURES[error.errno]}"
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        message = f"a process that decodes images is gone ({str(error).splitlines()[0]}): is there too little memory? "
        message += "Take fewer (--workers), and rerun: a training resumes at its last checkpoint"
    except KeyboardInterrupt:
        return 130
    print(f"identity-mappings: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
