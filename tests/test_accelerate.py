"""accelerate and its inverse: what they promise about the pipe, whatever happens in between."""

from __future__ import annotations

import dataclasses
import gc
import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
import torch

import sdaccel
from sdaccel.errors import InputError, PassError, SdaccelWarning, TargetError
from sdaccel.passes import Effect, Pass
from sdaccel.passes.no_ops import NoOps

EAGER = "eager"


@dataclasses.dataclass(frozen=True)
class Failing(Pass):
    """Changes a good deal, then fails."""

    name: ClassVar[str] = "failing"
    summary: ClassVar[str] = "fails half-way"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 99

    def apply(self, target: Any, patch: Any, record: Any) -> None:
        for component, model in target.each(record, "denoiser"):
            with patch.scope(component.module):
                patch.set(model, "extra", 1)
                patch.set(model.conv_in, "weight", torch.nn.Parameter(torch.zeros(1)))
        raise RuntimeError("half-way")


@dataclasses.dataclass(frozen=True)
class Noise(Pass):
    """Stands for any pass that is not exact: it makes every latent NaN."""

    name: ClassVar[str] = "noise"
    summary: ClassVar[str] = "makes NaN"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    order: ClassVar[int] = 98

    def apply(self, target: Any, patch: Any, record: Any) -> None:
        unet = target.denoisers[0].module

        def spoil(*_: Any) -> Any:
            record.ran["spoiled"] += 1
            return (torch.full((2, 4, 8, 8), float("nan")),)

        with patch.scope(unet):
            patch.add_handle(unet.register_forward_hook(spoil))
        record.changed["hooks"] += 1


@pytest.fixture
def pipe() -> Any:
    return tiny.stable_diffusion()


@pytest.mark.parametrize(
    "overrides", [{}, {"precision": {"dtype": "bfloat16"}}, {"precision": {"dtype": "float16"}}]
)
def test_restore_is_bit_identical(pipe: Any, overrides: dict) -> None:
    picture = tiny.draw(pipe)
    before = tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, EAGER, **overrides)
    assert tiny.snapshot(pipe) != before
    tiny.draw(pipe)
    assert sdaccel.restore(pipe) is pipe
    assert tiny.snapshot(pipe) == before
    assert np.array_equal(tiny.draw(pipe), picture)


def test_the_same_pipe_comes_back_with_the_same_picture(pipe: Any) -> None:
    picture = tiny.draw(pipe)
    assert sdaccel.accelerate(pipe, EAGER) is pipe
    assert np.abs(tiny.draw(pipe) - picture).max() < 1e-4
    assert type(pipe).__name__ == "StableDiffusionPipeline"


def test_both_verbs_are_idempotent(pipe: Any) -> None:
    before = tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, EAGER)
    once = tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, EAGER)
    assert tiny.snapshot(pipe) == once
    sdaccel.restore(pipe)
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before


def test_another_plan_takes_the_place_of_the_first(pipe: Any) -> None:
    before = tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, EAGER)
    sdaccel.accelerate(pipe, "none", no_ops=True)
    assert [record.name for record in sdaccel.report(pipe).passes] == ["no_ops"]
    sdaccel.accelerate(pipe, None)
    assert tiny.snapshot(pipe) == before


def test_a_pass_that_fails_half_way_leaves_nothing(pipe: Any) -> None:
    before = tiny.snapshot(pipe)
    plan = sdaccel.Plan("mine", (NoOps(), Failing()))
    with pytest.raises(PassError, match=r"failing failed: half-way\. The pipe is as it was"):
        sdaccel.accelerate(pipe, plan)
    assert tiny.snapshot(pipe) == before
    assert not sdaccel.report(pipe).accelerated


def test_a_failing_plan_leaves_the_plan_before_it(pipe: Any) -> None:
    sdaccel.accelerate(pipe, EAGER)
    with pytest.raises(PassError):
        sdaccel.accelerate(pipe, sdaccel.Plan("mine", (Failing(),)))
    assert sdaccel.report(pipe).plan == EAGER
    assert sdaccel.report(pipe)["no_ops"].applied


def test_an_interrupt_while_applying_leaves_nothing(pipe: Any, monkeypatch: Any) -> None:
    before = tiny.snapshot(pipe)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(NoOps, "apply", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sdaccel.accelerate(pipe, EAGER)
    assert tiny.snapshot(pipe) == before


def test_the_context_manager_puts_back_what_was_there(pipe: Any) -> None:
    before = tiny.snapshot(pipe)
    with sdaccel.accelerated(pipe, EAGER) as inside:
        assert inside is pipe
        assert sdaccel.report(pipe).accelerated
    assert tiny.snapshot(pipe) == before
    sdaccel.accelerate(pipe, "none", no_ops=True)
    with pytest.raises(ValueError, match="inside"), sdaccel.accelerated(pipe, EAGER):
        raise ValueError("inside")
    assert [record.name for record in sdaccel.report(pipe).passes] == ["no_ops"]


def test_strict_turns_a_refusal_into_an_error(pipe: Any) -> None:
    before = tiny.snapshot(pipe)
    pipe.unet.to(torch.bfloat16)
    with pytest.raises(PassError, match=r"precision refused .* bfloat16 already"):
        sdaccel.accelerate(pipe, "none", strict=True, precision=True)
    pipe.unet.to(torch.float32)
    assert tiny.snapshot(pipe).keys() == before.keys()
    assert not sdaccel.report(pipe).accelerated


def test_two_pipes_that_share_components(pipe: Any) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    picture, before = tiny.draw(pipe), tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, EAGER)
    sdaccel.accelerate(other, EAGER)
    assert "shared with a pipe" in sdaccel.report(other)["no_ops"].refused["unet"]
    tiny.draw(other, image=torch.rand(1, 3, 16, 16), strength=1.0)
    assert sdaccel.report(pipe).calls["unet"] == 0
    assert sdaccel.report(other).calls["unet"] == 2
    with pytest.warns(SdaccelWarning, match="unet.* stay accelerated"):
        sdaccel.restore(pipe)
    sdaccel.accelerate(pipe, EAGER)
    with pytest.warns(SdaccelWarning, match="stay accelerated"):
        sdaccel.restore(pipe)
    assert type(pipe.unet.conv_in) is torch.nn.Conv2d
    sdaccel.restore(other)
    assert tiny.snapshot(pipe) == before
    assert np.array_equal(tiny.draw(pipe), picture)


def test_a_shared_component_survives_a_pipe_that_is_gone(pipe: Any) -> None:
    from diffusers import StableDiffusionPipeline

    before = tiny.snapshot(pipe)
    gone = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    sdaccel.accelerate(gone, EAGER)
    del gone
    gc.collect()
    sdaccel.accelerate(pipe, EAGER)
    assert sdaccel.report(pipe)["no_ops"].changed
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before


def lora(pipe: Any) -> None:
    from peft import LoraConfig

    torch.manual_seed(5)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config)


def test_a_pipe_with_a_lora_can_be_accelerated(pipe: Any) -> None:
    lora(pipe)
    picture, before = tiny.draw(pipe), tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, EAGER)
    assert np.abs(tiny.draw(pipe) - picture).max() < 1e-4
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before


def test_a_lora_loaded_after_accelerating_takes_effect(pipe: Any) -> None:
    plain = tiny.draw(pipe)
    lora(pipe)
    expected = tiny.draw(pipe)
    assert np.abs(expected - plain).max() > 1e-3
    pipe.unet.delete_adapters("default")
    sdaccel.accelerate(pipe, EAGER)
    tiny.draw(pipe)
    lora(pipe)
    assert np.abs(tiny.draw(pipe) - expected).max() < 1e-4
    sdaccel.restore(pipe)
    assert np.array_equal(tiny.draw(pipe), expected)


def test_a_generation_that_ends_in_nan_runs_again_without_what_is_not_exact(pipe: Any) -> None:
    picture = tiny.draw(pipe)
    sdaccel.accelerate(pipe, sdaccel.Plan("mine", (NoOps(), Noise())))
    with pytest.warns(SdaccelWarning, match="NaN or Inf: it runs again without noise"):
        again = tiny.draw(pipe)
    assert np.array_equal(again, picture)
    report = sdaccel.report(pipe)
    assert [record.name for record in report.passes] == ["no_ops"]
    assert "without noise" in str(report)
    assert np.array_equal(tiny.draw(pipe), picture)


def test_the_second_run_draws_the_same_noise_without_a_generator(pipe: Any) -> None:
    torch.manual_seed(7)
    picture = tiny.draw(pipe, generator=None)
    sdaccel.accelerate(pipe, sdaccel.Plan("mine", (NoOps(), Noise())))
    torch.manual_seed(7)
    with pytest.warns(SdaccelWarning):
        assert np.array_equal(tiny.draw(pipe, generator=None), picture)


def test_stock_nan_is_reported_and_not_blamed_on_an_exact_pass(pipe: Any) -> None:
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("inf"))
    sdaccel.accelerate(pipe, EAGER)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.draw(pipe)
    assert any("only exact passes" in str(each.message) for each in caught)
    assert sdaccel.report(pipe)["no_ops"].applied


def test_a_replaced_model_is_reported_and_taken_up_by_the_next_accelerate(pipe: Any) -> None:
    sdaccel.accelerate(pipe, EAGER)
    first, pipe.unet = pipe.unet, tiny.unet()
    with pytest.warns(SdaccelWarning, match="unet was put in after accelerate"):
        tiny.draw(pipe)
    sdaccel.accelerate(pipe, EAGER)
    assert sdaccel.report(pipe)["no_ops"].changed
    sdaccel.restore(pipe)
    assert not any(name.startswith("_sdaccel") for name in vars(first))


@pytest.mark.parametrize("thing", [None, 3, "pipe", torch.nn.Linear(1, 1)])
def test_what_is_no_pipeline_is_refused(thing: object) -> None:
    with pytest.raises(TargetError, match="pass a diffusers pipeline"):
        sdaccel.accelerate(thing)


def test_a_pipe_without_a_denoiser_is_refused(pipe: Any) -> None:
    pipe.unet = None
    with pytest.raises(TargetError, match="has no denoiser"):
        sdaccel.accelerate(pipe, EAGER)


def test_a_pipe_without_a_vae_is_accelerated(pipe: Any) -> None:
    pipe.vae = None
    sdaccel.accelerate(pipe, EAGER)
    assert sdaccel.report(pipe)["vae"].state == "nothing to do"


def test_the_report_says_what_was_done_and_what_ran(pipe: Any) -> None:
    sdaccel.accelerate(pipe, EAGER)
    assert "ran: not yet" in str(sdaccel.report(pipe))
    tiny.draw(pipe)
    record = sdaccel.report(pipe)["no_ops"]
    assert record.ran["divisions left out"] >= record.changed["divisions by 1.0"]
    values = sdaccel.report(pipe).to_dict()
    assert values["calls"] == {"text_encoder": 2, "unet": 2, "vae": 1}
    with pytest.raises(KeyError):
        sdaccel.report(pipe)["nonsense"]


def test_the_report_of_a_stock_pipe_says_so(pipe: Any) -> None:
    assert str(sdaccel.report(pipe)) == "StableDiffusionPipeline: not accelerated"


def test_a_saved_pipe_loads_in_stock_diffusers(pipe: Any, tmp_path: Any) -> None:
    from diffusers import StableDiffusionPipeline

    picture = tiny.draw(pipe)
    sdaccel.accelerate(pipe, EAGER)
    pipe.save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is StableDiffusionPipeline
    assert np.array_equal(tiny.draw(loaded), picture)


def test_a_pipe_that_was_moved_gets_its_plan_anew(pipe: Any) -> None:
    picture = tiny.draw(pipe)
    sdaccel.accelerate(pipe, EAGER)
    first = pipe.__dict__["_sdaccel"]
    first.device = "cuda:0"
    assert np.abs(tiny.draw(pipe) - picture).max() < 1e-4
    assert pipe.__dict__["_sdaccel"] is not first
    assert "moved to cpu" in str(sdaccel.report(pipe))
    assert sdaccel.report(pipe).calls["unet"] == 2


@pytest.mark.parametrize("prompt", [3, b"bytes", ["a cat", 4], torch.zeros(1)])
def test_a_prompt_that_is_not_text_is_refused_before_anything_runs(pipe: Any, prompt: Any) -> None:
    sdaccel.accelerate(pipe, EAGER)
    with pytest.raises(InputError, match="A prompt is text"):
        tiny.draw(pipe, prompt=prompt)
    assert not sdaccel.report(pipe).calls
