"""Step caching on whole pipelines, against the same done by hand, with hooks on a stock pipe."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from caching import STEPS, apart, cached, draw, flux, ran
from diffusers import FirstBlockCacheConfig

import sdaccel
from sdaccel.errors import PassError, PlanError

FULL = ({0, 3, 6, 9, 11}, {0, 1, 4, 7, 10, 11})
"""Of twelve steps at an interval of 3, for forecasts of order 0 and 1."""
CALM = 1e-6
"""Far below what caching changes, far above rounding."""


def extrapolated(values: dict[int, Any], step: int, order: int) -> Any:
    """By hand: repeated, or along the line through the last two."""
    *_, last = values
    if order == 0 or len(values) < 2:
        return values[last]
    before = list(values)[-2]
    slope = (values[last] - values[before]) / (last - before)
    return values[last] + slope * (step - last)


@pytest.mark.parametrize("order", [0, 1])
def test_a_shallow_step_of_a_unet_runs_the_outer_layers_on_a_forecast(order: int) -> None:
    stock = tiny.stable_diffusion()
    plain = draw(stock)
    step, kept = -1, dict[int, Any]()

    def by_hand(_: Any, args: tuple[Any, ...]) -> Any:
        nonlocal step
        step += 1
        hidden, rest = args[0][:, :32], args[0][:, 32:]
        if step in FULL[order]:
            kept[step] = hidden
            return None
        return (torch.cat([extrapolated(kept, step, order), rest], dim=1), *args[1:])

    stock.unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(by_hand)
    wanted = draw(stock)
    found = draw(cached(tiny.stable_diffusion(), interval=3, forecast=order))
    assert apart(found, wanted) < CALM
    assert apart(found, plain) > 100 * CALM


@pytest.mark.parametrize("order", [0, 1])
def test_a_shallow_step_of_a_transformer_adds_the_forecast_change(order: int) -> None:
    stock = flux()
    plain = draw(stock)
    transformer = stock.transformer
    # per list of blocks: the first and the last that are skipped
    for first, last in (
        (transformer.transformer_blocks[1], transformer.transformer_blocks[1]),
        (transformer.single_transformer_blocks[0], transformer.single_transformer_blocks[2]),
    ):
        change_by_hand(first, last, order)
    wanted = draw(stock)
    found = draw(cached(flux(), interval=3, forecast=order, first=1, last=1))
    assert apart(found, wanted) < CALM
    assert apart(found, plain) > 100 * CALM


def change_by_hand(first: Any, last: Any, order: int) -> None:
    """Between two blocks of a stock FLUX, what a cache does, for each of two calls a step."""
    names = ("encoder_hidden_states", "hidden_states")
    calls, entered = -1, dict[str, Any]()
    kept: list[dict[str, dict[int, Any]]] = [{name: {} for name in names} for _ in range(2)]

    def enter(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        entered.update({name: kwargs[name] for name in names})

    def leave(_: Any, __: Any, outputs: tuple[Any, ...]) -> Any:
        step, changes = calls // 2, kept[calls % 2]
        if step in FULL[order]:
            for name, output in zip(names, outputs, strict=True):
                changes[name][step] = output - entered[name]
            return None
        return tuple(entered[n] + extrapolated(changes[n], step, order) for n in names)

    first.register_forward_pre_hook(enter, with_kwargs=True)
    last.register_forward_hook(leave)


@pytest.mark.parametrize(
    ("make", "part", "deep", "full"),
    [
        (tiny.stable_diffusion, "unet", lambda unet: unet.mid_block.resnets[0], 5),
        (tiny.stable_diffusion, "unet", lambda unet: unet.down_blocks[0].resnets[0], 5),
        (flux, "transformer", lambda dit: dit.single_transformer_blocks[1].norm, 10),
    ],
)
def test_what_is_skipped_does_not_run(make: Any, part: str, deep: Any, full: int) -> None:
    pipe = cached(make(), interval=3, forecast=0)
    calls = []
    deep(getattr(pipe, part)).register_forward_hook(lambda *_: calls.append(1))
    draw(pipe)
    assert len(calls) == full
    counts = ran(pipe)
    assert counts[f"{part} full"] == full
    assert counts[f"{part} shallow"] == full * (STEPS - len(FULL[0])) // len(FULL[0])
    assert counts[f"{part} bytes kept at most"] > 0


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_with_every_step_full_nothing_changes(make: Any) -> None:
    plain = draw(make())
    assert apart(draw(cached(make(), interval=1)), plain) == 0
    assert apart(draw(cached(make(), steps=range(STEPS), forecast=2)), plain) == 0


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_restore_is_bit_for_bit(make: Any) -> None:
    pipe = make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    draw(cached(pipe, interval=2, forecast=2))
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


def test_few_steps_run_in_full_and_the_report_says_so() -> None:
    pipe = cached(tiny.stable_diffusion(), interval=3)
    assert (
        apart(
            draw(pipe, num_inference_steps=9), draw(tiny.stable_diffusion(), num_inference_steps=9)
        )
        == 0
    )
    record = sdaccel.report(pipe)["step_cache"]
    assert record.ran["unet full"] == 9
    assert record.notes == ["unet: 9 steps are too few to skip in"]


def test_outside_a_generation_and_for_gradients_everything_is_computed() -> None:
    pipe = cached(tiny.stable_diffusion(), interval=3)
    draw(pipe)
    counts = ran(pipe)
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor(3), torch.randn(1, 16, 32))
    stock = tiny.stable_diffusion()
    with torch.no_grad():
        assert torch.equal(pipe.unet(*inputs).sample, stock.unet(*inputs).sample)
    assert ran(pipe) == counts


def test_a_unet_of_every_depth_and_a_transformer_of_every_cut_draws_something_near() -> None:
    plain = draw(tiny.stable_diffusion())
    errors = [
        apart(draw(cached(tiny.stable_diffusion(), interval=3, depth=depth)), plain)
        for depth in (1, 2, 3)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"interval": 0}, "interval is a whole number of at least 1, not 0"),
        ({"interval": 2.5}, "interval is a whole number"),
        ({"depth": 0}, "depth is a whole number of at least 1"),
        ({"first": -1}, "first is a whole number of at least 0"),
        ({"forecast": 3}, "forecast is 0, 1 or 2, not 3"),
        ({"steps": []}, "steps is empty"),
        ({"steps": "012"}, "steps is a list of step numbers"),
        ({"steps": [0, -3]}, "each of steps is a whole number of at least 0, not -3"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], sentence: str) -> None:
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    with pytest.raises(PlanError, match=sentence):
        cached(pipe, **options)
    assert tiny.snapshot(pipe) == before


def test_diffusers_own_cache_is_refused_and_noticed_later() -> None:
    pipe = flux()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(PassError, match="disable_cache"):
        sdaccel.accelerate(pipe, "none", strict=True, step_cache=True)
    pipe.transformer.disable_cache()
    cached(pipe, interval=3)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    draw(pipe)
    record = sdaccel.report(pipe)["step_cache"]
    assert not record.ran
    assert record.notes == ["transformer: nothing is skipped while diffusers' own cache is on"]


def test_a_unet_that_is_too_shallow_and_blocks_that_are_too_few_are_refused() -> None:
    pipe = cached(tiny.stable_diffusion(), depth=4)
    assert sdaccel.report(pipe)["step_cache"].refused == {
        "unet": "it has 4 layers on each side, and depth must be smaller"
    }
    pipe = cached(flux(), first=5, last=1)
    assert "leaves none to skip" in sdaccel.report(pipe)["step_cache"].refused["transformer"]
