"""`sdaccel calibrate` draws, keeps what it measured, and the pass takes it from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

import sdaccel
from sdaccel.cli import exits
from sdaccel.passes.calibration import Calibration


@pytest.fixture
def words(model: str, tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog\n")
    return ("calibrate", "--model", model, "--prompts", str(file), "-n", "2", "--size", "16")


def test_what_is_measured_is_kept_where_the_pass_finds_it(
    run: Any, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "cache"))
    for steps in ("8", "10"):
        outcome = run(*words, "--json", "--steps", steps)
        assert outcome.code == exits.OK, outcome.err
    found = outcome.json
    assert [table["steps"] for table in found["tables"]] == [8, 10]
    assert all(table["prompts"] == 2 for table in found["tables"])
    assert json.loads(Path(found["file"]).read_text())["tables"] == found["tables"]
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", step_cache={"budget": 1.0})
    tiny.draw(pipe, num_inference_steps=10)
    table = found["tables"][1]
    assert {row["skip"] for row in table["rows"]} == {"deep", "whole"}
    costs = [
        len(row["full"]) + (10 - len(row["full"])) * table["shallow"] * (row["skip"] == "deep")
        for row in table["rows"]
    ]
    counts = sdaccel.report(pipe)["step_cache"].ran
    cost = counts["unet full"] + table["shallow"] * counts.get("unet shallow", 0)
    assert cost == pytest.approx(min(costs))
    file = Path(found["file"])
    Calibration(found["identity"], Calibration.read(file, found["identity"]).tables).write(file)
    added = run(*words, "--json", "--steps", "8", "--guidance-only").json
    assert added["tables"] == found["tables"]
    assert [each["steps"] for each in added["guidance"]] == [8]


def test_guidance_alone_is_added_to_what_there_is(
    run: Any, words: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = run(*words, "--guidance-only", "-o", str(tmp_path / "none.json"))
    assert outcome.code == exits.BAD_INPUT
    assert "no calibration yet" in outcome.complaint
    assert "without --guidance-only" in outcome.complaint


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--depth", "0"), "depth is a whole number of at least 1"),
        (("--batch", "0"), "batch must be a whole number of at least 1"),
    ],
)
def test_bad_options_are_named_before_anything_is_loaded(
    run: Any, words: tuple[str, ...], more: tuple[str, ...], sentence: str
) -> None:
    outcome = run(*words, *more)
    assert outcome.code == exits.BAD_INPUT
    assert sentence in outcome.complaint


def test_what_can_t_be_calibrated_is_one_sentence(run: Any, words: tuple[str, ...]) -> None:
    outcome = run(*words, "--steps", "4", "--depth", "9")
    assert "depth must be smaller" in outcome.complaint
    outcome = run(*words, "--steps", "2")
    assert "draw with more steps, at least 3" in outcome.complaint
