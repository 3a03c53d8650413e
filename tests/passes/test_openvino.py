"""OpenVINO in the place of modules: the same pictures, a program a size, and the way back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sdaccel
from sdaccel.errors import InputError, PassError, PlanError

pytest.importorskip("openvino")


def draw(pipe: Any, size: int = 16) -> Any:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 2, "height": size, "width": size, "output_type": "np"}
    return pipe("abc", generator=generator, **call).images


def distance(found: Any, truth: Any) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def programs(pipe: Any) -> int:
    return len(pipe.unet.forward.engine._programs)


def test_pictures_of_two_sizes_are_the_same_and_restore_is_bit_for_bit(exported: Path) -> None:
    pipe = tiny.stable_diffusion()
    truths = {size: draw(pipe, size) for size in (16, 32)}
    options = {"folder": exported, "parts": "all", "precision": "fp32"}
    sdaccel.accelerate(pipe, "openvino", openvino=options)
    for size, truth in truths.items():
        assert distance(draw(pipe, size), truth) <= 1e-4
    assert programs(pipe) == 2
    draw(pipe, 24)
    assert programs(pipe) == 2
    record = sdaccel.report(pipe)["openvino"]
    assert record.ran["unet by the session"] == 6
    assert record.effect == "exact"
    assert np.array_equal(draw(sdaccel.restore(pipe)), truths[16])


@torch.no_grad()
def test_sixteen_bits_are_called_lower_precision_and_stay_near(exported: Path) -> None:
    pipe = tiny.stable_diffusion()
    call = (torch.randn(2, 4, 8, 8), torch.tensor(7), torch.randn(2, 16, 32))
    truth = pipe.unet(*call).sample.numpy()
    sdaccel.accelerate(pipe, "openvino", openvino={"folder": exported, "precision": "bf16"})
    assert sdaccel.report(pipe)["openvino"].effect == "lower precision"
    assert distance(pipe.unet(*call).sample.numpy(), truth) <= 2e-2


@torch.no_grad()
def test_a_size_that_the_graph_has_no_program_for_is_named(exported: Path) -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "openvino", openvino={"folder": exported})
    with pytest.raises(InputError, match=r"\(2, 4, 9, 8\) is outside"):
        pipe.unet(torch.randn(2, 4, 9, 8), torch.tensor(7), torch.randn(2, 16, 32))


def test_what_does_not_fit_is_refused_in_a_sentence(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny.stable_diffusion()
    with pytest.raises(PlanError, match="exclude each other"):
        sdaccel.accelerate(pipe, "openvino+onnxruntime")
    with pytest.raises(PlanError, match="precision is one of"):
        sdaccel.accelerate(pipe, "openvino", openvino={"precision": "int3"})
    with pytest.raises(PassError, match="int8 needs int8 graphs"):
        sdaccel.accelerate(pipe, "openvino", openvino={"folder": exported, "precision": "int8"})
    monkeypatch.setitem(sys.modules, "openvino", None)
    sdaccel.accelerate(pipe, "openvino", openvino={"folder": exported})
    assert "pip install sdaccel[openvino]" in sdaccel.report(pipe)["openvino"].refused["pipe"]
