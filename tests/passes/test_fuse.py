"""The fuse pass: what it swaps, that the swapped code really runs, and when stock's runs instead.

That its result is stock's is held by tests/test_effects.py, as for every exact pass.
"""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel.kernels.operator import operators


def fused(pipe: Any) -> Any:
    return sdaccel.accelerate(pipe, "none", fuse=True)


def test_a_unet_s_norms_and_feed_forwards_are_fused_and_really_run() -> None:
    pipe = fused(tiny.stable_diffusion())
    resnets = [each for each in pipe.unet.modules() if type(each).__name__ == "ResnetBlock2D"]
    tiny.draw(pipe)
    record = sdaccel.report(pipe)["fuse"]
    assert record.applied
    assert record.changed["GroupNorm+SiLU"] > 2 * len(resnets), "and those of the VAE"
    assert record.changed["gated activation"] > 0
    assert record.ran["group_norm_silu by Triton"] > 0
    assert record.ran["gated_activation by Triton"] == record.ran["gated activations"] > 0
    assert any("spares" in note for note in record.notes)


def test_a_transformer_s_norms_wait_for_their_modulation() -> None:
    pipe = fused(tiny.flux())
    tiny.draw_flux(pipe)
    record = sdaccel.report(pipe)["fuse"]
    assert record.changed["norm+modulate"] > 0
    assert record.ran["norms fused with their modulation"] > 0
    assert record.ran["norm_modulate by Triton"] >= record.ran["norms fused with their modulation"]


def test_only_classes_of_instances_change_and_restore_puts_them_back() -> None:
    pipe = tiny.stable_diffusion()
    before = [type(each) for each in pipe.unet.modules()]
    names = [each.__name__ for each in before]
    keys = list(pipe.unet.state_dict())
    fused(pipe)
    during = [type(each) for each in pipe.unet.modules()]
    assert [each.__name__ for each in during] == names
    assert sum(one is not other for one, other in zip(before, during, strict=True)) > 10
    assert all(issubclass(one, other) for one, other in zip(during, before, strict=True))
    assert list(pipe.unet.state_dict()) == keys
    sdaccel.restore(pipe)
    assert [type(each) for each in pipe.unet.modules()] == before


def test_with_gradients_on_stock_s_own_code_runs() -> None:
    pipe = tiny.stable_diffusion()
    sample, text = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 32)
    stock = pipe.unet(sample, 1, text).sample
    fused(pipe)
    runs = dict(operators()["group_norm_silu"].runs)
    found = pipe.unet(sample, 1, text).sample
    found.sum().backward()
    assert torch.equal(found, stock)
    assert pipe.unet.conv_in.weight.grad is not None
    assert dict(operators()["group_norm_silu"].runs) == runs


def test_double_precision_is_left_to_stock() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.double()
    sample, text = torch.ones(1, 4, 8, 8).double(), torch.ones(1, 16, 32).double()
    with torch.no_grad():
        stock = pipe.unet(sample, 1, text).sample
        found = fused(pipe).unet(sample, 1, text).sample
    assert torch.equal(found, stock)


def test_a_resnet_that_scales_and_shifts_after_its_norm_keeps_its_silu() -> None:
    pipe = tiny.stable_diffusion(unet=tiny.unet(resnet_time_scale_shift="scale_shift"))
    sample, text = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 32)
    with torch.no_grad():
        stock = pipe.unet(sample, 1, text).sample
        found = fused(pipe).unet(sample, 1, text).sample
    torch.testing.assert_close(found, stock)
    assert sdaccel.report(pipe)["fuse"].changed["GroupNorm+SiLU"] > 0, "conv_norm_out and the VAE's"


def test_an_activation_that_others_use_too_is_left_alone() -> None:
    pipe = tiny.stable_diffusion()
    shared = torch.nn.SiLU()
    for each in pipe.unet.modules():
        if type(each).__name__ == "ResnetBlock2D":
            each.nonlinearity = shared
    fused(pipe)
    assert type(shared) is torch.nn.SiLU


def test_what_is_compiled_is_left_to_the_compiler() -> None:
    pipe = sdaccel.accelerate(
        tiny.stable_diffusion(), "none", fuse=True, compile={"backend": "eager"}
    )
    record = sdaccel.report(pipe)["fuse"]
    assert record.refused["unet"] == "compiled, which fuses them already"
    assert type(pipe.unet.conv_norm_out) is torch.nn.GroupNorm


def test_a_lora_loaded_before_is_part_of_what_is_fused() -> None:
    from peft import LoraConfig

    pipe = tiny.stable_diffusion()
    config = LoraConfig(r=2, target_modules=["proj"], init_lora_weights=False)
    torch.manual_seed(0)
    pipe.unet.add_adapter(config)
    sample, text = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 32)
    with torch.no_grad():
        stock = pipe.unet(sample, 1, text).sample
        found = fused(pipe).unet(sample, 1, text).sample
        pipe.unet.disable_adapters()
        without = pipe.unet(sample, 1, text).sample
    torch.testing.assert_close(found, stock, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without, stock, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_of_feature_maps_is_kept(channels_last: bool) -> None:
    pipe = fused(tiny.stable_diffusion())
    norm = pipe.unet.conv_norm_out
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(2, norm.num_channels, 4, 6).contiguous(memory_format=wanted)
    with torch.no_grad():
        assert norm(features).is_contiguous(memory_format=wanted)
