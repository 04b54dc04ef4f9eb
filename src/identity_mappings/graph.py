"""What the Snakefile asks: which runs are wanted, where their records lie, which of them are there."""

import os
import time
from pathlib import Path
from typing import Any

from .errors import UserError
from .parameters import load
from .parameters.load import nearest
from .records import run
from .records.experiment import Experiment
from .reporting.fingerprint import is_current

CONFIG = {"scale": "paper", "device": None}


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
            for experiment in self.project.wanted(scale)
            for seed in range(settings.runs)
        ]

    def records(self, root: str, targets: set[str]) -> tuple[list[str], list[str]]:
        """The records of a scale that are there, and those that are made first because `targets` asks for runs too."""
        scale = self.roots[root]
        wanted = self.runs(scale)
        there = [path for path in wanted if (self.project.root / path).is_file()]
        training = "demo" in targets if scale == "demo" else False
        training |= scale == self.scale and (not targets or "all" in targets)
        return there, [path for path in wanted if path not in set(there)] if training else []

    def tables(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/tables.md"]

    def figures(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/figures/{name}.svg" for name in self.figure_names]

    def datasets(self, scale: str) -> list[str]:
        """Stamps of the datasets that the wanted runs need; the embedded one needs none."""
        stamps = [stamp for experiment in self.project.wanted(scale) for stamp in self._stamps(experiment)]
        return list(dict.fromkeys(stamps))

    @staticmethod
    def _stamps(experiment: Experiment) -> list[str]:
        dataset = experiment.parameters["dataset"]
        return [f"data/.verified/{dataset['name']}-{dataset['md5']}"] if dataset["md5"].endswith(".dir") else []

    def dataset_of_run(self, name: str, root: str) -> list[str]:
        return self._stamps(self._experiment(name, root))

    def device(self, root: str) -> str:
        return self.chosen_device or self.project.scale(self.roots[root]).device

    def device_of_run(self, name: str, root: str) -> list[str]:
        return [f"{root}/.device-gpu"] if self.device(root) == "gpu" else []

    def gpus(self, name: str, root: str) -> int:
        return self._experiment(name, root).gpus if self.device(root) == "gpu" else 0

    def cpu_threads(self, name: str, root: str) -> int:
        return self._experiment(name, root).parameters["recipe"]["cpu_threads"]

    def first_experiment(self, root: str) -> str:
        return self.project.wanted(self.roots[root])[0].name

    def changed(self, root: str, origin: str) -> list[str]:
        """A file newer than a report, if the report is not of what is there now; else nothing.

        Content decides, not times: those of a clone or of an experiment of DVC mean nothing. But Snakemake makes a
        file again only for a newer input (or for metadata, which a clone lacks), so it is shown one.
        """
        path = self.project.root / root / origin
        if not path.is_file() or is_current(self.project, self.roots[root], path):
            return []
        stamp = self.project.root / "logs" / root / f".{path.stem}-changed"
        stamp.parent.mkdir(parents=True, exist_ok=True)
        now = time.time()
        stamp.write_text(f"{now}")  # other content, too: Snakemake takes a known checksum for no change
        newest = max(file.stat().st_mtime for file in path.parent.iterdir())
        os.utime(stamp, (now, max(now, newest + 1)))
        return [stamp.relative_to(self.project.root).as_posix()]
