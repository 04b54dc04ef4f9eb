"""Reading a YAML file that a person wrote: every mistake is one line, with its place, and no file can do harm."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError

BASE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST_FILE = 2**20  # bytes
DEEPEST = 40
MOST_VALUES = 100_000  # after aliases are expanded
TAG = "tag:yaml.org,2002:"


class _Loader(BASE):
    """YAML that refuses a key given twice, and reads as numbers only what looks like one.

    YAML 1.1 has more: 1:30 is 90, 010 is 8, 2001-01-01 is a date, 1_000 is 1000, yes is true. Here these are texts,
    which the schemas refuse where a number or true or false is wanted.
    """

    yaml_implicit_resolvers: dict[str, list] = {}  # noqa: RUF012 (filled below; PyYAML's own name)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (
            Exception
        ) as error:  # a constructor of PyYAML may raise anything: ValueError, KeyError, OverflowError ...
            kind, given = node.tag.removeprefix(TAG), str(node.value)
            shown = given if len(given) < 30 else f"{given[:20]}... ({len(given)} characters)"
            problem = f"{shown!r} cannot be read as {kind} ({type(error).__name__})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping_once(self, node: yaml.MappingNode) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in made:
                problem = f"the key {key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            made[key] = self.construct_object(value_node, deep=True)
        return made


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _Loader.construct_mapping_once)
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(TAG + _kind, re.compile(rf"^(?:{_pattern})$"), _first)


def _check_depth(text: str) -> None:
    """Refuse what is nested so deep that reading it would exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, BASE):
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise yaml.constructor.ConstructorError(None, None, "it is nested too deep", event.start_mark)
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """The number of values below a node, aliases expanded."""
    known = counted.get(id(node))
    if known == 0:
        raise yaml.constructor.ConstructorError(None, None, "an alias stands inside of what it names", node.start_mark)
    if known is None:
        counted[id(node)] = 0
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        known = counted[id(node)] = 1 + sum(_count_values(part, counted) for part in pairs)
        if known > MOST_VALUES:
            problem = f"with its aliases it has more than {MOST_VALUES:,} values"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return known


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: it is missing, not YAML, or holds what cannot be read as what it says it is.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path}: larger than {LARGEST_FILE:,} bytes: no parameter file is: restore it")
        text = path.read_text("utf-8")
        _check_depth(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_values(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: restore it, for example with git checkout") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}: {place}not valid YAML: {problem}: correct this line") from None
