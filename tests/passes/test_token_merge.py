"""Merged attentions against the same by hand; what is merged, what is left whole, and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import tiny
import torch
from caching import STEPS, apart, controlnet, draw, flux
from merging import merging, record
from tiny_transformers import pixart, sd3

import sdaccel
from sdaccel.clock import Clock
from sdaccel.errors import PlanError
from sdaccel.passes.token_layouts import Grid, Layout, Listed
from sdaccel.passes.token_map import destinations_first, grid_order, match
from sdaccel.passes.token_merge_attention import MergedAttention, Settings
from sdaccel.passes.token_merge_blocks import Place
from sdaccel.passes.token_merge_state import MergeState
from sdaccel.report import PassRecord

SETTINGS = Settings(ratio=0.5, every=1, fewest=0)


class Host(torch.nn.Module):
    """A denoiser, as far as a layout asks."""

    def forward(self, hidden_states: Any, img_ids: Any = None, encoder_hidden_states: Any = None):
        raise AssertionError("it is never called")


def stands_in(attention: Any, layout: Layout, joint: bool, **arguments: Any) -> MergedAttention:
    """An attention in the middle of a forward with these arguments."""
    state = MergeState("unet", Clock(), PassRecord("token_merge", "approximate"), 1)
    with torch.no_grad():
        state.begin(Host(), (), arguments)
    return MergedAttention(Place(attention, layout, joint), state, SETTINGS)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# By hand --------------------------------------------------------------------------------------


@torch.no_grad()
def test_self_attention_is_that_of_the_merged_tokens_given_back() -> None:
    from diffusers.models.attention_processor import Attention

    attention, x = Attention(16, heads=2, dim_head=8).eval(), random(2, 64, 16)
    found = match(x, grid_order(8, 8, x.device), 0.5)
    wanted = found.unmerge(attention(found.merge(x)))
    merged = stands_in(attention, Grid(), False, hidden_states=torch.zeros(2, 4, 8, 8))
    assert torch.equal(merged(x), wanted)
    assert not torch.allclose(wanted, attention(x))


@torch.no_grad()
def test_where_all_tokens_of_a_2x2_are_equal_nothing_is_lost() -> None:
    from diffusers.models.attention_processor import Attention

    attention = Attention(16, heads=2, dim_head=8).eval()
    x = random(2, 16, 16, 4, 4).repeat_interleave(2, 3).repeat_interleave(2, 4)[:, 0]
    tokens = x.flatten(2).mT
    state = MergeState("unet", Clock(), PassRecord("token_merge", "approximate"), 1)
    state.begin(Host(), (), {"hidden_states": torch.zeros(2, 4, 8, 8)})
    merged = MergedAttention(Place(attention, Grid()), state, Settings(0.75, 1, 0))
    torch.testing.assert_close(merged(tokens), attention(tokens), atol=1e-6, rtol=1e-5)


def flux_attention(single: bool) -> Any:
    model = tiny.flux().transformer
    blocks = model.single_transformer_blocks if single else model.transformer_blocks
    return blocks[0].attn


def positions() -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """`img_ids` of 4x4 tokens, and a rotation of 5 text tokens and these."""
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    ids = torch.stack([torch.zeros(16), rows.flatten(), columns.flatten()], dim=1)
    angles = random(21, 8).repeat_interleave(2, 1)
    return ids, (angles.cos(), angles.sin())


def rotated(tables: Any, representatives: torch.Tensor) -> Any:
    return tuple(torch.cat([each[:5], each[5:][representatives]]) for each in tables)


@torch.no_grad()
def test_joint_attention_merges_the_picture_with_its_positions() -> None:
    attention, x, text = flux_attention(single=False), random(2, 16, 32), random(2, 5, 32)
    ids, rotation = positions()
    merged = stands_in(attention, Listed(), True, hidden_states=x, img_ids=ids)
    picture, words = merged(x, text, image_rotary_emb=rotation)
    order = destinations_first(ids[:, 1], ids[:, 2])
    for sample in range(2):
        one, its_text = x[sample : sample + 1], text[sample : sample + 1]
        found = match(one, order, 0.5)
        tables = rotated(rotation, found.representatives[0])
        rows, other = attention(found.merge(one), its_text, image_rotary_emb=tables)
        assert torch.equal(picture[sample], found.unmerge(rows)[0])
        assert torch.equal(words[sample], other[0])


@torch.no_grad()
def test_a_single_stream_keeps_its_text_whole() -> None:
    attention, states = flux_attention(single=True), random(1, 21, 32)
    ids, rotation = positions()
    merged = stands_in(attention, Listed(), True, hidden_states=states[:, 5:], img_ids=ids)
    result = merged(states, image_rotary_emb=rotation)
    found = match(states[:, 5:], destinations_first(ids[:, 1], ids[:, 2]), 0.5)
    tables = rotated(rotation, found.representatives[0])
    rows = attention(
        torch.cat([states[:, :5], found.merge(states[:, 5:])], 1), image_rotary_emb=tables
    )
    wanted = torch.cat([rows[:, :5], found.unmerge(rows[:, 5:])], 1)
    assert torch.equal(result, wanted)


# What is merged -------------------------------------------------------------------------------


def test_a_map_serves_its_block_for_some_steps() -> None:
    pipe = merging(tiny.stable_diffusion(), every=5)
    draw(pipe)
    blocks = record(pipe).changed["unet attentions of fewer tokens"]
    assert blocks == 3  # one in the encoder, two in the decoder, at full resolution
    counts = Counter(
        {"unet merged by a new map": 3 * blocks, "unet merged by a kept map": (STEPS - 3) * blocks}
    )
    assert record(pipe).ran == counts


def test_both_calls_of_a_step_have_maps_of_their_own() -> None:
    pipe = merging(flux(), every=STEPS)
    draw(pipe)
    assert record(pipe).changed == {"transformer attentions of fewer tokens": 6}
    assert record(pipe).ran["transformer merged by a new map"] == 2 * 6
    assert record(pipe).ran["transformer merged by a kept map"] == 2 * 6 * (STEPS - 1)


def test_layers_counts_resolutions_of_a_unet_and_blocks_of_a_transformer() -> None:
    deep = tiny.unet(
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    pipe = merging(tiny.stable_diffusion(unet=deep), layers=2)
    draw(pipe)
    assert record(pipe).changed == {"unet attentions of fewer tokens": 6}
    assert record(pipe).ran["unet merged by a new map"] == 6 * STEPS / 3
    assert "unet whole, its tokens are not the picture's" not in record(pipe).ran
    pipe = merging(flux(), layers=2)
    assert record(pipe).changed == {"transformer attentions of fewer tokens": 2}


@pytest.mark.parametrize("make", [sd3, pixart])
@torch.no_grad()
def test_transformers_of_patches_are_merged(make: Any) -> None:
    model, inputs = make()
    pipe = tiny.flux()
    pipe.register_modules(transformer=model)
    stock = model(**inputs).sample
    merging(pipe)
    assert not torch.allclose(model(**inputs).sample, stock)
    assert record(pipe).ran == {"transformer merged by a new map": 2}


def test_odd_sides_are_merged_too() -> None:
    pipe = merging(tiny.stable_diffusion())
    draw(pipe, height=24, width=40, num_inference_steps=2)
    assert set(record(pipe).ran) == {"unet merged by a new map", "unet merged by a kept map"}


def test_a_forward_outside_a_generation_matches_anew() -> None:
    pipe = merging(tiny.stable_diffusion())
    with torch.no_grad():
        for _ in range(2):
            pipe.unet(random(2, 4, 8, 8), 500, random(2, 16, 32))
    assert record(pipe).ran == {"unet merged by a new map": 6}


# What is left whole ---------------------------------------------------------------------------


def test_too_few_tokens_stay_whole_and_the_report_says_from_how_many_on_it_pays() -> None:
    pipe = tiny.stable_diffusion()
    plain = draw(pipe)
    sdaccel.accelerate(pipe, "none", token_merge=True)
    assert apart(draw(pipe), plain) == 0
    assert record(pipe).ran == {"unet whole, too few tokens": 3 * STEPS}
    (note,) = record(pipe).notes
    assert "64 tokens of width 32 stay whole: merging 32 is expected to save" in note
    assert "it pays from about" in note


def test_with_a_mask_the_stock_attention_runs() -> None:
    from diffusers.models.attention_processor import Attention

    attention, x = Attention(16, heads=2, dim_head=8).eval(), random(1, 64, 16)
    mask = torch.zeros(1, 64).index_fill(1, torch.arange(9), -9.0)
    with torch.no_grad():
        merged = stands_in(attention, Grid(), False, hidden_states=torch.zeros(1, 4, 8, 8))
        assert torch.equal(merged(x, attention_mask=mask), attention(x, attention_mask=mask))


def test_training_is_left_as_it_is() -> None:
    pipe = merging(tiny.stable_diffusion())
    pipe.unet(random(2, 4, 8, 8), 500, random(2, 16, 32)).sample.sum().backward()
    assert not record(pipe).ran


def test_what_has_no_such_attention_is_refused() -> None:
    pipe = merging(controlnet())
    assert "no self-attention" in record(pipe).refused["controlnet"]
    assert record(pipe).applied


@pytest.mark.parametrize("scope", ["whole", "regional"])
def test_a_compiled_denoiser_is_refused(scope: str) -> None:
    pipe = tiny.stable_diffusion()
    options = {"backend": "eager", "scope": scope}
    sdaccel.accelerate(pipe, "none", compile=options, token_merge={"fewest_tokens": 0})
    assert "leave compile out" in record(pipe).refused["unet"]


@pytest.mark.parametrize(
    "options", [{"ratio": 0}, {"ratio": 0.8}, {"every": 0}, {"layers": 0}, {"ratio": "half"}]
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=next(iter(options))):
        sdaccel.accelerate(tiny.stable_diffusion(), "none", token_merge=options)
