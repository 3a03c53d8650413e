"""The fuse pass: what it swaps, that the swapped code really runs, and when stock's runs instead.

That its result is stock's is held by tests/test_effects.py, as for every exact pass.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import tiny
import torch
from kernel_checks import noise, relative_error

import sdaccel
from sdaccel.benchmarks.families import SIZES, families
from sdaccel.benchmarks.family_pipeline import model_of, pipeline_of
from sdaccel.kernels.operator import operators
from sdaccel.passes.fusions import swaps
from sdaccel.passes.pending import Pending
from sdaccel.passes.swap import RAN


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


def transformer_inputs() -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 16, 16),
        "encoder_hidden_states": noise(1, 8, 32, seed=1),
        "pooled_projections": noise(1, 32, seed=2),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
    }


def test_a_transformer_s_rotations_and_residuals_are_fused_and_really_run() -> None:
    pipe = fused(tiny.flux())
    with torch.no_grad():
        pipe.transformer(**transformer_inputs())
    record = sdaccel.report(pipe)["fuse"]
    assert record.changed["q/k norm+rotation"] == 4 + 2
    assert record.changed["rotation of q/k"] == 2, "the processors"
    assert record.changed["gated residual"] == 4 + 1
    assert record.ran["q/k norms fused with their rotation"] == 2 + 2
    assert record.changed["residual and its norm"] == 2
    assert record.ran["gated residuals and norms in one pass"] == 2
    assert record.ran["gated residuals in one pass"] == 2 + 1
    assert record.ran["norms fused with their modulation"] == 2 + 1 + 1


def test_a_unet_s_residuals_and_norms_are_fused_and_really_run() -> None:
    pipe = fused(tiny.stable_diffusion())
    kinds = [type(each).__name__ for each in pipe.unet.modules()]
    blocks = kinds.count("BasicTransformerBlock")
    with torch.no_grad():
        pipe.unet(torch.ones(1, 4, 8, 8), 1, torch.ones(1, 16, 32))
    record = sdaccel.report(pipe)["fuse"]
    assert record.changed["residual and its norm"] == 2 * blocks > 0
    assert record.changed["gated residual"] == 0
    assert record.ran["residuals and norms in one pass"] == 2 * blocks


@pytest.mark.parametrize("family", ["FLUX.1", "Wan 2.1", "Z-Image", "SD 3.5", "SD 1.5", "PixArt"])
def test_no_sum_that_waits_enters_or_leaves_a_module(family: str) -> None:
    from torch.utils import _pytree

    (drawn,) = families([family])
    pipe = fused(pipeline_of(drawn))
    seen: set[str] = set()

    def look(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        leaves = _pytree.tree_leaves((args, kwargs, output))
        seen.update(type(each).__name__ for each in leaves if isinstance(each, Pending))

    for module in model_of(pipe).modules():
        if "Norm" not in type(module).__name__:
            module.register_forward_hook(look, with_kwargs=True)
    pipe(**drawn.draw(SIZES[0], 0, torch.float32))
    record = sdaccel.report(pipe)["fuse"]
    together = [count for label, count in record.ran.items() if "and norms in one pass" in label]
    assert sum(together) > 0
    assert not seen & {"Summed", "NormOfSum"}


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_norms_before_attention_keep_the_layout_and_really_run(
    channels_last: bool, linear: bool
) -> None:
    pipe = tiny.stable_diffusion(unet=tiny.unet(use_linear_projection=linear))
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    pipe.unet.to(memory_format=wanted)
    pipe.vae.to(memory_format=wanted)
    sample = torch.ones(1, 4, 8, 8).contiguous(memory_format=wanted)
    with torch.no_grad():
        stock = pipe.unet(sample, 1, torch.ones(1, 16, 32)).sample, pipe.vae.decode(sample).sample
        fused(pipe)
        layouts = []
        kinds = {"Transformer2DModel": "norm", "Attention": "group_norm"}
        models = [*pipe.unet.modules(), *pipe.vae.modules()]
        norms = [getattr(each, kinds.get(type(each).__name__, ""), None) for each in models]
        norms = [each for each in norms if isinstance(each, torch.nn.GroupNorm)]
        for norm in norms:
            norm.register_forward_hook(lambda _, __, y: layouts.append(y.movedim(1, -1)))
        found = pipe.unet(sample, 1, torch.ones(1, 16, 32)).sample, pipe.vae.decode(sample).sample
    torch.testing.assert_close(found, stock, rtol=1e-4, atol=1e-5)
    record = sdaccel.report(pipe)["fuse"]
    assert record.changed["GroupNorm before attention"] == len(norms) > 1
    ran = record.ran["GroupNorms before attention that keep the layout"]
    assert ran == len(layouts) > 1
    assert all(each.is_contiguous() for each in layouts) == channels_last


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
@pytest.mark.parametrize("before", [True, False])
def test_group_offloading_before_or_after_gives_the_same(level: str, before: bool) -> None:
    pipe = tiny.flux()
    offload: dict[str, Any] = {
        "onload_device": torch.device("cpu"),
        "offload_device": torch.device("cpu"),
        "offload_type": level,
        "num_blocks_per_group": 1 if level == "block_level" else None,
    }
    with torch.no_grad():
        stock = pipe.transformer(**transformer_inputs()).sample
        if before:
            pipe.transformer.enable_group_offload(**offload)
        fused(pipe)
        if not before:
            pipe.transformer.enable_group_offload(**offload)
        found = pipe.transformer(**transformer_inputs()).sample
        torch.testing.assert_close(found, stock)
        sdaccel.restore(pipe)
        restored = pipe.transformer(**transformer_inputs()).sample
    assert torch.equal(restored, stock)


def test_a_norm_that_somebody_hooked_keeps_its_silu_behind_it() -> None:
    pipe = tiny.stable_diffusion()
    norm = pipe.unet.conv_norm_out
    stock_forward = norm.forward
    norm.forward = lambda hidden_states: stock_forward(hidden_states)
    sample, text = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 32)
    with torch.no_grad():
        stock = pipe.unet(sample, 1, text).sample
        found = fused(pipe).unet(sample, 1, text).sample
    torch.testing.assert_close(found, stock)
    assert type(pipe.unet.conv_act) is torch.nn.SiLU


def test_a_lora_loaded_afterwards_is_part_of_what_is_fused() -> None:
    from peft import LoraConfig

    def adapted(pipe: Any) -> torch.Tensor:
        torch.manual_seed(0)
        targets = ["to_q", "to_k", "add_q_proj", "proj_out"]
        pipe.transformer.add_adapter(
            LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        )
        with torch.no_grad():
            return pipe.transformer(**transformer_inputs()).sample

    stock = adapted(tiny.flux())
    torch.testing.assert_close(adapted(fused(tiny.flux())), stock, rtol=1e-4, atol=1e-5)


def test_a_rotation_that_was_not_read_is_reported() -> None:
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    class Other(FluxAttnProcessor):
        def __call__(
            self, attn: Any, *args: Any, image_rotary_emb: Any = None, **kwargs: Any
        ) -> Any:
            return super().__call__(attn, *args, image_rotary_emb=image_rotary_emb, **kwargs)

    pipe = tiny.flux()
    pipe.transformer.set_attn_processor(Other())
    record = sdaccel.report(fused(pipe))["fuse"]
    assert "transformer: Other is left to rotate by itself" in record.notes
    assert not record.changed["rotation of q/k"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_over_the_channels_of_a_video_are_stock_s(dtype: torch.dtype) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

    torch.manual_seed(0)
    holder = torch.nn.ModuleList([WanRMS_norm(12, images=False), WanRMS_norm(12, bias=True)])
    for weight in holder.parameters():
        torch.nn.init.normal_(weight, 1.0, 0.3)
    video, picture = noise(2, 12, 3, 4, 5), noise(2, 12, 4, 5)
    with torch.no_grad():
        truth = holder[0](video), holder[1](picture)
        holder.to(dtype)
        stock = holder[0](video.to(dtype)), holder[1](picture.to(dtype))
        for swap in swaps(holder):
            swap.owner.__class__ = swap.subclass
            swap.owner.__dict__[RAN] = Counter()
        found = holder[0](video.to(dtype)), holder[1](picture.to(dtype))
    for each, other, exact in zip(found, stock, truth, strict=True):
        assert each.dtype == dtype
        assert relative_error(each, exact) <= 1.1 * relative_error(other, exact) + 1e-6
    assert holder[0].__dict__[RAN].total() == 1


def test_on_a_cpu_torch_s_group_norm_stays_and_silu_works_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sdaccel.kernels.language.interpreted", lambda: False)
    pipe = tiny.stable_diffusion()
    sample, text = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 32)
    with torch.no_grad():
        stock = pipe.unet(sample, 1, text).sample
        found = fused(pipe).unet(sample, 1, text).sample
    torch.testing.assert_close(found, stock)
    record = sdaccel.report(pipe)["fuse"]
    assert record.ran["SiLUs in place behind their GroupNorm"] > 10


@pytest.mark.parametrize("before", [True, False])
def test_diffusers_own_cache_before_or_after_gives_the_same(before: bool) -> None:
    from diffusers import FirstBlockCacheConfig

    images = []
    for with_fuse in (False, True):
        pipe = tiny.flux()
        if with_fuse and not before:
            fused(pipe)
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.05))
        if with_fuse and before:
            fused(pipe)
        images.append(torch.from_numpy(tiny.draw_flux(pipe)))
    torch.testing.assert_close(images[1], images[0], rtol=1e-3, atol=1e-4)


def test_attention_is_routed_in_the_processors_that_were_rewritten() -> None:
    pipe = tiny.flux()
    with torch.no_grad():
        stock = pipe.transformer(**transformer_inputs()).sample
        sdaccel.accelerate(pipe, "none", attention=True, fuse=True)
        found = pipe.transformer(**transformer_inputs()).sample
    torch.testing.assert_close(found, stock, rtol=1e-4, atol=1e-5)
    assert sdaccel.report(pipe)["fuse"].ran["q/k norms fused with their rotation"] == 4
    assert sdaccel.report(pipe)["attention"].ran.total() > 0
