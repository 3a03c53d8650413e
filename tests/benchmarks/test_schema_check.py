"""The published schema: all committed files keep to it, and our check agrees with jsonschema."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bench_files import COMMITTED, a_row, stock, written

from sdaccel.benchmarks.schema_check import KEYWORDS, fault, results_schema

FILES = sorted(COMMITTED.glob("*/*.json"))


@pytest.fixture
def values(tmp_path: Path) -> Any:
    return json.loads(written(tmp_path, stock(), a_row()).read_text())


@pytest.fixture
def one_row(tmp_path: Path) -> Any:
    return json.loads(written(tmp_path / "one", a_row()).read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_file_keeps_to_the_schema(path: Path) -> None:
    found = json.loads(path.read_text())
    assert fault(found, results_schema()) is None
    jsonschema.validate(found, results_schema(), jsonschema.Draft202012Validator)


def test_what_the_harness_writes_today_keeps_to_it(values: Any) -> None:
    assert fault(values, results_schema()) is None
    described = results_schema()["$defs"]["row"]["properties"]
    derived = set(a_row().DERIVED)
    assert values["rows"][0].keys() - derived - described.keys() == set()


def test_the_schema_is_one_and_uses_only_what_the_check_knows() -> None:
    jsonschema.Draft202012Validator.check_schema(results_schema())
    assert set(_keywords(results_schema())) <= KEYWORDS


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("schema",), 2, "schema is 2, not 1"),
        (("workload",), "", "workload is empty"),
        (("date",), "yesterday", 'date is "yesterday", which doesn\'t look like'),
        (("versions", "torch"), 2.13, "versions.torch is 2.13, not text"),
        (("machine", "cores"), 0, "machine.cores is 0, below 1"),
        (("machine", "cores"), 2.5, "machine.cores is 2.5, not an integer"),
        (("machine", "copy_ceiling"), "fast", "not a number or null"),
        (("rows",), {}, "rows is {}, not a list"),
        (("rows", 1), "fast", 'rows[1] is "fast", not an object'),
        (("rows", 0, "status"), "good", 'rows[0].status is "good", not one of ok, did nothing'),
        (("rows", 1, "seconds"), 1.0, "rows[1].seconds is 1.0, not a list"),
        (("rows", 1, "seconds", 0), "1 s", 'rows[1].seconds[0] is "1 s", not a number'),
        (("rows", 1, "seconds", 2), -1.0, "rows[1].seconds[2] is -1.0, below 0"),
        (("rows", 0, "quick"), 1, "rows[0].quick is 1, not a boolean"),
        (("rows", 0, "calls_per_picture"), True, "calls_per_picture is true, not an integer"),
        (("rows", 0, "stages"), {"VAE": "long"}, "rows[0].stages.VAE is"),
    ],
)
def test_a_broken_value_is_named_with_its_place(
    values: Any, place: tuple[Any, ...], value: Any, sentence: str
) -> None:
    *way, last = place
    inner = values
    for step in way:
        inner = inner[step]
    inner[last] = value
    assert sentence in str(fault(values, results_schema()))
    assert not _valid(values)


@pytest.mark.parametrize("place", ["schema", "workload", "machine", "rows", "commit"])
def test_a_missing_field_is_named(values: Any, place: str) -> None:
    del values[place]
    assert fault(values, results_schema()) == f"the file lacks '{place}'"
    assert not _valid(values)


def test_fields_that_the_schema_does_not_know_are_passed_over(values: Any) -> None:
    values["colour"] = "red"
    values["rows"][0]["taste"] = {"sweet": 1}
    assert fault(values, results_schema()) is None


def test_every_change_of_a_type_is_judged_as_jsonschema_judges_it(one_row: Any) -> None:
    for path in _paths(one_row):
        for other in (None, True, -1, 1.0, 2.5, "", "x", [], {}, [None]):
            changed = copy.deepcopy(one_row)
            inner = changed
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = other
            ours = fault(changed, results_schema())
            assert (ours is None) == _valid(changed), (path, other, ours)


def _valid(values: Any) -> bool:
    return bool(_VALIDATOR.is_valid(values))


_VALIDATOR = jsonschema.Draft202012Validator(results_schema())


def _keywords(schema: Any) -> Iterator[str]:
    for name, inner in schema.items():
        yield name
        if name in ("properties", "$defs"):
            for each in inner.values():
                yield from _keywords(each)
        elif isinstance(inner, dict):
            yield from _keywords(inner)


def _paths(values: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = values.items() if isinstance(values, dict) else enumerate(values[:2])
    for step, inner in items:
        yield (*way, step)
        if isinstance(inner, (dict, list)):
            yield from _paths(inner, (*way, step))
