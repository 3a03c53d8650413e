"""Rounding in parts: the same as in one, and an exact way back."""

from __future__ import annotations

import pytest
import torch

from sdaccel.passes import rounding
from sdaccel.passes.rounding import Rounding, lost_by, rejoin, to_dtype


def patterns() -> torch.Tensor:
    """Every upper half of a float32 against the lower halves around the ties."""
    upper = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32) << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    return (upper[:, None] | lower[None, :]).view(torch.float32)


def test_the_way_back_from_bfloat16_is_exact_for_every_pattern() -> None:
    full = patterns()
    full = full[~full.isnan().any(dim=1)]
    rounded = full.to(torch.bfloat16)
    back = rejoin(rounded, lost_by(full, rounded))
    assert torch.equal(back.view(torch.int32), full.view(torch.int32))


def test_what_is_kept_for_the_way_back_is_no_larger_than_what_was_saved() -> None:
    full = torch.randn(1000, 100)
    lost = lost_by(full, full.to(torch.bfloat16))
    assert lost.low.nbytes == full.nbytes // 2
    assert lost.upper.numel() < full.numel() / 1000


SHAPES: dict[str, torch.Tensor] = {
    "a number": torch.tensor(0.3),
    "nothing": torch.empty(0, 4),
    "rows longer than a part": torch.randn(3, 50, generator=torch.Generator().manual_seed(0)),
    "channels last": torch.randn(9, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    ),
    "every other column": torch.randn(7, 8, generator=torch.Generator().manual_seed(0))[:, ::2],
}


@pytest.mark.parametrize("full", SHAPES.values(), ids=SHAPES)
def test_parts_give_what_the_whole_gives(
    full: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rounding._PART, "cpu", 16)
    moved = Rounding()
    rounded = to_dtype(full, torch.bfloat16, moved)
    assert torch.equal(rounded, full.to(torch.bfloat16))
    if full.is_contiguous() or full.is_contiguous(memory_format=torch.channels_last):
        assert rounded.stride() == full.stride()
    distance = (full - rounded).norm() / full.norm() if full.numel() else torch.tensor(0.0)
    assert moved.relative == pytest.approx(float(distance), rel=1e-5)
    assert torch.equal(rejoin(rounded, lost_by(full, rounded)), full)


def test_ties_are_told_apart_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rounding._PART, "cpu", 12)
    full = patterns()[::997]
    full = full[~full.isnan().any(dim=1)]
    lost = lost_by(full, full.to(torch.bfloat16))
    assert 0 < int(lost.upper.sum()) < lost.upper.numel()
    back = rejoin(full.to(torch.bfloat16), lost)
    assert torch.equal(back.view(torch.int32), full.view(torch.int32))
