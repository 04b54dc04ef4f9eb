"""What the Snakefile asks: which runs are wanted, where their records lie, which of them are there."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .parameters import load
from .parameters.load import nearest
from .records import cost, run
from .records.experiment import ARITHMETICS, Experiment
from .records.files import sha256_of
from .records.propagation import RESPONSES, RESPONSES_CSV, SIGNALS, SIGNALS_DONE, responses_of
from .reporting.fingerprint import is_current, of_cost, of_signals

# runs_per_gpu: how many runs of an experiment one job trains at once on a GPU.
# processes: how many train a run of ImageNet; null: as many as the experiment wants GPUs, or one on a CPU.
CONFIG = {"scale": "paper", "device": None, "arithmetic": None, "runs_per_gpu": 5, "processes": None}

BY_HAND = ("imagenet",)  # behind a registration: no run on it is wanted until it is here


@dataclass(frozen=True)
class Together:
    """Runs of one experiment that one job trains at once: {seed: folder of the record}."""

    experiment: Experiment
    root: str
    folders: dict[int, Path]

    @property
    def rule(self) -> str:
        """A name for the rule, as Snakemake allows it."""
        seeds = "_".join(map(str, self.folders))
        return f"train_{self.experiment.folder}_seeds_{seeds}".replace("-", "_")

    def files(self, name: str) -> list[str]:
        return [(folder / name).as_posix() for folder in self.folders.values()]


class Graph:
    """Paths of the graph, relative to the project's root.

    Args:
        root: of the project.
        config: Snakemake's: "scale", and "device" ("gpu" or "cpu"; default: the scale's).

    Raises:
        UserError: a mistake in params/ or in the config.
    """

    def __init__(self, root: Path, config: dict[str, Any]):
        for key in config:
            if key not in CONFIG:
                raise UserError(f"--config {key}: unknown key: {nearest(key, CONFIG)}")
        self.project = load(root)
        self.scale = str(config.get("scale", CONFIG["scale"]))
        self.project.scale(self.scale)
        self.chosen_device = config.get("device")
        if self.chosen_device not in (None, "gpu", "cpu"):
            raise UserError(f"--config device={self.chosen_device}: give gpu or cpu")
        self.chosen_arithmetic = config.get("arithmetic")
        if self.chosen_arithmetic not in (None, *ARITHMETICS):
            raise UserError(f"--config arithmetic={self.chosen_arithmetic}: give {', '.join(ARITHMETICS)}")
        self.runs_per_gpu = config.get("runs_per_gpu", CONFIG["runs_per_gpu"])
        if not isinstance(self.runs_per_gpu, int) or self.runs_per_gpu < 1:
            raise UserError(f"--config runs_per_gpu={self.runs_per_gpu}: give a whole number from 1")
        self.chosen_processes = config.get("processes")
        if self.chosen_processes is not None and not (
            isinstance(self.chosen_processes, int) and self.chosen_processes >= 1
        ):
            raise UserError(f"--config processes={self.chosen_processes}: give a whole number from 1")
        self.roots = {settings.results: name for name, settings in self.project.scales.items()}
        self.figure_names = list(self.project.figures)

    def _experiment(self, name: str, root: str) -> Experiment:
        experiment = self.project.resolve(name, self.roots[root])
        if experiment is None:
            raise UserError(f"{name} has no counterpart at scale {self.roots[root]}")
        return experiment

    def runs(self, scale: str) -> list[str]:
        """The records of every wanted run; one that several tables share stands here once."""
        settings = self.project.scale(scale)
        return [
            (run.folder_of(Path(settings.results), experiment, seed) / run.METRICS).as_posix()
            for experiment in self._wanted(scale)
            for seed in self.project.seeds(experiment)
        ]

    def evaluations(self, scale: str) -> list[str]:
        """The tests by the protocols that tables ask for, of runs that are there with their weights or will be."""
        results = Path(self.project.scale(scale).results)
        paths = []
        for experiment in self._wanted(scale):
            protocols = self.project.protocols(experiment)
            for seed in self.project.seeds(experiment) if protocols else ():
                folder = run.folder_of(results, experiment, seed)
                weights = self._has_weights(results, experiment, seed)
                trained = (self.project.root / folder / run.METRICS).is_file()
                for protocol in protocols:
                    path = run.evaluation_of(folder, protocol)
                    if not trained or weights or (self.project.root / path).is_file():
                        paths.append(path.as_posix())
        return paths

    def _has_weights(self, results: Path, experiment: Experiment, seed: int) -> bool:
        return run.weights_of(self.project.root / results, experiment, seed, self.project.root) is not None

    def protocol_sets(self) -> dict[tuple[str, ...], list[str]]:
        """Sets of protocols that tables ask for together, with the experiments that they are asked of."""
        sets: dict[tuple[str, ...], list[str]] = {}
        for experiment in self.project.shown("paper"):
            if protocols := tuple(self.project.protocols(experiment)):
                sets.setdefault(protocols, []).append(experiment.name)
        return sets

    def _wanted(self, scale: str) -> list[Experiment]:
        """In the arithmetic of their recipes, or at the scale of this call in the one that was asked for."""
        wanted = [experiment for experiment in self.project.wanted(scale) if self._is_here(experiment)]
        if self.chosen_arithmetic is None or scale != self.scale:
            return wanted
        return [experiment.in_arithmetic(self.chosen_arithmetic) for experiment in wanted]

    def _is_here(self, experiment: Experiment) -> bool:
        """Whether a dataset that only a person can get is here; the others are fetched or made when they are needed."""
        name = experiment.parameters["dataset"]["name"]
        places = (self.project.root / "data" / name, self.project.root / "data" / "shards" / name)
        return name not in BY_HAND or any(place.is_dir() for place in places)

    def together(self, words: Iterable[str]) -> list["Together"]:
        """The missing runs of the wanted experiments, in groups that one job trains at once on a GPU.

        Args:
            words: of the command line; where they name a run, that one is trained and no other: there are no groups.
        """
        if any("/runs/" in word for word in words):
            return []
        settings = self.project.scale(self.scale)
        results = Path(settings.results)
        if self.runs_per_gpu == 1 or self.device(settings.results) != "gpu":
            return []
        groups = []
        for experiment in self._wanted(self.scale):
            if experiment.streamed:
                continue  # one fills its GPUs
            folders = {seed: run.folder_of(results, experiment, seed) for seed in self.project.seeds(experiment)}
            missing = [
                seed for seed, folder in folders.items() if not (self.project.root / folder / run.METRICS).is_file()
            ]
            for first in range(0, len(missing), self.runs_per_gpu):
                seeds = missing[first : first + self.runs_per_gpu]
                if len(seeds) > 1:
                    groups.append(Together(experiment, settings.results, {seed: folders[seed] for seed in seeds}))
        return groups

    def arithmetic_of_run(self, name: str, digest: str, root: str) -> str:
        """The arithmetic in which an experiment has a digest."""
        experiment = self._experiment(name, root)
        found = (one for one in experiment.alternatives if one.digest == digest)
        return next(found, experiment).parameters["recipe"]["arithmetic"]

    def records(self, root: str, targets: set[str]) -> tuple[list[str], list[str]]:
        """The records of a scale that are there, and those that are made first because `targets` asks for runs too."""
        scale = self.roots[root]
        wanted = [*self.runs(scale), *self.evaluations(scale)]
        there = [path for path in wanted if (self.project.root / path).is_file()]
        return there, [path for path in wanted if path not in set(there)] if self._trains(scale, targets) else []

    def _trains(self, scale: str, targets: set[str]) -> bool:
        """Whether a call with these targets trains at this scale."""
        asked = "demo" in targets if scale == "demo" else False
        return asked or (scale == self.scale and (not targets or "all" in targets))

    def measured(self, root: str, targets: set[str]) -> tuple[list[str], list[str]]:
        """What the figures show beside runs: records that are there, and those that this call makes first.

        Layer responses need the weights of a run, which are where it was trained, or will be.
        """
        scale = self.roots[root]
        trains, results = self._trains(scale, targets), Path(self.project.scale(scale).results)
        there, coming = [], []
        for experiment in self._responding(scale):
            path = responses_of(results, experiment, 0) / RESPONSES_CSV
            weights = self._has_weights(results, experiment, 0)
            record = run.folder_of(results, experiment, 0) / run.METRICS
            if (self.project.root / path).is_file():
                there.append(path.as_posix())
            elif trains and (weights or not (self.project.root / record).is_file()):
                coming.append(path.as_posix())
        done = results / SIGNALS / SIGNALS_DONE
        if self._signals_are_current(scale, self.project.root / done):
            there.append(done.as_posix())
        elif trains and self.project.propagated(scale):
            coming.append(done.as_posix())
        return there, coming

    def _responding(self, scale: str) -> list[Experiment]:
        shown = {name for f in self.project.figures.values() if f.kind == RESPONSES for name in f.experiments}
        return [experiment for experiment in self._wanted(scale) if experiment.name in shown]

    def _signals_are_current(self, scale: str, done: Path) -> bool:
        try:
            facts = json.loads(done.read_bytes())
            whole = all(sha256_of(done.parent / name) == digest for name, digest in facts["files"].items())
            return whole and facts["fingerprint"] == of_signals(self.project, scale)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def counted(self, root: str) -> tuple[list[str], list[str]]:
        """The cost record of a scale: as one that is there, or as one to be made first (missing, or old)."""
        scale = self.roots[root]
        path = Path(self.project.scale(scale).results) / cost.FOLDER / cost.NAME
        try:
            current = json.loads((self.project.root / path).read_bytes())["fingerprint"] == of_cost(self.project, scale)
        except (OSError, ValueError, KeyError, TypeError):
            current = False
        return ([path.as_posix()], []) if current else ([], [path.as_posix()])

    def changed_cost(self, root: str) -> list[str]:
        _, coming = self.counted(root)
        return self._newer(root, coming[0]) if coming and (self.project.root / coming[0]).is_file() else []

    def changed_signals(self, root: str) -> list[str]:
        done = f"{root}/{SIGNALS}/{SIGNALS_DONE}"
        path = self.project.root / done
        old = path.is_file() and not self._signals_are_current(self.roots[root], path)
        return self._newer(root, done) if old else []

    def datasets_of_signals(self, root: str) -> list[str]:
        experiments = self.project.propagated(self.roots[root])
        return list(dict.fromkeys(stamp for experiment in experiments for stamp in self._stamps(experiment)))

    def tables(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/tables.md"]

    def page(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/report.html"]

    def figures(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/figures/{name}.svg" for name in self.figure_names]

    def datasets(self, scale: str) -> list[str]:
        """Stamps of the datasets that the wanted runs need; the embedded one needs none."""
        stamps = [stamp for experiment in self._wanted(scale) for stamp in self._stamps(experiment)]
        return list(dict.fromkeys(stamps))

    @staticmethod
    def _stamps(experiment: Experiment) -> list[str]:
        if experiment.untrainable:
            raise UserError(experiment.untrainable)
        dataset = experiment.parameters["dataset"]
        return [f"data/.verified/{dataset['name']}-{dataset['md5']}"] if dataset["md5"].endswith(".dir") else []

    def dataset_of_run(self, name: str, root: str) -> list[str]:
        return self._stamps(self._experiment(name, root))

    def device(self, root: str) -> str:
        return self.chosen_device or self.project.scale(self.roots[root]).device

    def device_gate(self, root: str) -> list[str]:
        return [f"{root}/.device-gpu"] if self.device(root) == "gpu" else []

    def processes(self, name: str, root: str) -> int:
        """How many processes train a run: on GPUs one for each."""
        experiment = self._experiment(name, root)
        if not experiment.streamed:
            return 1
        return self.chosen_processes or (experiment.gpus if self.device(root) == "gpu" else 1)

    def launcher(self, name: str, root: str) -> str:
        """What starts these processes; nothing for one."""
        count = self.processes(name, root)
        return f"torchrun --standalone --nproc-per-node {count} --no-python -- " if count > 1 else ""

    def gpus(self, name: str, root: str) -> int:
        """GPUs of a training."""
        if self.device(root) != "gpu":
            return 0
        experiment = self._experiment(name, root)
        return self.processes(name, root) if experiment.streamed else experiment.gpus

    def gpus_of_test(self, root: str) -> int:
        return 1 if self.device(root) == "gpu" else 0

    def cpu_threads(self, name: str, root: str) -> int:
        """Threads of a test, or of each process of a training."""
        return self._experiment(name, root).parameters["recipe"]["cpu_threads"]

    def threads(self, name: str, root: str) -> int:
        """Threads of a training."""
        return self.processes(name, root) * self.cpu_threads(name, root)

    def signal_resources(self, root: str) -> tuple[int, int]:
        """GPUs and threads of the one job that measures signals."""
        experiments = self.project.propagated(self.roots[root])
        threads = max((e.parameters["recipe"]["cpu_threads"] for e in experiments), default=1)
        return (1 if self.device(root) == "gpu" else 0), threads

    def first_experiment(self, root: str) -> str:
        wanted = self.project.wanted(self.roots[root])
        if not wanted:
            raise UserError(
                f"scale {self.roots[root]} wants no experiment that can be trained: name one in params/scales"
            )
        return wanted[0].name

    def changed(self, root: str, origin: str) -> list[str]:
        """A file newer than a report, if the report is not of what is there now; else nothing.

        Content decides, not times: those of a clone or of an experiment of DVC mean nothing. But Snakemake makes a
        file again only for a newer input (or for metadata, which a clone lacks), so it is shown one.
        """
        path = self.project.root / root / origin
        if not path.is_file() or is_current(self.project, self.roots[root], path):
            return []
        return self._newer(root, f"{root}/{origin}")

    def _newer(self, root: str, file: str) -> list[str]:
        """A file that is newer than `file` and its neighbours."""
        path = self.project.root / file
        stamp = self.project.root / "logs" / root / f".{path.stem}-changed"
        stamp.parent.mkdir(parents=True, exist_ok=True)
        now = time.time()
        stamp.write_text(f"{now}")  # other content, too: Snakemake takes a known checksum for no change
        newest = max(file.stat().st_mtime for file in path.parent.iterdir())
        os.utime(stamp, (now, max(now, newest + 1)))
        return [stamp.relative_to(self.project.root).as_posix()]
