"""A calibration of sparse attention tells how far clips are, and a budget keeps the least."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import sparse_videos
import tiny
import torch
from sparse_videos import OPTIONS, STEPS, record

import sdaccel
from sdaccel.errors import PassError, PlanError
from sdaccel.passes.calibration import Calibration, identity_of
from sdaccel.passes.calibration_tables import KeptTable
from sdaccel.passes.sparse_attention import SparseAttention
from sdaccel.passes.step_cache import StepCache
from sdaccel.planning.calibrate_sparse import calibrate_sparse
from sdaccel.quality.metrics import Drawing
from sdaccel.quality.pictures import psnr

pytestmark = pytest.mark.usefixtures("plain_torch")

KEEPS = (0.3, 0.6, 0.9, 1.0)
SETTINGS = SparseAttention(block_size=(16, 16))
PIPES: dict[str, Callable[[], Any]] = {
    "wan": sparse_videos.wan_pipe,
    "cogvideox": sparse_videos.cogvideox,
    "ltx": sparse_videos.ltx,
}


def drawn(pipe: Any, call: dict[str, Any], **changes: Any) -> Any:
    """Latents as the pixels of a clip, numbers from 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    latents = pipe(**{**call, **changes}, generator=generator).frames
    return latents.sigmoid().reshape(1, -1, 1, 3).numpy()


@functools.cache
def measured(name: str) -> Calibration:
    """The calibration of a pipe."""
    pipe, call, _ = PIPES[name]()
    drawn(pipe, call)
    before = tiny.snapshot(pipe)
    found = calibrate_sparse(pipe, lambda _: [Drawing(drawn(pipe, call))], SETTINGS, KEEPS)
    after = tiny.snapshot(pipe)
    assert [key for key in before if key != "pipe" and before[key] != after[key]] == []
    return found


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Calibration, str]:
    """The calibration of Wan, and its file."""
    path = tmp_path / "wan.json"
    measured("wan").write(path)
    return measured("wan"), str(path)


def accelerated(file: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    pipe, call, _ = sparse_videos.wan_pipe()
    asked = {**OPTIONS, "calibration": file, **options}
    return sdaccel.accelerate(pipe, "none", sparse_attention=asked), call


@pytest.mark.parametrize("name", PIPES)
def test_each_row_s_distance_is_that_of_its_clips(name: str) -> None:
    (table,) = measured(name).sparse_attention
    pipe, call, grid = PIPES[name]()
    assert (table.steps, table.guidance, table.grid) == (STEPS, 2.0, astuple(grid))
    assert [row.keep for row in table.rows] == list(KEEPS)
    plain = drawn(pipe, call)
    for row in table.rows:
        sdaccel.accelerate(pipe, "none", sparse_attention={**OPTIONS, "keep": row.keep})
        assert row.psnr == pytest.approx(min(200.0, psnr(plain, drawn(pipe, call))), abs=1e-3)
        assert f"density of {row.density:.1%}" in record(pipe).notes[0]
    assert table.rows[0].psnr < table.rows[-1].psnr
    assert table.rows[0].density < table.rows[-1].density == 1.0


def test_a_budget_keeps_the_least_that_was_measured_to_hold_it(
    kept: tuple[Calibration, str],
) -> None:
    (table,) = kept[0].sparse_attention
    plain = drawn(*sparse_videos.wan_pipe()[:2])
    for row in table.rows:
        pipe, call = accelerated(kept[1], budget=row.psnr - 1e-6)
        clip = drawn(pipe, call)
        least = min(each.keep for each in table.rows if each.psnr >= row.psnr)
        assert record(pipe).ran["transformer sparse"] > 0
        wanted = next(each for each in table.rows if each.keep == least)
        assert f"density of {wanted.density:.1%}" in record(pipe).notes[0]
        assert psnr(plain, clip) > row.psnr - 1e-3


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"num_inference_steps": 4}, "4 steps at guidance 2.0, 3x4x4 tokens"),
        ({"guidance_scale": 3.0}, "5 steps at guidance 3.0, 3x4x4 tokens"),
        ({"height": 32}, "5 steps at guidance 2.0, 3x2x4 tokens"),
    ],
)
def test_what_was_not_calibrated_is_dense_and_says_so(
    kept: tuple[Calibration, str], changes: dict[str, Any], other: str
) -> None:
    pipe, call = accelerated(kept[1], budget=1.0)
    wanted = drawn(*sparse_videos.wan_pipe()[:2], **changes)
    assert (drawn(pipe, call, **changes) == wanted).all()
    assert record(pipe).ran["transformer dense, as nothing measured keeps the budget"] > 0
    assert record(pipe).notes == [
        "transformer: all attention is dense, calibrated for 5 steps at guidance 2.0, 3x4x4 "
        f"tokens, not for {other}"
    ]
    drawn(pipe, call)
    assert record(pipe).ran["transformer sparse"] > 0


def test_a_budget_stands_in_for_a_share_where_it_is_to_pay_too(
    kept: tuple[Calibration, str],
) -> None:
    pipe, call = accelerated(kept[1], budget=1.0, keep=None, fewest_tokens=None)
    drawn(pipe, call)
    assert "it pays from about" in record(pipe).notes[0]
    drawn(pipe, call, num_inference_steps=4)
    assert "not for 4 steps" in record(pipe).notes[1]


def test_a_budget_that_one_size_does_not_reach_is_dense_there(
    kept: tuple[Calibration, str], tmp_path: Path
) -> None:
    (table,) = kept[0].sparse_attention
    far = replace(table, grid=(9, 9, 9, 0))
    near = replace(table, rows=tuple(replace(row, psnr=20.0) for row in table.rows))
    file = tmp_path / "two.json"
    replace(kept[0], sparse_attention=(near, far)).write(file)
    pipe, call = accelerated(str(file), budget=21.0)
    drawn(pipe, call)
    assert record(pipe).notes == [
        "transformer: all attention is dense, calibrated up to 20.0 dB at 5 steps"
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 250.0}, "a budget of 250.0 dB is more than was measured"),
        ({"budget": 5.0, "reach": (0, 1, 1)}, "what is calibrated is for other options than"),
        ({"budget": 5.0, "calibration": "nowhere.json"}, "there is no calibration yet"),
    ],
)
def test_a_budget_that_no_calibration_covers_is_refused(
    kept: tuple[Calibration, str], options: dict[str, Any], sentence: str
) -> None:
    pipe, call = accelerated(kept[1], **options)
    assert sentence in record(pipe).refused["transformer"]
    assert (drawn(pipe, call) == drawn(*sparse_videos.wan_pipe()[:2])).all()


def test_another_part_s_calibration_has_nothing_on_it(tmp_path: Path) -> None:
    from sdaccel.passes.calibration_tables import Row, Table

    pipe, _, _ = sparse_videos.wan_pipe()
    identity = identity_of(pipe.transformer, pipe.scheduler, StepCache().cut)
    file = tmp_path / "steps.json"
    Calibration(identity, (Table(STEPS, 2.0, 1, (Row((0, 2, 4), 1, 40.0, None),)),)).write(file)
    pipe, _ = accelerated(str(file), budget=5.0)
    assert "has nothing on sparse_attention" in record(pipe).refused["transformer"]


def test_a_file_with_it_alone_asks_step_cache_to_calibrate(kept: tuple[Calibration, str]) -> None:
    pipe, _, _ = sparse_videos.wan_pipe()
    asked = {"budget": 5.0, "calibration": kept[1]}
    sdaccel.accelerate(pipe, "none", step_cache=asked)
    (reason,) = sdaccel.report(pipe)["step_cache"].refused.values()
    assert "has nothing on step_cache" in reason


def test_its_calibration_is_saved_beside_the_plan(
    kept: tuple[Calibration, str], tmp_path: Path
) -> None:
    pipe, _ = accelerated(kept[1], budget=1.0)
    sdaccel.save(pipe, tmp_path / "saved")
    (found,) = (tmp_path / "saved").rglob("wan.json")
    assert found.read_text() == Path(kept[1]).read_text()


def test_tables_of_other_sizes_and_options_stay_beside_a_new_one(
    kept: tuple[Calibration, str],
) -> None:
    (table,) = kept[0].sparse_attention

    def under(**changes: Any) -> tuple[KeptTable, ...]:
        newer = replace(kept[0], sparse_attention=(replace(table, **changes),))
        return kept[0].under(newer).sparse_attention

    assert len(under(prompts=9)) == 1
    assert under(prompts=9)[0].prompts == 9
    assert len(under(grid=(1, 2, 3, 0))) == len(under(options={})) == 2


def test_what_can_t_be_calibrated_is_one_sentence() -> None:
    pipe = tiny.stable_diffusion()
    with pytest.raises(PassError, match="no self-attention of a video is known in it"):
        calibrate_sparse(pipe, lambda _: [Drawing(tiny.draw(pipe))], SETTINGS, KEEPS)
    pipe, call, _ = sparse_videos.wan_pipe()
    settings = replace(SETTINGS, first_layers=9)
    with pytest.raises(PassError, match="its first and last layers are all that it has"):
        calibrate_sparse(pipe, lambda _: [Drawing(drawn(pipe, call))], settings, KEEPS)
    with pytest.raises(PassError, match="No attention was sparse"):
        calibrate_sparse(pipe, lambda _: [Drawing(drawn(PIPES["wan"]()[0], call))], SETTINGS, KEEPS)


@pytest.mark.parametrize("budget", [0, float("nan"), "34 dB"])
def test_a_budget_that_is_none_is_named(budget: Any) -> None:
    with pytest.raises(PlanError, match="budget is a PSNR in dB above 0"):
        accelerated("nowhere.json", budget=budget)
