"""Hoisted denoisers that are compiled: tables enter as inputs, and nothing is compiled per step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from compiling import ran as compiler_ran
from hoisting import (
    SHOWS,
    edit_weights,
    errors,
    pipe_of,
    ran,
    replace_text,
    run,
    scale_adapter,
    with_other_timesteps,
)

import sdaccel
from sdaccel.benchmarks.family_pipeline import model_of
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error
from sdaccel.passes.hoist_compiled import computed_inside
from sdaccel.passes.hoist_probe import Call
from sdaccel.passes.hoist_release import is_away

pytestmark = pytest.mark.usefixtures("plain_torch", "forget_programs")
FLUX = "FLUX.1"


def both(pipe: Any, scope: str = "regional", backend: str = "eager", **more: Any) -> Any:
    options = {"backend": backend, "scope": scope, "vae": False, "freeze": False}
    return sdaccel.accelerate(pipe, "none", **{"compile": options, "hoist": True, **more})


@pytest.mark.usefixtures("memory_of_its_own")
@pytest.mark.parametrize(("name", "scope"), [(FLUX, "regional"), ("SD 1.5", "whole")])
def test_steps_read_tables_and_compile_nothing_anew(name: str, scope: str) -> None:
    pipe, stock = pipe_of(name), pipe_of(name)
    before = [dict(vars(each)) for each in model_of(pipe).modules()]
    both(pipe, scope, hoist={"release": True})
    assert errors(run(pipe, name, steps=3), run(stock, name, steps=3)) <= EXACT_ERROR
    counts, compiled = compiler_ran(pipe), compiler_ran(pipe)["compilations"]
    wanted = run(stock, name)
    assert errors(run(pipe, name), wanted) <= EXACT_ERROR
    assert counts["compilations"] == compiled
    assert not counts["eager calls"]
    assert ran(pipe)["rows read"] == 1 + 6
    modules = sdaccel.report(pipe)["hoist"].changed["denoiser modules from tables"]
    assert ran(pipe)["calls answered from tables"] >= modules * (1 + 6)
    away = {key for key, each in model_of(pipe).named_parameters() if is_away(each)}
    assert any("time" in each for each in away)
    assert not any("attn" in each and "to_q" in each for each in away)
    sdaccel.restore(pipe)
    assert [vars(each) for each in model_of(pipe).modules()] == before
    assert all(map(torch.equal, run(pipe, name), wanted))


def guide_otherwise(_: Any, step: int, inputs: list[dict[str, Any]]) -> None:
    if step == 3:
        inputs[0]["guidance"] = inputs[0]["guidance"] * 0.25


CHANGES = (replace_text, guide_otherwise, edit_weights, scale_adapter)


def test_changes_between_generations_and_in_mid_loop_are_noticed() -> None:
    pipe, stock = both(pipe_of(FLUX)), pipe_of(FLUX)
    last = run(stock, FLUX)[-1]
    assert errors(run(pipe, FLUX)[-1:], [last]) <= EXACT_ERROR
    moved = (with_other_timesteps(each, FLUX) for each in (pipe, stock))
    assert errors(*moved) <= EXACT_ERROR
    for change in CHANGES:
        wanted = run(stock, FLUX, change)
        assert relative_error(wanted[-1], last) > SHOWS, change
        assert errors(run(pipe, FLUX, change), wanted) <= EXACT_ERROR, change
        last = wanted[-1]
    how = {"steps": 4, "guided": True}
    assert errors(run(pipe, FLUX, **how), run(stock, FLUX, **how)) <= EXACT_ERROR
    assert ran(pipe)["tables computed"] >= 7


def test_caching_steps_reads_tables_too() -> None:
    options = {"interval": 3, "forecast": 0}
    other = sdaccel.accelerate(pipe_of(FLUX), "none", step_cache=options)
    pipe = both(pipe_of(FLUX), "whole", step_cache=options)
    assert errors(run(pipe, FLUX), run(other, FLUX)) <= EXACT_ERROR
    assert ran(pipe)["rows read"] > 0


def test_recorded_forwards_read_tables_of_compiled_code(recorder: Any) -> None:
    pipe, stock = both(pipe_of(FLUX), cuda_graph=True), pipe_of(FLUX)
    for _ in range(2):
        assert errors(run(pipe, FLUX), run(stock, FLUX)) <= EXACT_ERROR
    assert sdaccel.report(pipe)["cuda_graph"].ran["denoiser replays"] > 0
    assert ran(pipe)["calls answered from tables"] > 0


def test_frozen_weights_are_refused() -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "none", hoist=True, compile={"backend": "eager", "freeze": True})
    record = sdaccel.report(pipe)["hoist"]
    assert not record.applied
    assert record.refused["unet"] == "its weights are compiled in: give compile freeze=False"


def test_what_blocks_share_is_computed_in_each() -> None:
    block, other, shared, own = (torch.nn.Identity() for _ in range(4))

    def call(module: Any, labels: int, parent: Call | None = None) -> Call:
        return Call(module, 0, parent, 0, labels)

    blocks = [call(block, 4), call(other, 4)]
    calls = [
        *blocks,
        *(call(shared, 1, each) for each in blocks),
        call(own, 1, blocks[0]),
        call(own, 2, blocks[0]),
        call(torch.nn.Identity(), 2),
    ]
    probe: Any = SimpleNamespace(calls=calls, model=torch.nn.Identity())
    compiled = frozenset(map(id, (block, other, shared, own)))
    assert list(computed_inside(probe, 1, compiled)) == [calls[2], calls[3], calls[5]]
    assert not list(computed_inside(probe, 1, frozenset()))


def test_what_inductor_makes_of_it_is_stock_s() -> None:
    pipe, stock = both(pipe_of("SD 3"), backend="inductor"), pipe_of("SD 3")
    assert errors(run(pipe, "SD 3", steps=4), run(stock, "SD 3", steps=4)) <= EXACT_ERROR
    assert ran(pipe)["rows read"] == 2
