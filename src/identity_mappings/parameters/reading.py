"""Files as YAML, and mistakes in them as one line: file, line or key, and problem."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import AfterValidator, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from ..errors import UserError
from ..records.files import open_regular

DEEPEST, MOST = 40, 100_000  # levels inside one another; values, counted as often as aliases repeat them
# Plain words that are not texts, by YAML 1.2; of its numbers only those that YAML 1.1 reads the same way.
PLAIN = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(0|[1-9][0-9]{0,17})"),
    "float": re.compile(r"[-+]?([0-9]{1,18}\.[0-9]{0,30}|\.[0-9]{1,30})([eE][-+][0-9]{1,3})?"),
    "not finite": re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
UNKNOWN_KEY, UNKNOWN_NAME = "unknown_key", "unknown_name"  # types of mistakes beside pydantic's own
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """PyYAML's safe loader with the words of YAML 1.2, without tags, and with each key once in its mapping."""

    depth = 0

    def descend_resolver(self, parent: yaml.Node | None, index: yaml.Node | None) -> None:
        self.depth += 1  # PyYAML calls itself for each level, in C until the stack ends
        if parent and self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels", problem_mark=parent.start_mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def resolve(self, kind: Any, value: str, implicit: tuple[bool, bool]) -> str:
        """The kind of a value without a tag. A tag that is written out has no constructor below."""
        if kind is not yaml.ScalarNode:
            return kind.id
        return next((name for name, words in PLAIN.items() if implicit[0] and words.fullmatch(value)), "str")

    def construct_unique(self, node: yaml.MappingNode) -> dict[Any, Any]:
        mapping, seen = self.construct_mapping(node, deep=True), set()
        for key, _ in node.value if len(mapping) < len(node.value) else ():
            if (name := self.construct_object(key)) in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {name!r} is given twice", key.start_mark)
            seen.add(name)
        return mapping

    yaml_constructors = {  # noqa: RUF012 (PyYAML's)
        "null": lambda loader, node: None,
        "bool": lambda loader, node: node.value.lower() == "true",
        "int": lambda loader, node: int(node.value),
        "float": lambda loader, node: float(node.value),
        "not finite": lambda loader, node: float(node.value.replace(".", "")),
        "str": lambda loader, node: node.value,
        "sequence": lambda loader, node: loader.construct_sequence(node, deep=True),
        "mapping": construct_unique,
        None: _Base.construct_undefined,
    }


def read_yaml(path: Path) -> Any:
    """The value of a file: mappings, lists, texts, numbers, true, false and null.

    Raises:
        UserError: it cannot be read, or is not the YAML that parameters are written in.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: restore it, for example with git checkout") from None
    problem: str | None
    line: int | None = None
    try:
        return _load(content)
    except UnicodeDecodeError as error:
        problem, line = "not saved as UTF-8", content.count(b"\n", 0, error.start)
    except yaml.reader.ReaderError as error:
        problem, line = error.reason, content.count(b"\n", 0, error.position)
    except yaml.MarkedYAMLError as error:
        problem, mark = error.problem, error.problem_mark or error.context_mark
        line = mark.line if mark else None
    where = "" if line is None else f"line {line + 1}: "
    raise UserError(make_line(f"{path}: {where}not valid YAML: {problem}"))


@lru_cache(maxsize=256)  # most commands read params/ more than once; nothing changes these values
def _load(content: bytes) -> Any:
    value = yaml.load(content.decode("utf-8-sig"), _Loader)
    if any(islice(_walk(value), MOST, None)):
        raise yaml.MarkedYAMLError(problem=f"more than {MOST} values, aliases repeated")
    return value


def _walk(value: Any) -> Iterator[bool]:
    yield True
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(item)


def describe(error: ValidationError, data: Any, inside: tuple[str, ...]) -> str:
    """Key and problem of the first mistake in `data`, which stands below the keys `inside`; misspelt keys go first."""
    errors = error.errors(include_url=False)
    first = next((found for found in errors if found["type"] == UNKNOWN_KEY), errors[0])  # it leaves a key missing, too
    kind, location, details = first["type"], first["loc"], first.get("ctx", {})
    message, given, keys = first["msg"].removeprefix("Value error, "), first["input"], list(inside)
    for part in location:  # among which are the tags of unions, which no file has
        if part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int):
            data = data[part]
            keys.append(str(part))
    if kind == UNKNOWN_KEY:
        keys.append(str(details["key"]))
    elif kind in ("missing", "union_tag_not_found"):
        keys.append(details["discriminator"].strip("'") if details else str(location[-1]))
        message = "this key is missing: add it"
    elif kind not in ("value_error", "union_tag_invalid", UNKNOWN_NAME):
        message = "must be a mapping of keys to values" if kind.startswith(("dict", "model")) else message
        shown: dict[type, str] = {dict: "a mapping", list: "a list", str: f"the text {json.dumps(given)[:80]}"}
        message += f", not {shown.get(type(given)) or json.dumps(given)}"
    return f"{'.'.join(keys) or 'the file'}: {message}"


def make_line(message: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in message)[:600]


def nearest(name: object, known: Iterable[object]) -> str:
    """The known names of which one was probably meant, or all of them."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, 3, 0.88) or difflib.get_close_matches(str(name), known, 1, 0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"


def known(kind: str) -> AfterValidator:
    """A check that a name is among those of its kind in the context of the validation, if that has any."""

    def check(name: Any, info: ValidationInfo) -> Any:
        names = (info.context or {}).get(kind)
        if names is not None and name not in names:
            message = "unknown name {name}: {cure}"
            raise PydanticCustomError(UNKNOWN_NAME, message, {"name": repr(name), "cure": nearest(name, names)})
        return name

    return AfterValidator(check)
