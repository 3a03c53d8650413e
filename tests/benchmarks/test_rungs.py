"""Rungs open on a pipe and leave the process as they found it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from sdaccel import device, malloc
from sdaccel.benchmarks import peers, rungs
from sdaccel.benchmarks.errors import BenchmarkError, Skip
from sdaccel.benchmarks.workloads import workload


def test_every_default_rung_exists_and_any_plan_is_one() -> None:
    kinds = {name: rungs.rung(name).kind for name in (*rungs.DEFAULT, "lossless+precision")}
    assert kinds["stock-fp32"] == "stock"
    assert kinds["torch-compile"] == "peer"
    assert kinds["lossless"] == kinds["lossless+precision"] == "plan"


@pytest.mark.parametrize("name", ["loossless", "torch-compil", "eager+", ""])
def test_an_unknown_rung_is_refused_by_name(name: str) -> None:
    with pytest.raises(BenchmarkError, match=f"There is no rung '{name}'".replace("+", r"\+")):
        rungs.rung(name)


def test_16_bit_is_skipped_with_the_reason_where_the_machine_is_slower_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = device.DtypeChoice(torch.float32, "bfloat16 is slow here")
    monkeypatch.setattr(device, "faster_dtype", lambda _: choice)
    tiny = workload("tiny")
    with (
        pytest.raises(Skip, match=r"Bfloat16 is slow here\."),
        rungs.rung("stock-16bit").open(tiny.build(), tiny),
    ):
        pass


def test_16_bit_is_taken_where_the_machine_is_faster_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = device.DtypeChoice(torch.bfloat16, "it is fast here")
    monkeypatch.setattr(device, "faster_dtype", lambda _: choice)
    tiny = workload("tiny")
    with rungs.rung("stock-16bit").open(tiny.build(), tiny) as opened:
        assert opened.pipe.unet.dtype == opened.pipe.vae.dtype == torch.bfloat16
        assert opened.pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_convolutions_in_2_d_are_channels_last_beside_those_in_3_d() -> None:
    module = torch.nn.ModuleList([torch.nn.Conv2d(4, 4, 3), torch.nn.Conv3d(4, 4, 3)])
    flat, deep = (each.weight for each in module)
    before = deep.stride(), flat.clone()
    peers.to_channels_last(module)
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert (deep.stride(), flat.equal(before[1])) == (before[0], True)


def test_the_allocator_is_on_within_the_rungs_surroundings_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[object] = []

    def keep() -> Callable[[], None]:
        kept.append(None)
        return kept.clear

    monkeypatch.setattr(malloc, "refusal", lambda: None)
    monkeypatch.setattr(malloc, "keep_freed_memory", keep)
    tiny = workload("tiny")
    with rungs.rung("none+allocator").open(tiny.build(), tiny) as opened:
        assert not kept
        with opened.surroundings():
            assert kept
        assert not kept
    assert opened.passes() == {"allocator": "applied"}


def test_a_rung_goes_without_the_allocator_where_it_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(malloc, "refusal", lambda: "malloc is not glibc's")
    tiny = workload("tiny")
    with rungs.rung("none+allocator").open(tiny.build(), tiny) as opened:
        assert opened.around is None
        assert opened.passes() == {"allocator": "refused: malloc is not glibc's"}
        assert not opened.signature


def test_openvino_is_skipped_with_a_way_to_get_it_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    tiny = workload("tiny")
    pipe = tiny.build()
    with (
        pytest.raises(Skip, match=r"requirements/peers\.txt"),
        peers.openvino(pipe, tiny.networks_of(pipe), tiny.prepare(pipe), "f32"),
    ):
        pass


def test_a_network_becomes_a_function_of_its_tensors() -> None:
    tiny = workload("tiny")
    pipe = tiny.build()
    modules = peers.networks(pipe, tiny.networks_of(pipe))
    seen = peers.first_arguments(modules, tiny.prepare(pipe))
    assert list(seen) == [pipe.unet, pipe.vae.decoder]
    for module, (args, kwargs) in seen.items():
        function, tensors = peers.positional(module, args, kwargs)
        with torch.no_grad():
            wanted = module(*args, **kwargs)
            found = function(*tensors)
        assert torch.equal(found, wanted[0] if isinstance(wanted, tuple) else wanted)


def test_an_export_without_its_runtime_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    tiny = workload("tiny")
    with (
        pytest.raises(Skip, match="onnxruntime is not installed"),
        rungs.rung("export-onnxruntime-int8").open(tiny.build(), tiny),
    ):
        pass


def test_an_export_needs_a_denoiser() -> None:
    pytest.importorskip("onnxruntime")
    decoding = workload("sd15-vae", quick=True)
    with (
        pytest.raises(Skip, match="this workload runs none"),
        rungs.rung("export-onnxruntime-fp32").open(decoding.build(), decoding),
    ):
        pass
