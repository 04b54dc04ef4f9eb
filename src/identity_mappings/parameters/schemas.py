"""The JSON Schemas of params/, for editors and reviewers; generated, and held equal by a test."""

from pathlib import Path

from pydantic import TypeAdapter

from ..records.files import json_bytes, write_atomically
from .load import SCHEMAS

FOLDER = Path("workflow/schemas")


def schemas() -> dict[str, bytes]:
    """{file name: content}."""
    return {f"{kind}.json": json_bytes(TypeAdapter(model).json_schema()) for kind, model in SCHEMAS.items()}


def write(root: Path = Path()) -> None:
    for name, content in schemas().items():
        write_atomically(root / FOLDER / name, content)
