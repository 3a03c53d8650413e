"""A sampler's own time is known before the loop, and forecasts in it are better of higher order."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import tiny
import torch
from caching import apart, cached, draw

import sdaccel
from sdaccel.clock import Clock
from sdaccel.passes.sampler_times import SamplerTimes, noise_levels
from sdaccel.passes.step_cache_history import History

STEPS = 20


def times_of(scheduler: Any, steps: int = STEPS) -> SamplerTimes:
    """Those of a generation that has just begun."""
    scheduler.set_timesteps(steps)
    clock = Clock()
    times = SamplerTimes(clock)
    clock.listeners.append(times.read)
    clock.begin(scheduler)
    return times


def karras() -> Any:
    return diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)


def worst(order: int, points: list[float], values: torch.Tensor) -> float:
    """The largest error at the last two of each three steps."""
    history, errors = History(order), [0.0]
    for step, (point, value) in enumerate(zip(points, values, strict=True)):
        if step < 3 or step % 3 == 0:
            history.keep(point, value)
        else:
            errors.append(float((history.predict(point) - value).abs()))
    return max(errors)


def test_the_error_falls_with_the_order_at_unequal_times_and_in_them_alone() -> None:
    times = times_of(karras())
    points = times.points(STEPS, "sigma")
    assert points is not None
    values = torch.tensor(points).double().mul(0.005).exp()
    zeroth, first, second = (worst(order, points, values) for order in (0, 1, 2))
    assert zeroth > 4 * first > 16 * second
    steps = times.points(STEPS, "step")
    assert steps is not None
    assert worst(2, steps, values) > 3 * second


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler"])
def test_a_noise_level_is_the_noise_s_share_over_the_data_s(kind: str) -> None:
    whole = {} if kind == "LCMScheduler" else {"timestep_spacing": "leading"}
    scheduler = getattr(diffusers, kind)(**whole)
    scheduler.set_timesteps(STEPS)
    kept = scheduler.alphas_cumprod[scheduler.timesteps.long()]
    levels = noise_levels(scheduler)
    assert levels == pytest.approx(((1 - kept) / kept).sqrt().tolist(), rel=1e-5)


def test_the_log_snr_is_that_of_either_kind_of_sampler() -> None:
    scheduler = karras()
    points = times_of(scheduler).points(STEPS, "log_snr")
    assert points == pytest.approx([-math.log(each) for each in scheduler.sigmas[:STEPS]])
    flow = times_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert flow.points(STEPS, "log_snr") is None  # all noise at first
    levels, later = flow.points(STEPS, "sigma"), flow.points(STEPS - 1, "log_snr")
    assert levels is not None
    assert later is not None
    wanted = [math.log((1 + each) / -each) for each in levels[1:]]
    assert later == pytest.approx(wanted)


def from_noise_alone() -> Any:
    """DDIM whose first step has nothing of a picture, which only v-prediction can tell of."""
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return diffusers.DDIMScheduler(**options, prediction_type="v_prediction", clip_sample=False)


def test_a_schedule_that_begins_with_noise_alone_has_no_time_but_its_angle_and_its_steps() -> None:
    times = times_of(from_noise_alone())
    assert times.points(STEPS, "sigma") is times.points(STEPS, "log_snr") is None
    angles = times.points(STEPS, "angle")
    assert angles is not None
    assert angles[0] == -math.pi / 2
    assert times.variables(STEPS) == ["step", "angle"]
    assert times.variables(STEPS - 1) == ["step", "sigma", "log_snr"]


def test_by_the_angle_v_prediction_turns_a_sample() -> None:
    """So that is what DDIM integrates over: nothing else of a step enters."""
    scheduler = from_noise_alone()
    points = times_of(scheduler).points(STEPS, "angle")
    assert points is not None
    sample, prediction = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    for step in range(STEPS - 1):
        turn = points[step + 1] - points[step]
        found = scheduler.step(prediction, scheduler.timesteps[step], sample).prev_sample
        wanted = math.cos(turn) * sample - math.sin(turn) * prediction
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_angle_of_a_flow_is_that_between_its_data_and_its_noise() -> None:
    times = times_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    levels, angles = times.points(STEPS, "sigma"), times.points(STEPS, "angle")
    assert levels is not None
    assert angles is not None
    assert angles[0] == -math.pi / 2
    shares = [math.tan(-each) for each in angles[1:]]
    assert shares == pytest.approx([-each / (1 + each) for each in levels[1:]])
    assert times.variables(STEPS) == ["step", "sigma"]


def test_a_schedule_that_was_cut_short_has_the_last_steps() -> None:
    times = times_of(karras())
    whole, rest = times.points(STEPS, "sigma"), times.points(7, "sigma")
    assert whole is not None
    assert rest == whole[-7:]
    assert times.points(STEPS + 1, "sigma") is None


def test_variables_are_those_with_distances_of_their_own() -> None:
    assert times_of(karras()).variables(STEPS) == ["step", "sigma", "log_snr"]
    unshifted = diffusers.FlowMatchEulerDiscreteScheduler()
    assert times_of(unshifted).variables(STEPS) == ["step"]
    assert times_of(diffusers.HeunDiscreteScheduler(), 5).variables(9) == ["step"]


def test_a_schedule_that_is_set_anew_before_the_first_step_counts() -> None:
    scheduler = karras()
    times = times_of(scheduler, 30)
    scheduler.set_timesteps(STEPS)
    assert times.points(STEPS, "sigma") == [-each for each in scheduler.sigmas[:STEPS].tolist()]


def test_where_the_variable_is_not_known_steps_are_counted_and_the_report_says_so() -> None:
    options = {"skip": "whole", "forecast": 1, "interval": 3}
    pipes = [tiny.stable_diffusion(), tiny.stable_diffusion()]
    for pipe in pipes:
        pipe.scheduler = diffusers.HeunDiscreteScheduler()
    found = draw(cached(pipes[0], variable="sigma", **options))
    assert apart(found, draw(cached(pipes[1], **options))) == 0
    assert sdaccel.report(pipes[0])["step_cache"].notes == [
        "unet: forecasts go by the step's number, for sigma does not rise or is not known"
    ]
