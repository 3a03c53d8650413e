"""Channels-last weights: the same values, in another order, and back."""

from __future__ import annotations

import tiny
import torch

import sdaccel


def test_convolutions_are_reordered_and_the_rest_is_not() -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "none", memory_format=True)
    kernel = pipe.unet.conv_in.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()
    assert pipe.vae.decoder.conv_in.weight.is_contiguous()
    record = sdaccel.report(pipe)["memory_format"]
    large = [
        m for m in pipe.unet.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)
    ]
    assert record.changed == {"unet convolutions": len(large)}


def test_each_call_is_counted() -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", memory_format=True)
    tiny.draw(pipe)
    assert sdaccel.report(pipe)["memory_format"].ran == {"unet calls": 2}


def test_a_model_without_convolutions_is_left_alone() -> None:
    pipe = sdaccel.accelerate(tiny.flux(), "none", memory_format=True)
    assert sdaccel.report(pipe)["memory_format"].refused == {
        "transformer": "it has no convolution that would change"
    }


def test_weights_in_channels_last_already_stay_so() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.to(memory_format=torch.channels_last)
    sdaccel.accelerate(pipe, "none", memory_format=True)
    assert sdaccel.report(pipe)["memory_format"].state == "refused"
    sdaccel.restore(pipe)
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_video_convolutions_get_the_format_of_three_dimensions() -> None:
    from sdaccel.passes.memory_format import to_channels_last
    from sdaccel.patch import Patch

    model, patch = torch.nn.Conv3d(4, 4, 3), Patch()
    values = model.weight.detach().clone()
    assert to_channels_last(model, patch) == 1
    assert model.weight.is_contiguous(memory_format=torch.channels_last_3d)
    patch.undo()
    assert model.weight.is_contiguous()
    assert torch.equal(model.weight, values)
