"""The files of params/, each by itself."""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import UserError
from . import detection, models, reports
from .claims import Claims
from .datasets import Dataset
from .reading import describe, make_line, read_yaml
from .reproductions import Reproductions

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


@cache
def _adapter(kind: str) -> TypeAdapter:
    return TypeAdapter((SCHEMAS | PARTS)[kind])


def read(path: Path, kind: str, names: dict[str, Any] | None = None) -> Any:
    """Read and check one file under params/; `names` has those that it may name, by their kind.

    Raises:
        UserError: not there, not YAML, or not what its schema asks for.
    """
    return check(read_yaml(path), path, kind, names=names)


def check(data: Any, path: Path, kind: str, inside: tuple[str, ...] = (), names: dict[str, Any] | None = None) -> Any:
    """`data` as the model that `kind` names; a mistake is one of the file `path`, below the keys `inside`."""
    try:
        return _adapter(kind).validate_python(data, context=names)
    except ValidationError as error:
        raise UserError(make_line(f"{path}: {describe(error, data, inside)}")) from None


def read_entry(name: str, root: Path = Path()) -> Dataset:
    """The entry of a dataset in params/datasets.yaml; the rest of params/ may be wrong.

    Raises:
        UserError: there is none, or a mistake in the file.
    """
    entries = read(root / DATASETS, "datasets")
    if name not in entries:
        raise UserError(f"{DATASETS}: no dataset {name!r} to get: there are {', '.join(entries)}")
    return entries[name]
