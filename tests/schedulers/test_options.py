"""Every option of every stand-in, one by one: stock's trajectory, or stock's steps and a reason.

The options are read from stock's constructors and steps: one that a new diffusers adds is missed
here, and told of, until it has a value below.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import diffusers
import pytest
import torch
from trajectories import PUBLISHED, Exactly, Run, distance, follow

from sdaccel.errors import SdaccelWarning
from sdaccel.schedulers.counterparts import KINDS

VALUES: dict[str, tuple[Any, ...]] = {
    "algorithm_type": ("sde-dpmsolver++",),
    "base_image_seq_len": (128,),
    "base_shift": (0.7,),
    "beta_end": (0.02,),
    "beta_schedule": ("linear", "squaredcos_cap_v2"),
    "beta_start": (0.0001,),
    "clip_sample": (True, False),
    "clip_sample_range": (0.5,),
    "disable_corrector": ([0, 2],),
    "dynamic_thresholding_ratio": (0.9,),
    "euler_at_final": (True,),
    "final_sigmas_type": ("sigma_min",),
    "flow_shift": (3.0,),
    "interpolation_type": ("log_linear",),
    "invert_sigmas": (True,),
    "lambda_min_clipped": (-5.1,),
    "lower_order_final": (False,),
    "max_image_seq_len": (2048,),
    "max_shift": (1.5,),
    "num_train_timesteps": (500,),
    "original_inference_steps": (25,),
    "predict_x0": (False,),
    "prediction_type": ("sample", "v_prediction", "flow_prediction"),
    "rescale_betas_zero_snr": (True,),
    "sample_max_value": (0.7,),
    "set_alpha_to_one": (False,),
    "shift": (3.0,),
    "shift_terminal": (0.1,),
    "sigma_max": (10.0,),
    "sigma_min": (0.1,),
    "solver_order": (1, 3),
    "solver_p": (None,),
    "solver_type": ("heun", "bh1"),
    "steps_offset": (1,),
    "stochastic_sampling": (True,),
    "thresholding": (True,),
    "time_shift_type": ("linear",),
    "timestep_scaling": (1.0,),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "timestep_type": ("continuous",),
    "trained_betas": ([0.0001 + 0.00002 * step for step in range(1000)],),
    "use_beta_sigmas": (bool(find_spec("scipy")),),  # without it stock refuses them
    "use_dynamic_shifting": (True,),
    "use_exponential_sigmas": (True,),
    "use_flow_sigmas": (True,),
    "use_karras_sigmas": (True,),
    "use_lu_lambdas": (True,),
    "variance_type": ("fixed_small_log", "fixed_large", "learned", "learned_range"),
}
OF_A_STEP: dict[str, tuple[Any, ...]] = {
    "eta": (0.0, 0.5, 1.0),
    "s_churn": (1.5,),
    "s_noise": (1.1,),
    "s_tmax": (5.0,),
    "s_tmin": (0.5,),
    "use_clipped_model_output": (True,),
}
TENSORS = {"variance_noise", "per_token_timesteps"}
"""Options of a step that are no numbers: `test_stand_ins` has them."""
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def options_of(name: str) -> Iterator[tuple[str, bool]]:
    """What can be set, and whether it is set for a step."""
    stock = getattr(diffusers, name)
    yield from ((each, False) for each in inspect.signature(stock).parameters if each != "kwargs")
    given = ("self", "model_output", "timestep", "sample", "generator", "return_dict")
    parameters = inspect.signature(stock.step).parameters
    yield from ((each, True) for each in parameters if each not in (*given, *TENSORS))


def runs() -> Iterator[Run]:
    for name in sorted(KINDS):
        known = inspect.signature(getattr(diffusers, name)).parameters
        base = {key: value for key, value in PUBLISHED.items() if key in known}
        for option, of_a_step in options_of(name):
            for value in (OF_A_STEP if of_a_step else VALUES)[option]:
                config = {} if of_a_step else {option: value}
                if option in ("flow_shift", "use_flow_sigmas") or value == "flow_prediction":
                    config = {**FLOW, **config}
                schedule: dict[str, Any] = {"num_inference_steps": 6}
                if option == "use_dynamic_shifting":
                    schedule["mu"] = 1.1
                yield Run(name, {**base, **config}, schedule, {option: value} if of_a_step else {})


def stock_s(run: Run) -> list[tuple[torch.Tensor, ...]] | Exception:
    """Stock's trajectory, or what it raises for an option that it hasn't implemented."""
    try:
        return follow(run, run.stock())
    except (ValueError, NotImplementedError, TypeError, RuntimeError) as error:
        return error


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_option_has_a_value_here(name: str) -> None:
    missing = [
        option
        for option, of_a_step in options_of(name)
        if option not in (OF_A_STEP if of_a_step else VALUES)
    ]
    assert not missing


@pytest.mark.parametrize("run", list(runs()), ids=lambda run: str(run)[:60])
@pytest.mark.filterwarnings("ignore::sdaccel.errors.SdaccelWarning")
def test_it_is_stock_s_or_says_why_stock_computes(run: Run) -> None:
    expected = stock_s(run)
    if isinstance(expected, Exception):
        with pytest.raises(type(expected)):
            follow(run, run.ours())
        return
    ours = run.ours()
    found = [each[:1] for each in follow(run, ours)]
    ran, reasons = ours._sdaccel_tables.ran, ours._sdaccel_tables.reasons
    assert ran.total() == len(expected)
    assert bool(ran["steps made by stock"]) == bool(reasons)
    apart = max(distance(mine, theirs[:1]) for mine, theirs in zip(found, expected, strict=True))
    if apart > 1e-6:
        with Exactly():
            truth = [each[:1] for each in follow(run, run.stock(), torch.float64)]
        last = distance(expected[-1][:1], truth[-1])
        assert distance(found[-1], truth[-1]) <= last, "stock's own rounding is the larger"


def test_learned_variances_are_left_to_stock() -> None:
    """A prediction of twice the channels is no term of the sum."""
    run = Run("DDPMScheduler", {**PUBLISHED, "variance_type": "learned_range"})
    results = []
    for scheduler in (run.stock(), run.ours()):
        scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(0)
        sample, prediction = (torch.randn(1, n, 4, 4, generator=generator) for n in (4, 8))
        step = (prediction, scheduler.timesteps[0], sample, generator)
        if scheduler.__class__ is diffusers.DDPMScheduler:
            results.append(scheduler.step(*step).prev_sample)
        else:
            with pytest.warns(SdaccelWarning, match="differ in shape"):
                results.append(scheduler.step(*step).prev_sample)
    assert torch.equal(*results)
