"""Reading params/: every mistake becomes one line that names the file, the key and the cure."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from ..errors import UserError
from ..records.experiment import Experiment as Resolved
from ..records.files import sha256_of
from . import models

T = TypeVar("T")

# What each file holds; the JSON Schemas of workflow/schemas/ carry these names.
SCHEMAS: dict[str, Any] = {
    "datasets": dict[models.Name, models.Dataset],
    "recipe": models.Recipe,
    "experiments": dict[models.Name, models.Experiment],
    "scale": models.Scale,
    "table": models.Table,
    "figure": models.Figure,
    "reporting": models.Reporting,
}


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):
    """YAML that refuses a key given twice: the second would silently win."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
    return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean X?)", or the names that there are."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _keys_beside(adapter: TypeAdapter, location: tuple) -> list[str]:
    """The keys that the schema knows in the place where `location` has an unknown one."""
    schema = adapter.json_schema()
    definitions = schema.get("$defs", {})

    def options(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return options(definitions[node["$ref"].rsplit("/", 1)[1]])
        nested = node.get("anyOf", []) + node.get("oneOf", [])
        return [found for option in nested for found in options(option)] if nested else [node]

    nodes = [schema]
    for part in location[:-1]:
        steps = []
        for node in (found for candidate in nodes for found in options(candidate)):
            if part in node.get("properties", {}):
                steps.append(node["properties"][part])
            elif isinstance(part, int) and "items" in node:
                steps.append(node["items"])
            elif isinstance(node.get("additionalProperties"), dict):
                steps.append(node["additionalProperties"])
            elif any(p.get("const") == part or part in p.get("enum", []) for p in node.get("properties", {}).values()):
                steps.append(node)  # the tag of a union: its keys stand here
            elif "patternProperties" in node:
                steps.extend(node["patternProperties"].values())
        nodes = steps
    return sorted({key for candidate in nodes for node in options(candidate) for key in node.get("properties", {})})


def _explain(error: ValidationError, adapter: TypeAdapter) -> str:
    """The first mistake of a file: its key and what to write instead."""
    first = error.errors()[0]
    location = [part for part in first["loc"] if part != "[key]"]
    key = ".".join(map(str, location)) or "the file"
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key: {nearest(location[-1], _keys_beside(adapter, first['loc']))}"
    if first["type"] == "missing":
        return f"{key}: this key is missing: add it"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    if first["type"] in ("float_type", "int_type") and isinstance(given, str):
        message += f", not the text {given!r}" + (
            ": write it with a point, as 1.0e-4 or 0.0001" if "e" in given.lower() else ": write it without quotes"
        )
    elif not isinstance(given, (dict, list, models.Parameters)):
        message += f", not {given!r}: change it"
    return f"{key}: {message[0].lower()}{message[1:]}"


@cache
def _adapter(kind: str) -> TypeAdapter:
    return TypeAdapter(SCHEMAS[kind])


def read(path: Path, kind: str) -> Any:
    """Read and check one file under params/.

    Raises:
        UserError: not there, not YAML, or not what its schema asks for.
    """
    try:
        data = yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: restore it, for example with git checkout") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", str(error))
        place = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {place}not valid YAML: {problem}: correct this line") from None
    return check(data, path, kind)


def check(data: Any, path: Path, kind: str) -> Any:
    """`data` as the model that `kind` names; a mistake is reported as one of the file `path`."""
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error, _adapter(kind))}") from None


@dataclass(frozen=True)
class Project:
    """All parameters of a checkout, with paths relative to its root."""

    root: Path
    datasets: dict[str, models.Dataset]
    recipes: dict[str, models.Recipe]
    experiments: dict[str, models.Experiment]
    scales: dict[str, models.Scale]
    tables: dict[str, models.Table]
    figures: dict[str, models.Figure]
    reporting: models.Reporting

    def scale(self, name: str) -> models.Scale:
        if name not in self.scales:
            raise UserError(f"params/scales: no scale {name!r}: {nearest(name, self.scales)}")
        return self.scales[name]

    def resolve(self, name: str, scale: str = "paper") -> Resolved | None:
        """The experiment with every parameter, or None where the scale has no counterpart of it.

        Raises:
            UserError: no such experiment or scale, or the scale makes something of it that cannot be.
        """
        if name not in self.experiments:
            raise UserError(f"params/experiments: no experiment {name!r}: {nearest(name, self.experiments)}")
        experiment, overlay = self.experiments[name], self.scale(scale).overlay
        path = self.root / "params" / "scales" / f"{scale}.yaml"
        dataset = overlay.datasets.get(experiment.dataset, experiment.dataset)
        network = experiment.network
        depth = overlay.depths.get(network.unit, {}).get(network.depth, network.depth)
        if dataset is None or depth is None or name in self.scale(scale).leave_out:
            return None
        recipe = check({**self.recipes[experiment.recipe].model_dump(), **overlay.recipe}, path, "recipe")
        if recipe.channel_mean and len(recipe.channel_mean) != self.datasets[dataset].channels:
            raise UserError(
                f"{path}: overlay: {name} takes {dataset}, for whose channels its recipe has no channel_mean: "
                "put it under leave_out"
            )
        try:
            network = models.Network.model_validate({**network.model_dump(), "depth": depth})
        except ValidationError as error:
            raise UserError(f"{path}: overlay.depths.{network.unit}: {error.errors()[0]['msg']}") from None
        resolved_network = network.model_dump()
        custom = None
        if network.shortcut.kind == "custom":
            custom = resolved_network["shortcut"].pop("source")
            if not (self.root / custom).is_file():
                raise UserError(f"params/experiments: {name}.network.shortcut.source: no file {custom}: create it")
            resolved_network["shortcut"]["sha256"] = sha256_of(self.root / custom)
        parameters = {
            "dataset": {"name": dataset, **self.datasets[dataset].model_dump()},
            "network": resolved_network,
            "recipe": recipe.model_dump(exclude={"description"}),
        }
        # JSON has no integer keys: the schedule is a list of pairs from here on.
        parameters["recipe"]["learning_rate"] = [list(pair) for pair in recipe.learning_rate.items()]
        return Resolved(name, scale, parameters, experiment.gpus, custom)

    def wanted(self, scale: str) -> list[Resolved]:
        """The experiments that a scale's tables and figures ask for, each once."""
        names = self.scale(scale).experiments
        if names is None:
            cells = [cell for table in self.tables.values() for row in table.rows for cell in row.cells.values()]
            curves = [curve for figure in self.figures.values() for panel in figure.panels for curve in panel.curves]
            names = [name for cell in cells if cell.metric != "parameters" for name in cell.experiments]
            names += [curve.experiment for curve in curves]
        resolved = (self.resolve(name, scale) for name in dict.fromkeys(names))
        return [experiment for experiment in resolved if experiment]


def _named(folder: Path, kind: str) -> dict[str, Any]:
    return {path.stem: read(path, kind) for path in sorted(folder.glob("*.yaml"))}


def load(root: Path = Path()) -> Project:
    """Read and check all of params/ under `root`.

    Raises:
        UserError: the first mistake found, in one line.
    """
    params = root / "params"
    if not params.is_dir():
        raise UserError(f"no folder params/ in {root.absolute()}: call this from the project's root")
    experiments: dict[str, models.Experiment] = {}
    for path in sorted((params / "experiments").glob("*.yaml")):
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
    )
    _check_references(project, params)
    return project


def _check_references(project: Project, params: Path) -> None:
    def known(name: str | None, names: Iterable[str], place: str) -> None:
        if name is not None and name not in names:
            raise UserError(f"{place}: unknown name {name!r}: {nearest(name, names)}")

    for path in sorted((params / "experiments").glob("*.yaml")):
        for name in read(path, "experiments"):
            known(project.experiments[name].dataset, project.datasets, f"{path}: {name}.dataset")
            known(project.experiments[name].recipe, project.recipes, f"{path}: {name}.recipe")
    for name, scale in project.scales.items():
        place = f"{params / 'scales' / name}.yaml"
        for old, new in scale.overlay.datasets.items():
            known(old, project.datasets, f"{place}: overlay.datasets")
            known(new, project.datasets, f"{place}: overlay.datasets.{old}")
        for experiment in [*(scale.experiments or []), *scale.leave_out]:
            known(experiment, project.experiments, f"{place}: experiments")
        for key in scale.overlay.recipe:
            known(key, models.Recipe.model_fields, f"{place}: overlay.recipe")
    for name, table in project.tables.items():
        for row in table.rows:
            for key, cell in row.cells.items():
                for experiment in cell.experiments:
                    place = f"{params / 'tables' / name}.yaml: rows.{row.name}.cells.{key}.experiments"
                    known(experiment, project.experiments, place)
    for name, figure in project.figures.items():
        for curve in (curve for panel in figure.panels for curve in panel.curves):
            known(curve.experiment, project.experiments, f"{params / 'figures' / name}.yaml: {curve.label}")
    for name in project.scales:
        project.wanted(name)
