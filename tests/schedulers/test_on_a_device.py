"""What a GPU computes, led through whole trajectories: the kernel, its table and its counter.

On a CPU the stand-ins add up with plain torch; here they are told to take the device's way.
"""

from __future__ import annotations

import copy

import pytest
import torch
from kernel_checks import on_a_cpu
from trajectories import PUBLISHED, Run, denoise, distance, follow

from sdaccel.kernels.linear_step import linear_step
from sdaccel.kernels.operator import operators

pytestmark = on_a_cpu

RUNS = [
    Run("DDIMScheduler", PUBLISHED, options={"eta": 0.5}),
    Run("DPMSolverMultistepScheduler", {**PUBLISHED, "algorithm_type": "sde-dpmsolver++"}),
    Run("EulerDiscreteScheduler", PUBLISHED),
    Run("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    Run("HeunDiscreteScheduler", PUBLISHED, {"num_inference_steps": 4}),
    Run("UniPCMultistepScheduler", {**PUBLISHED, "solver_order": 3}),
    Run("UniPCMultistepScheduler", PUBLISHED, begin=2),
]


pytestmark = pytest.mark.usefixtures("as_on_a_device")


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_kernel_follows_stock_through_a_schedule(run: Run) -> None:
    runs = operators()["linear_step"].runs
    before, ours = runs["kernel"], run.ours()
    expected, found = follow(run, run.stock()), follow(run, ours)
    for theirs, mine in zip(expected, found, strict=True):
        assert distance(mine[:1], theirs[:1]) <= 1e-6
    assert runs["kernel"] - before == len(found)
    again = follow(run, ours)
    assert torch.equal(again[-1][0], found[-1][0])


def test_steps_out_of_order_and_copies_find_their_rows() -> None:
    run = Run("DDIMScheduler", PUBLISHED)
    stock, ours = run.stock(), run.ours()
    sample = follow(run, stock)[0][0]
    follow(run, ours)
    for index in (4, 0, 3, 3):
        timestep, prediction = stock.timesteps[index], denoise(sample)
        expected = stock.step(prediction, timestep, sample).prev_sample
        for scheduler in (ours, copy.deepcopy(ours)):
            found = scheduler.step(prediction, scheduler.timesteps[index], sample).prev_sample
            assert distance([found], [expected]) <= 1e-6


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_a_launch_made_again_makes_the_next_step(name: str) -> None:
    """As a captured graph does it: the same call, with the same tensors, from step to step."""
    run = Run(name, PUBLISHED)
    ours, stock = run.ours(), run.stock()
    expected = [each[0] for each in follow(run, stock)]
    ours.set_timesteps(**run.schedule)
    sample = torch.randn(expected[0].shape, generator=torch.Generator().manual_seed(0))
    sample = ours.step(denoise(sample), ours.timesteps[0], sample).prev_sample
    trajectory = ours._sdaccel_tables.trajectory
    program, counter = trajectory.program, trajectory._counter
    history, table = trajectory._history[: program.slots], program.table(sample.device)
    for index in range(1, len(expected)):
        sample = linear_step(sample, denoise(sample), None, history, table, counter, sample.dtype)
        assert distance([sample], expected[index : index + 1]) <= 1e-6
    assert counter.tolist() == [len(expected), 0]
