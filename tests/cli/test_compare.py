"""sdaccel compare: a table, a sheet, a row, and an exit code that means something."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny_video
from PIL import Image

import sdaccel
from sdaccel import shapes
from sdaccel.cli import exits, models
from sdaccel.quality.metrics import Drawing

BRIEF = ("-n", "2", "--steps", "4")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return models.load("shapes-unet")


@pytest.fixture
def loaded(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The embedded model, loaded once for all tests of this file."""
    monkeypatch.setattr("sdaccel.cli.models.load", lambda *_: pipe)
    return pipe


def test_an_exact_plan_passes_and_everything_is_written(
    run: Any, loaded: Any, tmp_path: Path
) -> None:
    classes = {name: type(part) for name, part in loaded.components.items()}
    outcome = run("compare", "stock", "eager", *BRIEF, "--rows", "results", "--json")
    assert outcome.code == exits.OK
    found = outcome.json
    assert found["plans"] == ["stock", "eager"]
    assert found["gate"]["passed"]
    assert found["measured"]["PSNR"]["mean"] is None or found["measured"]["PSNR"]["worst"] > 60
    assert found["measured"]["latent distance"]["worst"] < 1e-4
    fidelity = found["measured"]["prompt fidelity"]
    assert fidelity["mean"] == 0
    assert fidelity["worst_prompt"] == shapes.held_out_prompts(2)[fidelity["worst_at"]]
    assert "torchvision" in found["skipped"]["LPIPS"]
    with Image.open(found["sheet"]) as sheet:
        assert sheet.width > 2 * 192
    assert found["sheet"] == str(tmp_path / "sdaccel-sheet.png")
    (row,) = json.loads(Path(found["row"]).read_text())["rows"]
    assert (row["rung"], row["against"], row["status"]) == ("eager", "stock", "ok")
    assert row["measured"] == found["measured"]
    for side in ("first", "second"):
        assert Path(found["row"]).with_name(row["pictures"][side]).is_file()
    assert len(row["pictures"]["captions"]) == 2
    assert row["settings"] == {
        "model": "shapes-unet",
        "prompts": "held-out",
        "count": 2,
        "steps": 4,
        "seed": 0,
    }
    assert not sdaccel.report(loaded).accelerated
    assert {name: type(part) for name, part in loaded.components.items()} == classes


def test_a_row_is_read_and_shown_like_any_other(run: Any, loaded: Any) -> None:
    from sdaccel.benchmarks.rows import Results
    from sdaccel.benchmarks.tables import markdown

    found = run("compare", "stock", "eager", *BRIEF, "--rows", "results", "--json").json
    results = Results.read(Path(found["row"]))
    assert results.workload == "compare-shapes-unet-eager"
    assert "fidelity" in markdown(results)


def test_the_table_names_every_metric_its_worst_prompt_and_the_verdict(
    run: Any, loaded: Any
) -> None:
    outcome = run("compare", "stock", "eager", "-n", "1", "--steps", "4")
    assert outcome.code == exits.OK
    for word in ("PSNR", "SSIM", "latent", "fidelity", "95% interval", "gate 'exact'"):
        assert word in outcome.out
    (prompt,) = shapes.held_out_prompts(1)
    assert re.search(r"\d to \d .*change 0 to 0 .*change 0 ", outcome.out)
    assert re.search(rf"#1 \(worst .*prompt fidelity\): {prompt}", outcome.out)


def test_evaluation_has_prompts_and_noise_that_nothing_else_draws(
    run: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("compare", "stock", "none", "-n", "1", "--steps", "2", "--json")
    found, usual = run(*words, "--evaluation").json, run(*words).json
    (prompt,) = shapes.evaluation_prompts(1)
    assert found["measured"]["SSIM"]["worst_prompt"] == prompt
    assert found["prompts"] == "evaluation"
    assert found["seed"] - usual["seed"] >= 1_000_000
    assert run(*words, "--evaluation", "--seed", "3").json["seed"] == 3


def _spoil(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Have every plan but stock draw pictures full of one value."""
    from sdaccel.cli.paired_drawing import Task

    draw = Task.draw

    def spoiled(self: Task, pipe: Any, name: str) -> list[Drawing]:
        drawn = draw(self, pipe, name)
        if name == "stock":
            return drawn
        return [Drawing(numpy.full_like(each.pixels, value), each.latents) for each in drawn]

    monkeypatch.setattr(Task, "draw", spoiled)


@pytest.mark.parametrize(
    ("value", "says"), [(0.0, "is black all over"), (numpy.nan, "has NaN or Inf")]
)
def test_a_failed_gate_has_an_exit_code_of_its_own_and_all_is_still_told(
    value: float, says: str, run: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, value)
    outcome = run("compare", "stock", "eager", *BRIEF, "--json")
    assert outcome.code == exits.GATE_FAILED
    found = outcome.json
    assert found["error"]["type"] == "GateError"
    assert len(found["faults"]) == 2
    assert says in found["faults"][0]["reason"]
    assert Path(found["sheet"]).is_file()
    assert "eager fails the gate 'exact': " in outcome.complaint


def test_a_failed_gate_is_marked_in_the_table(
    run: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, 0.0)
    outcome = run("compare", "stock", "eager", "-n", "1", "--steps", "2")
    assert outcome.code == exits.GATE_FAILED
    assert "FAILED: worst" in outcome.out
    assert "eager FAILS the gate 'exact'" in outcome.out


def test_a_plan_that_gave_itself_up_is_not_judged_by_what_it_drew_instead(
    run: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdaccel.cli import compare

    def report(pipe: Any) -> Any:
        found = sdaccel.report(pipe)
        if found.accelerated:
            found.plan = "none"
            found.events.append(
                "A generation ended in NaN or Inf: it runs again without precision."
            )
        return found

    monkeypatch.setattr(compare, "report_on", report)
    outcome = run("compare", "stock", "none+no_ops", *BRIEF, "--json")
    assert outcome.code == exits.GATE_FAILED
    assert any("without precision" in each for each in outcome.json["gate"]["reasons"])


def test_clips_are_compared_in_time_too_and_shown_by_their_frames(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny_video.wan()
    monkeypatch.setattr("sdaccel.cli.models.load", lambda *_: pipe)
    (tmp_path / "prompts.txt").write_text("a cat runs\na dog sleeps\n")
    size = ("--size", "32", "--num-frames", "5", "--steps", "2")
    words = ("compare", "stock", "none+no_ops", "--model", "a/video", "--prompts", "prompts.txt")
    found = run(*words, *size, "--json").json
    assert found["count"] == 2
    assert (found["size"], found["num_frames"]) == ([32, 32], 5)
    for name in ("PSNR", "SSIM", "latent distance", "motion error", "motion kept", "added flicker"):
        assert found["measured"][name]["count"] == 2
    assert found["measured"]["motion error"]["worst"] < 1e-3
    assert {"CLIP score", "ImageReward"}.issubset(found["skipped"])
    with Image.open(found["sheet"]) as sheet:
        assert sheet.width > 4 * 32 * 6
    assert not sdaccel.report(pipe).accelerated


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("stock", "losless"), "no plan 'losless': did you mean 'lossless'"),
        (("stok", "lossless"), "no plan 'stok'"),
        (("stock", "eager", "-n", "0"), "at least 1, not 0"),
        (("stock", "eager", "--steps", "0"), "steps must be a whole number of at least 1"),
        (("stock", "eager", "--seed", "-1"), "seed must be a whole number of at least 0"),
        (("stock", "eager", "--batch", "0"), "batch must be a whole number of at least 1"),
        (("stock", "eager", "--prompts", "nowhere.txt"), "nowhere.txt can't be read"),
        (("stock", "eager", "--prompts", "empty.txt"), "empty.txt has no prompt in it"),
        (("stock", "eager", "-o", "no/such/sheet.png"), "doesn't exist: make it first"),
        (("stock", "eager", "-o", "sheet.txt"), "names no picture"),
        (("stock", "eager", "-o", "clip.mp4"), "A contact sheet is a picture"),
        (("stock", "eager", "--rows", "empty.txt"), "No row can be written to 'empty.txt'"),
        (("stock",), "required: PLAN_B"),
    ],
)
def test_bad_input_is_one_sentence_before_a_model_is_loaded(
    words: tuple[str, ...], says: str, run: Any, no_loading: None, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").touch()
    outcome = run("compare", *words)
    assert outcome.code == exits.BAD_INPUT
    assert says in outcome.complaint
    assert not list(tmp_path.glob("*.png"))


def test_a_plan_s_passes_may_have_options_in_brackets(run: Any, loaded: Any) -> None:
    outcome = run("compare", "stock", "none+step_cache[interval=2,fewest_steps=1]", *BRIEF)
    assert "none+step_cache[interval=2,fewest_steps=1] beside stock" in outcome.out
    assert "interval" in run("compare", "stock", "none+step_cache[every=2]", *BRIEF).complaint
