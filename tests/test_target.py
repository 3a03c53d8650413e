"""What a pipeline is made of, for every pipeline that diffusers has."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import diffusers
import pytest
import tiny
import torch

import sdaccel
from sdaccel.benchmarks.families import cast, families
from sdaccel.benchmarks.family_pipeline import pipeline_of
from sdaccel.report import PassRecord
from sdaccel.target import Target, dtype_of, kind_of, obstacle_of

_WORDS = ("Audio", "Music", "Dance", "Shap", "UnCLIP", "Marigold", "Upscale", "Prior", "Protein")
_LANGUAGE = {"DiffusionGemmaPipeline", "LLaDA2Pipeline"}


def picture_and_video_pipelines() -> list[str]:
    """Every pipeline class of the installed diffusers that makes pictures or video from text."""
    names = []
    for name in dir(diffusers):
        if name in _LANGUAGE or any(word in name for word in _WORDS):
            continue
        if name.endswith("Pipeline"):
            loaded = getattr(diffusers, name)
            parameters = inspect.signature(loaded.__call__).parameters
            if "prompt" in parameters and not name.startswith(("Onnx", "Flax", "Auto")):
                names.append(name)
    return names


def annotated_classes(pipeline: type) -> dict[str, list[type]]:
    """The classes that each component of a pipeline may have, by its constructor's annotations."""
    try:
        hints = typing.get_type_hints(pipeline.__init__)
    except (NameError, TypeError):
        hints = dict(getattr(pipeline.__init__, "__annotations__", {}))
    found: dict[str, list[type]] = {}
    for name, hint in hints.items():
        options = typing.get_args(hint) or (hint,)
        found[name] = [each for each in options if inspect.isclass(each)]
    return found


@pytest.mark.parametrize("name", picture_and_video_pipelines())
def test_every_text_to_picture_or_video_pipeline_has_a_denoiser(name: str) -> None:
    classes = annotated_classes(getattr(diffusers, name))
    kinds = {
        component: {kind_of(component, each) for each in options}
        for component, options in classes.items()
    }
    assert any("denoiser" in each for each in kinds.values()), kinds


def test_the_parts_of_stable_diffusion() -> None:
    pipe = tiny.stable_diffusion()
    target = Target.of(pipe)
    assert {each.name: each.kind for each in target.components} == {
        "vae": "vae",
        "unet": "denoiser",
        "text_encoder": "text_encoder",
    }
    assert target.schedulers == (pipe.scheduler,)
    assert target.dtype == torch.float32
    assert target.device == torch.device("cpu")


def test_a_pipe_computes_in_what_most_of_its_weights_are_in() -> None:
    (wan,) = families(["Wan 2.1"])
    pipe = pipeline_of(wan)
    cast(pipe.denoiser, torch.bfloat16)
    assert next(pipe.denoiser.parameters()).dtype == torch.float32, "diffusers keeps its table so"
    assert Target.of(pipe).dtype == torch.bfloat16
    pipe.denoiser.to(torch.float8_e4m3fn)
    assert dtype_of(pipe.denoiser) == torch.float32, "which is only stored so"


def test_second_transformers_and_control_nets_are_denoisers() -> None:
    from diffusers import ControlNetModel, MultiControlNetModel, WanTransformer3DModel

    assert kind_of("transformer_2", WanTransformer3DModel) == "denoiser"
    assert kind_of("controlnet", ControlNetModel) == "denoiser"
    assert kind_of("vae", diffusers.AutoencoderKLWan) == "vae"
    nets = [
        ControlNetModel(
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            norm_num_groups=4,
            cross_attention_dim=8,
        )
        for _ in range(2)
    ]
    pipe = tiny.stable_diffusion()
    control = diffusers.StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=MultiControlNetModel(nets), requires_safety_checker=False
    )
    names = {each.name for each in Target.of(control).denoisers}
    assert names == {"unet", "controlnet.0", "controlnet.1"}


def test_reading_a_pipe_changes_nothing() -> None:
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    Target.of(pipe)
    assert tiny.snapshot(pipe) == before


class Quantizer:
    """Stands for diffusers' quantizer objects, which a quantized model carries."""

    class quantization_config:  # noqa: N801
        quant_method = "torchao"


def offload(pipe: Any) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(pipe.unet, ModelHook())


def offload_groups(pipe: Any) -> None:
    pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )


def quantize(pipe: Any) -> None:
    pipe.unet.hf_quantizer = Quantizer()


def spread(pipe: Any) -> None:
    pipe.hf_device_map = {"unet": 0, "vae": 1}


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (quantize, "quantized (torchao)"),
        (offload, "offloaded by accelerate's hooks"),
        (offload_groups, "offloaded in groups"),
        (spread, "spread over devices by a device_map"),
    ],
)
def test_an_obstacle_is_named_and_its_weights_are_left_alone(prepare: Any, reason: str) -> None:
    pipe = tiny.stable_diffusion()
    prepare(pipe)
    strides = [tensor.stride() for tensor in pipe.unet.parameters()]
    assert obstacle_of(pipe, pipe.unet) == reason
    sdaccel.accelerate(pipe, "eager")
    record = sdaccel.report(pipe)["memory_format"]
    assert record.refused["unet"] == reason
    assert [tensor.stride() for tensor in pipe.unet.parameters()] == strides
    assert sdaccel.report(pipe)["no_ops"].changed
    sdaccel.restore(pipe)


def test_weights_that_are_not_there_are_an_obstacle() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.to("meta")
    assert obstacle_of(pipe, pipe.unet) == "without weights (on the meta device)"


def test_each_yields_what_may_be_changed_and_notes_the_rest() -> None:
    pipe = tiny.stable_diffusion()
    quantize(pipe)
    target, record = Target.of(pipe), PassRecord("x", "exact")
    assert [each.name for each, _ in target.each(record, "denoiser", "vae")] == ["vae"]
    assert record.refused == {"unet": "quantized (torchao)"}
    assert len(list(target.each(record, "denoiser", weights=False))) == 1
