"""Whole trajectories equal stock's: every class, prediction type, spacing and option.

diffusers' own scheduler tests are not part of its wheel; what they check of a trajectory, of
`add_noise`, of saving and of `from_config`, is checked here and in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from trajectories import PUBLISHED, Exactly, Run, distance, follow

PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas")
if find_spec("scipy"):  # without it stock refuses them
    SIGMAS += ("use_beta_sigmas",)


def by_spacing() -> Iterator[Run]:
    names = ("DDIM", "DDPM", "DPMSolverMultistep", "EulerAncestralDiscrete", "EulerDiscrete")
    for name in (*names, "HeunDiscrete", "UniPCMultistep"):
        for spacing in SPACINGS:
            for prediction in PREDICTIONS:
                if (name, prediction) == ("EulerAncestralDiscrete", "sample"):
                    continue  # stock has not implemented it
                config = {"prediction_type": prediction, "timestep_spacing": spacing}
                clip = {"clip_sample": False} if name.startswith("DD") else {}
                yield Run(f"{name}Scheduler", {**PUBLISHED, **config, **clip})


def by_sigmas() -> Iterator[Run]:
    for name in ("DPMSolverMultistep", "EulerDiscrete", "HeunDiscrete", "UniPCMultistep"):
        for sigmas in SIGMAS:
            yield Run(f"{name}Scheduler", {**PUBLISHED, sigmas: True})
    for name in ("DPMSolverMultistep", "EulerDiscrete", "UniPCMultistep"):
        yield Run(f"{name}Scheduler", {**PUBLISHED, "final_sigmas_type": "sigma_min"})


def one_step_samplers() -> Iterator[Run]:
    for prediction in PREDICTIONS:
        own = {**PUBLISHED, "prediction_type": prediction}
        for eta in (0.3, 1.0):
            yield Run("DDIMScheduler", {**own, "clip_sample": False}, options={"eta": eta})
        yield Run("DDIMScheduler", own, options={"use_clipped_model_output": True, "eta": 0.5})
        yield Run("DDPMScheduler", {**own, "clip_sample_range": 0.7})
        for clip in (False, True):
            yield Run("LCMScheduler", {"prediction_type": prediction, "clip_sample": clip})
        for eta in (0.0, 0.3, 1.0):
            yield Run("TCDScheduler", {"prediction_type": prediction}, options={"eta": eta})
        yield Run("EulerDiscreteScheduler", own, options={"s_churn": 2.0, "s_noise": 1.01})
        yield Run("HeunDiscreteScheduler", {**own, "clip_sample": True})
    for variance in ("fixed_small_log", "fixed_large"):
        yield Run("DDPMScheduler", {**PUBLISHED, "variance_type": variance})
    yield Run("DDIMScheduler", {**PUBLISHED, "set_alpha_to_one": False, "steps_offset": 1})
    yield Run(
        "DDIMScheduler",
        {
            **PUBLISHED,
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        },
    )


def multistep_samplers() -> Iterator[Run]:
    ten = {"num_inference_steps": 10}
    for algorithm in ("dpmsolver++", "sde-dpmsolver++"):
        for order in (1, 2, 3):
            for kind in ("midpoint", "heun"):
                own = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind}
                if (algorithm, order) != ("sde-dpmsolver++", 3) or kind == "midpoint":
                    yield Run("DPMSolverMultistepScheduler", {**PUBLISHED, **own}, ten)
    for change in ("euler_at_final", "use_lu_lambdas"):
        yield Run("DPMSolverMultistepScheduler", {**PUBLISHED, change: True}, ten)
    yield Run("DPMSolverMultistepScheduler", {**PUBLISHED, "lower_order_final": False}, ten)
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            for x0 in (True, False):
                own = {"solver_order": order, "solver_type": kind, "predict_x0": x0}
                end = {"final_sigmas_type": "sigma_min"}
                yield Run("UniPCMultistepScheduler", {**PUBLISHED, **own, **end}, ten)
    yield Run("UniPCMultistepScheduler", {**PUBLISHED, "disable_corrector": [0, 1]}, ten)


def flow_samplers() -> Iterator[Run]:
    euler = "FlowMatchEulerDiscreteScheduler"
    for config in (
        {},
        {"shift": 3.0},
        {"stochastic_sampling": True},
        {"use_karras_sigmas": True},
        {"invert_sigmas": True},
        {"shift_terminal": 0.1},
    ):
        yield Run(euler, config)
    yield Run(euler, {"use_dynamic_shifting": True}, {"num_inference_steps": 6, "mu": 1.1})
    yield Run(euler, schedule={"sigmas": [1.0, 0.6, 0.2]})
    for options in ({}, {"s_churn": 2.0}):
        yield Run("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, options=options)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        yield Run(name, flow)


def other_schedules() -> Iterator[Run]:
    yield Run("EulerDiscreteScheduler", PUBLISHED, {"timesteps": [900, 500, 100]})
    yield Run("EulerDiscreteScheduler", PUBLISHED, {"sigmas": [14.0, 5.0, 1.0, 0.1, 0.0]})
    yield Run("HeunDiscreteScheduler", PUBLISHED, {"timesteps": [900, 500, 100]})
    yield Run("DDPMScheduler", PUBLISHED, {"timesteps": [900, 500, 100, 0]})
    yield Run("LCMScheduler", schedule={"timesteps": [999, 499, 259]})
    yield Run("DPMSolverMultistepScheduler", PUBLISHED, {"timesteps": [900, 500, 100]})
    for name in ("DDIM", "DPMSolverMultistep", "EulerDiscrete", "LCM", "TCD", "UniPCMultistep"):
        yield Run(f"{name}Scheduler", PUBLISHED, begin=2)
    yield Run("HeunDiscreteScheduler", PUBLISHED, begin=3)


RUNS = [
    *by_spacing(),
    *by_sigmas(),
    *one_step_samplers(),
    *multistep_samplers(),
    *flow_samplers(),
    *other_schedules(),
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_it_is_stocks_to_1e_6(run: Run) -> None:
    stock, ours = run.stock(), run.ours()
    expected, found = follow(run, stock), follow(run, ours)
    for theirs, mine in zip(expected, found, strict=True):
        assert [each.dtype for each in mine] == [each.dtype for each in theirs]
        assert distance(mine[:1], theirs[:1]) <= 1e-6
        assert distance(mine, theirs) <= 3e-6
    assert ours._sdaccel_tables.ran == {"steps from the table": len(found)}


@pytest.mark.parametrize(
    "run",
    [
        Run("FlowMatchHeunDiscreteScheduler"),
        Run(
            "EulerDiscreteScheduler",
            {
                **PUBLISHED,
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
                "timestep_spacing": "trailing",
            },
        ),
    ],
    ids=str,
)
def test_where_stock_itself_rounds_by_more_it_is_nearer_to_the_truth(run: Run) -> None:
    expected, found = follow(run, run.stock()), follow(run, run.ours())
    with Exactly():
        truth = follow(run, run.stock(), torch.float64)
    stocks, ours = (
        distance([each[0] for each in results], [each[0] for each in truth])
        for results in (expected, found)
    )
    assert stocks > 1e-6
    assert ours <= stocks


SIXTEEN_BIT: list[Any] = [
    Run("DDIMScheduler", {**PUBLISHED, "clip_sample": False}),
    Run("DPMSolverMultistepScheduler", PUBLISHED),
    Run("EulerDiscreteScheduler", PUBLISHED),
    Run("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    Run("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    Run("HeunDiscreteScheduler", PUBLISHED),
    Run("UniPCMultistepScheduler", PUBLISHED),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("run", SIXTEEN_BIT, ids=str)
def test_in_16_bit_it_is_no_further_from_the_truth_than_stock(run: Run, dtype: torch.dtype) -> None:
    truth = follow(run, run.stock())[-1][0]
    ours = run.ours()
    results = follow(run, ours, dtype)
    assert results[-1][0].dtype == dtype
    stocks = distance([follow(run, run.stock(), dtype)[-1][0]], [truth])
    assert distance([results[-1][0]], [truth]) <= 1.25 * stocks
    assert ours._sdaccel_tables.ran["steps from the table"] == len(results)


@pytest.mark.parametrize("run", SIXTEEN_BIT, ids=str)
def test_predictions_of_another_dtype_give_stocks_dtypes(run: Run) -> None:
    ours = run.ours()
    expected = follow(run, run.stock(), torch.float32, torch.bfloat16)
    found = follow(run, ours, torch.float32, torch.bfloat16)
    for theirs, mine in zip(expected, found, strict=True):
        assert [each.dtype for each in mine] == [each.dtype for each in theirs]
        assert distance(mine[:1], theirs[:1]) <= 3e-2
    assert "steps made by stock" not in ours._sdaccel_tables.ran
