"""Sparse attention in tiny pipes: what is sparse, what is reported, taken back and refused."""

from __future__ import annotations

from typing import Any

import pytest
import sparse_videos
import tiny
import torch
from sparse_videos import (
    EVERYWHERE,
    LAYERS,
    NEAR,
    OPTIONS,
    STEPS,
    draw,
    in_a_pipe,
    record,
    sparse,
    wan,
    wan_model,
)

import sdaccel
from sdaccel.errors import PlanError

pytestmark = pytest.mark.usefixtures("plain_torch")


def apart(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2."""
    return float((found - truth).norm() / truth.norm())


def test_both_ways_of_choosing_add_up() -> None:
    found = []
    for options in (NEAR, {"keep": 0.3}, {"keep": 0.3, "reach": (0, 9, 9)}):
        pipe = sparse(wan(), **options)
        draw(pipe)
        (note,) = record(pipe).notes
        found.append(float(note.split("density of ")[1].split("%")[0]))
    near, strong, both = found
    assert near == pytest.approx(100 / 3, abs=0.1)
    assert max(near, strong) <= both < near + strong


# Which are sparse -----------------------------------------------------------------------------


def test_first_steps_and_the_outer_layers_are_dense() -> None:
    pipe = sparse(wan(), **NEAR, first_steps=0.4)
    draw(pipe)
    assert record(pipe).changed == {"transformer self-attentions by blocks": 2}
    assert record(pipe).ran == {
        "transformer dense, a first or last layer": 2 * 2 * STEPS,
        "transformer dense, a first step": 2 * 2 * 2,
        "transformer sparse": 2 * 2 * (STEPS - 2),
    }


def test_density_and_error_are_reported() -> None:
    pipe = sparse(wan(), **NEAR, first_steps=0.4)
    draw(pipe)
    (note,) = record(pipe).notes
    assert note.startswith("transformer: 48 tokens at a density of 33.3%; an attention is then ")
    error = float(note.split("is then ")[1].split("%")[0])
    assert 0 < error < 100
    draw(pipe)
    assert record(pipe).notes == [note], "once a size"
    whole = sparse(wan(), keep=1.0, first_steps=0.4)
    draw(whole)
    assert "density of 100.0%; an attention is then 0.00%" in record(whole).notes[0]


def test_without_dense_steps_the_error_is_said_to_be_unknown() -> None:
    pipe = sparse(wan(), **NEAR, first_steps=0.0)
    draw(pipe)
    assert "its error was not measured" in record(pipe).notes[0]


def test_short_videos_are_dense_and_the_report_says_from_how_many_tokens_on_it_pays() -> None:
    pipe = wan()
    plain = draw(pipe)
    sparse(pipe, fewest_tokens=None)
    assert torch.equal(draw(pipe), plain)
    assert record(pipe).ran["transformer dense, too few tokens"] == 2 * 2 * STEPS
    (note,) = record(pipe).notes
    assert "48 tokens are dense: at an expected density of 35% it pays from about" in note


def test_with_a_mask_attention_is_dense() -> None:
    model, _, grid = wan_model()
    pipe = sparse(in_a_pipe(model), **EVERYWHERE, **NEAR)
    attention, states = model.blocks[1].attn1, torch.randn(1, grid.tokens, 32)
    mask = torch.ones(grid.tokens, grid.tokens, dtype=torch.bool).tril()

    def call(_: Any, __: Any) -> None:
        found.append(attention(states, None, mask, None))

    found: list[torch.Tensor] = []
    with torch.no_grad():
        handle = model.blocks[0].register_forward_pre_hook(call)
        model(**wan_model()[1])
        handle.remove()
        sdaccel.restore(pipe)
        assert torch.equal(found[0], attention(states, None, mask, None))


# One picture and the next ---------------------------------------------------------------------


def test_two_videos_in_turns_are_those_of_pipes_of_their_own() -> None:
    options = {"keep": 0.5, "reach": (0, 1, 1)}
    outer, inner = sparse(wan(), **options), sparse(wan(), **options)
    amid = []

    def interrupt(_: Any, step: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step in (0, 3):
            amid.append(draw(inner, prompt="a dog", height=32))
        return kwargs

    found = draw(outer, callback_on_step_end=interrupt)
    assert torch.equal(found, draw(sparse(wan(), **options)))
    wanted = draw(sparse(wan(), **options), prompt="a dog", height=32)
    assert [torch.equal(each, wanted) for each in amid] == [True, True]


def test_all_is_taken_back() -> None:
    pipe = wan()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    sparse(pipe, **NEAR)
    assert not torch.equal(draw(pipe), plain)
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert torch.equal(draw(pipe), plain)


# Beside others --------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["attention", "fuse", "hoist", "no_ops", "schedulers"])
def test_an_exact_pass_leaves_the_sparse_video_as_it_is(other: str) -> None:
    wanted = draw(sparse(wan(), **NEAR))
    pipe = wan()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    options: Any = {"measure": False} if other == "attention" else True
    sdaccel.accelerate(pipe, "none", sparse_attention={**OPTIONS, **NEAR}, **{other: options})
    assert apart(draw(pipe), wanted) < 1e-4
    assert record(pipe).ran["transformer sparse"] == 2 * 2 * (STEPS - 1)
    if other == "attention":
        routed = sdaccel.report(pipe)["attention"]
        assert routed.changed["WanAttnProcessor"] == LAYERS, "cross-attention"
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert torch.equal(draw(pipe), plain)


def test_a_step_cache_skips_sparse_layers_too() -> None:
    pipe = wan()
    cache = {"steps": [0, 2, 4], "fewest_steps": 1, "forecast": 0}
    sdaccel.accelerate(pipe, "none", sparse_attention={**OPTIONS, **NEAR}, step_cache=cache)
    draw(pipe)
    assert record(pipe).ran["transformer sparse"] == 2 * 2 * 2


def test_in_bf16_it_is_sparse() -> None:
    pipe = wan()
    options = {**OPTIONS, **NEAR}
    sdaccel.accelerate(pipe, "none", precision={"dtype": "bfloat16"}, sparse_attention=options)
    wanted = draw(sparse(wan(), **NEAR))
    assert apart(draw(pipe).float(), wanted) < 0.1
    assert record(pipe).ran["transformer sparse"] > 0


# Refusals -------------------------------------------------------------------------------------


def test_on_a_cpu_it_says_that_it_is_for_gpus() -> None:
    pipe = sdaccel.accelerate(wan(), "none", sparse_attention=True)
    assert "it is for GPUs" in record(pipe).refused["pipe"]


def test_pictures_and_compiled_models_are_refused() -> None:
    pipe = sparse(tiny.stable_diffusion())
    assert "no self-attention of a video" in record(pipe).refused["unet"]
    pipe = wan()
    pipe.transformer.compile(backend="eager")
    assert "compiled by the user" in record(sparse(pipe)).refused["transformer"]
    with pytest.raises(PlanError, match="sparse_attention and compile exclude each other"):
        sdaccel.accelerate(pipe, "none", compile=True, sparse_attention=OPTIONS)


def test_where_all_layers_are_dense_nothing_is_changed() -> None:
    pipe = sparse(sparse_videos.wan(), first_layers=3)
    assert "first and last layers" in record(pipe).refused["transformer"]


@pytest.mark.parametrize(
    "options",
    [
        {"keep": None},
        {"keep": 0},
        {"keep": "all"},
        {"reach": (1, 2)},
        {"reach": (1, 2, -1)},
        {"block_size": (8, 16)},
        {"block_size": (128, 65)},
        {"first_steps": 2},
        {"first_layers": -1},
    ],
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=next(iter(options))):
        sdaccel.accelerate(wan(), "none", sparse_attention=options)
