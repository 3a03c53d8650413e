"""Random weights that behave, and twins that share them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdaccel.benchmarks import architectures, workloads
from sdaccel.benchmarks.architectures import Place
from sdaccel.benchmarks.families import cast, families
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


def test_weights_are_made_where_they_are_wanted_and_nowhere_else() -> None:
    model = architectures.build(architectures.TINY_UNET, place=Place("meta"))
    assert {each.device.type for each in (*model.parameters(), *model.buffers())} == {"meta"}


def test_in_16_bit_they_are_those_of_fp32_cast_as_diffusers_casts() -> None:
    (wan,) = families(["Wan 2.1"])
    narrow, wide = wan.build(place=Place(dtype=torch.bfloat16)), wan.build()
    cast(wide, torch.bfloat16)
    expected = dict(wide.named_parameters())
    assert {each.dtype for each in expected.values()} == {torch.bfloat16, torch.float32}
    for name, weight in narrow.named_parameters():
        assert weight.dtype == expected[name].dtype, name
        assert torch.equal(weight, expected[name]), name


def test_modules_that_share_a_weight_share_what_is_drawn_for_it() -> None:
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    second.weight = first.weight
    before = first.weight.detach().clone()
    architectures.draw_weights(torch.nn.Sequential(first, second), seed=0)
    assert first.weight is second.weight
    assert first.bias is not second.bias
    assert not torch.equal(first.weight, before)


def test_a_workload_is_made_on_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Place] = []

    def make(place: Place) -> Any:
        places.append(place)
        return SimpleNamespace(to=lambda device: device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert replace(workloads.workload("tiny"), make=make).built() == "cuda"
    assert places == [Place("cuda")]
