"""Compiled code computes what stock does, for any size, any weights, and says what it did."""

from __future__ import annotations

import copy
import gc
import shutil
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import nn

import sdaccel
from sdaccel.errors import PassError, PlanError, SdaccelWarning
from sdaccel.passes.compiled import Compiler, Region
from sdaccel.passes.frozen import Fingerprint
from sdaccel.passes.regions import repeated_blocks
from sdaccel.report import PassRecord

SCOPES = ("regional", "whole")


@pytest.fixture(autouse=True)
def forget_programs() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def flux() -> Any:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=False,
    ).eval()


def flux_inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(16, 3).round(),
        "txt_ids": torch.zeros(8, 3),
    }


def sd3() -> Any:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    ).eval()


def sd3_inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.tensor([500.0, 500.0]),
    }


def pixart() -> Any:
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        cross_attention_dim=32,
        caption_channels=32,
        use_additional_conditions=False,
    ).eval()


def pixart_inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 32),
        "timestep": torch.tensor([500, 500]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def unet_inputs(size: int = 8, batch: int = 2, width: int | None = None) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(batch, 4, size, width or size),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(batch, 6, 32),
    }


def run(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def compiled(pipe: Any = None, **options: Any) -> Any:
    """A pipe with nothing but `compile`, with a backend that compiles nothing and counts."""
    options = {"backend": "eager", "vae": False, **options}
    return sdaccel.accelerate(pipe or tiny.stable_diffusion(), "none", compile=options)


def ran(pipe: Any) -> Any:
    return sdaccel.report(pipe)["compile"].ran


def replace_regionally(model: Any, **options: Any) -> PassRecord:
    """What the pass does to a model that stands in no pipeline."""
    record = PassRecord("compile", "exact")
    compiler = Compiler("model", record, **{"backend": "aot_eager", **options})
    for _, block in repeated_blocks(model):
        block.forward = Region(block, compiler)
    return record


@pytest.mark.parametrize(
    ("build", "inputs", "classes"),
    [
        (flux, flux_inputs, {"FluxTransformerBlock", "FluxSingleTransformerBlock"}),
        (sd3, sd3_inputs, {"JointTransformerBlock"}),
        (pixart, pixart_inputs, {"BasicTransformerBlock"}),
        (
            tiny.unet,
            unet_inputs,
            {"ResnetBlock2D", "BasicTransformerBlock", "Downsample2D", "Upsample2D"},
        ),
    ],
)
def test_repeated_blocks_are_found_and_compute_what_they_did(build, inputs, classes) -> None:
    model = build()
    expected = run(model, inputs())
    assert {type(block).__name__ for _, block in repeated_blocks(model)} == classes
    record = replace_regionally(model)
    assert error(run(model, inputs()), expected) <= 1e-5
    assert record.ran["compiled calls"] == len(repeated_blocks(model))
    assert not record.ran["eager calls"]
    assert record.ran["compilations"] < record.ran["compiled calls"]
    assert record.notes == []


def test_no_block_lies_within_another() -> None:
    blocks = [block for _, block in repeated_blocks(tiny.unet())]
    inside = [inner for block in blocks for inner in block.modules() if inner is not block]
    assert not {id(each) for each in blocks} & {id(each) for each in inside}


def test_all_that_diffusers_calls_repeated_is_found() -> None:
    import diffusers

    for name in ("FluxTransformer2DModel", "WanTransformer3DModel", "UNet2DConditionModel"):
        with torch.device("meta"):
            model = getattr(diffusers, name)()
        covered = {id(each) for _, block in repeated_blocks(model) for each in block.modules()}
        for module in model.modules():
            if type(module).__name__ in model._repeated_blocks:
                assert id(module) in covered


@pytest.mark.parametrize("scope", SCOPES)
def test_the_picture_is_that_of_stock(scope) -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    compiled(pipe, scope=scope, vae=True, backend="aot_eager")
    assert abs(tiny.draw(pipe) - picture).max() < 1e-4
    blocks = len(repeated_blocks(pipe.unet)) if scope == "regional" else 1
    assert ran(pipe)["compiled calls"] >= 2 * blocks + 1
    assert not ran(pipe)["eager calls"]
    assert sdaccel.report(pipe)["compile"].seconds["compile"] > 0


@pytest.mark.parametrize("freeze", [False, True])
def test_inductor_keeps_to_fp32_accuracy(freeze) -> None:
    pipe = tiny.stable_diffusion(unet=tiny.unet(block_out_channels=(16, 32)))
    expected = run(pipe.unet, unet_inputs())
    compiled(pipe, scope="regional", backend="inductor", freeze=freeze)
    found = run(pipe.unet, unet_inputs())
    assert error(found, expected) <= 1e-5
    assert ran(pipe)["compiled calls"] == len(repeated_blocks(pipe.unet))
    assert torch._inductor.config.freezing is False


@pytest.mark.parametrize("scope", SCOPES)
def test_a_new_size_compiles_once_more_and_the_next_not_at_all(scope) -> None:
    pipe = compiled(scope=scope)
    counts = []
    for size, batch in [(8, 2), (16, 2), (24, 2), (32, 4), (40, 6)]:
        run(pipe.unet, unet_inputs(size, batch))
        counts.append(ran(pipe)["compilations"])
    assert counts[0] < counts[1] == counts[2]
    assert counts[3] == counts[4]
    assert not ran(pipe)["eager calls"]
    assert ran(pipe)["recompilations"] > 0


@pytest.mark.parametrize("scope", SCOPES)
def test_restore_leaves_nothing_behind(scope) -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    before = _state(pipe.unet), _state(pipe.vae)
    compiled(pipe, scope=scope, vae=True, freeze=True)
    tiny.draw(pipe)
    assert before != (_state(pipe.unet), _state(pipe.vae))
    sdaccel.restore(pipe)
    assert (_state(pipe.unet), _state(pipe.vae)) == before
    assert (tiny.draw(pipe) == picture).all()


def test_compiled_code_dies_with_its_region() -> None:
    pipe = compiled(scope="whole", freeze=True)
    run(pipe.unet, unet_inputs())
    code = weakref.ref(pipe.unet.forward._program)
    sdaccel.restore(pipe)
    torch._dynamo.reset()
    gc.collect()
    assert code() is None


@pytest.mark.parametrize("edit", ["in place", "through data", "new parameter"])
def test_weights_that_were_frozen_and_changed_are_compiled_in_again(edit) -> None:
    pipe = compiled(scope="whole", freeze=True, backend="inductor")
    _replace_unet_by_a_linear_layer(pipe)
    x = torch.randn(2, 8)
    clock = sdaccel.report(pipe)
    before = run_layer(pipe, x)
    _edit(pipe.unet.layer, edit)
    pipe.scheduler.set_timesteps(2)
    after = run_layer(pipe, x)
    assert not torch.allclose(before, after)
    assert clock is not None


def _state(model: nn.Module) -> list[Any]:
    state: list[Any] = []
    for name, module in model.named_modules():
        values = {key: id(value) for key, value in module.__dict__.items()}
        state.append((name, type(module), values, list(module._forward_pre_hooks)))
    weights = [*model.parameters(), *model.buffers()]
    return [state, [(id(each), sorted(each.__dict__)) for each in weights]]
