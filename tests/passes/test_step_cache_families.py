"""Every family of denoisers: where nothing changes between two steps, skipping changes nothing."""

from __future__ import annotations

import pytest
import torch

import sdaccel
from sdaccel.benchmarks.families import SIZES, Family, families, forward
from sdaccel.benchmarks.family_pipeline import model_of, pipeline_of
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error

pytestmark = [
    # diffusers, of its own FluxPosEmbed in Chroma and of autocast in Mochi
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
]
DENOISERS = [family for family in families() if family.part == "denoiser"]
REFUSED = {
    "ControlNet": "computed at every step, though shallow ones read its outer residuals alone",
    "ErnieImage": "no list of blocks is known whose results are among their arguments",
}
GIVEN_UP = {"Latte": "denoiser: nothing is skipped, its lists of blocks take turns"}


@pytest.mark.parametrize("family", DENOISERS, ids=lambda family: family.name)
def test_what_a_shallow_step_takes_over_is_what_it_would_have_computed(family: Family) -> None:
    pipe = pipeline_of(family)
    model = model_of(pipe)
    truth = forward(model, family.draw(SIZES[0], 0, torch.float32))
    sdaccel.accelerate(
        pipe, "none", step_cache={"interval": 9, "forecast": 0, "first": 0, "last": 0}
    )
    record = sdaccel.report(pipe)["step_cache"]
    if family.name in REFUSED:
        assert record.refused == {"denoiser": REFUSED[family.name]}
        return
    inputs = family.draw(SIZES[0], 0, torch.float32)
    pipe.scheduler.set_timesteps(10)
    for timestep in pipe.scheduler.timesteps[:2]:
        assert relative_error(forward(model, inputs), truth) <= EXACT_ERROR
        pipe.scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert record.ran["denoiser full"] == (2 if family.name in GIVEN_UP else 1)
    assert record.ran["denoiser shallow"] == (0 if family.name in GIVEN_UP else 1)
    assert record.notes == ([GIVEN_UP[family.name]] if family.name in GIVEN_UP else [])
