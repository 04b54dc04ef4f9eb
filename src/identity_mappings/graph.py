"""What the Snakefile asks: which runs are wanted, and where their records lie; `jobs` has what each job needs.

Methods that take `wildcards` are input functions and parameters of rules. Which rules there are follows from
params/ and Snakemake's config alone: a job on another node reads the Snakefile again, when other files exist.
"""

from pathlib import Path
from typing import Any

from .changes import Changes
from .errors import UserError
from .parameters import load
from .parameters.reading import nearest
from .records import measurement, run
from .records.experiment import ARITHMETICS, Experiment
from .records.measurement import RESPONSES, RESPONSES_CSV, SIGNALS, SIGNALS_DONE, get_responses_folder
from .reporting.run_states import BY_HAND

# runs_per_gpu: how many runs of an experiment one job trains at once on a GPU.
# processes: how many train a run of ImageNet; null: as many as the experiment wants GPUs, on CPUs one a node.
# nodes: over how many machines of a cluster these are spread.
# time_limit: the most minutes that a cluster's queue gives a job; a longer run goes on in a further job.
# eager: whether GPUs launch kernel by kernel, without CUDA graphs.
CONFIG = {
    "scale": "paper",
    "device": None,
    "arithmetic": None,
    "runs_per_gpu": 5,
    "processes": None,
    "nodes": 1,
    "time_limit": 1440,
    "eager": False,
}


class Graph:
    """Paths of the graph, relative to the project's root.

    Args:
        root: of the project.
        config: of Snakemake's --config; its keys and their defaults are `CONFIG`.

    Raises:
        UserError: a mistake in params/ or in the config.
    """

    def __init__(self, root: Path, config: dict[str, Any]):
        for key in config:
            if key not in CONFIG:
                raise UserError(f"--config {key}: unknown key: {nearest(key, CONFIG)}")
        self.project = load(root)
        config = CONFIG | config
        self.scale = str(config["scale"])
        self.project.scale(self.scale)
        self.chosen_device, self.chosen_arithmetic = config["device"], config["arithmetic"]
        if self.chosen_device not in (None, "gpu", "cpu"):
            raise UserError(f"--config device={self.chosen_device}: give gpu or cpu")
        if self.chosen_arithmetic not in (None, *ARITHMETICS):
            raise UserError(f"--config arithmetic={self.chosen_arithmetic}: give {', '.join(ARITHMETICS)}")
        self.eager = {"true": True, "false": False}.get(str(config["eager"]).lower())
        if self.eager is None:
            raise UserError(f"--config eager={config['eager']}: give true or false")
        counts = {key: config[key] for key in ("runs_per_gpu", "processes", "nodes", "time_limit")}
        for key, value in counts.items():
            if value is not CONFIG[key] and (type(value) is not int or value < 1):  # true is an int in Python, too
                raise UserError(f"--config {key}={value}: give a whole number from 1")
        self.runs_per_gpu, self.chosen_processes, self.nodes, self.time_limit = counts.values()
        self.roots = {settings.results: name for name, settings in self.project.scales.items()}
        self.figure_names = list(self.project.figures)
        self.changes = Changes(self.project, self.roots)

    # What the targets want.

    def runs(self, scale: str) -> list[str]:
        """The records of every wanted run; one that several tables share stands here once."""
        results = Path(self.project.scale(scale).results)
        return [
            (run.get_folder(results, experiment, seed) / run.METRICS).as_posix()
            for experiment in self._wanted(scale)
            for seed in self.project.seeds(experiment)
        ]

    def evaluations(self, scale: str) -> list[str]:
        """The tests by the protocols that tables ask for, of runs whose weights exist or will exist."""
        results = Path(self.project.scale(scale).results)
        paths = []
        for experiment in self._wanted(scale):
            protocols = self.project.protocols(experiment)
            for seed in self.project.seeds(experiment) if protocols else ():
                folder = run.get_folder(results, experiment, seed)
                tests = [run.get_evaluation_path(folder, protocol) for protocol in protocols]
                paths += [test.as_posix() for test in tests if self._can_have(test, experiment, seed)]
        return paths

    def measurements(self, scale: str) -> list[str]:
        """What figures and claims show beside runs: the cost of networks, signals, and layer responses.

        Layer responses need the weights of a run, which are where it was trained, or will be.
        """
        results = Path(self.project.scale(scale).results)
        figures = [figure for figure in self.project.figures.values() if figure.kind == RESPONSES]
        shown = {name for figure in figures for name in figure.experiments}
        paths = [results / measurement.COST / measurement.COST_JSON]
        for experiment in self._wanted(scale):
            path = get_responses_folder(results, experiment, 0) / RESPONSES_CSV
            if experiment.name in shown and self._can_have(path, experiment, 0):
                paths.append(path)
        if self.project.list_for_signals(scale):
            paths.append(results / SIGNALS / SIGNALS_DONE)
        return [path.as_posix() for path in paths]

    def _can_have(self, path: Path, experiment: Experiment, seed: int) -> bool:
        """Whether what needs the weights of a run is there, or can be made: of one that is not trained yet, too."""
        results = Path(self.project.scale(experiment.scale).results)
        root = self.project.root
        return (
            self._exists(path)
            or not self._exists(run.get_folder(results, experiment, seed) / run.METRICS)
            or run.find_weights(root / results, experiment, seed, root) is not None
        )

    def reports(self, scale: str) -> list[str]:
        """The tables and figures; while records are missing, the stamp of rule update_reports, which runs after all."""
        if all(map(self._exists, self.records(scale))) and self.changes.measurements_are_current(scale):
            return [*self.tables(scale), *self.figures(scale), *self.page(scale)]
        return [f"logs/{self.project.scale(scale).results}/reports-updated"]

    def records(self, scale: str) -> list[str]:
        return [*self.runs(scale), *self.evaluations(scale), *self.measurements(scale)]

    def tables(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/tables.md"]

    def figures(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/figures/{name}.svg" for name in self.figure_names]

    def page(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/report.html"]

    def datasets(self, scale: str) -> list[str]:
        """Stamps of the datasets that the wanted runs need; the embedded one needs none."""
        return list(dict.fromkeys(stamp for experiment in self._wanted(scale) for stamp in self._stamps(experiment)))

    # What makes the rules.

    @property
    def detections(self) -> list[str]:
        """Names of the experiments that are detections."""
        return list(self.project.detections.experiments)

    def seed_groups(self) -> dict[tuple[str, tuple[int, ...]], list[str]]:
        """Seeds that one job trains at once on a GPU: {(folder of results, seeds): experiments}."""
        groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for root, scale in self.roots.items():
            if self.runs_per_gpu == 1 or self.choose_device(scale) != "gpu":
                continue
            for experiment in self.project.list_to_train(scale):
                seeds = self.project.seeds(experiment)
                chunks = [seeds[first : first + self.runs_per_gpu] for first in range(0, len(seeds), self.runs_per_gpu)]
                for chunk in chunks if not experiment.streamed else ():  # one on ImageNet fills its GPUs
                    if len(chunk) > 1:
                        groups.setdefault((root, tuple(chunk)), []).append(experiment.name)
        return groups

    def protocol_sets(self) -> dict[tuple[str, ...], list[str]]:
        """Sets of protocols that tables ask for together, with the experiments that they are asked of."""
        sets: dict[tuple[str, ...], list[str]] = {}
        for experiment in self.project.list_in_tables_and_figures("paper"):
            if protocols := tuple(self.project.protocols(experiment)):
                sets.setdefault(protocols, []).append(experiment.name)
        return sets

    # Inputs.

    # A job whose record exists has no inputs: Snakemake would execute it again where another job makes them.

    def training_dataset(self, wildcards: Any) -> list[str]:
        """The stamp of the dataset of runs that are to be trained; its time is ignored, as the digest has its hash."""
        return [] if self._is_trained(wildcards) else _ancient(self._stamps(self.get_experiment(wildcards)))

    def test_dataset(self, wildcards: Any) -> list[str]:
        folder, experiment = Path(_folder(wildcards)), self.get_experiment(wildcards)
        one = getattr(wildcards, "protocol", None)
        protocols = [one] if one else self.project.protocols(experiment)
        tested = all(self._exists(run.get_evaluation_path(folder, protocol)) for protocol in protocols)
        return [] if tested else _ancient(self._stamps(experiment))

    def responses_dataset(self, wildcards: Any) -> list[str]:
        measured = self._exists(f"{_folder(wildcards)}/{wildcards.partial}{RESPONSES}/{RESPONSES_CSV}")
        return [] if measured else _ancient(self._stamps(self.get_experiment(wildcards)))

    def backbone_record(self, wildcards: Any) -> list[str]:
        """The record of the run on ImageNet from whose weights a detection begins."""
        backbone = self.get_experiment(wildcards).parameters["backbone"]
        folder = f"{wildcards.root}/runs/{backbone['experiment']}-{backbone['digest']}/seed{backbone['seed']}"
        return [] if self._is_trained(wildcards) else _ancient([f"{folder}/{run.METRICS}"])

    def signals_datasets(self, wildcards: Any) -> list[str]:
        experiments = self.project.list_for_signals(self.roots[wildcards.root])
        return _ancient(dict.fromkeys(stamp for experiment in experiments for stamp in self._stamps(experiment)))

    def device_gate(self, wildcards: Any) -> list[str]:
        """On GPUs the output of rule device, which fails where there is no GPU; nothing for runs that are trained."""
        trained = hasattr(wildcards, "experiment") and self._is_trained(wildcards)
        return [f"{wildcards.root}/.device-gpu"] if self.device(wildcards) == "gpu" and not trained else []

    def all_records(self, wildcards: Any) -> list[str]:
        return self.records(self.get_scale(wildcards))

    # Parameters.

    def get_scale(self, wildcards: Any) -> str:
        return self.roots[wildcards.root]

    def device(self, wildcards: Any) -> str:
        return self.choose_device(self.roots[wildcards.root])

    def choose_device(self, scale: str) -> str:
        return self.chosen_device or self.project.scale(scale).device

    def get_arithmetic(self, wildcards: Any) -> str:
        """The arithmetic in which an experiment has a digest."""
        experiment = self.get_experiment(wildcards)
        found = (other for other in experiment.alternatives if other.digest == wildcards.digest)
        return next(found, experiment).parameters["recipe"]["arithmetic"]

    def first_experiment(self, wildcards: Any) -> str:
        scale = self.get_scale(wildcards)
        if wanted := self.project.list_to_train(scale):
            return wanted[0].name
        raise UserError(f"scale {scale} wants no experiment that can be trained: name one in params/scales")

    def get_experiment(self, wildcards: Any) -> Experiment:
        scale = self.roots[wildcards.root]
        experiment = self.project.resolve(wildcards.experiment, scale)
        if experiment is None:
            raise UserError(f"{wildcards.experiment} has no counterpart at scale {scale}")
        return experiment

    def _is_trained(self, wildcards: Any) -> bool:
        """Whether the runs of a job have their records: one with a seed, or all of an experiment."""
        if hasattr(wildcards, "seed"):
            return self._exists(f"{_folder(wildcards)}/{run.METRICS}")
        folder = f"{wildcards.root}/runs/{wildcards.experiment}-{wildcards.digest}"
        seeds = self.project.seeds(self.get_experiment(wildcards))
        return all(self._exists(f"{folder}/seed{seed}/{run.METRICS}") for seed in seeds)

    def _wanted(self, scale: str) -> list[Experiment]:
        """In the arithmetic of their recipes, or at the scale of this call in the one that the config names."""
        wanted = [experiment for experiment in self.project.list_to_train(scale) if self._has_data(experiment)]
        if self.chosen_arithmetic is None or scale != self.scale:
            return wanted
        return [experiment.in_arithmetic(self.chosen_arithmetic) for experiment in wanted]

    def _has_data(self, experiment: Experiment) -> bool:
        """Whether a dataset that only a person can get is here; the others are fetched or made when they are needed."""
        name = experiment.parameters["dataset"]["name"]
        if name in BY_HAND and not self._exists(f"data/{name}") and not self._exists(f"data/shards/{name}"):
            return False
        if not experiment.detects:
            return True
        # A detection also needs the weights of its backbone, or the data to train it.
        chosen, results = experiment.parameters["backbone"], self.project.scale(experiment.scale).results
        folder = f"{results}/checkpoints/{chosen['experiment']}-{chosen['digest']}/seed{chosen['seed']}"
        backbone = self.project.resolve(chosen["experiment"], experiment.scale)
        return self._exists(f"{folder}/{run.WEIGHTS}") or self._has_data(backbone)

    def _exists(self, path: Path | str) -> bool:
        return (self.project.root / path).exists()

    @staticmethod
    def _stamps(experiment: Experiment) -> list[str]:
        if experiment.untrainable:
            raise UserError(experiment.untrainable)
        dataset = experiment.parameters["dataset"]
        dataset = dataset.get("made_from") or dataset  # the files that are read
        return [f"data/.verified/{dataset['name']}-{dataset['md5']}"] if dataset["md5"].endswith(".dir") else []


def _folder(wildcards: Any) -> str:
    """Of the record of a run."""
    return f"{wildcards.root}/runs/{wildcards.experiment}-{wildcards.digest}/seed{wildcards.seed}"


def _ancient(paths: Any) -> list[str]:
    """Inputs whose times do not count."""
    from snakemake.io import ancient

    return [ancient(path) for path in paths]
