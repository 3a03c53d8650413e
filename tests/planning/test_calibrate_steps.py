"""A calibration tells how far pictures are, and a budget takes the cheapest that keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from caching import apart, cached, draw, flux, ran

import sdaccel
from sdaccel.errors import PassError, PlanError
from sdaccel.passes.budget import budgets_together
from sdaccel.passes.calibration import Calibration
from sdaccel.passes.calibration_tables import Row, Table
from sdaccel.planning.calibrate_steps import Products, calibrate
from sdaccel.quality.metrics import Drawing
from sdaccel.quality.pictures import psnr

SHARES = (0.3, 0.5, 0.8)
PASSES = ("step_cache", "guidance")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, Path]:
    """The calibration of the tiny UNet pipe for twelve steps, and its file."""
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    measured = calibrate(
        pipe, lambda _: [Drawing(each) for each in draw(pipe)], None, SHARES, (0.5,), (0.4, 0.7)
    )
    after = tiny.snapshot(pipe)
    assert {key: after[key] for key in before if key != "pipe"} == {
        key: before[key] for key in before if key != "pipe"
    }
    path = tmp_path_factory.mktemp("calibration") / "unet.json"
    measured.write(path)
    return measured, path


def test_each_row_s_distance_is_that_of_its_pictures(kept: tuple[Calibration, Path]) -> None:
    (table,) = kept[0].tables
    assert (table.steps, table.guidance, table.prompts) == (12, 7.5, 1)
    counts = [len(row.full) for row in table.rows]
    assert counts[:3] == [4, 6, 10]
    assert (0, 3, 6, 9, 11) in [row.full for row in table.rows]
    plain = draw(tiny.stable_diffusion())
    for row in table.rows:
        options = {"steps": row.full, "forecast": row.forecast, "skip": row.skip}
        options["variable"] = row.variable
        pipe = cached(tiny.stable_diffusion(), **options)
        assert row.psnr == pytest.approx(psnr(plain[0], draw(pipe)[0]), abs=1e-3)


def test_a_budget_takes_the_cheapest_that_keeps_it(kept: tuple[Calibration, Path]) -> None:
    (table,), path = kept[0].tables, kept[1]
    assert 0 < table.shallow <= 1
    for row in table.rows:
        pipe = cached(tiny.stable_diffusion(), budget=row.psnr - 1e-6, calibration=str(path))
        picture = draw(pipe)
        counts = ran(pipe)
        cost = counts["unet full"] + table.shallow * counts.get("unet shallow", 0)
        good = [each for each in table.rows if each.psnr >= row.psnr]
        assert cost == pytest.approx(min(map(table.cost, good)))
        assert psnr(draw(tiny.stable_diffusion())[0], picture[0]) > row.psnr - 1e-3


def test_each_row_of_guidance_s_is_that_of_its_pictures_and_a_budget_takes_the_cheapest(
    kept: tuple[Calibration, Path],
) -> None:
    (table,), path = kept[0].guidance, kept[1]
    assert (table.steps, table.guidance, table.shallow) == (12, 7.5, 0.5)
    assert {5, 8} <= {len(row.full) for row in table.rows}
    plain = draw(tiny.stable_diffusion())[0]
    for row in table.rows:
        options = {"steps": row.full, "forecast": row.forecast, "variable": row.variable}
        pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", guidance=options)
        assert row.psnr == pytest.approx(psnr(plain, draw(pipe)[0]), abs=1e-3)
        asked = {"budget": row.psnr - 1e-6, "calibration": str(path)}
        sdaccel.accelerate(pipe, "none", guidance=asked)
        assert psnr(plain, draw(pipe)[0]) > row.psnr - 1e-3
        good = [len(each.full) for each in table.rows if each.psnr >= row.psnr]
        counts = sdaccel.report(pipe)["guidance"].ran
        assert counts == {"unet both branches": min(good), "unet one branch": 12 - min(good)}


def test_budgets_of_both_passes_add_as_mean_squares_and_the_report_says_so(
    kept: tuple[Calibration, Path],
) -> None:
    asked = {"calibration": str(kept[1])}
    caching, guiding = (
        {**asked, "budget": max(tables[0].rows, key=lambda row: row.psnr).psnr - 1.0}
        for tables in (kept[0].tables, kept[0].guidance)
    )
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", step_cache=caching, guidance=guiding)
    expected = budgets_together([caching["budget"], guiding["budget"]])
    assert sdaccel.report(pipe)["guidance"].notes == [
        f"unet: {expected:.1f} dB are expected beside step_cache's budget, for the mean squares of "
        "both errors add; step_cache begins anew whenever a branch comes or goes, and alone it may "
        "be faster"
    ]
    assert psnr(draw(tiny.stable_diffusion())[0], draw(pipe)[0]) > expected - 1.0


def test_two_equal_budgets_are_expected_to_make_three_decibels_less() -> None:
    assert budgets_together([34.0, 34.0]) == pytest.approx(34.0 - 3.0103)
    assert budgets_together([30.0, 60.0]) == pytest.approx(30.0, abs=0.005)


def test_a_file_from_before_guidance_serves_step_cache_and_asks_guidance_to_calibrate(
    kept: tuple[Calibration, Path], tmp_path: Path
) -> None:
    values, old = json.loads(kept[1].read_text()), tmp_path / "old.json"
    del values["version"], values["guidance"]
    for row in values["tables"][0]["rows"]:
        del row["variable"]
    old.write_text(json.dumps(values))
    options = {"budget": 5.0, "calibration": str(old)}
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", step_cache=options, guidance=options)
    assert sdaccel.report(pipe)["step_cache"].refused == {}
    assert sdaccel.report(pipe)["guidance"].refused == {
        "unet": f"the calibration {old} has nothing on guidance: make one with `sdaccel calibrate`"
    }
    old.write_text(json.dumps({**values, "version": 99}))
    with pytest.raises(ValueError, match="is of a newer sdaccel"):
        Calibration.read(old, {})


def test_what_is_left_out_as_a_whole_costs_less_than_what_still_runs_in_part() -> None:
    deep, whole = Row((0, 4, 9), 1, 40.0, None), Row((0, 2, 5, 9), 1, 40.0, None, "whole")
    far = Row((0, 9), 1, 30.0, None, "whole")
    for shallow, cheapest in ((0.0, deep), (0.1, deep), (0.2, whole)):
        table = Table(10, None, 1, (deep, whole, far), shallow)
        assert table.cheapest(35.0) is cheapest
        assert table.cheapest(25.0) is far


def test_rows_of_both_kinds_are_measured(kept: tuple[Calibration, Path]) -> None:
    (table,) = kept[0].tables
    assert {row.skip for row in table.rows} == {"deep", "whole"}
    assert {row.forecast for row in table.rows if row.skip == "whole"} == {0, 1, 2}


def test_what_was_not_calibrated_runs_in_full_and_says_so(kept: tuple[Calibration, Path]) -> None:
    options = {"budget": 5.0, "calibration": str(kept[1])}
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", step_cache=options, guidance=options)
    for changes in ({"num_inference_steps": 14}, {"guidance_scale": 5.0}):
        found = draw(pipe, **changes)
        assert apart(found, draw(tiny.stable_diffusion(), **changes)) == 0
    for name in PASSES:
        assert sdaccel.report(pipe)[name].notes[-2:] == [
            f"unet: nothing is skipped, calibrated for 12 steps at guidance 7.5, not for {other}"
            for other in ("14 steps at guidance 7.5", "12 steps at guidance 5.0")
        ]


@pytest.mark.parametrize(
    ("name", "make", "options", "sentence"),
    [
        ("step_cache", tiny.stable_diffusion, {"budget": 250.0}, "more than was measured"),
        ("guidance", tiny.stable_diffusion, {"budget": 250.0}, "more than was measured"),
        ("step_cache", tiny.stable_diffusion, {"budget": 5.0, "depth": 2}, "of another options"),
        ("step_cache", flux, {"budget": 5.0}, "of another model, weights, scheduler"),
        ("guidance", flux, {"budget": 5.0}, "of another model, weights, scheduler"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(
    kept: tuple[Calibration, Path], name: str, make: Any, options: dict[str, Any], sentence: str
) -> None:
    asked = {"calibration": str(kept[1]), **options}
    pipe = sdaccel.accelerate(make(), "none", **{name: asked})
    (reason,) = sdaccel.report(pipe)[name].refused.values()
    assert sentence in reason


def test_a_calibration_that_is_missing_or_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "empty"))
    options = {"budget": 30.0}
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", step_cache=options, guidance=options)
    for name in PASSES:
        assert sdaccel.report(pipe)[name].refused == {
            "unet": "there is no calibration yet: make one with `sdaccel calibrate`"
        }
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    cached(pipe, budget=30.0, calibration=str(damaged))
    assert "can't be read" in sdaccel.report(pipe)["step_cache"].refused["unet"]


@pytest.mark.parametrize("budget", [0, -3.0, float("nan"), float("inf"), "34 dB", True])
def test_a_budget_that_is_none_is_named(budget: Any) -> None:
    with pytest.raises(PlanError, match="budget is a PSNR in dB above 0"):
        cached(tiny.stable_diffusion(), budget=budget)


def test_a_budget_beside_a_list_of_steps_is_refused() -> None:
    with pytest.raises(PlanError, match="either budget or steps"):
        cached(tiny.stable_diffusion(), budget=30.0, steps=[0, 3])


def test_a_denoiser_that_rests_at_some_steps_has_no_products() -> None:
    products = Products()
    for step in (0, 2):
        products.note("key", step, torch.ones(3))
    with pytest.raises(PassError, match="does not run at every step"):
        products.matrix()


def test_products_are_added_over_generations_and_tensors_of_unlike_size() -> None:
    products = Products()
    for _ in range(2):
        for step, value in enumerate((1.0, 3.0)):
            products.note("long", step, torch.full((40000,), value))
            products.note("short", step, torch.full((2,), value))
    matrix = torch.tensor(products.matrix())
    torch.testing.assert_close(matrix, torch.tensor([[0.4, 1.2], [1.2, 3.6]]))
