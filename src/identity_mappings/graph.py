"""What the Snakefile asks: which runs are wanted, and where their records lie; `jobs` has what each job needs.

Methods that take `wildcards` are input functions and parameters of rules. Which rules there are follows from
params/ and Snakemake's config alone: a job on another node reads the Snakefile again, when other files exist.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .errors import UserError
from .parameters import load
from .parameters.reading import nearest
from .records import measurement, run
from .records.experiment import ARITHMETICS, Experiment
from .records.measurement import RESPONSES, RESPONSES_CSV, SIGNALS_CSV, get_signals_folder
from .reporting.run_states import lacks_data

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
        root: of the project: Snakemake's working directory.
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

    # What the targets want: of records only those that are missing, so that none is made again because of its time.

    def everything(self, scale: str) -> Callable[[Any], list[str]]:
        """Input function: the missing records of a scale, and its reports.

        While records are missing, these are the stamp of rule update_reports, which runs after all. They are named
        beside it: Snakemake makes no missing input of a job whose output is there.
        """
        stamp = f"logs/{self.project.scale(scale).results}/reports-updated"
        reports = [*self.tables(scale), *self.figures(scale), *self.page(scale)]

        def list_files(wildcards: Any) -> list[str]:
            missing = self.list_missing(scale)
            return [*missing, stamp] if missing else reports

        return list_files

    def tables(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/tables.md"]

    def figures(self, scale: str) -> list[str]:
        return [f"{self.project.scale(scale).results}/figures/{name}.svg" for name in self.figure_names]

    def page(self, scale: str) -> list[str]:
        """The page that shows a scale, and those beside it: in the folder of the first of these."""
        return [f"{self.project.scale(self.project.reporting.list_beside(scale)[0]).results}/report.html"]

    def datasets(self, scale: str) -> list[str]:
        """Stamps of the datasets that the wanted runs need; the embedded one needs none."""
        return list(dict.fromkeys(stamp for experiment in self._wanted(scale) for stamp in self._stamps(experiment)))

    def list_missing(self, scale: str) -> list[str]:
        """The missing records of a scale: runs, tests of runs, and measurements."""
        root, results = self.project.root, Path(self.project.scale(scale).results)
        figures = [figure for figure in self.project.figures.values() if figure.kind == RESPONSES]
        with_responses = {name for figure in figures for name in figure.experiments}
        runs, others = [], []
        for experiment in self._wanted(scale):
            protocols = self.project.protocols(experiment)
            for seed in self.project.seeds(experiment):
                folder = run.get_folder(results, experiment, seed)
                runs.append(folder / run.METRICS)
                # These need the weights of the run, which stay where it was trained.
                if self._exists(folder / run.METRICS) and not run.find_weights(root / results, experiment, seed, root):
                    continue
                others += [run.get_evaluation_path(folder, protocol) for protocol in protocols]
                if experiment.name in with_responses and seed == 0:
                    others.append(folder / RESPONSES / RESPONSES_CSV)
        return self._list_missing([*runs, *others, *self.list_signals(scale)]) + self._list_incomplete_cost(scale)

    def list_signals(self, scale: str) -> list[str]:
        """The records of signals of a scale, which one job measures."""
        settings = self.project.scale(scale)
        folders = (
            get_signals_folder(Path(settings.results), experiment, settings.signal_iterations)
            for experiment in self.project.list_for_signals(scale)
        )
        return [(folder / SIGNALS_CSV).as_posix() for folder in folders]

    def _list_incomplete_cost(self, scale: str) -> list[str]:
        """The cost record of a scale if it is missing or lacks a network."""
        results = Path(self.project.scale(scale).results)
        try:
            counted = measurement.read_costs(self.project.root / results) or {}
        except run.BadRecord:  # the tables say so
            return []
        complete = all(each.network_digest in counted for each in self.project.list_one_per_network(scale))
        return [] if complete else [(results / measurement.COST / measurement.COST_JSON).as_posix()]

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

    # Inputs of jobs: of records and stamps only those that are missing, so that no job follows what is there.

    def dataset(self, wildcards: Any) -> list[str]:
        """The stamp of the dataset of a run."""
        return self._list_missing(self._stamps(self.get_experiment(wildcards)))

    def signals_datasets(self, wildcards: Any) -> list[str]:
        experiments = self.project.list_for_signals(self.get_scale(wildcards))
        return self._list_missing(dict.fromkeys(stamp for each in experiments for stamp in self._stamps(each)))

    def run_record(self, wildcards: Any) -> list[str]:
        """The record of the run that a job tests or measures; in partial/ that of an unfinished run."""
        folder = f"{wildcards.root}/runs/{wildcards.experiment}-{wildcards.digest}/seed{wildcards.seed}"
        return self._list_missing([f"{folder}/{getattr(wildcards, 'partial', '')}{run.METRICS}"])

    def backbone_record(self, wildcards: Any) -> list[str]:
        """The record of the run on ImageNet from whose weights a detection begins."""
        backbone = self.get_experiment(wildcards).parameters["backbone"]
        folder = f"{wildcards.root}/runs/{backbone['experiment']}-{backbone['digest']}/seed{backbone['seed']}"
        return self._list_missing([f"{folder}/{run.METRICS}"])

    def device_gate(self, wildcards: Any) -> list[str]:
        """On GPUs the output of rule device, which fails where there is no GPU."""
        return [f"{wildcards.root}/.device-gpu"] if self.device(wildcards) == "gpu" else []

    def missing_records(self, wildcards: Any) -> list[str]:
        return self.list_missing(self.get_scale(wildcards))

    def incomplete_cost(self, wildcards: Any) -> list[str]:
        return self._list_incomplete_cost(self.get_scale(wildcards))

    def new_networks(self, wildcards: Any) -> list[str]:
        """Parameters that a cost record without their networks is older than; none for one that is complete."""
        return self._list_parameters() if self.incomplete_cost(wildcards) else []

    def report_sources(self, wildcards: Any) -> list[str]:
        """What tables and figures are made of: parameters, code, and the folders of the records that are there.

        A folder is newer than a report where a record was written into it since. The records themselves are no inputs:
        so a report that is forced trains nothing.
        """
        patterns = ("reporting/*.py", "reporting/templates/*", "networks/*.py")
        code = sorted(path for pattern in patterns for path in Path(__file__).parent.glob(pattern))
        parts = (measurement.COST, measurement.SIGNALS, run.IMPORTED, "runs")
        folders = (folder for part in parts for folder in (self.project.root / wildcards.root).glob(f"{part}/**/"))
        return [*self._list_parameters(), *map(str, code), *sorted(map(str, folders))]

    def page_sources(self, wildcards: Any) -> list[str]:
        """Tables and figures of a page: of its scale, of that of this call, and of those beside that have figures."""
        asked = (self.get_scale(wildcards), self.scale)
        results = {name: self.project.scale(name).results for name in self.project.reporting.list_beside(asked[0])}
        shown = [name for name, folder in results.items() if name in asked or self._exists(f"{folder}/figures")]
        return [path for name in shown for path in (*self.tables(name), *self.figures(name))]

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

    def _wanted(self, scale: str) -> list[Experiment]:
        """In the arithmetic of their recipes, or at the scale of this call in the one that the config names."""
        wanted = [experiment for experiment in self.project.list_to_train(scale) if self._has_data(experiment)]
        if self.chosen_arithmetic is None or scale != self.scale:
            return wanted
        return [experiment.in_arithmetic(self.chosen_arithmetic) for experiment in wanted]

    def _has_data(self, experiment: Experiment) -> bool:
        """Whether the dataset is here, or will be."""
        if lacks_data(self.project.root, experiment):
            return False
        if not experiment.detects:
            return True
        # A detection also needs the weights of its backbone, or the data to train it.
        chosen, results = experiment.parameters["backbone"], self.project.scale(experiment.scale).results
        folder = f"{results}/checkpoints/{chosen['experiment']}-{chosen['digest']}/seed{chosen['seed']}"
        backbone = self.project.resolve(chosen["experiment"], experiment.scale)
        return self._exists(f"{folder}/{run.WEIGHTS}") or (backbone is not None and self._has_data(backbone))

    @staticmethod
    def _stamps(experiment: Experiment) -> list[str]:
        if experiment.untrainable:
            raise UserError(experiment.untrainable)
        dataset = experiment.parameters["dataset"]
        dataset = dataset.get("made_from") or dataset  # the files that are read
        return [f"data/.verified/{dataset['name']}-{dataset['md5']}"] if dataset["md5"].endswith(".dir") else []

    def _list_missing(self, paths: Iterable[Path | str]) -> list[str]:
        return [Path(path).as_posix() for path in paths if not self._exists(path)]

    def _exists(self, path: Path | str) -> bool:
        return (self.project.root / path).exists()

    def _list_parameters(self) -> list[str]:
        return sorted(str(path) for path in self.project.root.glob("params/**/*.yaml"))
