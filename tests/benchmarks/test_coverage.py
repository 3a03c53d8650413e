"""The coverage command: its table, its exit code, and that it notices a pass that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdaccel.benchmarks import coverage
from sdaccel.benchmarks.__main__ import main
from sdaccel.benchmarks.families import families
from sdaccel.kernels import norm_modulate
from sdaccel.kernels.norm_modulate import norm_modulate_reference


def test_the_table_has_a_line_for_each_family_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.md"
    assert main(["coverage", "PixArt", "Sana", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == printed
    versions, _, heads, _, *lines = printed.splitlines()
    assert versions.startswith("diffusers ")
    assert heads.count("|") == lines[0].count("|") == lines[1].count("|")
    assert lines[0].startswith("| PixArt | `PixArtTransformer2DModel` | ")
    assert "norm+modulate" in lines[0]
    assert "norm_modulate" in lines[0]
    assert lines[1].startswith("| Sana | `SanaTransformer2DModel` | ")


def test_a_family_that_has_nothing_to_fuse_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sdaccel.passes.fusions.swaps", lambda *_: iter(()))
    (family,) = families(["PixArt"])
    row = coverage.cover(family)
    assert row.exact
    assert (row.matched, row.spared, row.ran) == (0, 0, {})
    assert "left as it is: no rule knows its blocks" in coverage.markdown([row])


def test_an_op_that_forgets_a_term_is_told_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forgetful(x: torch.Tensor, scale: Any, shift: Any, *rest: Any) -> torch.Tensor:
        return norm_modulate_reference(x, scale, None, *rest)

    monkeypatch.setattr(norm_modulate._OP, "_interpreted", False)
    monkeypatch.setattr(norm_modulate._OP, "reference", forgetful)
    assert main(["coverage", "FLUX.1"]) == 1
    assert ": not exact" in capsys.readouterr().out


def test_an_unknown_family_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coverage", "SD 9"]) == 2
    assert "There is no family 'SD 9'" in capsys.readouterr().err
