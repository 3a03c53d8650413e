"""What the export commands print is measured, and the committed tables hold what was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="exporting needs sdaccel[onnx]")
pytest.importorskip("onnxscript", reason="exporting needs sdaccel[onnx]")
pytest.importorskip("onnxruntime", reason="exporting needs sdaccel[onnx]")

from sdaccel.benchmarks import export_coverage, export_real
from sdaccel.benchmarks.__main__ import main
from sdaccel.benchmarks.architectures import TINY_VAE
from sdaccel.benchmarks.families import families
from sdaccel.errors import ExportError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
pytestmark = pytest.mark.filterwarnings("ignore")
"""What torch, onnxscript and ONNX Runtime warn of is theirs."""


def test_a_family_is_exported_and_compared_at_two_sizes_and_two_batches() -> None:
    (family,) = families(["AutoencoderKL"])
    rows = export_coverage.cover(family, "decomposed")
    assert [row.component for row in rows] == ["vae_encoder", "vae_decoder"]
    for row in rows:
        assert row.passed
        assert row.free == ("batch", "height", "width")
        assert [each.size.batch for each in row.distances] == [1, 3, 1, 3]
        assert len({each.size.height for each in row.distances}) == 2
    encoder, decoder = export_coverage.markdown(rows, "decomposed").splitlines()[-2:]
    assert encoder.startswith("| AutoencoderKL | `AutoencoderKL` | vae_encoder | yes | pass | ")
    assert decoder.endswith(" | Stable Diffusion 1.5's VAE: 0.08 G | 0.3 GB | about 1.9 GB |")


def test_a_graph_that_is_too_far_and_a_failure_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (family,) = families(["AutoencoderKL"])

    def fails(*_: Any, **__: Any) -> None:
        raise ExportError("vae_encoder can't be exported, at operator aten.foo: no such.")

    monkeypatch.setattr("sdaccel.export.pipeline.export_component", fails)
    rows = export_coverage.cover(family, "decomposed")
    assert not any(row.passed for row in rows)
    assert "fails: vae_encoder can't be exported, at operator aten.foo" in (
        export_coverage.markdown(rows, "decomposed")
    )


def test_an_unknown_family_and_component_are_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export-coverage", "SD 9"]) == 2
    assert "There is no family 'SD 9'" in capsys.readouterr().err
    assert main(["export-real-size", "decoder"]) == 2
    assert "There is no component 'decoder'" in capsys.readouterr().err


def test_a_real_component_s_export_is_costed_and_held_to_its_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_real, "COMPONENTS", {"vae_decoder": TINY_VAE})
    row = export_real.measure("vae_decoder", 1)
    assert row.passed
    assert row.written > row.weights > 0
    assert row.export.cpu > 0
    assert row.comparison.peak > row.weights
    slow = replace(row, export=replace(row.export, wall=export_real.SECONDS + 1))
    large = replace(row, comparison=replace(row.comparison, peak=int(export_real.MEMORY) + 1))
    far = replace(row, distances=[replace(each, error=1e-3) for each in row.distances])
    assert not any(each.passed for each in (slow, large, far))
    lines = export_real.markdown([row, slow], 1).splitlines()
    assert [line.strip("| ").split(" | ")[-1] for line in lines[-2:]] == ["yes", "no"]
    assert lines[2].count("|") == lines[-1].count("|")


def test_every_family_of_the_committed_table_passes() -> None:
    lines = (RESULTS / "export-coverage.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[4:]]
    assert {row[0] for row in rows} == set(export_coverage.REAL)
    for family, _, component, exported, checked, small, large, *_ in rows:
        assert (exported, checked) == ("yes", "pass"), (family, component)
        assert all(float(each.split()[0]) <= 1e-4 for each in (small, large)), family


def test_the_committed_export_at_real_size_keeps_to_time_and_memory() -> None:
    lines = (RESULTS / "export-real-size.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[4:]]
    assert [row[0].split()[0] for row in rows] == list(export_real.COMPONENTS)
    assert {row[-1] for row in rows} == {"yes"}
