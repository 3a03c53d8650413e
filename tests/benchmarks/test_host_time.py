"""The host's time for a step: rows of stock and of plans, right before they are timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdaccel.benchmarks import host_time
from sdaccel.benchmarks.__main__ import BAD_INPUT, FAILED, main
from sdaccel.benchmarks.denoisers import DENOISERS
from sdaccel.benchmarks.rows import Results


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer where SDXL's has ten, and three steps: the full depth takes half a minute."""
    narrow = {
        **host_time.NARROW,
        "transformer_layers_per_block": (1, 1, 1),
        "layers_per_block": 1,
    }
    monkeypatch.setattr(host_time, "NARROW", narrow)
    monkeypatch.setattr(host_time, "STEPS", 3)
    monkeypatch.setattr("sdaccel.benchmarks.provenance.machine", machine)


def machine() -> dict[str, Any]:
    known = {"name": "a machine", "slug": "a-machine", "cores": 1, "threads": 1}
    return {**known, "matmul_ceiling": 1e12, "copy_ceiling": 1e10}


@pytest.mark.usefixtures("shallow")
def test_stock_and_plans_have_rows_in_a_file(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    plans = ["none+hoist", "none+no_ops+schedulers"]
    assert main(["host-time", *plans, "--repeats", "2", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("a-machine/*-host-time.json")
    stock, *rows = Results.read(path).rows
    assert stock.rung == "stock-fp32"
    assert [row.rung for row in rows] == plans
    for row in rows:
        assert len(row.seconds) == len(row.baseline_seconds) == 2
        assert row.baseline_seconds == stock.seconds
        assert set(row.passes.values()) == {"applied"}
        assert row.error is not None
        assert row.error_limit is not None
        assert 0 <= row.error <= row.error_limit
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("shallow")
def test_a_plan_with_other_latents_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerate = host_time.sdaccel.accelerate

    def spoil(pipe: Any, plan: str) -> Any:
        with torch.no_grad():
            pipe.denoiser.conv_out.bias.add_(0.1)
        return accelerate(pipe, plan)

    monkeypatch.setattr(host_time.sdaccel, "accelerate", spoil)
    assert main(["host-time", "none+no_ops", "--output", str(tmp_path)]) == FAILED
    (path,) = tmp_path.glob("*/*.json")
    _, row = Results.read(path).rows
    assert (row.status, row.seconds) == ("wrong", [])


def test_the_model_has_all_of_sdxl_s_blocks() -> None:
    config, real = host_time.sdxl().config, DENOISERS["sdxl-unet"].chosen(quick=False)[0].config
    same = set(real) - set(host_time.NARROW)
    assert {"down_block_types", "up_block_types", "transformer_layers_per_block"} <= same
    assert all(config[name] == real[name] for name in same)


def test_what_is_no_plan_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host-time", "torch-compile"]) == BAD_INPUT
    assert "is no plan" in capsys.readouterr().err
