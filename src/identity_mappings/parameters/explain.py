"""What is wrong with a parameter file, in a person's words: the key, the mistake and the cure, in one line."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

FIXED = {"list_type": "a list", "bool_type": "true or false", "string_type": "a text"}
NUMBERS = {"float_type": "a number", "int_type": "an integer", "int_from_float": "an integer"}

OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def nearest(name: object, known: Iterable[object]) -> str:
    """The known name that was probably meant, or all of them."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _place(location: tuple, data: Any, missing: bool) -> list[str]:
    """The keys on the way to a mistake; pydantic's location also has the tags of unions, which no file has."""
    keys: list[str] = []
    for index, part in enumerate(location):
        inside = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if inside:
            data = data[part]
        if inside or (missing and index == len(location) - 1):
            keys.append(str(part))
    return keys


def _nodes(adapter: TypeAdapter, location: tuple) -> list[dict[str, Any]]:
    """What the schema says of the place that pydantic calls `location`: every option of its unions."""
    schema = adapter.json_schema()
    definitions = schema.get("$defs", {})

    def options(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return options(definitions[node["$ref"].rsplit("/", 1)[1]])
        nested = node.get("anyOf", []) + node.get("oneOf", [])
        return [found for option in nested for found in options(option)] if nested else [node]

    def tagged(node: dict[str, Any], tag: object) -> bool:
        properties = node.get("properties", {}).values()
        return any(p.get("const") == tag or tag in p.get("enum", []) for p in properties)

    nodes = options(schema)
    for part in location:
        steps = []
        for node in nodes:
            if part in node.get("properties", {}):
                steps.append(node["properties"][part])
            elif isinstance(part, int) and "items" in node:
                steps.append(node["items"])
            elif part == "[key]" or isinstance(node.get("additionalProperties"), dict):
                steps.append(node if part == "[key]" else node["additionalProperties"])
            elif tagged(node, part):
                steps.append(node)
            elif "patternProperties" in node:
                steps.extend(node["patternProperties"].values())
        nodes = [found for step in steps for found in options(step)] or nodes
    return nodes


def _keys_beside(adapter: TypeAdapter, location: tuple) -> list[str]:
    """The keys that the schema knows in the place where `location` has an unknown one."""
    return sorted({key for node in _nodes(adapter, location[:-1]) for key in node.get("properties", {})})


def _range(adapter: TypeAdapter, location: tuple) -> str:
    """The numbers that are allowed in a place, in words."""
    for node in _nodes(adapter, location):
        if node.get("type") in ("number", "integer"):
            low, above = node.get("minimum"), node.get("exclusiveMinimum")
            high, below = node.get("maximum"), node.get("exclusiveMaximum")
            words = [f"at least {low}" if low is not None else "", f"greater than {above}" if above is not None else ""]
            words += [f"at most {high}" if high is not None else "", f"less than {below}" if below is not None else ""]
            number = "an integer" if node["type"] == "integer" else "a number"
            return f"{number}, {' and '.join(filter(None, words))}"
    return "a finite number"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(wanted: str, given: Any) -> str:
    cure = "change it"
    if isinstance(given, str) and _is_number(given):
        value = float(given)
        if not math.isfinite(value):
            cure = "write a finite number"
        elif "integer" in wanted:
            cure = (
                f"write it as {value:.0f}, without quotes" if value.is_integer() and abs(value) < 1e18 else "round it"
            )
        else:
            cure = "write it with a point, as 1.0e-4 or 0.0001" if "e" in given.lower() else "write it without quotes"
    return f"must be {wanted}, not {_shown(given)}: {cure}"


def _shown(given: Any) -> str:
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, (dict, list)):
        return "a mapping" if isinstance(given, dict) else "a list"
    return f"the text {_short(given)!r}" if isinstance(given, str) else str(given)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def explain(error: ValidationError, adapter: TypeAdapter, data: Any, inside: tuple[str, ...] = ()) -> str:
    """The mistake in `data`, which stands below the keys `inside`, that a person should mend first.

    A misspelt key also leaves one missing: it goes first.
    """
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, location, given = first["type"], first["loc"], first.get("input")
    place = [*inside, *_place(location, data, kind == "missing")]
    key = ".".join(place) or "the file"
    context = first.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: unknown key: {nearest(location[-1], _keys_beside(adapter, location))}"
    if kind == "missing":
        return f"{key}: this key is missing: add it"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        close = difflib.get_close_matches(tag, map(str, given), 1, 0.5) if isinstance(given, dict) else []
        if close:
            return f"{'.'.join([*place, close[0]])}: unknown key: did you mean {tag!r}?"
        if isinstance(given, str):
            return f"{key}: must be a mapping, not the text {_short(given)!r}: write it as {{{tag}: {_short(given)}}}"
        return f"{'.'.join([*place, tag])}: this key is missing: add it"
    if kind == "union_tag_invalid":
        tag, known = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "").split(", ")
        return f"{'.'.join([*place, tag])}: unknown value {_short(context['tag'])!r}: {nearest(context['tag'], known)}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        if given is None and not place:
            return f"{key}: it is empty: restore it, for example with git checkout"
        if kind == "model_attributes_type" and isinstance(given, str):
            return f"{key}: must be a mapping, not the text {_short(given)!r}: write it as {{kind: {_short(given)}}}"
        return f"{key}: must be a mapping of keys to values, not {_shown(given)}: change it"
    if kind in OUTSIDE and location[-1] == "[key]":
        return f"{key}: the key {first['msg'].replace('Input should', 'must')}, not {_shown(given)}: change it"
    if kind in NUMBERS or kind in OUTSIDE:
        unbounded = isinstance(given, float) and not math.isfinite(given)
        wanted = _range(adapter, location) if kind in OUTSIDE or unbounded else NUMBERS[kind]
        return f"{key}: {_number(wanted, given)}"
    if kind in FIXED:
        return f"{key}: must be {FIXED[kind]}, not {_shown(given)}: change it"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message}, not {_shown(given)}: change it"
