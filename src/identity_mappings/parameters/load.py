"""Reading params/: every mistake becomes one line that names the file, the key and the cure."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..detection import parameters as detection
from ..errors import UserError
from ..networks.depth import VGG_STRIDE, stages
from ..records.experiment import Experiment as Resolved
from ..records.files import sha256_of
from ..records.run import DETECTION_PROTOCOLS
from . import models, reports, work
from .explain import explain, nearest
from .text import read_yaml

DATASETS = Path("params/datasets.yaml")

# What each file holds; the JSON Schemas of workflow/schemas/ carry these names.
SCHEMAS: dict[str, Any] = {
    "datasets": dict[models.Name, models.Dataset],
    "recipe": models.Recipe,
    "experiments": dict[models.Name, models.Experiment],
    "scale": models.Scale,
    "table": reports.Table,
    "figure": reports.Figure,
    "reporting": reports.Reporting,
    "claims": work.Claims,
    "order": work.Order,
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


def read_entry(name: str, root: Path = Path()) -> models.Dataset:
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
    datasets: dict[str, models.Dataset]
    recipes: dict[str, models.Recipe]
    experiments: dict[str, models.Experiment]
    scales: dict[str, models.Scale]
    tables: dict[str, reports.Table]
    figures: dict[str, reports.Figure]
    reporting: reports.Reporting
    claims: work.Claims
    order: work.Order
    detections: detection.Detections

    def scale(self, name: str) -> models.Scale:
        if name not in self.scales:
            raise UserError(f"params/scales: no scale {name!r}: {nearest(name, self.scales)}")
        return self.scales[name]

    def resolve(self, name: str, scale: str = "paper") -> Resolved | None:
        """The experiment with every parameter, or None where the scale has no counterpart of it.

        Raises:
            UserError: no such experiment or scale, or the scale makes something of it that cannot be.
        """
        if name in self.detections.experiments:
            return detection.resolve(self, name, scale)
        if name not in self.experiments:
            raise UserError(f"params/experiments: no experiment {name!r}: {nearest(name, self.names)}")
        experiment, overlay = self.experiments[name], self.scale(scale).overlay
        path = self.root / "params" / "scales" / f"{scale}.yaml"
        dataset = overlay.datasets.get(experiment.dataset, experiment.dataset)
        network = experiment.network
        depth = overlay.depths.get(network.unit, {}).get(network.depth, network.depth)
        if dataset is None or depth is None or name in self.scale(scale).leave_out:
            return None
        recipe = None
        if experiment.recipe:
            of_recipe = overlay.recipes.get(experiment.recipe, {})
            changed = {**self.recipes[experiment.recipe].model_dump(), **overlay.recipe, **of_recipe}
            place = ("recipes", experiment.recipe) if of_recipe else ("recipe",)
            recipe = check(changed, path, "recipe", ("overlay", *place))
        if recipe and recipe.validation and recipe.validation >= self.datasets[dataset].training_images:
            if self.scale(scale).published:
                raise UserError(
                    f"params/recipes/{experiment.recipe}.yaml: validation: {dataset} has no more than "
                    f"{self.datasets[dataset].training_images} training images: hold out fewer"
                )
            return None
        if recipe and bool(recipe.crop) != self.datasets[dataset].is_streamed:
            kinds = ("images, which are cropped", "images in memory")[
                :: 1 if self.datasets[dataset].is_streamed else -1
            ]
            raise UserError(
                f"params/experiments: {name}: {dataset} has {kinds[0]}, its recipe is of {kinds[1]} (key crop): take "
                "another recipe"
            )
        if recipe and recipe.channel_mean and len(recipe.channel_mean) != self.datasets[dataset].channels:
            raise UserError(
                f"{path}: overlay: {name} takes {dataset}, for whose channels its recipe has no channel_mean: "
                "put it under leave_out"
            )
        try:
            stages(network.family or "cifar", network.unit, depth)
        except ValueError as error:
            raise UserError(f"{path}: overlay.depths.{network.unit}: {error}") from None
        if network.family == "vgg" and self.datasets[dataset].size % VGG_STRIDE:
            raise UserError(
                f"params/experiments: {name}: VGG takes images of a multiple of {VGG_STRIDE} pixels, not {dataset}'s"
            )
        network = network.model_copy(update={"depth": depth})
        resolved_network = network.model_dump()
        custom = None
        if network.shortcut.kind == "custom":
            custom = resolved_network["shortcut"].pop("source")
            if not (self.root / custom).is_file():
                raise UserError(f"params/experiments: {name}.network.shortcut.source: no file {custom}: create it")
            resolved_network["shortcut"]["sha256"] = sha256_of(self.root / custom)
        parameters = {
            "dataset": self.resolve_dataset(dataset),
            "network": resolved_network,
            "recipe": recipe and recipe.model_dump(exclude={"description"}),
        }
        if recipe:  # JSON has no integer keys: the schedule is a list of pairs from here on.
            parameters["recipe"]["learning_rate"] = [list(pair) for pair in recipe.learning_rate.items()]
        return Resolved(name, scale, parameters, experiment.gpus, custom)

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
        if experiment.detects:
            return range(1)  # as he2015 has it
        return range(settings.runs_on.get(experiment.parameters["dataset"]["name"], settings.runs))

    def protocols(self, experiment: Resolved) -> list[str]:
        """The protocols, beside the run's own test, by which tables show an experiment."""
        asked = {cell.tested_by for cell in self.cells() if not cell.is_cost and experiment.name in cell.experiments}
        return sorted(protocol for protocol in asked if protocol not in (reports.SINGLE_VIEW, *DETECTION_PROTOCOLS))

    def cells(self, paper: str | None = None) -> list[reports.Cell]:
        """Of all tables, or of a paper's."""
        tables = [table for table in self.tables.values() if paper in (None, table.paper)]
        return [cell for table in tables for row in table.rows for cell in row.cells.values()]

    def shown(self, scale: str) -> list[Resolved]:
        """The experiments whose runs fill the tables and figures of a scale, each once."""
        cells = [cell for cell in self.cells() if not cell.is_cost and cell.metric != reports.SPLIT]
        names = [name for cell in cells for name in cell.experiments]
        drawn = [name for figure in self.figures.values() for name in figure.runs]
        return self._resolved([*names, *drawn], scale)

    def datasets_shown(self, scale: str) -> set[str]:
        """Names of the datasets of these experiments."""
        return {experiment.parameters["dataset"]["name"] for experiment in self.shown(scale)}

    def told_of(self, scale: str) -> list[Resolved]:
        """The experiments of whose runs a report of a scale tells: shown, claimed, suspected, in the order of work."""
        names = [experiment.name for experiment in self.shown(scale)]
        names += [name for claim in self.claims.claims for pair in claim.pairs() for name in pair]
        names += [name for one in self.claims.suspicions for name in (one.against, one.tested_by)]
        names += [name for step in self.order.steps for name in step.experiments]
        return self._resolved(names, scale)

    def wanted(self, scale: str) -> list[Resolved]:
        """The experiments that a scale trains: those that it names, or all that are shown and can be trained."""
        names = self.scale(scale).experiments
        experiments = self.shown(scale) if names is None else self._resolved(names, scale)
        return [experiment for experiment in experiments if not experiment.untrainable]

    def holds_out(self, name: str) -> bool:
        """Whether an experiment is tested on held-out training images, for a choice, and stands in no table."""
        if name not in self.experiments:  # a detection
            return False
        recipe = self.experiments[name].recipe
        return recipe is not None and self.recipes[recipe].validation is not None

    def propagated(self, scale: str) -> list[Resolved]:
        """The experiments whose signals the figures show, of those that a scale names, and that can be trained."""
        named = [name for figure in self.figures.values() if figure.kind == "signals" for name in figure.experiments]
        only = self.scale(scale).experiments
        names = named if only is None else [name for name in named if name in only]
        return [experiment for experiment in self._resolved(names, scale) if not experiment.untrainable]

    def counted(self, scale: str) -> list[Resolved]:
        """The experiments of a scale, each with another network: what a cost record counts."""
        by_network: dict[str, Resolved] = {}
        for experiment in self._resolved(self.experiments, scale):
            by_network.setdefault(experiment.network_digest, experiment)
        return list(by_network.values())

    def _resolved(self, names: Iterable[str], scale: str) -> list[Resolved]:
        resolved = (self.resolve(name, scale) for name in dict.fromkeys(names))
        return [experiment for experiment in resolved if experiment]


def _named(folder: Path, kind: str) -> dict[str, Any]:
    return {path.stem: read(path, kind) for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
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
    for path in _files(params / "experiments"):
        for name, experiment in read(path, "experiments").items():
            if name in experiments:
                raise UserError(f"{path}: {name}: another file has this experiment too: rename or remove one")
            experiments[name] = experiment
    project = Project(
        root,
        read(params / "datasets.yaml", "datasets"),
        _named(params / "recipes", "recipe"),
        experiments,
        _named(params / "scales", "scale"),
        _named(params / "tables", "table"),
        _named(params / "figures", "figure"),
        read(params / "reporting.yaml", "reporting"),
        read(params / "claims.yaml", "claims"),
        read(params / "order.yaml", "order"),
        read(params / "detection.yaml", "detection"),
    )
    _check_references(project, params)
    return project


def _check_references(project: Project, params: Path) -> None:
    def known(name: str | None, names: Iterable[str], place: str) -> None:
        if name is not None and name not in names:
            raise UserError(f"{' '.join(place.split())}: unknown name {name!r}: {nearest(name, names)}")

    for name, dataset in project.datasets.items():
        if dataset.made_from:
            place = f"{params / 'datasets.yaml'}: {name}.made_from"
            known(dataset.made_from.name, project.datasets, f"{place}.name")
            if project.datasets[dataset.made_from.name].made_from:
                raise UserError(
                    f"{place}.name: {dataset.made_from.name} is made from another dataset itself: name that"
                )
    for path in _files(params / "experiments"):
        for name in read(path, "experiments"):
            known(project.experiments[name].dataset, project.datasets, f"{path}: {name}.dataset")
            known(project.experiments[name].recipe, project.recipes, f"{path}: {name}.recipe")
            dataset = project.experiments[name].dataset
            if not project.datasets[dataset].is_complete:
                raise UserError(
                    f"{path}: {name}.dataset: {dataset} is not prepared yet: call `identity-mappings data prepare "
                    f"{dataset}`, which fills in its entry of datasets.yaml"
                )
    for name, one in project.detections.experiments.items():
        known(one.backbone, project.experiments, f"{params / 'detection.yaml'}: experiments.{name}.backbone")
    for name, scale in project.scales.items():
        place = f"{params / 'scales' / name}.yaml"
        for old, new in scale.overlay.datasets.items():
            known(old, project.datasets, f"{place}: overlay.datasets")
            known(new, project.datasets, f"{place}: overlay.datasets.{old}")
        for unit, depths in scale.overlay.depths.items():
            there = {str(e.network.depth) for e in project.experiments.values() if e.network.unit == unit}
            for depth in depths:
                known(str(depth), there, f"{place}: overlay.depths.{unit}")
        for key in ("experiments", "leave_out"):
            for experiment in getattr(scale, key) or []:
                known(experiment, project.experiments, f"{place}: {key}")
        for key in scale.overlay.recipe:
            known(key, models.Recipe.model_fields, f"{place}: overlay.recipe")
        for recipe, keys in scale.overlay.recipes.items():
            known(recipe, project.recipes, f"{place}: overlay.recipes")
            for key in keys:
                known(key, models.Recipe.model_fields, f"{place}: overlay.recipes.{recipe}")
        for dataset in scale.runs_on:
            known(dataset, project.datasets, f"{place}: runs_on")
    for name, table in project.tables.items():
        for row in table.rows:
            for key, cell in row.cells.items():
                place = f"{params / 'tables' / name}.yaml: rows.{row.name}.cells.{key}"
                for experiment in cell.experiments:
                    known(experiment, project.names, f"{place}.experiments")
                known(cell.share_of, project.experiments, f"{place}.share_of")
                for experiment in cell.experiments if cell.metric != reports.SPLIT else ():
                    if project.holds_out(experiment):
                        raise UserError(
                            f"{place}.experiments: {experiment}: its recipe tests on held-out training images: a table "
                            "shows tests on the test set: name another experiment"
                        )
    for name, figure in project.figures.items():
        for place, experiment in figure.places():
            known(experiment, project.experiments, f"{params / 'figures' / name}.yaml: panels.{place}.experiment")
    for claim in project.claims.claims:
        for name in dict.fromkeys(name for pair in claim.pairs() for name in pair):
            known(name, project.experiments, f"{params / 'claims.yaml'}: claims.{claim.name}.comparisons")
    for suspicion in project.claims.suspicions:
        place = f"{params / 'claims.yaml'}: suspicions.{suspicion.of}"
        known(suspicion.of, [*(claim.name for claim in project.claims.claims), *project.experiments], f"{place}.of")
        known(suspicion.against, project.experiments, f"{place}.against")
        known(suspicion.tested_by, project.experiments, f"{place}.tested_by")
    for step in project.order.steps:
        for name in step.experiments:
            known(name, project.experiments, f"{params / 'order.yaml'}: steps.{step.name}.experiments")
    folders = [scale.results for scale in project.scales.values()]
    for name, scale in project.scales.items():
        if folders.count(scale.results) > 1:
            place = f"{params / 'scales' / name}.yaml"
            raise UserError(f"{place}: results: another scale has {scale.results} too: give each a folder of its own")
    for name in project.reporting.fail_above:
        known(name, project.datasets, f"{params / 'reporting.yaml'}: fail_above")
    reported = {e.parameters["dataset"]["name"]: None for scale in project.scales for e in project.told_of(scale)}
    for name in [*reported, *project.detections.datasets]:
        for key in ("prior_deviation", "resolution"):
            if name not in getattr(project.reporting, key):
                raise UserError(f"{params / 'reporting.yaml'}: {key}: nothing for the dataset {name!r}: add a line")
    for name, scale in project.scales.items():
        for experiment in project._resolved(scale.experiments or project.experiments, name):
            if scale.experiments and experiment.untrainable:
                raise UserError(f"{params / 'scales' / name}.yaml: experiments: {experiment.untrainable}")
