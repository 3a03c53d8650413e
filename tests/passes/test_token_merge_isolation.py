"""No map serves another text or a copy of the denoiser; and all is taken back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch
from caching import STEPS, another_text, apart, draw, flux
from merging import merging, record

import sdaccel


def test_a_text_that_changes_amid_the_steps_is_matched_anew() -> None:
    pipe = merging(tiny.stable_diffusion(), every=STEPS)
    draw(pipe, **another_text(after=2))
    assert record(pipe).ran["unet merged by a new map"] == 2 * 3


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_all_is_taken_back(make: Any) -> None:
    pipe = make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    merging(pipe)
    assert apart(draw(pipe), plain) > 0
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


def test_a_copy_of_the_denoiser_keeps_no_maps() -> None:
    pipe = merging(tiny.stable_diffusion())
    draw(pipe)
    copied = copy.deepcopy(pipe.unet)
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 16, 32)
    with torch.no_grad():
        assert torch.equal(copied(sample, 5, text).sample, pipe.unet(sample, 5, text).sample)
