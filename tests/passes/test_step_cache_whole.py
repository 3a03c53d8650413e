"""A denoiser that is left out as a whole: its output is extrapolated, and nothing of it runs."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import tiny
import torch
from caching import STEPS, another_text, apart, cached, controlnet, draw, flux, ran

import sdaccel

OPTIONS: dict[str, Any] = {"interval": 3, "skip": "whole"}
FULL = (0, 3, 6, 9, 11)
CALM = 1e-6
ROUNDED = 1e-5
"""For what computes the same in another order."""


def by_hand(values: dict[int, Any], step: int, order: int) -> Any:
    """The polynomial through the last `order` + 1 values, by Lagrange."""
    known = list(values)[-order - 1 :]
    total = torch.zeros(())
    for own in known:
        weight = 1.0
        for other in known:
            if other != own:
                weight *= (step - other) / (own - other)
        total = total + weight * values[own]
    return total


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_a_skipped_step_takes_the_forecast_of_the_output(make: Any, order: int) -> None:
    """Beside a stock pipe whose outputs are replaced by hand, for each of its calls a step."""
    stock, full = make(), (0, 1, 2, 5, 8, 11)
    plain = draw(stock)
    name = "transformer" if make is flux else "unet"
    calls, a_step = -1, 2 if make is flux else 1
    kept: list[dict[int, Any]] = [{} for _ in range(a_step)]

    def replace(_: Any, __: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        step, values = calls // a_step, kept[calls % a_step]
        if step in full:
            values[step] = output[0]
            return None
        return (by_hand(values, step, order),)

    getattr(stock, name).register_forward_hook(replace)
    wanted = draw(stock)
    found = draw(cached(make(), steps=full, forecast=order, skip="whole"))
    assert apart(found, wanted) < ROUNDED
    assert apart(found, plain) > 100 * CALM


def own_time(pipe: Any, variable: str, timestep: int) -> float:
    """Where a timestep of DDIM's lies, scaled to about the number of its step."""
    kept = float(pipe.scheduler.alphas_cumprod[timestep])
    level = ((1 - kept) / kept) ** 0.5
    times = {"step": 12 - timestep / 83, "sigma": 12 - level, "log_snr": -math.log(level)}
    return {**times, "angle": 12 - 7 * math.atan(level)}[variable]


def error_of(order: int, variable: str, actual: str | None = None) -> float:
    """How far forecasts are from a UNet's outputs that are quadratic in a variable."""
    pipe, returned, wanted = tiny.stable_diffusion(), list[Any](), list[Any]()

    def quadratic(timestep: Any) -> Any:
        at = own_time(pipe, actual or variable, int(timestep))
        return torch.full((2, 4, 8, 8), 0.3 - 0.05 * at + 0.01 * at * at)

    pipe.unet.forward = lambda _, timestep, *__, **___: (quadratic(timestep),)
    pipe.unet.register_forward_pre_hook(lambda _, args: wanted.append(quadratic(args[1])))
    pipe.unet.register_forward_hook(lambda *called: returned.append(called[-1][0]))
    options = {"steps": [0, 1, 2, 5, 8, 11], "forecast": order, "variable": variable}
    draw(cached(pipe, skip="whole", **options))
    assert ran(pipe)["unet left out"] == 6
    return max(map(apart, returned, wanted))


@pytest.mark.parametrize("variable", ["step", "sigma", "log_snr", "angle"])
def test_a_forecast_of_order_two_is_exact_for_an_output_that_is_quadratic(variable: str) -> None:
    assert error_of(2, variable) < 1e-5
    assert error_of(1, variable) > 0.01
    other = "log_snr" if variable == "sigma" else "sigma"
    assert error_of(2, variable, other) > 0.01


@pytest.mark.parametrize(("make", "calls"), [(tiny.stable_diffusion, 1), (flux, 2)])
def test_nothing_of_the_denoiser_runs_at_a_skipped_step(make: Any, calls: int) -> None:
    pipe = make()
    name = "transformer" if make is flux else "unet"
    cached(pipe, **OPTIONS)
    denoiser, count = getattr(pipe, name), 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1

    for module in denoiser.modules():
        if module is not denoiser:
            module.register_forward_hook(note)
    draw(pipe)
    once, count = count, 0
    plain = make()
    for module in getattr(plain, name).modules():
        if module is not getattr(plain, name):
            module.register_forward_hook(note)
    draw(plain)
    assert once * STEPS == count * len(FULL)
    counts = ran(pipe)
    assert counts[f"{name} full"] == calls * len(FULL)
    assert counts[f"{name} left out"] == calls * (STEPS - len(FULL))
    assert counts[f"{name} bytes kept at most"] > 0
    assert f"{name} shallow" not in counts


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_with_every_step_full_nothing_changes_and_restore_is_bit_for_bit(make: Any) -> None:
    pipe = make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    assert apart(draw(cached(pipe, steps=range(STEPS), forecast=2, skip="whole")), plain) == 0
    draw(cached(pipe, **OPTIONS))
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


def test_a_text_that_changes_amid_the_steps_is_computed() -> None:
    pipe = cached(tiny.stable_diffusion(), **OPTIONS)
    draw(pipe, **another_text(after=3))
    assert ran(pipe)["unet full"] == len(FULL) + 1


def test_a_pipeline_that_writes_to_what_it_is_given_changes_no_forecast() -> None:
    pictures = []
    for spoil in (False, True):
        pipe = cached(tiny.stable_diffusion(), **OPTIONS)

        def write(_: Any, __: Any, output: Any, spoil: bool = spoil) -> Any:
            picture = output[0].clone()
            if spoil:
                output[0].fill_(9.0)
            return (picture,)

        pipe.unet.register_forward_hook(write)
        pictures.append(draw(pipe))
    assert apart(*pictures) == 0


def test_what_no_block_can_be_left_out_of_can_be_left_out_as_a_whole() -> None:
    deep = cached(tiny.stable_diffusion(), depth=9)
    assert "unet" in sdaccel.report(deep)["step_cache"].refused
    whole = cached(tiny.stable_diffusion(), depth=9, **OPTIONS)
    draw(whole)
    assert ran(whole)["unet left out"] == STEPS - len(FULL)


def test_a_copied_denoiser_computes_everything() -> None:
    pipe = cached(tiny.stable_diffusion(), **OPTIONS)
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor(3), torch.randn(1, 16, 32))
    with torch.no_grad():
        wanted = tiny.stable_diffusion().unet(*inputs).sample
        assert torch.equal(copy.deepcopy(pipe.unet)(*inputs).sample, wanted)
        assert torch.equal(pipe.unet(*inputs).sample, wanted)
    assert not ran(pipe)


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_hoisting_looks_at_no_forward_that_is_left_out(make: Any) -> None:
    """The second call of a generation, which it would look into, is left out here."""
    options = {"steps": [0, 2, 4, 6, 8, 10], "forecast": 1, "skip": "whole"}
    wanted = draw(cached(make(), **options))
    pipe = make()
    sdaccel.accelerate(pipe, "none", hoist=True, step_cache=options)
    for _ in range(2):
        assert apart(draw(pipe), wanted) < ROUNDED
    hoisted = sdaccel.report(pipe)["hoist"].ran
    assert hoisted["rows read"] > 0
    assert not any("anew" in each for each in hoisted)


def test_compiled_it_is_what_it_is_eagerly() -> None:
    pipe = tiny.stable_diffusion()
    how = {"backend": "eager", "scope": "whole", "vae": False}
    sdaccel.accelerate(pipe, "none", compile=how, step_cache=OPTIONS)
    assert apart(draw(pipe), draw(cached(tiny.stable_diffusion(), **OPTIONS))) < ROUNDED
    assert sdaccel.report(pipe)["compile"].ran["compiled calls"] == len(FULL)
    torch._dynamo.reset()


def test_one_branch_of_guidance_is_forecast_where_the_other_is_left_out() -> None:
    pipe = tiny.stable_diffusion()
    guidance = {"stop": 0.5, "every": None, "fewest_steps": 1}
    sdaccel.accelerate(pipe, "none", guidance=guidance, step_cache={**OPTIONS, "interval": 2})
    draw(pipe)
    counts = ran(pipe)
    # both branches in full at 0, 2, 4; one at 6, when its size is new, and at 8, 10 and 11
    assert counts["unet full"] == 7
    assert counts["unet left out"] == 5
    assert sdaccel.report(pipe)["guidance"].ran["unet one branch"] == 6


def test_another_thing_to_skip_is_named() -> None:
    with pytest.raises(sdaccel.errors.PlanError, match="skip is 'deep' or 'whole'"):
        cached(tiny.stable_diffusion(), skip="all")


def test_a_controlnet_rests_where_its_denoiser_does_and_changes_nothing_else() -> None:
    """By hand: the UNet alone is left out, and its ControlNet computes for nothing."""
    alone = controlnet()
    resting = controlnet()
    cached(resting, steps=FULL, forecast=1, skip="whole")
    cached(alone, steps=FULL, forecast=1, skip="whole")
    alone.controlnet.forward = alone.controlnet.forward.stock
    assert apart(draw(resting), draw(alone)) < CALM
    assert ran(resting)["controlnet left out"] == STEPS - len(FULL)
    assert ran(resting)["controlnet full"] == len(FULL)
