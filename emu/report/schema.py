"""The JSON schema of a result, and a check against it.

The schema (compare.schema.json, draft 2020-12) is for everybody's tools. `problems` understands the words that it uses, and refuses
a schema with others, so that no part of it goes unchecked unnoticed.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
WORDS = {
    "$schema", "$defs", "$ref", "title", "type", "const", "enum", "required", "properties", "additionalProperties",
    "items", "minItems", "maxItems", "minimum", "maximum",
}  # fmt: skip


@cache
def schema() -> Json:
    """The schema that ships with the package."""
    content: Json = json.loads(files("emu.report").joinpath("compare.schema.json").read_text("utf-8"))
    return content


def problems(result: Any) -> list[str]:
    """Where the result departs from the schema; empty if nowhere."""
    root = schema()
    return list(_check(result, root, root, "$"))


def is_row(value: Any) -> bool:
    """Whether it fits into the rows of a result."""
    root = schema()
    return not any(_check(value, root["properties"]["rows"]["items"], root, "$"))


def _check(value: Any, rule: Json, root: Json, where: str) -> Iterator[str]:
    unknown = rule.keys() - WORDS
    if unknown:
        raise ValueError(f"the schema uses {sorted(unknown)}, which this check does not know")
    if "$ref" in rule:
        yield from _check(value, root["$defs"][rule["$ref"].rpartition("/")[2]], root, where)
    if not _is(value, rule):
        yield f"{where} is {value!r}, not {rule.get('type') or rule.get('enum') or rule.get('const')}"
        return
    yield from _limits(value, rule, where)
    if isinstance(value, dict):
        yield from _object(value, rule, root, where)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check(item, rule.get("items", {}), root, f"{where}[{index}]")


def _is(value: Any, rule: Json) -> bool:
    if "const" in rule and value != rule["const"]:
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    wanted = rule.get("type", [])
    names = [wanted] if isinstance(wanted, str) else wanted
    return not names or any(_of_type(value, name) for name in names)


def _of_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def _limits(value: Any, rule: Json, where: str) -> Iterator[str]:
    counts = isinstance(value, int | float) and not isinstance(value, bool)
    if counts and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        yield f"{where} is {value}, out of its range"
    if isinstance(value, list) and not rule.get("minItems", 0) <= len(value) <= rule.get(
        "maxItems", len(value)
    ):
        yield f"{where} has {len(value)} items"


def _object(value: Json, rule: Json, root: Json, where: str) -> Iterator[str]:
    for key in rule.get("required", []):
        if key not in value:
            yield f"{where} lacks {key}"
    properties, others = rule.get("properties", {}), rule.get("additionalProperties", True)
    for key, item in value.items():
        if key in properties:
            yield from _check(item, properties[key], root, f"{where}.{key}")
        elif others is False:
            yield f"{where} has a key {key!r} that the schema does not know"
        elif isinstance(others, dict):
            yield from _check(item, others, root, f"{where}.{key}")
