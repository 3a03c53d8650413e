"""Random weights that behave, and twins that share them."""

from __future__ import annotations

import torch

from sdaccel.benchmarks import architectures, workloads
from sdaccel.benchmarks.twin import twin


def test_stable_diffusion_15_has_its_published_size() -> None:
    import diffusers

    for configuration, millions in (
        (architectures.SD15_UNET, 859.52),
        (architectures.SD15_VAE, 83.65),
    ):
        settings = {key: value for key, value in configuration.items() if key != "class"}
        with torch.device("meta"):
            model = getattr(diffusers, configuration["class"])(**settings)
        count = sum(parameter.numel() for parameter in model.parameters())
        assert round(count / 1e6, 2) == millions


def test_a_seed_gives_the_same_weights_again_and_another_seed_others() -> None:
    first, again, other = (architectures.build(architectures.TINY_UNET, seed) for seed in (0, 0, 1))
    weights = [each.conv_in.weight for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_random_weights_draw_a_picture_that_is_neither_flat_nor_broken() -> None:
    tiny = workloads.workload("tiny")
    picture = tiny.prepare(tiny.build())()
    assert torch.isfinite(picture).all()
    assert picture.std() > 0.01


def test_a_twin_draws_the_same_from_the_same_memory_and_changes_alone() -> None:
    tiny = workloads.workload("tiny")
    pipe = tiny.build()
    before = tiny.prepare(pipe)()
    second = twin(pipe)
    assert second.unet is not pipe.unet
    assert second.unet.conv_in.weight.data_ptr() == pipe.unet.conv_in.weight.data_ptr()
    assert torch.equal(tiny.prepare(second)(), before)
    second.unet.to(torch.bfloat16)
    second.unet.conv_in.weight.data.zero_()
    assert torch.equal(tiny.prepare(pipe)(), before)
