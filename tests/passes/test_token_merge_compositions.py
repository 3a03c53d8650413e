"""Merging beside other passes and a LoRA: each does what it does alone."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from caching import apart, draw, flux
from features import lora
from merging import OPTIONS, merging, record

import sdaccel

pytestmark = pytest.mark.usefixtures("plain_torch")

CALM = 1e-4
EXACT: dict[str, Any] = {
    "no_ops": True,
    "memory_format": True,
    "attention": {"measure": False},
    "fuse": True,
    "hoist": True,
    "schedulers": True,
}
MAKERS = [tiny.stable_diffusion, flux]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("other", [*EXACT, "all"])
def test_an_exact_pass_leaves_the_merged_picture_as_it_is(make: Any, other: str) -> None:
    wanted = draw(merging(make()))
    pipe = make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    options = EXACT if other == "all" else {other: EXACT[other]}
    sdaccel.accelerate(pipe, "none", token_merge=OPTIONS, **options)
    assert apart(draw(pipe), wanted) < CALM < apart(wanted, plain)
    assert sum(record(pipe).ran.values()) > 0
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


@pytest.mark.parametrize("make", MAKERS)
def test_steps_that_a_cache_skips_merge_nothing(make: Any) -> None:
    pipe = make()
    cache = {"interval": 3, "forecast": 0}
    sdaccel.accelerate(pipe, "none", token_merge={**OPTIONS, "every": 1}, step_cache=cache)
    draw(pipe)
    alone = merging(make(), every=1)
    draw(alone)
    ran, whole = record(pipe).ran, record(alone).ran
    (key,) = ran
    assert 0 < ran[key] < whole[key]
    assert any(each.endswith("shallow") for each in sdaccel.report(pipe)["step_cache"].ran)


def test_in_bf16_tokens_are_merged() -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "none", precision={"dtype": "bfloat16"}, token_merge=OPTIONS)
    picture = draw(pipe)
    assert record(pipe).ran["unet merged by a new map"] > 0
    # two roundings apart, and maps that may differ by them
    assert apart(picture, draw(merging(tiny.stable_diffusion()))) < 0.1


@pytest.mark.parametrize("lora_first", [True, False])
def test_a_lora_counts_before_and_after(lora_first: bool) -> None:
    other = tiny.stable_diffusion()
    lora(other.unet)
    wanted = draw(merging(other))
    pipe = tiny.stable_diffusion()
    if lora_first:
        lora(pipe.unet)
    merging(pipe)
    if not lora_first:
        lora(pipe.unet)
    assert apart(draw(pipe), wanted) < CALM
