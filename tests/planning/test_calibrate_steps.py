"""A calibration tells how far pictures are, and a budget takes the cheapest that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from caching import apart, cached, draw, flux, ran

import sdaccel
from sdaccel.errors import PassError, PlanError
from sdaccel.passes.calibration import Calibration, Row, Table
from sdaccel.planning.calibrate_steps import Products, calibrate
from sdaccel.quality.metrics import Drawing
from sdaccel.quality.pictures import psnr

SHARES = (0.3, 0.5, 0.8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, Path]:
    """The calibration of the tiny UNet pipe for twelve steps, and its file."""
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    measured = calibrate(
        pipe, lambda _: [Drawing(each) for each in draw(pipe)], None, SHARES, (0.5,)
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
    pipe = cached(tiny.stable_diffusion(), budget=5.0, calibration=str(kept[1]))
    for changes in ({"num_inference_steps": 14}, {"guidance_scale": 5.0}):
        found = draw(pipe, **changes)
        assert apart(found, draw(tiny.stable_diffusion(), **changes)) == 0
    assert sdaccel.report(pipe)["step_cache"].notes == [
        f"unet: nothing is skipped, calibrated for 12 steps at guidance 7.5, not for {other}"
        for other in ("14 steps at guidance 7.5", "12 steps at guidance 5.0")
    ]


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (tiny.stable_diffusion, {"budget": 250.0}, "more than was measured"),
        (tiny.stable_diffusion, {"budget": 5.0, "depth": 2}, "of another options"),
        (flux, {"budget": 5.0}, "of another model, weights, scheduler"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(
    kept: tuple[Calibration, Path], make: Any, options: dict[str, Any], sentence: str
) -> None:
    pipe = cached(make(), calibration=str(kept[1]), **options)
    (reason,) = sdaccel.report(pipe)["step_cache"].refused.values()
    assert sentence in reason


def test_a_calibration_that_is_missing_or_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "empty"))
    pipe = cached(tiny.stable_diffusion(), budget=30.0)
    assert sdaccel.report(pipe)["step_cache"].refused == {
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
