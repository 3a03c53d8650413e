"""Published denoisers as workloads: their real sizes, and scaled-down ones that run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import init_empty_weights

from sdaccel.benchmarks import measure, workloads
from sdaccel.benchmarks.architectures import Place
from sdaccel.benchmarks.denoisers import DENOISERS, one_forward
from sdaccel.benchmarks.errors import BenchmarkError
from sdaccel.benchmarks.families import Size
from sdaccel.benchmarks.family_pipeline import FamilyPipeline

BILLIONS = {
    "sdxl-unet": 2.57,
    "sd3-medium": 2.03,
    "sd3.5-large": 8.06,
    "flux-dev": 11.90,
    "flux-schnell": 11.89,
    "pixart-sigma": 0.61,
    "sana-1.6b": 1.60,
    "qwen-image": 20.43,
    "z-image": 6.15,
    "animatediff": 1.31,
    "cogvideox-2b": 1.69,
    "cogvideox-5b": 5.57,
    "ltx-video": 1.92,
    "wan2.1-1.3b": 1.42,
    "wan2.1-14b": 14.29,
    "hunyuan-video": 12.82,
}
"""Weights as published, to the last digit given."""


def empty(name: str, quick: bool) -> torch.nn.Module:
    import diffusers

    family, _size = DENOISERS[name].chosen(quick)
    with init_empty_weights():
        model: torch.nn.Module = getattr(diffusers, family.model)(**family.config)
    return model


@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_has_the_published_number_of_weights(name: str) -> None:
    weights = sum(each.numel() for each in empty(name, quick=False).parameters())
    assert weights / 1e9 == pytest.approx(BILLIONS[name], abs=0.01)


@pytest.mark.parametrize("name", DENOISERS)
def test_the_quick_one_has_every_kind_of_block_and_fits_a_small_machine(name: str) -> None:
    whole, quick = empty(name, quick=False), empty(name, quick=True)
    assert {type(each) for each in quick.modules()} == {type(each) for each in whole.modules()}
    assert sum(each.numel() for each in quick.parameters()) < 1e9


@pytest.mark.parametrize("name", DENOISERS)
def test_a_quick_forward_takes_two_cores_about_a_second(name: str) -> None:
    family, size = DENOISERS[name].chosen(quick=True)
    pipe = FamilyPipeline(family.build(place=Place("meta")), None, None)
    assert measure.count_flops(one_forward(pipe, family, size)) < 0.35e12


def test_a_forward_runs_and_is_the_same_each_time() -> None:
    family, size = DENOISERS["pixart-sigma"].chosen(quick=True)
    small = replace(
        family,
        config={
            **family.config,
            "num_layers": 1,
            "num_attention_heads": 2,
            "cross_attention_dim": 144,
        },
    )
    pipe = FamilyPipeline(small.build(), None, None)
    call = one_forward(pipe, small, replace(size, height=8, width=8))
    assert torch.equal(call(), call())
    assert call().isfinite().all()


def test_a_misspelt_workload_is_told_the_nearest() -> None:
    with pytest.raises(BenchmarkError, match="did you mean 'flux-dev'"):
        workloads.workload("flux-dew")


def test_a_workload_says_how_it_was_scaled_down() -> None:
    workload = workloads.workload("flux-dev", quick=True)
    assert workload.label == "flux-dev (quick)"
    assert workload.settings["config"] == {"num_layers": 1, "num_single_layers": 2}
    assert (
        workload.settings["input"]["height"]
        < workloads.workload("flux-dev").settings["input"]["height"]
    )
    assert Size(**workload.settings["input"]).tokens == 128
