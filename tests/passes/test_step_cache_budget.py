"""The embedded models come calibrated, for their own weights alone; a plan does without as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from caching import draw, ran

import sdaccel
from sdaccel import shapes
from sdaccel.passes.budget import SHIPPED, Calibrated
from sdaccel.passes.calibration import Calibration, named
from sdaccel.passes.calibration_tables import Row, Table
from sdaccel.passes.step_cache_schedule import Schedule
from sdaccel.plan import Plan

NAMES = sorted(path.stem.removeprefix("shapes-") for path in SHIPPED.glob("*.json"))


@pytest.fixture(autouse=True)
def nothing_of_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "empty"))


def refused(pipe: Any, **options: Any) -> dict[str, str]:
    sdaccel.accelerate(pipe, "none", step_cache=options)
    return sdaccel.report(pipe)["step_cache"].refused


@pytest.mark.parametrize("name", NAMES)
def test_an_embedded_model_comes_calibrated_in_any_precision(name: str) -> None:
    pipe, options = shapes.load(name), {"budget": 30.0}
    for dtype in (torch.float32, torch.bfloat16):
        sdaccel.accelerate(pipe.to(dtype), "none", step_cache=options, guidance=options)
        for each in ("step_cache", "guidance"):
            assert sdaccel.report(pipe)[each].refused == {}


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_were_trained_further_are_other_weights(name: str) -> None:
    pipe = shapes.load(name)
    model = pipe.components.get("unet") or pipe.components["transformer"]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.03)
    (reason,) = refused(pipe, budget=30.0).values()
    assert "there is no calibration yet" in reason


@pytest.mark.parametrize("name", NAMES)
def test_the_named_plans_keep_budgets_that_were_measured(name: str) -> None:
    steps = shapes.call_defaults(name)["num_inference_steps"]
    pipe = shapes.load(name)
    for plan, most in (("balanced", 0.6), ("fast", 0.5)):
        options = Plan.of(plan).passes[-1].options
        assert refused(pipe, **options) == {}
        calibration = Calibration.read(SHIPPED / f"shapes-{name}.json", {})
        (table,) = (each for each in calibration.tables if each.steps == steps)
        row = table.cheapest(options["budget"])
        assert row is not None
        assert len(row.full) <= most * steps


def test_compiled_a_budget_s_steps_leave_out_what_they_do_eagerly() -> None:
    pictures = []
    for compiled in (False, {"backend": "eager", "scope": "whole", "vae": False}):
        pipe = shapes.load("unet")
        pipe.set_progress_bar_config(disable=True)
        sdaccel.accelerate(pipe, "none", compile=compiled, step_cache={"budget": 36.0})
        generator = torch.Generator().manual_seed(0)
        call = {**shapes.call_defaults("unet"), "generator": generator, "output_type": "np"}
        pictures.append(pipe("a red circle on a green background", **call).images)
        assert (ran(pipe)["unet full"], ran(pipe)["unet left out"]) == (7, 18)
    assert sdaccel.report(pipe)["compile"].ran["compiled calls"] == 7
    assert abs(pictures[0] - pictures[1]).max() < 1e-5
    torch._dynamo.reset()


def test_without_a_calibration_a_plan_takes_its_interval_and_says_so() -> None:
    options = Plan.of("fast").passes[-1].options
    pipe = tiny.stable_diffusion()
    assert refused(pipe, **options) == {}
    draw(pipe)
    assert ran(pipe)["unet full"] == 6
    (note,) = sdaccel.report(pipe)["step_cache"].notes
    assert note.startswith("unet: no budget is kept, there is no calibration yet")
    draw(pipe, num_inference_steps=9)
    assert "unet: 9 steps are too few to skip in" in sdaccel.report(pipe)["step_cache"].notes


def test_where_other_steps_were_calibrated_the_interval_chooses() -> None:
    pipe = tiny.stable_diffusion()
    identity = {"scheduler": named(pipe.scheduler)}
    calibration = Calibration(identity, (Table(20, None, 1, (Row((0, 4, 19), 1, 50.0, None),)),))
    alone = Calibrated(pipe, calibration, 40.0, calibration.tables)
    helped = Calibrated(
        pipe, calibration, 40.0, calibration.tables, Schedule(2, fewest=10, order=1)
    )
    assert alone.choose(20) == helped.choose(20)
    assert alone.choose(20).full == {0, 4, 19}
    assert alone.choose(12).full == set(range(12))
    assert helped.choose(12).full == {0, 1, 3, 5, 7, 9, 11}
    assert "calibrated for 20 steps, not for 12" in str(helped.choose(12).reason)
    assert helped.choose(8).full == set(range(8))


def test_another_answer_to_nothing_measured_is_named() -> None:
    with pytest.raises(sdaccel.errors.PlanError, match="otherwise is 'refuse' or 'interval'"):
        sdaccel.accelerate(tiny.stable_diffusion(), "none", step_cache={"otherwise": "guess"})
