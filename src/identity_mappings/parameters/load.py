"""Reading params/: every mistake becomes one line that names the file, the key and the cure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..detection import parameters as detection
from ..errors import UserError
from ..networks.depth import VGG_STRIDE, stages
from ..records.experiment import Experiment as Resolved
from ..records.files import hash_file
from ..records.run import DETECTION_PROTOCOLS
from . import models, reports
from .claims import Claims
from .datasets import Dataset
from .explain import explain, nearest
from .reproductions import Reproductions
from .text import read_yaml

DATASETS, DETECTION = Path("params/datasets.yaml"), Path("params/detection.yaml")

# What each file holds; the JSON Schemas of workflow/schemas/ carry these names.
SCHEMAS: dict[str, Any] = {
    "datasets": dict[models.Name, Dataset],
    "recipe": models.Recipe,
    "experiments": dict[models.Name, models.Experiment],
    "scale": models.Scale,
    "table": reports.Table,
    "figure": reports.Figure,
    "reporting": reports.Reporting,
    "claims": Claims,
    "reproductions": Reproductions,
    "detection": detection.Detections,
}
PARTS: dict[str, Any] = {"detection-recipe": detection.Recipe}  # of files, which are checked by themselves

# Keys of a dataset that no experiment has among its parameters: they change no number, and digests are older than they.
# Of what is read into memory, data.load takes the other two formats for what the hash says.
HOW_TO_PREPARE = {"format", "archives", "source"}


@cache
def _adapter(kind: str) -> TypeAdapter:
    return TypeAdapter((SCHEMAS | PARTS)[kind])


def read(path: Path, kind: str) -> Any:
    """Read and check one file under params/.

    Raises:
        UserError: not there, not YAML, or not what its schema asks for.
    """
    return check(read_yaml(path), path, kind)


def check(data: Any, path: Path, kind: str, inside: tuple[str, ...] = ()) -> Any:
    """`data` as the model that `kind` names; a mistake is one of the file `path`, below the keys `inside`."""
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        message = explain(error, _adapter(kind), data, inside)
        raise UserError(f"{path}: {' '.join(message.split())}") from None


def read_entry(name: str, root: Path = Path()) -> Dataset:
    """The entry of a dataset in params/datasets.yaml; the rest of params/ may be wrong.

    Raises:
        UserError: there is none, or a mistake in the file.
    """
    entries = read(root / DATASETS, "datasets")
    if name not in entries:
        raise UserError(f"{DATASETS}: no dataset {name!r} to get: there are {', '.join(entries)}")
    return entries[name]


@dataclass(frozen=True)
class Project:
    """All parameters of a checkout, with paths relative to its root."""

    root: Path
    datasets: dict[str, Dataset]
    recipes: dict[str, models.Recipe]
    experiments: dict[str, models.Experiment]
    files: dict[str, Path]  # that have the experiments
    scales: dict[str, models.Scale]
    tables: dict[str, reports.Table]
    figures: dict[str, reports.Figure]
    reporting: reports.Reporting
    claims: Claims
    reproductions: Reproductions
    detections: detection.Detections
    resolved: dict[tuple[str, str], Resolved | None] = field(default_factory=dict, init=False, compare=False)

    def scale(self, name: str) -> models.Scale:
        if name not in self.scales:
            raise UserError(f"params/scales: no scale {name!r}: {nearest(name, self.scales)}")
        return self.scales[name]

    def resolve(self, name: str, scale: str = "paper") -> Resolved | None:
        """The experiment with every parameter, or None where the scale has no counterpart of it.

        Raises:
            UserError: no such experiment or scale, or the scale makes something of it that cannot be.
        """
        if (name, scale) not in self.resolved:
            self.resolved[name, scale] = self._resolve(name, scale)
        return self.resolved[name, scale]

    def _resolve(self, name: str, scale: str) -> Resolved | None:
        if name in self.detections.experiments:
            return detection.resolve(self, name, scale)
        if name not in self.experiments:
            raise UserError(f"params/experiments: no experiment {name!r}: {nearest(name, self.names)}")
        experiment, settings = self.experiments[name], self.scale(scale)
        network, overlay, path = experiment.network, settings.overlay, self.root / "params" / "scales" / f"{scale}.yaml"
        dataset = overlay.datasets.get(experiment.dataset, experiment.dataset)
        depth = overlay.depths.get(network.unit, {}).get(network.depth, network.depth)
        if dataset is None or depth is None or name in settings.leave_out:
            return None
        entry, recipe = self.datasets[dataset], None
        if experiment.recipe:
            changes = overlay.recipes.get(experiment.recipe, {})
            changed = {**self.recipes[experiment.recipe].model_dump(), **overlay.recipe, **changes}
            key = ("recipes", experiment.recipe) if changes else ("recipe",)
            recipe = check(changed, path, "recipe", ("overlay", *key))
        if recipe and recipe.validation and recipe.validation >= entry.training_images:
            if settings.published:
                raise UserError(
                    f"params/recipes/{experiment.recipe}.yaml: validation: {dataset} has no more than "
                    f"{entry.training_images} training images: hold out fewer"
                )
            return None
        if recipe and bool(recipe.crop) != entry.is_streamed:
            kinds = ("decoded while it trains (format imagenet or images)", "in memory")
            has, wants = kinds if entry.is_streamed else kinds[::-1]
            raise UserError(
                f"params/experiments: {name}: the images of {dataset} are {has}, its recipe is for images {wants} (key "
                "crop): take another recipe"
            )
        if recipe and recipe.channel_mean and len(recipe.channel_mean) != entry.channels:
            raise UserError(
                f"{path}: overlay: {name} takes {dataset}, for whose channels its recipe has no channel_mean: "
                "put it under leave_out"
            )
        try:
            stages(network.family or "cifar", network.unit, depth)
        except ValueError as error:
            raise UserError(f"{path}: overlay.depths.{network.unit}: {error}") from None
        if network.family == "vgg" and entry.size % VGG_STRIDE:
            raise UserError(
                f"params/experiments: {name}: VGG takes images of a multiple of {VGG_STRIDE} pixels, not {dataset}'s"
            )
        resolved, source = network.model_copy(update={"depth": depth}).model_dump(), None
        if network.shortcut.kind == "custom":
            source = resolved["shortcut"].pop("source")
            if not (self.root / source).is_file():
                raise UserError(f"params/experiments: {name}.network.shortcut.source: no file {source}: create it")
            resolved["shortcut"]["sha256"] = hash_file(self.root / source)
        parameters = {
            "dataset": self.resolve_dataset(dataset),
            "network": resolved,
            "recipe": recipe and recipe.resolve(),
        }
        return Resolved(name, scale, parameters, experiment.gpus, source)

    @property
    def names(self) -> list[str]:
        """Of all experiments, detections among them."""
        return [*self.experiments, *self.detections.experiments]

    def resolve_dataset(self, name: str) -> dict[str, Any]:
        """A dataset with its name; one that is made from another has that one's hash, too."""
        entry = {**self.datasets, **self.detections.datasets}[name]
        dataset = {"name": name, **entry.model_dump(exclude=HOW_TO_PREPARE)}
        if name in self.datasets and entry.format == "arrays":
            dataset["format"] = entry.format
        if dataset.get("made_from"):
            dataset["made_from"]["md5"] = self.datasets[dataset["made_from"]["name"]].md5
        return dataset

    def seeds(self, experiment: Resolved) -> range:
        """The seeds of an experiment that its scale wants."""
        settings = self.scale(experiment.scale)
        if experiment.detects or self.holds_out(experiment.name):
            return range(1)  # of a detection as in he2015; a choice needs no spread
        return range(settings.runs_on.get(experiment.parameters["dataset"]["name"], settings.runs))

    def protocols(self, experiment: Resolved) -> list[str]:
        """The protocols, beside the run's own test, by which tables show an experiment."""
        cells = (cell for cell in self.cells() if not cell.is_cost and experiment.name in cell.experiments)
        return sorted({cell.tested_by for cell in cells} - {reports.SINGLE_VIEW, *DETECTION_PROTOCOLS})

    def cells_by_place(self) -> dict[str, reports.Cell]:
        """By paper, table, row and the cell's name in the row."""
        return {
            " / ".join((table.paper, table.table, row.name, name)): cell
            for table in self.tables.values()
            for row in table.rows
            for name, cell in row.cells.items()
        }

    def cells(self, paper: str | None = None) -> list[reports.Cell]:
        """Of all tables, or of a paper's."""
        tables = [table for table in self.tables.values() if paper in (None, table.paper)]
        return [cell for table in tables for row in table.rows for cell in row.cells.values()]

    def shown(self, scale: str) -> list[Resolved]:
        """The experiments whose runs fill the tables and figures of a scale, each once."""
        names = [name for cell in self.cells() if not cell.is_cost for name in cell.experiments]
        drawn = [name for figure in self.figures.values() for name in figure.runs]
        return self.resolve_all([*names, *drawn], scale)

    def datasets_shown(self, scale: str) -> set[str]:
        """Names of the datasets of these experiments."""
        return {experiment.parameters["dataset"]["name"] for experiment in self.shown(scale)}

    def reported(self, scale: str) -> list[Resolved]:
        """The experiments whose runs a report of a scale tells of: shown, claimed or suspected."""
        names = [experiment.name for experiment in self.shown(scale)]
        names += [name for claim in self.claims.claims for pair in claim.pairs() for name in pair]
        names += [name for found in self.claims.suspicions for name in (found.against, found.tested_by)]
        return self.resolve_all(names, scale)

    def wanted(self, scale: str) -> list[Resolved]:
        """The experiments that a scale trains, those of its `order` first: what it names, or all that is shown."""
        settings = self.scale(scale)
        names = settings.experiments
        experiments = self.shown(scale) if names is None else self.resolve_all(names, scale)
        places = {name: place for place, name in enumerate(settings.order)}
        experiments.sort(key=lambda experiment: places.get(experiment.name, len(places)))
        return [experiment for experiment in experiments if not experiment.untrainable]

    def wanted_runs(self, scale: str) -> list[tuple[Resolved, int]]:
        """The experiment and the seed of each run that a scale trains, in this order: all of seed 0 come first."""
        runs = [(experiment, seed) for experiment in self.wanted(scale) for seed in self.seeds(experiment)]
        return sorted(runs, key=lambda run: run[1])

    def holds_out(self, name: str) -> bool:
        """Whether an experiment is tested on held-out training images, for a choice."""
        if name not in self.experiments:  # a detection
            return False
        recipe = self.experiments[name].recipe
        return recipe is not None and self.recipes[recipe].validation is not None

    def propagated(self, scale: str) -> list[Resolved]:
        """The experiments whose signals the figures show, of those that a scale names, and that can be trained."""
        named = [name for figure in self.figures.values() if figure.kind == "signals" for name in figure.experiments]
        only = self.scale(scale).experiments
        names = named if only is None else [name for name in named if name in only]
        return [experiment for experiment in self.resolve_all(names, scale) if not experiment.untrainable]

    def counted(self, scale: str) -> list[Resolved]:
        """The experiments of a scale, each with another network: what a cost record counts."""
        by_network: dict[str, Resolved] = {}
        for experiment in self.resolve_all(self.experiments, scale):
            by_network.setdefault(experiment.network_digest, experiment)
        return list(by_network.values())

    def resolve_all(self, names: Iterable[str], scale: str) -> list[Resolved]:
        """Each once, without those that have no counterpart at a scale."""
        resolved = (self.resolve(name, scale) for name in dict.fromkeys(names))
        return [experiment for experiment in resolved if experiment]


def _named(folder: Path, kind: str) -> dict[str, Any]:
    return {path.stem: read(path, kind) for path in list_files(folder)}


def list_files(folder: Path) -> list[Path]:
    """The parameter files of a folder; an editor's own, which begin with a dot, are none."""
    return [path for path in sorted(folder.glob("*.yaml")) if not path.name.startswith(".")]


def load(root: Path = Path()) -> Project:
    """Read and check all of params/ under `root`.

    Raises:
        UserError: the first mistake found, in one line.
    """
    params = root / "params"
    if not params.is_dir():
        raise UserError(f"no folder params/ in {root.absolute()}: call this from the project's root")
    experiments: dict[str, models.Experiment] = {}
    files: dict[str, Path] = {}
    for path in list_files(params / "experiments"):
        for name, experiment in read(path, "experiments").items():
            if name in experiments:
                raise UserError(f"{path}: {name}: another file has this experiment too: rename or remove one")
            experiments[name], files[name] = experiment, path
    project = Project(
        root,
        read(root / DATASETS, "datasets"),
        _named(params / "recipes", "recipe"),
        experiments,
        files,
        _named(params / "scales", "scale"),
        _named(params / "tables", "table"),
        _named(params / "figures", "figure"),
        read(params / "reporting.yaml", "reporting"),
        read(params / "claims.yaml", "claims"),
        read(params / "reproductions.yaml", "reproductions"),
        read(root / DETECTION, "detection"),
    )
    from .references import check_references  # which needs this module

    check_references(project, params)
    return project
