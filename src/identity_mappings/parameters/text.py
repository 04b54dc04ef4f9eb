"""YAML as params/ uses it, read to plain values; whatever else stands in a file is one line: place, key and cure.

PyYAML finds the events; values are made here, because its constructors end in a dozen kinds of exceptions, and because
YAML 1.1 takes 1:30 for 90, 010 for 8 and 2001-01-01 for a date.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..records.files import open_regular

LARGEST = 1 << 20  # bytes of a file
LONGEST, LONGEST_KEY = 5000, 100  # characters of a value and of a key
DEEPEST = 40  # mappings and lists inside one another
MOST = 100_000  # values, each counted as often as aliases repeat it

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]{1,18}\.[0-9]{0,30}|\.[0-9]{1,30})([eE][-+][0-9]{1,3})?")
_NOT_FINITE = re.compile(r"(?i)[-+]?\.inf|\.nan")
_TAG = "tag:yaml.org,2002:"
_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its events and its resolver of plain words are used


class _Mistake(Exception):
    """What is wrong, and the line, from 1, if it is known."""

    def __init__(self, problem: str, line: int | None = None):
        super().__init__(problem)
        self.line = line


def read_yaml(path: Path) -> Any:
    """The value of a file: mappings, lists, texts, numbers, true, false and null.

    Raises:
        UserError: it cannot be read, or is not the YAML that parameters are written in.
    """
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: restore it, for example with git checkout") from None
    try:
        return _read(content)
    except _Mistake as mistake:
        line = f"line {mistake.line}: " if mistake.line else ""
        raise UserError(f"{path}: {line}{mistake}") from None


@lru_cache(maxsize=256)  # most commands read params/ more than once; nothing changes these values
def _read(content: bytes) -> Any:
    return _Reader(_decode(content)).document()


def _decode(content: bytes) -> str:
    if len(content) > LARGEST:
        raise _Mistake(f"not a parameter file: larger than {LARGEST} bytes: restore it, for example with git checkout")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Mistake("not valid YAML: no UTF-8 text: save it as UTF-8", line) from None
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise _Mistake(f"not valid YAML: the control character {found[0]!a}: remove it", line)
    return text


class _Reader:
    """The values of a text's events."""

    def __init__(self, text: str):
        self.text = text
        self.keys: list[str] = []  # on the way to the value that is read
        self.counted = 0
        self.anchors: dict[str, tuple[Any, int] | None] = {}  # value and count; None: it is still being read
        self.resolver = yaml.resolver.Resolver()
        self.events = self._parse()

    def _parse(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self.text, _Loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
            problem = " ".join(str(problem).split())
            raise _Mistake(f"not valid YAML: {problem}: correct this line", mark and mark.line + 1) from None

    def document(self) -> Any:
        """The value of the only document; None of an empty file."""
        next(self.events)  # the beginning of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), 0)
        next(self.events)  # the end of the document
        if not isinstance(event := next(self.events), yaml.StreamEndEvent):
            raise self.mistake(event, "a second document: remove the line ---")
        return value

    def mistake(self, event: yaml.Event, problem: str, kind: str = "not valid YAML: ") -> _Mistake:
        where = ".".join([*self.keys[:8], *(["..."] if len(self.keys) > 8 else [])])
        return _Mistake(f"{kind}{where}{': ' if where else ''}{problem}", event.start_mark.line + 1)

    def value(self, event: yaml.Event, depth: int) -> Any:
        """The value that begins with an event."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.mistake(event, f"undefined alias *{event.anchor}: correct the name")
            if self.anchors[event.anchor] is None:
                raise self.mistake(event, f"*{event.anchor} contains itself: write the value")
            value, count = self.anchors[event.anchor]
            self.count(event, count)
            return value
        if event.tag is not None and event.tag != "!":
            tag = event.tag.removeprefix(_TAG)
            tag = f"!!{tag}" if tag != event.tag else tag
            raise self.mistake(event, f"the tag {_short(tag)}: write the value alone")
        if depth > DEEPEST:
            raise self.mistake(event, f"more than {DEEPEST} levels inside one another: correct it")
        before, anchor = self.counted, event.anchor
        self.count(event, 1)
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            value = self.mapping(depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(depth)
        else:
            value = self.scalar(event)
        if anchor is not None:
            self.anchors[anchor] = (value, self.counted - before)
        return value

    def count(self, event: yaml.Event, more: int) -> None:
        self.counted += more
        if self.counted > MOST:
            raise self.mistake(event, f"more than {MOST} values, aliases repeated: shorten it")

    def mapping(self, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.mistake(event, "a key must be a word: write one word before the colon")
            key = self.value(event, depth + 1)
            if type(key) not in (str, int):
                raise self.mistake(event, f"the key {_short(event.value)} is no text: write it in quotes, or remove it")
            if isinstance(key, str) and not (key.isprintable() and len(key) <= LONGEST_KEY):
                problem = f"the key {_short(key)} is no word of up to {LONGEST_KEY} characters: shorten it"
                raise self.mistake(event, problem)
            if key in made:
                raise self.mistake(event, f"the key {_short(key)} is given twice: remove one")
            self.keys.append(_short(key, "").strip("'"))
            made[key] = self.value(next(self.events), depth + 1)
            self.keys.pop()
        return made

    def sequence(self, depth: int) -> list[Any]:
        made: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            self.keys.append(str(len(made)))
            made.append(self.value(event, depth + 1))
            self.keys.pop()
        return made

    def scalar(self, event: yaml.ScalarEvent) -> str | int | float | bool | None:
        text = event.value
        if len(text) > LONGEST:
            raise self.mistake(event, f"a text of more than {LONGEST} characters: shorten it", kind="")
        if not event.implicit[0]:  # in quotes, or a block
            return text
        kind = self.resolver.resolve(yaml.ScalarNode, text, (True, False)).removeprefix(_TAG)
        if kind in ("str", "value"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return yaml.SafeLoader.bool_values[text.lower()]
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if kind == "float" and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        if kind == "float" and (found := _NOT_FINITE.fullmatch(text)):
            return float(found[0].replace(".", ""))  # the schema says which numbers may stand here
        if kind == "merge":
            raise self.mistake(event, "the key << is not known here: write the keys themselves")
        raise self.mistake(event, self.explain(kind, text), kind="")

    @staticmethod
    def explain(kind: str, text: str) -> str:
        """Why a plain word that YAML takes for a number or a date is none here."""
        shown = _short(text)
        if kind == "timestamp":
            return f"{shown} is read as a date: write it in quotes, or a number"
        if re.fullmatch(r"[-+]?[0-9][0-9_]*(:[0-9_.]+)+", text):
            return f"{shown} is read to base 60: write the number itself, or the text in quotes"
        digits = text.lstrip("+-")
        if re.fullmatch("0[bx_0-9a-fA-F]+", digits) and kind == "int":
            return f"{shown} is not a decimal number: write it without the zero in front"
        if "_" in text:
            return f"{shown} has an underscore in it: write the digits alone"
        return f"{shown} has too many digits, or is too large: write a shorter number"


def _short(word: Any, quote: str = "'") -> str:
    """A word for a message: on one line, and not longer than 60 characters."""
    if isinstance(word, int):
        return str(word)
    shown = repr(word if len(word) <= 60 else word[:57] + "...")
    return shown if quote else shown[1:-1]
