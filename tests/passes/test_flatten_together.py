"""Flat forwards over other passes: whole pictures are what they are without them."""

from __future__ import annotations

import ctypes
from typing import Any

import caching
import pytest
import tiny
import torch
from flattening import ran
from recording import PLANS, Draw, alike, both, draw
from taping import taped

import sdaccel
from sdaccel.passes.attention_candidates import Candidate
from sdaccel.passes.attention_router import Router

pytestmark = pytest.mark.usefixtures("plain_torch", "no_choices")


@pytest.mark.parametrize(
    ("make", "plan"),
    [
        *((tiny.stable_diffusion, plan) for plan in PLANS),
        *((caching.flux, plan) for plan in ("guidance", "all")),
        (caching.controlnet, "all"),
    ],
)
def test_pictures_of_every_plan_are_those_without(make: Draw, plan: str) -> None:
    def drawn(pipe: Any) -> list[Any]:
        if hasattr(pipe, "transformer"):
            return [draw(pipe), draw(pipe)]
        return [draw(pipe, prompt=prompt) for prompt in ("a cat", "a dog", "a cat")]

    before, flat = both(pipe := make(), drawn, "flatten", **PLANS[plan])
    assert alike(before, flat)
    assert ran(pipe, "replays") > 5
    assert ran(pipe, "fallbacks") == 0


def test_a_guided_transformer_s_graphs_hold_no_decision_of_a_step() -> None:
    pipe, found = caching.flux(), []
    with taped():
        for graphs in (False, True):
            sdaccel.accelerate(pipe, "none", **PLANS["guidance"], cuda_graph=graphs)
            found.append(draw(pipe))
    assert (found[0] == found[1]).all()
    assert sdaccel.report(pipe)["cuda_graph"].ran["transformer replays"] > 5


def test_a_callback_may_change_latents_text_and_model() -> None:
    def change(pipe: Any, step: int, __: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            wide = torch.nn.functional.interpolate(given["latents"], scale_factor=2)
            return {**given, "latents": wide}
        if step == 5:
            pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
            return {**given, "prompt_embeds": given["prompt_embeds"].flip(1) * 0.5}
        return given

    def drawn(pipe: Any) -> list[Any]:
        options = {
            "callback_on_step_end": change,
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
        }
        found = []
        for more in (options, {}, options):
            found.append(draw(pipe, **more))
            pipe.disable_freeu()
        return found

    before, flat = both(pipe := tiny.stable_diffusion(), drawn, "flatten", **PLANS["exact"])
    assert alike(before, flat)
    assert ran(pipe, "replays") > 5


def test_attention_by_machine_code_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes to is memory that torch has made, by something that torch doesn't see."""
    calls = []

    def unseen(query: Any, key: Any, value: Any, *_: Any) -> torch.Tensor:
        calls.append(query.shape)
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value).contiguous()
        y = torch.empty_like(found)
        ctypes.memmove(y.data_ptr(), found.data_ptr(), found.nbytes)
        return y

    mine = Candidate("mine", unseen, lambda _: True)
    monkeypatch.setattr(Router, "_candidate", lambda *_: mine)
    before, flat = both(pipe := tiny.stable_diffusion(), draw, "flatten", attention=True)
    assert (before == flat).all()
    assert ran(pipe, "replays") == 7
    attentions = sum(hasattr(each, "processor") for each in pipe.unet.modules())
    assert len(calls) >= (8 + 8) * attentions, "each replay calls it"
