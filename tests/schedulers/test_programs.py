"""What the probe finds: the weights, how little a step touches, and what it can't take."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import diffusers
import pytest
import torch
from trajectories import PUBLISHED, Run, denoise

from sdaccel.schedulers.probe import UnprobedError, probe
from sdaccel.schedulers.program import NOISE, PREDICTION, SAMPLE, Program


def program_of(run: Run, **options: Any) -> Program:
    scheduler = run.stock()
    scheduler.set_timesteps(**run.schedule)
    return probe(type(scheduler), dict(vars(scheduler)), 0, options)


def test_weights_are_the_formulas() -> None:
    run = Run("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
    scheduler = run.stock()
    scheduler.set_timesteps(**run.schedule)
    for index, step in enumerate(program_of(run).steps):
        width = float(scheduler.sigmas[index + 1] - scheduler.sigmas[index])
        assert step.result == ((SAMPLE, 1.0), (PREDICTION, pytest.approx(width, rel=1e-12)))
        assert not step.draws


def test_noise_is_drawn_where_stock_draws_it() -> None:
    steps = program_of(Run("DDPMScheduler", {"clip_sample": False})).steps
    assert [step.draws for step in steps] == [True] * (len(steps) - 1) + [False]
    assert NOISE in dict(steps[0].result)
    eta = program_of(Run("DDIMScheduler"), eta=0.0).steps
    assert not any(step.draws for step in eta)


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("DDIMScheduler", 2, 1),
        ("EulerDiscreteScheduler", 2, 1),
        ("FlowMatchEulerDiscreteScheduler", 2, 1),
        ("DPMSolverMultistepScheduler", 3, 2),
        ("HeunDiscreteScheduler", 4, 3),
        ("UniPCMultistepScheduler", 5, 3),
    ],
)
def test_a_step_reads_and_writes_each_tensor_once(name: str, reads: int, writes: int) -> None:
    """Prediction, sample and history in, sample and history out: no traffic beyond these."""
    config = {"clip_sample": False} if name == "DDIMScheduler" else {}
    for step in program_of(Run(name, config, {"num_inference_steps": 8})).steps:
        sums = (step.result, *(weights for _, weights in step.writes))
        columns = {column for weights in sums for column, _ in weights}
        assert len(columns | {SAMPLE, PREDICTION}) <= reads
        assert 1 + len(step.writes) <= writes


def test_a_value_that_only_moves_is_not_written() -> None:
    config = {**PUBLISHED, "solver_order": 3}
    steps = program_of(Run("DPMSolverMultistepScheduler", config, {"num_inference_steps": 9})).steps
    assert all(len(step.writes) == 1 for step in steps)
    held = [dict(step.places) for step in steps[3:]]
    for before, after in pairwise(held):
        assert after[("model_outputs", 1)] == before[("model_outputs", 2)]
        assert after[("model_outputs", 0)] == before[("model_outputs", 1)]


def test_the_probed_scheduler_stays_as_it_was() -> None:
    scheduler = diffusers.UniPCMultistepScheduler(**PUBLISHED)
    scheduler.set_timesteps(6)
    before = {
        key: list(each) if isinstance(each, list) else each for key, each in vars(scheduler).items()
    }
    probe(type(scheduler), vars(scheduler), 0, {})
    after = vars(scheduler)
    assert before.keys() == after.keys()
    assert all(before[key] is after[key] or before[key] == after[key] for key in before)


class Squared(diffusers.FlowMatchEulerDiscreteScheduler):
    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        return super().step(model_output * model_output.abs(), timestep, sample)


class Shifted(diffusers.FlowMatchEulerDiscreteScheduler):
    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        return super().step(model_output, timestep, sample + 1)


class Hoarding(diffusers.FlowMatchEulerDiscreteScheduler):
    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        self.seen = [*getattr(self, "seen", []), sample]
        return super().step(model_output, timestep, sample)


class Noisy(diffusers.FlowMatchEulerDiscreteScheduler):
    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        drawn = [torch.randn(sample.shape, dtype=sample.dtype) for _ in range(2)]
        return super().step(model_output, timestep, sample + drawn[0] + drawn[1])


class Failing(diffusers.FlowMatchEulerDiscreteScheduler):
    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        raise RuntimeError("no such step")


@pytest.mark.parametrize(
    ("stock", "words"),
    [
        (Squared, "isn't a weighted sum"),
        (Shifted, "isn't a weighted sum"),
        (Hoarding, "more than the table has room for"),
        (Noisy, "draws noise twice"),
        (Failing, "no such step"),
    ],
)
def test_what_is_no_weighted_sum_is_found_out(stock: Callable[[], Any], words: str) -> None:
    scheduler = stock()
    scheduler.set_timesteps(8)
    with pytest.raises(UnprobedError, match=words):
        probe(type(scheduler), vars(scheduler), 0, {})


def test_thresholding_is_found_out_at_every_noise_level() -> None:
    scheduler = diffusers.DDIMScheduler(thresholding=True)
    for timesteps in ([999, 500], [20, 1]):
        scheduler.set_timesteps(2)
        scheduler.timesteps = torch.tensor(timesteps)
        with pytest.raises(UnprobedError, match="isn't a weighted sum"):
            probe(type(scheduler), vars(scheduler), 0, {})


def test_a_scheduler_inside_another_is_not_run_for_a_probe() -> None:
    inner = diffusers.DDIMScheduler()
    scheduler = diffusers.UniPCMultistepScheduler(solver_p=inner)
    scheduler.set_timesteps(4)
    with pytest.raises(UnprobedError, match="another scheduler"):
        probe(type(scheduler), vars(scheduler), 0, {})


NAMES = ("DDIM", "DPMSolverMultistep", "EulerAncestralDiscrete", "FlowMatchEulerDiscrete", "LCM")


@pytest.mark.parametrize("name", [*NAMES, "HeunDiscrete", "TCD", "UniPCMultistep"])
def test_no_step_reads_a_value(name: str) -> None:
    """A tensor on the meta device has none: whatever would wait for a device raises."""
    ours = Run(f"{name}Scheduler").ours()
    ours.set_timesteps(6)
    sample = torch.empty(2, 4, 3, 5, device="meta")
    for timestep in ours.timesteps:
        if hasattr(ours, "scale_model_input"):
            ours.scale_model_input(sample, timestep)
        sample = ours.step(denoise(sample), timestep, sample, return_dict=False)[0]
    assert ours._sdaccel_tables.ran == {"steps from the table": len(ours.timesteps)}
