"""workflow/schemas/ is what the typed parameters say, and the files under params/ are what the schemas ask for."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from identity_mappings.parameters import schemas

ROOT = Path(__file__).parents[2]
# Which schema each file under params/ has: by its name, or by its folder's.
KINDS = {
    "claims.yaml": "claims",
    "datasets.yaml": "datasets",
    "detection.yaml": "detection",
    "reporting.yaml": "reporting",
    "reproductions.yaml": "reproductions",
    "experiments": "experiments",
    "figures": "figure",
    "recipes": "recipe",
    "scales": "scale",
    "tables": "table",
}
FILES = sorted(path.relative_to(ROOT / "params").as_posix() for path in (ROOT / "params").rglob("*") if path.is_file())


def schema_of(file: str) -> dict[str, Any]:
    kind = KINDS[file.partition("/")[0]]
    return json.loads((ROOT / "workflow" / "schemas" / f"{kind}.json").read_text())


def as_json(value: Any) -> Any:
    """YAML's integer keys (the schedule, the depths) are text in JSON."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def errors(file: str, value: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema_of(file))
    return [f"{e.json_path}: {e.message}" for error in validator.iter_errors(value) for e in causes(error)]


def causes(error: jsonschema.ValidationError) -> list[jsonschema.ValidationError]:
    """Of a union that no member fits: what is wrong by the one member whose kind it has, else the error itself."""
    members: dict[int, list[jsonschema.ValidationError]] = {}
    for cause in error.context or ():
        members.setdefault(cause.schema_path[0], []).append(cause)
    of_its_kind = [found for found in members.values() if not any(list(cause.path)[-1:] == ["kind"] for cause in found)]
    return of_its_kind[0] if len(of_its_kind) == 1 else [error]


def content(file: str) -> Any:
    return as_json(yaml.safe_load((ROOT / "params" / file).read_text()))


def test_the_committed_schemas_are_those_of_the_models():
    """If not: `identity-mappings schemas` writes them again."""
    committed = {path.name: path.read_bytes() for path in (ROOT / "workflow" / "schemas").iterdir()}
    assert committed == schemas.schemas()


def test_the_command_writes_them(tmp_path):
    schemas.write(tmp_path)
    written = {path.name: path.read_bytes() for path in (tmp_path / "workflow" / "schemas").iterdir()}
    assert written == schemas.schemas()


def test_every_file_has_a_schema_and_every_schema_a_file():
    assert {KINDS[file.partition("/")[0]] for file in FILES} == {Path(name).stem for name in schemas.schemas()}


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_what_its_schema_asks_for(file):
    jsonschema.Draft202012Validator.check_schema(schema_of(file))
    assert errors(file, content(file)) == []


@pytest.mark.parametrize("file", FILES)
def test_a_schema_refuses_a_key_that_it_does_not_know(file):
    value = content(file)
    place = next(iter(value.values())) if KINDS[file.partition("/")[0]] in ("datasets", "experiments") else value
    place["no_such_key"] = 1
    assert len(errors(file, value)) == 1
    assert "'no_such_key' was unexpected" in errors(file, value)[0]


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("recipes/he2016-cifar.yaml", "momentum_form", "cafe"),
        ("recipes/he2016-cifar.yaml", "batch_size", "128"),
        ("recipes/he2016-cifar.yaml", "weight_decay", "1e-4"),
        ("scales/paper.yaml", "runs", 0),
        ("reporting.yaml", "agrees_within", 0),
        ("tables/he2016-table1.yaml", "rows", [{"name": "x"}]),
    ],
)
def test_a_schema_refuses_a_wrong_value(file, key, value):
    assert errors(file, {**content(file), key: value})
