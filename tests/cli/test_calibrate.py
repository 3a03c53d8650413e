"""`sdaccel calibrate` draws, keeps what it measured, and the pass takes it from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_video
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

import sdaccel
from sdaccel import shapes
from sdaccel.cli import exits
from sdaccel.errors import InputError
from sdaccel.passes.calibration import Calibration
from sdaccel.quality.pictures import psnr

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.fixture
def words(model: str, tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog\n")
    return ("calibrate", "--model", model, "--prompts", str(file), "-n", "2", "--size", "16")


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    """A folder with a Wan of three layers that makes small clips."""
    pipe = tiny_video.wan(scheduler=UniPCMultistepScheduler(**FLOW))
    torch.manual_seed(7)
    config = {**pipe.transformer.config, "num_layers": 3}
    pipe.transformer = type(pipe.transformer).from_config(config).eval()
    pipe.save_pretrained(tmp_path / "wan")
    return tmp_path / "wan"


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


def test_clips_are_calibrated_over_all_their_frames(
    run: Any, words: tuple[str, ...], wan: Path, tmp_path: Path
) -> None:
    pipe = WanPipeline.from_pretrained(wan)
    pipe.set_progress_bar_config(disable=True)
    file = tmp_path / "clips.json"
    more = ("--model", str(wan), "--num-frames", "5", "--steps", "5", "--batch", "2")
    outcome = run(*words, *more, "--output", str(file))
    assert outcome.code == exits.OK, outcome.err
    assert "5 steps at guidance 5.0, 2 clips:" in outcome.out + outcome.err
    (table,) = json.loads(file.read_text())["tables"]
    row = next(each for each in table["rows"] if each["skip"] == "whole")
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    call = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 5}

    def draw() -> Any:
        for seed, each in enumerate(generators):
            each.manual_seed(seed)
        return pipe(["a cat", "a dog"], generator=generators, output_type="np", **call).frames

    stock = draw()
    options = {
        "steps": row["full"],
        **{name: row[name] for name in ("forecast", "skip", "variable")},
    }
    sdaccel.accelerate(pipe, "none", step_cache={**options, "fewest_steps": 1})
    apart = [psnr(*pair) for pair in zip(stock, draw(), strict=True)]
    assert row["psnr"] == pytest.approx(sum(apart) / 2, abs=1e-3)


def test_a_clip_model_is_calibrated_on_held_out_prompts_and_never_on_those_of_the_evaluation(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []

    def note(prompts: tuple[str, ...], *_: object) -> None:
        chosen.extend(prompts)
        raise InputError("Enough.")

    monkeypatch.setattr("sdaccel.cli.models.load", lambda *_: None)
    monkeypatch.setattr("sdaccel.cli.calibrate.Task", note)
    assert run("calibrate", "--model", "shapes-video", "-n", "8").complaint.endswith("Enough.")
    assert chosen == shapes.clip_prompts(8, "held-out")
    assert not set(chosen) & set(shapes.clip_prompts(500, "evaluation"))


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


@pytest.mark.usefixtures("plain_torch")
def test_what_sparse_attention_keeps_of_clips_is_measured_alone(
    run: Any, words: tuple[str, ...], wan: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sparse.json"
    size = ("--size", "128", "--num-frames", "5", "--steps", "5")
    more = ("--model", str(wan), *size, "--sparse-attention", "-o", str(file))
    outcome = run(*words, *more)
    assert outcome.code == exits.OK, outcome.err
    assert "5 steps at guidance 5.0, 3x8x8 tokens, 2 clips:" in outcome.out + outcome.err
    found = json.loads(file.read_text())
    assert found["tables"] == found["guidance"] == []
    (table,) = found["sparse_attention"]
    least, most = table["rows"][0], table["rows"][-1]
    assert least["density"] < most["density"]
    assert least["psnr"] < most["psnr"]
    said = f"  keep 0.5, {least['density']:.1%} of all blocks: PSNR {least['psnr']:.1f} dB"
    assert said in outcome.out + outcome.err
    asked = {"budget": least["psnr"] - 0.01, "calibration": str(file)}
    pipe = WanPipeline.from_pretrained(wan)
    pipe.set_progress_bar_config(disable=True)
    options = {**asked, "anywhere": True, "fewest_tokens": 0}
    sdaccel.accelerate(pipe, "none", sparse_attention=options)
    tiny_video.draw(pipe, height=128, width=128, num_inference_steps=5)
    assert sdaccel.report(pipe)["sparse_attention"].ran["transformer sparse"] > 0


def test_one_kind_of_calibration_is_asked_for_at_a_time(run: Any, words: tuple[str, ...]) -> None:
    outcome = run(*words, "--sparse-attention", "--guidance-only")
    assert outcome.code == exits.BAD_INPUT
    assert outcome.complaint.endswith("Give either --guidance-only or --sparse-attention.")
