"""What is wrong with a parameter file, in a person's words: the key, the mistake and the cure, in one line."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

FIXED = {"list_type": "a list", "bool_type": "true or false", "string_type": "a text", "invalid_key": "a text"}
NUMBERS = {"float_type": "a number", "int_type": "an integer", "int_from_float": "an integer"}


def nearest(name: object, known: Iterable[object]) -> str:
    """The known name that was probably meant, or all of them."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _place(location: tuple, data: Any) -> list[str]:
    """The keys on the way to a mistake; pydantic's location also has the tags of unions, which no file has."""
    keys: list[str] = []
    for index, part in enumerate(location):
        inside = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if inside:
            data = data[part]
        if inside or (index == len(location) - 1 and part != "[key]"):
            keys.append(str(part))
    return keys


def _keys_beside(adapter: TypeAdapter, location: tuple) -> list[str]:
    """The keys that the schema knows in the place where `location` has an unknown one."""
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
            elif tagged(node, part):
                steps.append(node)
            elif "patternProperties" in node:
                steps.extend(node["patternProperties"].values())
        nodes = steps
    return sorted({key for candidate in nodes for node in options(candidate) for key in node.get("properties", {})})


def _cure_of_number(text: str) -> str | None:
    """How to write a text that is meant as a number; None if it is none."""
    if re.fullmatch(r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?", text):
        return "write one decimal number (YAML 1.1 reads such a text in base 60)"
    if re.fullmatch(r"[-+]?0[0-7_]+|0[xob][\da-fA-F_]+", text):
        return "write it as a decimal number without leading zeros"
    if re.fullmatch(r"[-+]?\d[\d_]*_[\d_]*(\.\d*)?", text):
        return "write it without underscores"
    try:
        float(text)
    except ValueError:
        return None
    return "write it with a point, as 1.0e-4 or 0.0001" if "e" in text.lower() else "write it without quotes"


def _number(kind: str, given: Any) -> str:
    wanted = NUMBERS[kind]
    if isinstance(given, str) and (cure := _cure_of_number(given)):
        return f"must be {wanted}, not the text {given!r}: {cure}"
    return f"must be {wanted}, not {_shown(given)}: change it"


def _shown(given: Any) -> str:
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, (dict, list)):
        return "a mapping" if isinstance(given, dict) else "a list"
    return f"the text {given!r}" if isinstance(given, str) else str(given)


def explain(error: ValidationError, adapter: TypeAdapter, data: Any, inside: tuple[str, ...] = ()) -> str:
    """The mistake in `data`, which stands below the keys `inside`, that a person should mend first.

    A misspelt key also leaves one missing: it goes first.
    """
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, location, given = first["type"], first["loc"], first.get("input")
    place = [*inside, *_place(location, data)]
    key = ".".join("null" if part == "None" else part for part in place) or "the file"
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
            return f"{key}: must be a mapping, not the text {given!r}: write it as {{{tag}: {given}}}"
        return f"{'.'.join([*place, tag])}: this key is missing: add it"
    if kind == "union_tag_invalid":
        tag, known = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "").split(", ")
        return f"{'.'.join([*place, tag])}: unknown value {context['tag']!r}: {nearest(context['tag'], known)}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        if given is None and not place:
            return f"{key}: it is empty: restore it, for example with git checkout"
        if kind == "model_attributes_type" and isinstance(given, str):
            return f"{key}: must be a mapping, not the text {given!r}: write it as {{kind: {given}}}"
        return f"{key}: must be a mapping of keys to values, not {_shown(given)}: change it"
    if kind in NUMBERS:
        return f"{key}: {_number(kind, given)}"
    if kind in FIXED:
        return f"{key}: must be {FIXED[kind]}, not {_shown(given)}: change it"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message}, not {_shown(given)}: change it"
