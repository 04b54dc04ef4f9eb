"""All of params/ as a project, which resolves its experiments and selects among them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..networks.depth import VGG_STRIDE, stages
from ..records.experiment import Experiment as Resolved
from ..records.files import hash_file
from ..records.run import DETECTION_PROTOCOLS
from . import detection, models, reports
from .claims import Claims
from .datasets import Dataset
from .load import DATASETS, DETECTION, check, read
from .reading import nearest
from .reproductions import Reproductions

# Keys of a dataset that were added later and are not part of digests: none affects results.
# Of data in memory only the format arrays is kept (resolve_dataset); readers know the others by their hash.
HOW_TO_PREPARE = {"format", "archives", "source"}


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
            return self._resolve_detection(name, scale)
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
        if network.family == "vgg" and (entry.size or 0) % VGG_STRIDE:
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

    def _resolve_detection(self, name: str, scale: str) -> Resolved | None:
        """Its parameters are those of any experiment, and "backbone": which run's weights it begins from."""
        chosen, overlay = self.detections.experiments[name], self.detections.scales.get(scale)
        backbone = overlay and self.resolve(overlay.backbones.get(chosen.backbone, chosen.backbone), scale)
        if not (overlay and backbone):
            return None
        changed = {**self.detections.recipes[chosen.recipe].model_dump(), **chosen.overrides, **overlay.recipe}
        recipe = check(changed, self.root / DETECTION, "detection-recipe", ("scales", scale, "recipe"))
        parameters = {
            "dataset": self.resolve_dataset(overlay.datasets.get(chosen.dataset, chosen.dataset)),
            "network": backbone.parameters["network"],
            "recipe": recipe.resolve(),
            "backbone": detection.describe_backbone(backbone, recipe.image_mean),
        }
        return Resolved(name, scale, parameters, chosen.gpus)

    @property
    def names(self) -> list[str]:
        """Of all experiments, detections among them."""
        return [*self.experiments, *self.detections.experiments]

    def resolve_dataset(self, name: str) -> dict[str, Any]:
        """A dataset with its name; one that is made from another has that one's hash, too."""
        entry = self.datasets[name]
        if entry.has_boxes:
            keys = {"md5", "classes", "training_images", "test_images"}
            return {"name": name, "kind": entry.format, **entry.model_dump(include=keys)}
        dataset = {"name": name, **entry.model_dump(exclude=HOW_TO_PREPARE)}
        if entry.format == "arrays":
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
        known = {cell.tested_by or reports.SINGLE_VIEW for cell in cells}
        return sorted(known - {reports.SINGLE_VIEW, *DETECTION_PROTOCOLS})

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

    def list_in_tables_and_figures(self, scale: str) -> list[Resolved]:
        """The experiments whose runs fill the tables and figures of a scale, each once."""
        names = [name for cell in self.cells() if not cell.is_cost for name in cell.experiments]
        drawn = [name for figure in self.figures.values() for name in figure.runs]
        return self.resolve_all([*names, *drawn], scale)

    def list_in_report(self, scale: str) -> list[Resolved]:
        """The experiments whose runs a report of a scale tells of: shown, claimed or suspected."""
        names = [experiment.name for experiment in self.list_in_tables_and_figures(scale)]
        names += [name for claim in self.claims.claims for pair in claim.pairs() for name in pair]
        names += [name for found in self.claims.suspicions for name in (found.against, found.tested_by)]
        return self.resolve_all(names, scale)

    def list_to_train(self, scale: str) -> list[Resolved]:
        """The experiments that a scale trains, those of its `order` first: what it names, or all that is shown."""
        settings = self.scale(scale)
        names = settings.experiments
        experiments = self.list_in_tables_and_figures(scale) if names is None else self.resolve_all(names, scale)
        places = {name: place for place, name in enumerate(settings.order)}
        experiments.sort(key=lambda experiment: places.get(experiment.name, len(places)))
        return [experiment for experiment in experiments if not experiment.untrainable]

    def list_runs_to_train(self, scale: str) -> list[tuple[Resolved, int]]:
        """The experiment and the seed of each run that a scale trains, in this order: all of seed 0 come first."""
        runs = [(experiment, seed) for experiment in self.list_to_train(scale) for seed in self.seeds(experiment)]
        return sorted(runs, key=lambda run: run[1])

    def holds_out(self, name: str) -> bool:
        """Whether an experiment is tested on held-out training images, for a choice."""
        if name not in self.experiments:  # a detection
            return False
        recipe = self.experiments[name].recipe
        return recipe is not None and self.recipes[recipe].validation is not None

    def list_for_signals(self, scale: str) -> list[Resolved]:
        """The experiments whose signals the figures show, of those that a scale names, and that can be trained."""
        named = [name for figure in self.figures.values() if figure.kind == "signals" for name in figure.experiments]
        only = self.scale(scale).experiments
        names = named if only is None else [name for name in named if name in only]
        return [experiment for experiment in self.resolve_all(names, scale) if not experiment.untrainable]

    def list_one_per_network(self, scale: str) -> list[Resolved]:
        """The experiments of a scale, each with another network: what a cost record counts."""
        by_network: dict[str, Resolved] = {}
        for experiment in self.resolve_all(self.experiments, scale):
            by_network.setdefault(experiment.network_digest, experiment)
        return list(by_network.values())

    def resolve_all(self, names: Iterable[str], scale: str) -> list[Resolved]:
        """Each once, without those that have no counterpart at a scale."""
        resolved = (self.resolve(name, scale) for name in dict.fromkeys(names))
        return [experiment for experiment in resolved if experiment]


def _read_folder(folder: Path, kind: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    return {path.stem: read(path, kind, names) for path in list_files(folder)}


def list_files(folder: Path) -> list[Path]:
    """The parameter files of a folder; dotfiles are ignored."""
    return [path for path in sorted(folder.glob("*.yaml")) if not path.name.startswith(".")]


def load(root: Path = Path()) -> Project:
    """Read and check all of params/ under `root`.

    Raises:
        UserError: the first mistake found, in one line.
    """
    params = root / "params"
    if not params.is_dir():
        raise UserError(f"no folder params/ in {root.absolute()}: call this from the project's root")
    datasets = read(root / DATASETS, "datasets")
    recipes = _read_folder(params / "recipes", "recipe")
    names: dict[str, Any] = {"recipes": recipes, "keys of recipes": models.Recipe.model_fields}
    names["datasets"] = [name for name, entry in datasets.items() if not entry.has_boxes]
    names["datasets of images and boxes"] = datasets
    experiments: dict[str, models.Experiment] = {}
    files: dict[str, Path] = {}
    for path in list_files(params / "experiments"):
        for name, experiment in read(path, "experiments", names).items():
            if name in experiments:
                raise UserError(f"{path}: {name}: another file has this experiment too: rename or remove one")
            experiments[name], files[name] = experiment, path
    detections = read(root / DETECTION, "detection")
    names["experiments"] = experiments
    names["experiments and detections"] = [*experiments, *detections.experiments]
    networks = [experiment.network for experiment in experiments.values()]
    names["depths"] = {one.unit: {other.depth for other in networks if other.unit == one.unit} for one in networks}
    names["scales"] = scales = _read_folder(params / "scales", "scale", names)
    project = Project(
        root,
        datasets,
        recipes,
        experiments,
        files,
        scales,
        _read_folder(params / "tables", "table", names),
        _read_folder(params / "figures", "figure", names),
        read(params / "reporting.yaml", "reporting", names),
        read(params / "claims.yaml", "claims", names),
        read(params / "reproductions.yaml", "reproductions"),
        detections,
    )
    _check_project(project)
    return project


def _list_names(project: Project) -> Iterator[tuple[Path, str, str, Iterable[str]]]:
    """What files name that they have themselves: (file, key, name, the names that it may be)."""
    path, detections = project.root / DETECTION, project.detections
    keys, places = detection.Recipe.model_fields, project.cells_by_place()
    with_boxes = [name for name, entry in project.datasets.items() if entry.has_boxes]
    for name, chosen in detections.experiments.items():
        yield path, f"experiments.{name}.dataset", chosen.dataset, with_boxes
        yield path, f"experiments.{name}.backbone", chosen.backbone, project.experiments
        yield path, f"experiments.{name}.recipe", chosen.recipe, detections.recipes
        yield from ((path, f"experiments.{name}.overrides", key, keys) for key in chosen.overrides)
    for name, scale in detections.scales.items():
        for pair in scale.datasets.items():
            yield from ((path, f"scales.{name}.datasets", dataset, with_boxes) for dataset in pair)
        yield from ((path, f"scales.{name}.recipe", key, keys) for key in scale.recipe)
    path, others = project.root / "params/reproductions.yaml", project.reproductions
    for name, report in others.reports.items():
        yield path, f"reports.{name}.source", report.source, others.sources
    for cell in others.cells:
        yield path, "cells", cell.place, places
        yield from ((path, f"cells.{cell.place}.numbers", number.report, others.reports) for number in cell.numbers)


def _check_project(project: Project) -> None:
    """Check what a file cannot know alone, or raise UserError."""
    params = project.root / "params"
    for path, key, name, known in _list_names(project):
        if name not in known:
            raise UserError(f"{path}: {key}: unknown name {name!r}: {nearest(name, known)}")
    own = [name for name, dataset in project.datasets.items() if not dataset.made_from]
    for name, dataset in project.datasets.items():
        if dataset.made_from and (source := dataset.made_from.name) not in own:
            problem = f"{source!r} is no dataset with files of its own: {nearest(source, own)}"
            raise UserError(f"{project.root / DATASETS}: {name}.made_from.name: {problem}")
    for name, path in project.files.items():
        if not project.datasets[needed := project.experiments[name].dataset].is_complete:
            raise UserError(
                f"{path}: {name}.dataset: {needed} is not prepared yet: call `identity-mappings data prepare "
                f"{needed}`, which fills in its entry of datasets.yaml"
            )
    for name, table in project.tables.items():
        cells = [cell for row in table.rows for cell in row.cells.values() if cell.metric not in reports.CHOICES]
        for experiment in (experiment for cell in cells for experiment in cell.experiments):
            if project.holds_out(experiment):
                raise UserError(
                    f"{params / 'tables' / name}.yaml: {experiment}: its recipe tests on held-out training images: a "
                    "table shows tests on the test set: name another experiment"
                )
    results = [scale.results for scale in project.scales.values()]
    for name, scale in project.scales.items():
        path = params / "scales" / f"{name}.yaml"
        if results.count(scale.results) > 1:
            raise UserError(f"{path}: results: another scale has {scale.results} too: give each a folder of its own")
        for resolved in project.resolve_all(scale.experiments or project.experiments, name):
            if scale.experiments and resolved.untrainable:
                raise UserError(f"{path}: experiments: {resolved.untrainable}")
    names = [one.parameters["dataset"]["name"] for scale in project.scales for one in project.list_in_report(scale)]
    for name in dict.fromkeys([*names, *(name for name, entry in project.datasets.items() if entry.has_boxes)]):
        for key in ("prior_deviation", "resolution"):
            if name not in getattr(project.reporting, key):
                raise UserError(f"{params / 'reporting.yaml'}: {key}: nothing for the dataset {name!r}: add a line")
