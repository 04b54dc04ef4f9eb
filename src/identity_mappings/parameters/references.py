"""Checks that every name in params/ exists; an error gives the file, the key and the nearest name."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..detection.parameters import Recipe
from ..errors import UserError
from . import models, reports
from .explain import nearest
from .load import DETECTION, Project


def _list_references(project: Project, params: Path) -> Iterator[tuple[Path, str, str | None, Iterable[str]]]:
    """Every place in a file that names something: (file, key, name, the names that it may be)."""
    datasets, experiments, recipes = project.datasets, project.experiments, project.recipes
    for name, dataset in datasets.items():
        if dataset.made_from:
            yield params / "datasets.yaml", f"{name}.made_from.name", dataset.made_from.name, datasets
    for name, path in project.files.items():
        yield path, f"{name}.dataset", experiments[name].dataset, datasets
        yield path, f"{name}.recipe", experiments[name].recipe, recipes
    path, detections = project.root / DETECTION, project.detections
    for name, chosen in detections.experiments.items():
        yield path, f"experiments.{name}.dataset", chosen.dataset, detections.datasets
        yield path, f"experiments.{name}.backbone", chosen.backbone, experiments
        yield path, f"experiments.{name}.recipe", chosen.recipe, detections.recipes
        yield from ((path, f"experiments.{name}.overrides", key, Recipe.model_fields) for key in chosen.overrides)
    for name, scale in detections.scales.items():
        for pair in scale.datasets.items():
            yield from ((path, f"scales.{name}.datasets", dataset, detections.datasets) for dataset in pair)
        yield from ((path, f"scales.{name}.recipe", key, Recipe.model_fields) for key in scale.recipe)
    for name, scale in project.scales.items():
        path, overlay = params / "scales" / f"{name}.yaml", scale.overlay
        for old, new in overlay.datasets.items():
            yield path, "overlay.datasets", old, datasets
            yield path, f"overlay.datasets.{old}", new, datasets
        for unit, depths in overlay.depths.items():
            known = {str(e.network.depth) for e in experiments.values() if e.network.unit == unit}
            yield from ((path, f"overlay.depths.{unit}", str(depth), known) for depth in depths)
        yield from ((path, "experiments", experiment, experiments) for experiment in scale.experiments or ())
        yield from ((path, "order", experiment, project.names) for experiment in scale.order)
        yield from ((path, "leave_out", experiment, experiments) for experiment in scale.leave_out)
        yield from ((path, "overlay.recipe", key, models.Recipe.model_fields) for key in overlay.recipe)
        for recipe, keys in overlay.recipes.items():
            yield path, "overlay.recipes", recipe, recipes
            yield from ((path, f"overlay.recipes.{recipe}", key, models.Recipe.model_fields) for key in keys)
        yield from ((path, "runs_on", dataset, datasets) for dataset in scale.runs_on)
    for path, key, cell in _list_cells(project, params):
        yield from ((path, f"{key}.experiments", experiment, project.names) for experiment in cell.experiments)
        yield path, f"{key}.share_of", cell.share_of, experiments
    for name, figure in project.figures.items():
        path = params / "figures" / f"{name}.yaml"
        for panel, experiment in figure.places():
            yield path, f"panels.{panel}.experiment", experiment, experiments
    path, claims = params / "claims.yaml", project.claims
    for claim in claims.claims:
        for name in dict.fromkeys(name for pair in claim.pairs() for name in pair):
            yield path, f"claims.{claim.name}.comparisons", name, experiments
    for suspicion in claims.suspicions:
        key = f"suspicions.{suspicion.of}"
        yield path, f"{key}.of", suspicion.of, [*(claim.name for claim in claims.claims), *experiments]
        yield path, f"{key}.against", suspicion.against, experiments
        yield path, f"{key}.tested_by", suspicion.tested_by, experiments
    path, others, places = params / "reproductions.yaml", project.reproductions, project.cells_by_place()
    for name, report in others.reports.items():
        yield path, f"reports.{name}.source", report.source, others.sources
    for cell in others.cells:
        yield path, "cells", cell.place, places
        yield from ((path, f"cells.{cell.place}.numbers", number.report, others.reports) for number in cell.numbers)
    path, known = params / "reporting.yaml", [*datasets, *detections.datasets]
    yield from ((path, "fail_above", name, datasets) for name in project.reporting.fail_above)
    for scale, limits in project.reporting.scales.items():
        yield path, "scales", scale, project.scales
        yield from ((path, f"scales.{scale}.{key}", name, known) for key, value in limits for name in value)


def _list_cells(project: Project, params: Path) -> Iterator[tuple[Path, str, reports.Cell]]:
    for name, table in project.tables.items():
        for row in table.rows:
            for key, cell in row.cells.items():
                yield params / "tables" / f"{name}.yaml", f"rows.{row.name}.cells.{key}", cell


def check_references(project: Project, params: Path) -> None:
    for path, key, name, known in _list_references(project, params):
        if name is not None and name not in known:
            raise UserError(f"{path}: {' '.join(key.split())}: unknown name {name!r}: {nearest(name, known)}")
    for name, dataset in project.datasets.items():
        if dataset.made_from and project.datasets[dataset.made_from.name].made_from:
            raise UserError(
                f"{params / 'datasets.yaml'}: {name}.made_from.name: {dataset.made_from.name} is made from another "
                "dataset itself: name that"
            )
    for name, path in project.files.items():
        if not project.datasets[dataset := project.experiments[name].dataset].is_complete:
            raise UserError(
                f"{path}: {name}.dataset: {dataset} is not prepared yet: call `identity-mappings data prepare "
                f"{dataset}`, which fills in its entry of datasets.yaml"
            )
    for path, key, cell in _list_cells(project, params):
        for experiment in cell.experiments if cell.metric not in reports.CHOICES else ():
            if project.holds_out(experiment):
                raise UserError(
                    f"{path}: {key}.experiments: {experiment}: its recipe tests on held-out training images: a table "
                    "shows tests on the test set: name another experiment"
                )
    folders = [scale.results for scale in project.scales.values()]
    reported: dict[str, None] = {}
    for name, scale in project.scales.items():
        path = params / "scales" / f"{name}.yaml"
        if folders.count(scale.results) > 1:
            raise UserError(f"{path}: results: another scale has {scale.results} too: give each a folder of its own")
        for experiment in project.resolve_all(scale.experiments or project.experiments, name):
            if scale.experiments and experiment.untrainable:
                raise UserError(f"{path}: experiments: {experiment.untrainable}")
        reported |= {experiment.parameters["dataset"]["name"]: None for experiment in project.reported(name)}
    for name in [*reported, *project.detections.datasets]:
        for key in ("prior_deviation", "resolution"):
            if name not in getattr(project.reporting, key):
                raise UserError(f"{params / 'reporting.yaml'}: {key}: nothing for the dataset {name!r}: add a line")
