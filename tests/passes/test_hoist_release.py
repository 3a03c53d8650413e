"""Weights that leave the device while tables stand in for them, with the CPU in a device's part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from denoising import loop
from features import lora

import sdaccel
from sdaccel.benchmarks.families import SIZES, families
from sdaccel.benchmarks.family_pipeline import FamilyPipeline, model_of, pipeline_of
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error
from sdaccel.passes.hoist_release import is_away

NAME = "FLUX.1"


def pipe_of(**options: Any) -> FamilyPipeline:
    (family,) = families([NAME])
    pipe = pipeline_of(family)
    return sdaccel.accelerate(pipe, "none", hoist={"release": True, **options})


def stock() -> FamilyPipeline:
    (family,) = families([NAME])
    return pipeline_of(family)


def run(pipe: FamilyPipeline, **how: Any) -> list[torch.Tensor]:
    (family,) = families([NAME])
    return loop(pipe, family, **how)


def away(pipe: FamilyPipeline) -> dict[str, torch.Tensor]:
    named = model_of(pipe).named_parameters()
    return {name: weight for name, weight in named if is_away(weight)}


def errors(found: Any, wanted: Any) -> float:
    return max(map(relative_error, found, wanted))


@pytest.mark.usefixtures("memory_of_its_own")
def test_only_what_tables_are_computed_from_leaves_and_pictures_stay_stock_s() -> None:
    pipe = pipe_of()
    for seed in (0, 1):
        assert errors(run(pipe, seed=seed), run(stock(), seed=seed)) <= EXACT_ERROR
    names = set(away(pipe))
    assert "transformer_blocks.1.norm1.linear.weight" in names
    assert "time_text_embed.timestep_embedder.linear_1.weight" in names
    assert not [each for each in names if "attn.to_q" in each or "x_embedder" in each]
    record = sdaccel.report(pipe)["hoist"]
    assert record.ran["releases of weights"] == 1
    assert "returns of weights" not in record.ran
    assert any("weights wait in host memory" in each for each in record.notes)


@pytest.mark.usefixtures("memory_of_its_own")
def test_the_report_tells_the_device_s_peak_before_and_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peaks = iter((24_000_000_000, 17_000_000_000))
    monkeypatch.setattr("sdaccel.passes.hoist_holdings.peak_of", lambda _: next(peaks))
    pipe = pipe_of()
    run(pipe)
    pipe._sdaccel.target.clock.forget()
    counts = sdaccel.report(pipe)["hoist"].ran
    assert counts["MB at the device's peak, before weights left"] == 24_000
    assert counts["MB at the device's peak, since weights left"] == 17_000


@pytest.mark.usefixtures("memory_of_its_own")
def test_a_call_without_a_table_brings_the_weights_back() -> None:
    pipe = pipe_of()
    run(pipe)
    assert away(pipe)
    again = run(pipe, seed=2)
    assert errors(again, run(stock(), seed=2)) <= EXACT_ERROR
    assert away(pipe)
    (family,) = families([NAME])
    inputs = family.draw(SIZES[0], 0, torch.float32)
    with torch.no_grad():
        model_of(pipe)(**inputs)
    assert not away(pipe)
    assert sdaccel.report(pipe)["hoist"].ran["returns of weights"] == 1


@pytest.mark.usefixtures("memory_of_its_own")
def test_restore_is_bit_for_bit_and_released_weights_are_saved(tmp_path: Path) -> None:
    pipe = pipe_of()
    before = {name: tiny.bits(each) for name, each in stock().denoiser.state_dict().items()}
    strides = {name: each.stride() for name, each in stock().denoiser.state_dict().items()}
    run(pipe)
    assert away(pipe)
    assert {name: tiny.bits(each) for name, each in model_of(pipe).state_dict().items()} == before
    model_of(pipe).save_pretrained(tmp_path)
    saved = type(model_of(pipe)).from_pretrained(tmp_path)
    assert {name: tiny.bits(each) for name, each in saved.state_dict().items()} == before
    sdaccel.restore(pipe)
    after = model_of(pipe).state_dict()
    assert {name: tiny.bits(each) for name, each in after.items()} == before
    assert {name: each.stride() for name, each in after.items()} == strides
    assert not any(vars(each) for each in model_of(pipe).parameters())
    assert all(map(torch.equal, run(pipe), run(stock())))


@pytest.mark.usefixtures("memory_of_its_own")
def test_an_adapter_that_comes_while_weights_are_away_is_noticed() -> None:
    pipe, plain = pipe_of(), stock()
    run(pipe)
    assert away(pipe)
    for each in (pipe, plain):
        lora(model_of(each))
    assert errors(run(pipe, seed=3), run(plain, seed=3)) <= EXACT_ERROR
    assert sdaccel.report(pipe)["hoist"].ran["returns of weights"] >= 1


@pytest.mark.usefixtures("memory_of_its_own")
def test_a_large_table_waits_in_host_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdaccel.passes.hoist_holdings.RESIDENT", 1000)
    pipe = pipe_of(max_bytes=8000)
    for how in ({}, {"seed": 1, "guided": True}):
        assert errors(run(pipe, **how), run(stock(), **how)) <= EXACT_ERROR
    record = sdaccel.report(pipe)["hoist"]
    assert record.ran["rows read"] >= 2 + 8
    assert any("in host memory" in each and "tables" in each for each in record.notes)


def test_without_a_device_there_is_nothing_to_gain_and_that_is_told() -> None:
    pipe = pipe_of()
    run(pipe)
    assert not away(pipe)
    notes = sdaccel.report(pipe)["hoist"].notes
    assert "release: the weights are in host memory already, there is nothing to gain" in notes


@pytest.mark.gpu
def test_a_gpu_has_more_room() -> None:
    pipe = stock().to("cuda")
    taken = torch.cuda.memory_allocated()
    sdaccel.accelerate(pipe, "none", hoist={"release": True})
    (family,) = families([NAME])
    pipe.scheduler.set_timesteps(4, device="cuda")
    inputs = {
        name: each.cuda() if isinstance(each, torch.Tensor) else each
        for name, each in family.draw(SIZES[0], 0, torch.float32).items()
    }
    for t in pipe.scheduler.timesteps:
        latents = torch.randn_like(inputs["hidden_states"])
        moved = {"hidden_states": latents, "timestep": t.expand(2) / 1000}
        with torch.no_grad():
            model_of(pipe)(**{**inputs, **moved})
        pipe.scheduler.step(torch.zeros(1, 1), t, torch.zeros(1, 1))
    released = sum(each.nbytes for each in away(pipe).values())
    assert released > 0
    pipe._sdaccel.target.clock.forget()
    assert torch.cuda.memory_allocated() <= taken - released + (1 << 20)
    assert all(each.is_pinned() for each in away(pipe).values())
