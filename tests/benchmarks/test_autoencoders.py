"""Published decoders as workloads: their real sizes, and one that runs."""

from __future__ import annotations

import pytest
import torch
from accelerate import init_empty_weights

from sdaccel.benchmarks import measure
from sdaccel.benchmarks.architectures import Place
from sdaccel.benchmarks.autoencoders import AUTOENCODERS, one_decoding
from sdaccel.benchmarks.families import families
from sdaccel.benchmarks.family_pipeline import pipeline_of
from sdaccel.benchmarks.workloads import workload

MILLIONS = {
    "sdxl-vae": 83.65,
    "sd3-vae": 83.82,
    "flux-vae": 83.82,
    "sana-vae": 312.25,
    "qwen-image-vae": 126.89,
    "cogvideox-vae": 215.58,
    "ltx-vae": 419.19,
    "wan2.1-vae": 126.89,
    "hunyuan-vae": 246.48,
}
"""Weights as published, encoder included."""


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_has_the_published_number_of_weights(name: str) -> None:
    import diffusers

    chosen = AUTOENCODERS[name]
    with init_empty_weights():
        model = getattr(diffusers, chosen.model)(**chosen.config)
    weights = sum(each.numel() for each in model.parameters())
    assert weights / 1e6 == pytest.approx(MILLIONS[name], abs=0.01)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_quick_decoding_takes_two_cores_about_a_second(name: str) -> None:
    chosen = AUTOENCODERS[name]
    pipe = pipeline_of(chosen.family, place=Place("meta"))
    assert measure.count_flops(one_decoding(pipe, chosen.quick)) < 0.35e12


def test_a_clip_is_decoded_the_same_each_time() -> None:
    (family,) = families(["AutoencoderKLWan"])
    call = one_decoding(pipeline_of(family), (4, 2, 4, 4))
    assert call().shape == (1, 3, 3, 8, 8)
    assert torch.equal(call(), call())
    assert call().isfinite().all()


def test_the_quick_one_decodes_less_with_the_same_model() -> None:
    whole, quick = (workload("wan2.1-vae", quick) for quick in (False, True))
    assert whole.settings["latents"] == [1, 16, 21, 60, 104]
    assert quick.settings["latents"] == [1, 16, 2, 4, 6]
    assert quick.label == "wan2.1-vae (quick)"
