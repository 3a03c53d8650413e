"""Attention routed, together with what else changes processors, weights and blocks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import racing
import tiny
import torch

import sdaccel
from sdaccel.passes.attention import Attention
from sdaccel.passes.attention_choices import STOCK
from sdaccel.passes.no_ops import NoOps
from sdaccel.patch import Patch
from sdaccel.report import PassRecord
from sdaccel.target import Target

SAMPLE, TEXT = torch.linspace(-1, 1, 256).view(1, 4, 8, 8), torch.linspace(-1, 1, 512)

pytestmark = pytest.mark.usefixtures("forget_programs")


@pytest.fixture(autouse=True)
def race(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> racing.Race:
    """A race that `quick` wins: it computes as stock does, in half the time."""
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path))
    race = racing.Race(monkeypatch)
    race.enter("quick", 0.5)
    return race


def routed(pipe: Any, **passes: Any) -> Any:
    return sdaccel.accelerate(pipe, "none", attention=True, **passes)


def ran(pipe: Any) -> Any:
    return sdaccel.report(pipe)["attention"].ran


@torch.no_grad()
def unet_output(unet: Any, **more: Any) -> torch.Tensor:
    output: torch.Tensor = unet(SAMPLE, 500, TEXT.view(1, 16, 32), **more).sample
    return output


# Other passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(Attention, NoOps), (NoOps, Attention)])
def test_with_no_ops_in_either_order(order: tuple[Any, ...]) -> None:
    pipe = tiny.stable_diffusion()
    before, expected = tiny.snapshot(pipe), unet_output(pipe.unet)
    target, patch = Target.of(pipe), Patch()
    records = {each: PassRecord(each.name, "exact") for each in order}
    for each in order:
        each().apply(target, patch, records[each])
    assert torch.equal(unet_output(pipe.unet), expected)
    assert records[Attention].ran["quick"] > 0
    assert records[NoOps].ran["signature look-ups left out"] == records[Attention].ran["quick"]
    patch.undo()
    assert tiny.snapshot(pipe) == before
    assert torch.equal(unet_output(pipe.unet), expected)


def test_with_all_passes_that_are_exact_and_instant() -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    before = tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, "eager", attention=True, fuse=True)
    assert abs(tiny.draw(pipe) - picture).max() < 1e-4
    assert ran(pipe)["quick"] > 0
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before


@pytest.mark.parametrize("scope", ["regional", "whole"])
def test_compiled_code_is_routed_without_a_break(scope: str) -> None:
    pipe = tiny.stable_diffusion()
    expected = unet_output(pipe.unet)
    routed(pipe, compile={"backend": "eager", "scope": scope})
    torch.testing.assert_close(unet_output(pipe.unet), expected)
    record = sdaccel.report(pipe)["compile"]
    assert record.ran["compiled calls"] > 0
    assert record.ran["eager calls"] == 0
    assert not any("in parts" in note for note in record.notes)
    assert ran(pipe)["quick"] == sum(hasattr(each, "processor") for each in pipe.unet.modules())


# What users do before and after ---------------------------------------------------------------


def test_a_backend_that_the_user_chose_for_a_model_is_kept(
    monkeypatch: pytest.MonkeyPatch, race: racing.Race
) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    monkeypatch.setattr(
        _AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend
    )
    pipe = tiny.flux()
    pipe.transformer.set_attention_backend("_native_math")
    expected = tiny.draw_flux(pipe)
    routed(pipe)
    assert (tiny.draw_flux(pipe) == expected).all()
    assert ran(pipe)["_native_math, as the user chose"] == 2 * 2 * 2
    assert ran(pipe)["quick"] == 1, "the decoder's"


def test_so_is_one_for_all_models(race: racing.Race) -> None:
    from diffusers.models.attention_dispatch import attention_backend

    pipe = routed(tiny.flux())
    with attention_backend("_native_math"):
        tiny.draw_flux(pipe)
    assert ran(pipe)["_native_math, as the user chose"] == 2 * 2 * 2
    tiny.draw_flux(pipe)
    assert ran(pipe)["quick"] == 2 * 2 * 2 + 2


def test_torch_s_backends_restricted_for_a_while_are_respected() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    pipe = routed(tiny.stable_diffusion())
    with sdpa_kernel(SDPBackend.MATH):
        unet_output(pipe.unet)
    assert ran(pipe)["quick"] == 0
    assert ran(pipe)["stock, torch's backends being restricted"] > 0
    unet_output(pipe.unet)
    assert ran(pipe)["quick"] > 0


def test_gradients_and_autocast_are_left_to_stock(race: racing.Race) -> None:
    pipe = tiny.stable_diffusion()
    stock_output = pipe.unet(SAMPLE, 500, TEXT.view(1, 16, 32)).sample
    routed(pipe)
    output = pipe.unet(SAMPLE, 500, TEXT.view(1, 16, 32)).sample
    output.sum().backward()
    assert torch.equal(output, stock_output)
    assert pipe.unet.conv_in.weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        unet_output(pipe.unet)
    assert race.calls["quick"] == 0


def test_freeu() -> None:
    pipe = tiny.stable_diffusion()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    expected = unet_output(pipe.unet)
    routed(pipe)
    assert torch.equal(unet_output(pipe.unet), expected)
    pipe.disable_freeu()
    assert not torch.equal(unet_output(pipe.unet), expected)
    assert ran(pipe)["quick"] > 0


def test_attention_slicing_before_has_its_own_way() -> None:
    pipe = tiny.stable_diffusion()
    pipe.enable_attention_slicing(1)
    expected = unet_output(pipe.unet)
    routed(pipe)
    assert torch.equal(unet_output(pipe.unet), expected)
    notes = sdaccel.report(pipe)["attention"].notes
    assert any("SlicedAttnProcessor left alone" in note for note in notes)


def test_attention_slicing_after_and_its_end() -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    routed(pipe)
    pipe.enable_attention_slicing(1)
    unet_output(pipe.unet)
    assert ran(pipe)["quick"] == 0
    pipe.disable_attention_slicing()
    assert (tiny.draw(pipe) == picture).all()
    assert ran(pipe)["quick"] > 1, "what was put in is routed when a generation begins"
    sdaccel.restore(pipe)
    kinds = {type(each).__call__.__globals__["__name__"] for each in processors(pipe)}
    assert kinds == {"diffusers.models.attention_processor"}


def processors(pipe: Any) -> list[Any]:
    return list(pipe.unet.attn_processors.values())


@pytest.mark.parametrize("after", [False, True])
def test_fused_projections(after: bool) -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    if not after:
        pipe.unet.fuse_qkv_projections()
    routed(pipe)
    if after:
        pipe.unet.fuse_qkv_projections()
    assert abs(tiny.draw(pipe) - picture).max() < 1e-4
    assert sdaccel.report(pipe)["attention"].changed["FusedAttnProcessor2_0"] == 1
    assert ran(pipe)["quick"] > 1
    pipe.unet.unfuse_qkv_projections()
    assert (tiny.draw(pipe) == picture).all()
    sdaccel.restore(pipe)
    assert (tiny.draw(pipe) == picture).all()


@pytest.mark.parametrize("after", [False, True])
def test_an_ip_adapter_s_processors(after: bool) -> None:
    pipe = tiny.stable_diffusion()
    if after:
        routed(pipe)
    add_ip_adapter(pipe.unet)
    image = [torch.linspace(-1, 1, 32).view(1, 1, 32)]
    with torch.no_grad():
        expected = unet_output(pipe.unet, added_cond_kwargs={"image_embeds": image})
    if not after:
        routed(pipe)
    else:
        sdaccel.report(pipe)
        for listener in pipe._sdaccel.target.clock.listeners:
            listener()
    before = ran(pipe)["quick"]
    found = unet_output(pipe.unet, added_cond_kwargs={"image_embeds": image})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    cross = sum("attn2" in name for name in pipe.unet.attn_processors)
    assert sdaccel.report(pipe)["attention"].changed["IPAdapterAttnProcessor2_0"] == cross
    assert ran(pipe)["quick"] - before == 3 * cross, "self, text and picture"


def add_ip_adapter(unet: Any) -> None:
    """Random weights of an adapter with four picture tokens."""
    torch.manual_seed(7)
    state = {
        "image_proj": {
            "proj.weight": torch.randn(4 * 32, 32) / 8,
            "proj.bias": torch.zeros(4 * 32),
            "norm.weight": torch.ones(32),
            "norm.bias": torch.zeros(32),
        },
        "ip_adapter": {},
    }
    index = 1
    for name in unet.attn_processors:
        if "attn2" in name:
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for part in ("k", "v"):
                weight = torch.randn(width, 32) / 8
                state["ip_adapter"][f"{index}.to_{part}_ip.weight"] = weight
            index += 2
    unet._load_ip_adapter_weights([state])


@pytest.mark.parametrize("after", [False, True])
def test_a_lora(after: bool) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe = tiny.stable_diffusion()
    plain = unet_output(pipe.unet)
    if after:
        routed(pipe)
    torch.manual_seed(0)
    pipe.unet.add_adapter(config)
    found = unet_output(pipe.unet)
    if not after:
        routed(pipe)
        assert torch.equal(unet_output(pipe.unet), found)
    assert not torch.allclose(found, plain, rtol=1e-3, atol=1e-4)
    assert ran(pipe)["quick"] > 0
    pipe.unet.disable_adapters()
    torch.testing.assert_close(unet_output(pipe.unet), plain)


def test_diffusers_still_knows_the_processors() -> None:
    """It looks them up by class: default processors, PAG, skipped layers."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    pipe = routed(tiny.stable_diffusion())
    assert {each.__class__ for each in processors(pipe)} == {AttnProcessor2_0}
    pipe.unet.set_default_attn_processor()
    pipe.vae.set_default_attn_processor()
    tiny.draw(pipe)


def test_a_copy_of_a_model_is_routed_like_it() -> None:
    pipe = tiny.stable_diffusion()
    expected = unet_output(pipe.unet)
    copied = copy.deepcopy(routed(pipe).unet)
    assert torch.equal(unet_output(copied), expected)
    assert ran(pipe)["quick"] > 0
    sdaccel.restore(pipe)
    assert torch.equal(unet_output(copied), expected)


def test_group_offload_goes_with_it() -> None:
    from diffusers.hooks import apply_group_offloading

    pipe = tiny.stable_diffusion()
    expected = unet_output(pipe.unet)
    apply_group_offloading(
        pipe.unet, torch.device("cpu"), torch.device("cpu"), "block_level", num_blocks_per_group=1
    )
    routed(pipe)
    assert torch.equal(unet_output(pipe.unet), expected)
    assert ran(pipe)["quick"] > 0
    assert ran(pipe)[STOCK] == 0
