"""Controls compute in what stock in 16 bit computes in, and in fp32 where that is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from unittest.mock import MagicMock

import pytest
import tiny_video
import torch
from diffusers import UniPCMultistepScheduler

from sdaccel import device
from sdaccel.benchmarks import rungs
from sdaccel.benchmarks.errors import BenchmarkError, Skip
from sdaccel.benchmarks.peer_tools import denoiser_of
from sdaccel.benchmarks.workloads import Workload, workload

STEPS = 6
NAMES = (
    "fewer-steps-4",
    "first-block-cache-0.2",
    "taylorseer-2",
    "taylorseer-lite-2",
    "mag-cache-0.06",
    "sea-cache-0.25",
)


def clips(steps: int = STEPS) -> Workload:
    """Clips of a tiny Wan, with three blocks, by UniPC."""

    def make(_: object) -> object:
        pipe = tiny_video.wan(
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            )
        )
        torch.manual_seed(7)
        config = {**pipe.transformer.config, "num_layers": 3}
        pipe.transformer = type(pipe.transformer).from_config(config).eval()
        return pipe

    def prepare(pipe: object) -> Callable[[], torch.Tensor]:
        return lambda: torch.as_tensor(tiny_video.draw(pipe, num_inference_steps=steps)).float()

    return Workload("clips", "", "clip", make, prepare, steps=steps, with_steps=clips)


def choose(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    choice = device.DtypeChoice(dtype, "Measured.")
    monkeypatch.setattr(device, "faster_dtype", lambda _: choice)


@pytest.mark.parametrize("name", NAMES)
def test_a_control_draws_in_the_faster_dtype_and_in_fp32_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = clips()
    narrow, wide = torch.bfloat16, torch.float32
    for faster, asked, wanted in (
        (narrow, name, narrow),
        (narrow, f"{name}-fp32", wide),
        (wide, name, wide),
    ):
        choose(monkeypatch, faster)
        found = rungs.rung(asked)
        assert found.name == asked
        pipe = chosen.build()
        with found.open(pipe, chosen) as opened:
            dtypes = {opened.pipe.transformer.dtype, opened.pipe.text_encoder.dtype}
            assert dtypes | {opened.pipe.vae.dtype} == {wanted}
            drawn = (opened.workload or chosen).prepare(opened.pipe)()
        assert drawn.isfinite().all()


@pytest.mark.parametrize(
    ("name", "package"),
    [("deepcache-3", "DeepCache"), ("tomesd-0.3", "tomesd"), ("cache-dit-0.2", "cache_dit")],
)
def test_packages_get_a_pipe_in_the_faster_dtype(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, torch.bfloat16)
    monkeypatch.setitem(sys.modules, package, MagicMock())
    tiny = workload("tiny")
    with rungs.rung(name).open(tiny.build(), tiny) as opened:
        assert denoiser_of(opened.pipe).dtype == torch.bfloat16
    with rungs.rung(f"{name}-fp32").open(tiny.build(), tiny) as opened:
        assert denoiser_of(opened.pipe).dtype == torch.float32


def test_peers_that_export_begin_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, torch.bfloat16)
    assert rungs.rung("onnxruntime").narrow == "on a GPU"


def test_in_fp32_nothing_is_measured_where_stock_is_in_16_bit() -> None:
    tiny = workload("tiny")
    pipe = tiny.build().to(torch.bfloat16)
    with (
        pytest.raises(Skip, match="Stock itself is not in fp32"),
        rungs.rung("fewer-steps-1-fp32").open(pipe, tiny),
    ):
        pass


@pytest.mark.parametrize("name", ["eager-fp32", "onnxruntime-fp32", "fewer-steps-0-fp32"])
def test_other_rungs_have_no_such_form(name: str) -> None:
    with pytest.raises(BenchmarkError, match="There is no rung"):
        rungs.rung(name)
