"""When merging tokens and attending by blocks are expected to pay: known before anything runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdaccel.passes.expected_seconds import Rates, rates_of
from sdaccel.passes.sparse_attention_gain import fewest_tokens
from sdaccel.passes.token_merge_gain import Merging

CPU = rates_of(torch.device("cpu"))
SD15 = Merging(samples=2, tokens=4096, others=0, width=320, itemsize=2, ratio=0.5, every=4)
SHAPES_UNET = replace(SD15, tokens=64, width=96)
SHAPES_DIT = Merging(1, 64, 24, 256, 4, 0.5, 4, rotated=True)


def test_what_is_saved_is_the_work_of_the_tokens_that_are_merged_away() -> None:
    """By hand: 3 of 8 tokens beside 2 of a text."""
    merging = replace(SD15, samples=1, tokens=8, others=2, width=4, ratio=3 / 8)
    flops = 4 * (10 * 10 - 7 * 7) * 4 + 8 * 3 * 4 * 4
    assert merging.saved(Rates(flops=1.0, bytes=1.0, launch=1.0)) == flops


def test_real_pictures_are_merged_and_small_latents_are_not() -> None:
    assert SD15.pays(CPU)
    assert not SHAPES_UNET.pays(CPU)
    assert not SHAPES_DIT.pays(CPU)


@pytest.mark.parametrize("merging", [SHAPES_UNET, SHAPES_DIT])
def test_the_fewest_tokens_are_where_it_begins_to_pay(merging: Merging) -> None:
    fewest = merging.fewest_tokens(CPU)
    assert fewest is not None
    assert replace(merging, tokens=fewest).pays(CPU)
    assert not replace(merging, tokens=fewest - 16).pays(CPU)
    assert f"pays from about {fewest} tokens" in merging.reason(CPU)


def test_a_map_that_serves_more_steps_costs_less() -> None:
    assert replace(SD15, every=8).spent(CPU) < SD15.spent(CPU)


def test_samples_that_attend_by_themselves_cost_more() -> None:
    assert replace(SD15, rotated=True).spent(CPU) > SD15.spent(CPU)


def test_where_starting_an_op_takes_for_ever_it_never_pays() -> None:
    never = Rates(flops=1e30, bytes=1e30, launch=1.0)
    assert SD15.fewest_tokens(never) is None
    assert "never pays" in SD15.reason(never)


def test_denser_blocks_need_more_tokens_and_too_dense_ones_never_pay() -> None:
    sparse, denser = (fewest_tokens(2, 1536, density, CPU) for density in (0.2, 0.5))
    assert sparse is not None
    assert denser is not None
    assert sparse < denser
    assert fewest_tokens(2, 1536, 0.65, CPU) is None
