"""Guidance reuse on whole pipelines, against the same done by hand on a stock pipe."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import tiny
import tiny_video
import torch
from caching import STEPS, apart, controlnet, draw, flux

import sdaccel
from sdaccel.errors import PassError, PlanError
from sdaccel.passes.guidance_kind import Guidance, guidance_of
from sdaccel.passes.step_cache_history import History

CALM = 1e-5
OPTIONS: dict[str, Any] = {"stop": 0.5, "every": 3, "fewest_steps": 1}
BOTH = {0, 1, 2, 3, 4, 5, 8, 11}
"""Of twelve steps, those that compute both branches with these options."""


def guided(pipe: Any, **options: Any) -> Any:
    return sdaccel.accelerate(pipe, "none", guidance={**OPTIONS, **options})


def ran(pipe: Any) -> dict[str, int]:
    return dict(sdaccel.report(pipe)["guidance"].ran)


def reused(unconditional: Any, conditional: Any, step: int, kept: list[Any], hold: bool) -> Any:
    """By hand: the unconditional branch of a step."""
    if step in BOTH:
        kept[:] = [unconditional - conditional]
        return unconditional
    return conditional + kept[0] if hold else conditional


@pytest.mark.parametrize("hold", [True, False])
def test_half_of_a_batch_is_left_out_and_the_difference_kept(hold: bool) -> None:
    stock, kept, step = tiny.stable_diffusion(), list[Any](), -1
    plain = draw(stock)

    def by_hand(_: Any, __: Any, output: Any) -> Any:
        nonlocal step
        step += 1
        unconditional, conditional = output[0].chunk(2)
        made = reused(unconditional, conditional, step, kept, hold)
        return (torch.cat([made, conditional]),)

    stock.unet.register_forward_hook(by_hand)
    wanted, pipe = draw(stock), guided(tiny.stable_diffusion(), hold=hold)
    sizes: list[int] = []
    pipe.unet.conv_in.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    assert apart(draw(pipe), wanted) < CALM
    assert apart(wanted, plain) > 10 * CALM
    assert sizes == [2 if step in BOTH else 1 for step in range(STEPS)]
    assert ran(pipe) == {"unet both branches": 8, "unet one branch": 4}


@pytest.mark.parametrize(("order", "variable"), [(1, "step"), (2, "sigma")])
def test_the_difference_is_extrapolated_in_the_variable_asked_for(
    order: int, variable: str
) -> None:
    stock, kept, step, listed = tiny.stable_diffusion(), History(order), -1, (0, 1, 2, 5, 8, 11)
    kept_of_data = stock.scheduler.alphas_cumprod

    def by_hand(_: Any, args: Any, output: Any) -> Any:
        nonlocal step
        step += 1
        share = float(kept_of_data[int(args[1])])
        point = step if variable == "step" else -math.sqrt((1 - share) / share)
        unconditional, conditional = output[0].chunk(2)
        if step in listed:
            kept.keep(point, unconditional - conditional)
            return None
        return (torch.cat([conditional + kept.predict(point), conditional]),)

    plain = draw(stock)
    stock.unet.register_forward_hook(by_hand)
    wanted = draw(stock)
    options = {"steps": listed, "forecast": order, "variable": variable}
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", guidance=options)
    assert apart(draw(pipe), wanted) < CALM
    assert apart(wanted, plain) > 10 * CALM
    assert ran(pipe) == {"unet both branches": 6, "unet one branch": 6}


def test_the_second_of_two_calls_is_left_out() -> None:
    stock, kept, calls, first = flux(), list[Any](), -1, list[Any]()
    plain = draw(stock)

    def by_hand(_: Any, __: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            first[:] = [output[0]]
            return None
        return (reused(output[0], first[0], calls // 2, kept, True),)

    stock.transformer.register_forward_hook(by_hand)
    wanted, pipe = draw(stock), guided(flux())
    called: list[int] = []
    pipe.transformer.x_embedder.register_forward_hook(lambda *_: called.append(1))
    assert apart(draw(pipe), wanted) < CALM
    assert apart(wanted, plain) > 10 * CALM
    assert len(called) == STEPS + len(BOTH)
    assert ran(pipe) == {"transformer both branches": 8, "transformer one branch": 4}


def test_a_video_is_guided_by_what_was_kept_as_well() -> None:
    pipe = tiny_video.wan()
    plain = tiny_video.draw(pipe, num_inference_steps=STEPS)
    guided(pipe)
    found = tiny_video.draw(pipe, num_inference_steps=STEPS)
    assert ran(pipe) == {"transformer both branches": 8, "transformer one branch": 4}
    assert apart(found.astype(float), plain.astype(float)) < 0.1 * 255


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_restore_is_bit_for_bit_and_each_picture_stands_alone(make: Any) -> None:
    pipe = make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    guided(pipe)
    first = draw(pipe)
    other = draw(pipe, num_inference_steps=STEPS + 4)
    assert apart(draw(pipe), first) == 0
    assert apart(draw(guided(make()), num_inference_steps=STEPS + 4), other) == 0
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


def test_guidance_in_an_interval_starts_late() -> None:
    pipe = guided(tiny.stable_diffusion(), start=0.25, every=None, hold=False)
    sizes: list[int] = []
    pipe.unet.conv_in.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    draw(pipe)
    assert sizes == [1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_few_steps_and_no_guidance_leave_everything_as_it_is() -> None:
    for changes in ({"num_inference_steps": 9}, {"guidance_scale": 1.0}):
        pipe = guided(tiny.stable_diffusion(), fewest_steps=10)
        assert apart(draw(pipe, **changes), draw(tiny.stable_diffusion(), **changes)) == 0
        assert "unet one branch" not in ran(pipe)


def test_another_text_amid_the_steps_is_not_this_picture_s() -> None:
    alone, pipe = draw(guided(tiny.stable_diffusion())), guided(tiny.stable_diffusion())
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor(3), torch.randn(2, 16, 32))
    with torch.no_grad():
        wanted = tiny.stable_diffusion().unet(*inputs).sample

    def amid(*args: Any) -> Any:
        assert torch.equal(pipe.unet(*inputs).sample, wanted)
        return args[-1]

    assert apart(draw(pipe, callback_on_step_end=amid), alone) == 0
    assert ran(pipe)["unet both branches for a new text or size"] == STEPS


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux, controlnet])
@pytest.mark.parametrize("other", ["hoist", "step_cache", "compile"])
def test_beside_another_pass_it_does_what_it_does_alone(make: Any, other: str) -> None:
    options: dict[str, Any] = {
        "hoist": True,
        "step_cache": {"steps": range(STEPS)},
        "compile": {"backend": "eager", "vae": False, "scope": "whole"},
    }
    wanted, pipe = draw(guided(make())), make()
    sdaccel.accelerate(pipe, "none", guidance=OPTIONS, **{other: options[other]})
    assert apart(draw(pipe), wanted) < CALM
    assert any(key.endswith("one branch") for key in ran(pipe))
    torch._dynamo.reset()


def test_a_step_cache_goes_on_with_the_one_branch() -> None:
    pipe = tiny.stable_diffusion()
    caching = {"interval": 3, "forecast": 0}
    sdaccel.accelerate(pipe, "none", guidance={**OPTIONS, "every": None}, step_cache=caching)
    assert apart(draw(pipe), draw(tiny.stable_diffusion())) < 0.1
    # full 0, 3, anew for the half 6, 9 and the last
    assert sdaccel.report(pipe)["step_cache"].ran["unet full"] == 5
    assert ran(pipe)["unet one branch"] == 6


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("StableDiffusionXLPipeline", Guidance(batched=True)),
        ("StableDiffusion3Pipeline", Guidance(batched=True)),
        ("PixArtSigmaPipeline", Guidance(batched=True)),
        ("FluxPipeline", Guidance(batched=False)),
        ("WanPipeline", Guidance(batched=False)),
        ("StableDiffusionInstructPix2PixPipeline", None),
        ("StableDiffusionPAGPipeline", None),
        ("ZImagePipeline", None),
    ],
)
def test_how_a_pipeline_guides_is_read_from_its_source(name: str, kind: Guidance | None) -> None:
    assert guidance_of(getattr(diffusers, name)) == kind


def test_what_is_not_linear_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdaccel.passes.guidance.guidance_of", lambda _: None)
    with pytest.raises(PassError, match="guidance is none, or not"):
        sdaccel.accelerate(tiny.stable_diffusion(), "none", strict=True, guidance=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stop": 1.5}, "stop is a share of the steps from 0 to 1"),
        ({"start": 0.7, "stop": 0.6}, "start .* before stop"),
        ({"every": 1}, "every is a whole number of at least 2"),
        ({"hold": 1}, "hold is True or False"),
        ({"forecast": 3}, "forecast is 0, 1 or 2"),
        ({"variable": "time"}, "variable is 'step', 'sigma', 'log_snr' or 'angle'"),
        ({"budget": -1.0}, "budget is a PSNR in dB above 0"),
        ({"budget": 30.0, "steps": [0, 3]}, "give one of budget, steps"),
        ({"budget": 30.0, "hold": False}, "give one of budget, steps"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        guided(tiny.stable_diffusion(), **options)
