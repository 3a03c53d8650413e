"""A norm of query or key that waits for its rotation: views, joins and slices on the way to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_ltx2 import apply_split_rotary_emb
from kernel_checks import noise

from sdaccel.passes.rotary_calls import flat, flat_halves, real, strided
from sdaccel.passes.unrotated import FUSED, HeadNorm, Unrotated

B, S, H, D = 2, 6, 3, 8
WEIGHT, TEXT_WEIGHT = noise(D, seed=1), noise(D, seed=2)
ANGLES = noise(S, D // 2, seed=3).repeat_interleave(2, dim=1)
TABLES = ANGLES.cos(), ANGLES.sin()


def projection(tokens: int = S, seed: int = 0, order: str = "heads last") -> torch.Tensor:
    x = noise(B, tokens, H, D, seed=seed)
    return x if order == "heads last" else x.transpose(1, 2)


def waiting(
    x: torch.Tensor, weight: torch.Tensor = WEIGHT, ran: Counter[str] | None = None, **norm: Any
) -> Any:
    ran = Counter() if ran is None else ran
    return Unrotated(x, HeadNorm(weight, None, norm.pop("kind", "rms"), 1e-6, **norm), ran)


def normed(x: torch.Tensor, weight: torch.Tensor = WEIGHT) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, weight.shape, weight, 1e-6)


def test_norm_and_rotation_are_one_op_in_place() -> None:
    x, ran = projection(), Counter[str]()
    expected = apply_rotary_emb(normed(x), TABLES, sequence_dim=1)
    with torch.no_grad():
        found = real(apply_rotary_emb, waiting(x, ran=ran), TABLES, sequence_dim=1)
    torch.testing.assert_close(found, expected)
    assert found.data_ptr() == x.data_ptr()
    assert ran[FUSED] == 1


@pytest.mark.parametrize("order", ["heads last", "heads first"])
@torch.no_grad()
def test_text_and_picture_are_joined_before_either_is_normalised(order: str) -> None:
    dim, ran = (1, Counter[str]()) if order == "heads last" else (2, Counter[str]())
    text, picture = projection(2, order=order), projection(S - 2, 1, order)
    expected = apply_rotary_emb(
        torch.cat([normed(text, TEXT_WEIGHT), normed(picture)], dim), TABLES, sequence_dim=dim
    )
    both = torch.cat([waiting(text, TEXT_WEIGHT, ran), waiting(picture, ran=ran)], dim=dim)
    assert both.shape == expected.shape
    torch.testing.assert_close(real(apply_rotary_emb, both, TABLES, sequence_dim=dim), expected)
    assert ran[FUSED] == 1
    assert torch.equal(text, projection(2, order=order)), "its own tensor is not written"


@torch.no_grad()
def test_what_is_joined_and_never_rotated_is_the_norms() -> None:
    text, picture = projection(2), projection(S - 2, 1)
    both: Any = torch.cat([waiting(text, TEXT_WEIGHT), waiting(picture)], dim=1)
    torch.testing.assert_close(
        both.flatten(2), torch.cat([normed(text, TEXT_WEIGHT), normed(picture)], 1).flatten(2)
    )


@torch.no_grad()
def test_tokens_behind_the_text_are_rotated_where_they_lie() -> None:
    x, ran = projection(order="heads first"), Counter[str]()
    tables = TABLES[0][2:], TABLES[1][2:]
    expected = normed(x)
    expected[:, :, 2:] = apply_rotary_emb(expected[:, :, 2:], tables)
    query = waiting(x, ran=ran)
    query[:, :, 2:] = real(apply_rotary_emb, query[:, :, 2:], tables)
    torch.testing.assert_close(query.contiguous(), expected)
    assert ran[FUSED] == 1
    assert query.value().data_ptr() == x.data_ptr()


@torch.no_grad()
def test_an_index_may_name_every_dimension_and_the_dtype_be_asked_for_again() -> None:
    x, ran, tables = projection(), Counter[str](), (TABLES[0][2:], TABLES[1][2:])
    expected = normed(x)
    expected[:, 2:] = apply_rotary_emb(expected[:, 2:], tables, sequence_dim=1)
    query = waiting(x, ran=ran).to(dtype=x.dtype)
    query[:, 2:, :, :] = real(apply_rotary_emb, query[:, 2:, :, :], tables, sequence_dim=1)
    torch.testing.assert_close(query.contiguous(), expected)
    assert ran[FUSED] == 1
    assert waiting(projection()).to(torch.float64).dtype == torch.float64


@torch.no_grad()
def test_anything_else_that_is_assigned_to_tokens_is_assigned() -> None:
    query, expected = waiting(projection()), normed(projection())
    query[:, 1:3], expected[:, 1:3] = 1.0, 1.0
    torch.testing.assert_close(query.value(), expected)


@torch.no_grad()
def test_tokens_before_the_text_are_rotated_and_the_rest_only_normalised() -> None:
    x, tables = projection(), (TABLES[0][:-2], TABLES[1][:-2])
    expected = normed(x)
    expected[:, :-2] = apply_rotary_emb(expected[:, :-2], tables, sequence_dim=1)
    query = waiting(x)
    found = torch.cat(
        [real(apply_rotary_emb, query[:, :-2], tables, sequence_dim=1), query[:, -2:]], dim=1
    )
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_norm_across_heads_waits_while_heads_are_unflattened() -> None:
    x, weight = projection().flatten(2), noise(H * D, seed=4)
    cos, sin = (each[None, :, None] for each in TABLES)
    expected = apply_rotary_emb(normed(x, weight).unflatten(2, (H, -1)), TABLES, sequence_dim=1)
    for packed in (x.clone(), torch.cat([x, x, x], dim=2).chunk(3, dim=2)[1]):
        query = waiting(packed, weight).unflatten(2, (H, -1))
        assert query.shape == expected.shape
        torch.testing.assert_close(strided(apply_rotary_emb, query, cos, sin), expected)
    query = waiting(x.clone(), weight).view(B, -1, H, D)
    torch.testing.assert_close(strided(apply_rotary_emb, query, cos, sin), expected)
    query = waiting(x, weight).unflatten(2, (H, -1))
    torch.testing.assert_close(query.contiguous(), normed(x, weight).unflatten(2, (H, -1)))


@torch.no_grad()
def test_heads_that_lie_flat_are_rotated_before_they_are_unflattened() -> None:
    x, weight = projection().flatten(2), noise(H * D, seed=4)
    angles = noise(B, S, H * D // 2, seed=5).repeat_interleave(2, dim=2)
    tables = angles.cos(), angles.sin()
    pairs = normed(x, weight).unflatten(2, (-1, 2))
    turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(2)
    expected = normed(x, weight) * tables[0] + turned * tables[1]
    torch.testing.assert_close(
        flat(apply_rotary_emb, waiting(x.clone(), weight, stays_flat=True), tables), expected
    )
    halves = [each[..., ::2].unflatten(2, (H, -1)).swapaxes(1, 2) for each in tables]
    given, normal = waiting(x.clone(), weight, stays_flat=True), normed(x, weight)
    torch.testing.assert_close(
        flat_halves(apply_split_rotary_emb, given, halves), apply_split_rotary_emb(normal, halves)
    )
    heads = waiting(x, weight, stays_flat=True).unflatten(2, (H, -1))
    assert isinstance(heads, torch.Tensor), "no rotation comes any more"


@pytest.mark.parametrize(
    "use",
    [
        lambda query: query.transpose(1, 2).contiguous().transpose(1, 2),
        lambda query: torch.nn.functional.dropout(query, 0.0),
        lambda query: query * 1.0,
        lambda query: query[..., :],
    ],
)
@torch.no_grad()
def test_for_everything_else_it_is_the_norm_and_the_projection_stays(
    use: Callable[[Any], Any],
) -> None:
    x = projection()
    torch.testing.assert_close(use(waiting(x)), normed(x))
    assert torch.equal(x, projection())


@torch.no_grad()
def test_a_rotation_of_what_was_computed_already_leaves_that_alone() -> None:
    query = waiting(projection())
    value = query.value().clone()
    found = real(apply_rotary_emb, query, TABLES, sequence_dim=1)
    torch.testing.assert_close(found, apply_rotary_emb(value, TABLES, sequence_dim=1))
    assert torch.equal(query.value(), value)


@torch.no_grad()
def test_to_use_it_again_after_its_rotation_is_an_error_not_another_result() -> None:
    query = waiting(projection())
    real(apply_rotary_emb, query, TABLES, sequence_dim=1)
    for use in (query.value, lambda: real(apply_rotary_emb, query, TABLES, sequence_dim=1)):
        with pytest.raises(RuntimeError, match="after its rotation"):
            use()


@torch.no_grad()
def test_what_is_sliced_and_not_rotated_here_is_normalised_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = []
    out_of_place = HeadNorm.out_of_place
    monkeypatch.setattr(
        HeadNorm, "out_of_place", lambda *given: computed.append(1) or out_of_place(*given)
    )
    query, expected = waiting(projection()), normed(projection())
    query[:, 2:], expected[:, 2:] = query[:, 2:] * 2.0, expected[:, 2:] * 2.0
    torch.testing.assert_close(query.value(), expected)
    assert len(computed) == 1
