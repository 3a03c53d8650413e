"""Hold a value to a JSON schema, and say in words where it first parts from it.

For the keywords that `results.schema.json` uses, and no others: a reader needs no package for it,
and gets a place ("rows[2].seconds[0]") instead of a validator's tree. The tests hold it to
`jsonschema`'s verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

KEYWORDS = frozenset(
    (
        *("type", "const", "enum", "required", "properties", "additionalProperties", "items"),
        *("minimum", "minLength", "pattern", "$ref", "$defs"),
        *("$schema", "title", "description"),
    )
)

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
_NAMES = {"object": "an object", "array": "a list", "string": "text", "null": "null"}


@cache
def results_schema() -> Any:
    """The published schema of result files."""
    return json.loads(Path(__file__).with_name("results.schema.json").read_text(encoding="utf-8"))


def fault(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, in a clause; None where it keeps to the schema."""
    return next(_faults(value, schema, schema, ""), None)


def _faults(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str
) -> Iterator[str]:
    if "$ref" in schema:
        yield from _faults(value, _resolve(schema["$ref"], root), root, place)
    here = place or "the file"
    if "type" in schema and not _is(value, schema["type"]):
        yield f"{here} is {_shown(value)}, not {_names(schema['type'])}"
    elif "const" in schema and not _same(value, schema["const"]):
        yield f"{here} is {_shown(value)}, not {schema['const']!r}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{here} is {_shown(value)}, not one of {', '.join(schema['enum'])}"
    elif isinstance(value, dict):
        yield from _object_faults(value, schema, root, place)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _faults(each, schema.get("items", {}), root, f"{place}[{index}]")
    elif isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield f"{here} is empty"
        elif "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{here} is {_shown(value)}, which doesn't look like {schema['pattern']}"
    elif isinstance(value, (int, float)) and value < schema.get("minimum", value):
        yield f"{here} is {value}, below {schema['minimum']}"


def _object_faults(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], place: str
) -> Iterator[str]:
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        yield f"{place or 'the file'} lacks {', '.join(map(repr, missing))}"
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name, each in value.items():
        inner = f"{place}.{name}" if place else name
        yield from _faults(each, known.get(name, others), root, inner)


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def _is(value: Any, types: str | list[str]) -> bool:
    """Whether a value has one of these types; True and False are no numbers, 1.0 is an integer."""
    for name in [types] if isinstance(types, str) else types:
        if isinstance(value, bool) and name != "boolean":
            continue
        if isinstance(value, _TYPES[name]):
            return True
        if name == "integer" and isinstance(value, float) and value.is_integer():
            return True
    return False


def _same(value: Any, wanted: Any) -> bool:
    """Equality as JSON has it, where true is not 1."""
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _names(types: str | list[str]) -> str:
    each = [types] if isinstance(types, str) else types
    return " or ".join(_NAMES.get(name, f"a {name}") for name in each).replace("a int", "an int")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
