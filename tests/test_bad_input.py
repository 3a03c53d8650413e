"""What can't be accelerated is refused in one sentence, and left exactly as it was."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

import sdaccel
from sdaccel.errors import InputError, ModelNotFoundError, PassError, PlanError, TargetError

PLAN = "eager"
WEIGHTS = ("memory_format", "vae")
"""The passes of the plan that change weights, and so refuse weights that are not theirs."""


@pytest.fixture
def pipe() -> Any:
    return tiny.stable_diffusion()


@pytest.fixture(scope="module")
def stock_picture() -> Any:
    return tiny.draw(tiny.stable_diffusion())


def assert_one_sentence(error: BaseException) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 250
    assert text.endswith((".", "?"))


def assert_untouched(pipe: Any, classes: dict[str, type]) -> None:
    assert not sdaccel.report(pipe).accelerated
    assert {name: type(part) for name, part in pipe.components.items()} == classes
    assert "_sdaccel" not in vars(pipe)


@pytest.mark.parametrize("thing", [None, 3, "stable-diffusion", object()])
def test_what_is_no_pipeline_is_refused_by_its_type(thing: Any) -> None:
    with pytest.raises(
        TargetError, match=f"A {type(thing).__name__} can't be accelerated"
    ) as caught:
        sdaccel.accelerate(thing)
    assert_one_sentence(caught.value)


def test_a_bare_model_is_refused_and_a_pipeline_asked_for() -> None:
    with pytest.raises(TargetError, match="pass a diffusers pipeline"):
        sdaccel.accelerate(tiny.unet())


@pytest.mark.parametrize(
    ("plan", "overrides", "says"),
    [
        ("losless", {}, "no plan 'losless': did you mean 'lossless'"),
        ("lossless+precison", {}, "no pass 'precison': did you mean 'precision'"),
        ("lossless", {"xyz": True}, "no pass 'xyz': choose from"),
        ("eager", {"no_ops": 3}, "no_ops takes True, False or a mapping"),
        ("eager", {"vae": {"tilling": True}}, "vae has no option 'tilling'"),
        (3, {}, "A plan is a name, an expression or a Plan, not int"),
        (Path("nowhere.json"), {}, "nowhere.json can't be read"),
    ],
)
def test_an_unknown_plan_pass_or_option_is_named_before_the_pipe_is_touched(
    pipe: Any, plan: Any, overrides: dict[str, Any], says: str
) -> None:
    classes = {name: type(part) for name, part in pipe.components.items()}
    with pytest.raises(PlanError, match=says) as caught:
        sdaccel.accelerate(pipe, plan, **overrides)
    assert_one_sentence(caught.value)
    assert_untouched(pipe, classes)


def test_without_a_denoiser_there_is_nothing_to_accelerate(pipe: Any) -> None:
    pipe.unet = None
    classes = {name: type(part) for name, part in pipe.components.items()}
    with pytest.raises(TargetError, match="has no denoiser") as caught:
        sdaccel.accelerate(pipe, PLAN)
    assert_one_sentence(caught.value)
    assert_untouched(pipe, classes)


def test_without_a_vae_the_rest_is_accelerated(pipe: Any) -> None:
    pipe.vae = None
    expected = tiny.draw(pipe, output_type="latent")
    sdaccel.accelerate(pipe, PLAN)
    assert not sdaccel.report(pipe)["vae"].applied
    assert sdaccel.report(pipe)["no_ops"].applied
    apart = tiny.draw(pipe, output_type="latent") - expected
    assert apart.norm() < 1e-5 * expected.norm()


def test_without_a_text_encoder_given_embeddings_are_drawn(pipe: Any) -> None:
    embeddings, negative = pipe.encode_prompt("a cat", "cpu", 1, True)
    arguments = {
        "prompt": None,
        "prompt_embeds": embeddings.detach(),
        "negative_prompt_embeds": negative.detach(),
    }
    pipe.text_encoder = None
    expected = tiny.draw(pipe, **arguments)
    sdaccel.accelerate(pipe, PLAN)
    assert abs(tiny.draw(pipe, **arguments) - expected).max() < 1e-5


def _quantize(pipe: Any) -> None:
    """What a diffusers quantizer leaves on the model that it quantized."""
    config = SimpleNamespace(quant_method="torchao")
    pipe.unet.hf_quantizer = SimpleNamespace(quantization_config=config)


def _offload_models(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def _offload_layers(pipe: Any) -> None:
    from accelerate import cpu_offload

    cpu_offload(pipe.unet, execution_device=pipe.device)


def _offload_groups(pipe: Any) -> None:
    cpu = pipe.device
    pipe.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


def _map_devices(pipe: Any) -> None:
    pipe.unet.hf_device_map = {"": "cpu"}


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (_quantize, "quantized (torchao)"),
        (_offload_models, "offloaded by accelerate's hooks"),
        (_offload_layers, "offloaded by accelerate's hooks"),
        (_offload_groups, "offloaded in groups"),
        (_map_devices, "spread over devices by a device_map"),
    ],
)
def test_weights_in_other_hands_are_left_alone_with_a_reason_and_still_draw(
    pipe: Any, stock_picture: Any, prepare: Any, reason: str
) -> None:
    prepare(pipe)
    strides = [parameter.stride() for parameter in pipe.unet.parameters()]
    sdaccel.accelerate(pipe, PLAN)
    report = sdaccel.report(pipe)
    assert report["memory_format"].refused["unet"] == reason
    assert report["no_ops"].applied
    assert [parameter.stride() for parameter in pipe.unet.parameters()] == strides
    assert abs(tiny.draw(pipe) - stock_picture).max() < 1e-5
    sdaccel.restore(pipe)
    assert (tiny.draw(pipe) == stock_picture).all()


def test_strict_turns_such_a_refusal_into_an_error_and_changes_nothing(pipe: Any) -> None:
    _quantize(pipe)
    classes = {name: type(part) for name, part in pipe.components.items()}
    with pytest.raises(PassError, match=r"memory_format refused \(unet: quantized") as caught:
        sdaccel.accelerate(pipe, PLAN, strict=True)
    assert_one_sentence(caught.value)
    assert_untouched(pipe, classes)


def test_sixteen_bits_are_refused_where_one_component_could_not_change(pipe: Any) -> None:
    _quantize(pipe)
    sdaccel.accelerate(pipe, "none", precision={"dtype": "bfloat16"})
    assert sdaccel.report(pipe)["precision"].refused["pipe"].startswith("unet is quantized")
    assert {parameter.dtype for parameter in pipe.vae.parameters()} == {pipe.dtype}


def test_a_pipe_loaded_with_a_device_map_is_left_alone_by_the_weight_passes(
    tmp_path: Path, stock_picture: Any
) -> None:
    from diffusers import StableDiffusionPipeline

    tiny.stable_diffusion().save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, device_map="cpu")
    loaded.set_progress_bar_config(disable=True)
    sdaccel.accelerate(loaded, PLAN)
    for name in WEIGHTS:
        refused = sdaccel.report(loaded)[name].refused
        assert "device_map" in " ".join(refused.values())
    assert abs(tiny.draw(loaded) - stock_picture).max() < 1e-5


def test_a_prompt_that_is_no_text_is_refused_by_an_accelerated_pipe_which_then_still_draws(
    pipe: Any, stock_picture: Any
) -> None:
    sdaccel.accelerate(pipe, PLAN)
    for prompt in (42, None, {"a": "cat"}):
        with pytest.raises((InputError, ValueError), match="prompt"):
            tiny.draw(pipe, prompt=prompt)
    assert abs(tiny.draw(pipe) - stock_picture).max() < 1e-5


@pytest.mark.parametrize("name", ["", "no such folder/really", "no-slash", "a/b/c"])
def test_a_name_that_is_no_model_is_refused_by_the_loader(name: str) -> None:
    from sdaccel.pipelines.loading import load_pipeline

    with pytest.raises(ModelNotFoundError):
        load_pipeline(name)


def test_a_folder_without_a_model_is_refused_by_the_loader(tmp_path: Path) -> None:
    from sdaccel.pipelines.loading import load_pipeline

    with pytest.raises(ModelNotFoundError, match=re.escape(str(tmp_path))):
        load_pipeline(str(tmp_path))
