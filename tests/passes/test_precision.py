"""16 bit where it pays, with an exact way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel import mapped_file
from sdaccel.device import DtypeChoice
from sdaccel.mapped_file import NoDiskError, map_copies
from sdaccel.passes import precision

BF16 = {"dtype": "bfloat16"}


def test_all_parts_change_together_and_the_picture_stays_close() -> None:
    pipe = tiny.stable_diffusion()
    # torch 2.9 draws other noise in bfloat16 from the same seed
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = tiny.draw(pipe, latents=noise)
    sdaccel.accelerate(pipe, "none", precision=BF16)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
    difference = abs(tiny.draw(pipe, latents=noise.to(torch.bfloat16)) - picture).max()
    assert 0 < difference < 0.1
    record = sdaccel.report(pipe)["precision"]
    assert record.ran == {"text_encoder calls": 2, "unet calls": 2, "vae calls": 1}
    assert any("rounding moved the weights by 1" in note for note in record.notes)


def test_what_diffusers_keeps_in_float32_stays_so() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet._keep_in_fp32_modules = ["conv_out"]
    sdaccel.accelerate(pipe, "none", precision=BF16)
    assert pipe.unet.conv_out.weight.dtype == torch.float32
    assert pipe.unet.conv_in.weight.dtype == torch.bfloat16


def test_buffers_that_are_not_saved_keep_their_precision() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.register_buffer("table", torch.rand(3), persistent=False)
    pipe.unet.register_buffer("scale", torch.rand(3))
    sdaccel.accelerate(pipe, "none", precision=BF16)
    assert pipe.unet.table.dtype == torch.float32
    assert pipe.unet.scale.dtype == torch.bfloat16


def choose(monkeypatch: Any, dtype: torch.dtype) -> None:
    choice = DtypeChoice(dtype, "measured here")
    monkeypatch.setattr(precision, "faster_dtype", lambda _: choice)


def test_it_refuses_where_sixteen_bits_are_no_faster(monkeypatch: Any) -> None:
    choose(monkeypatch, torch.float32)
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", precision=True)
    assert sdaccel.report(pipe)["precision"].refused == {"pipe": "measured here"}
    assert pipe.unet.dtype == torch.float32


def test_it_takes_the_faster_dtype_and_says_why(monkeypatch: Any) -> None:
    choose(monkeypatch, torch.bfloat16)
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", precision=True)
    assert pipe.unet.dtype == torch.bfloat16
    assert "measured here" in sdaccel.report(pipe)["precision"].notes


def test_one_quantized_part_refuses_all(monkeypatch: Any) -> None:
    pipe = tiny.stable_diffusion()
    pipe.text_encoder.hf_quantizer = object()
    sdaccel.accelerate(pipe, "none", precision=BF16)
    reason = sdaccel.report(pipe)["precision"].refused["pipe"]
    assert reason == "text_encoder is quantized (unknown), and all have to change together"
    assert pipe.unet.dtype == torch.float32


def test_weights_edited_in_between_keep_the_edit() -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "none", precision=BF16)
    with torch.no_grad():
        pipe.unet.conv_in.weight.fill_(2.0)
    sdaccel.restore(pipe)
    assert torch.allclose(pipe.unet.conv_in.weight, torch.tensor(2.0), rtol=2**-7)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(sdaccel.SdaccelError, match="dtype is one of"):
        sdaccel.Plan.of("none").override(precision={"dtype": "int8"})


def test_what_rounding_took_waits_on_disk_and_comes_back_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision, "PAYS_FROM", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(mapped_file, "file_system", lambda _: "ext4")
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    mapped = []

    def watched(storages: Any) -> Any:
        mapped.append(map_copies(storages))
        return mapped[-1]

    monkeypatch.setattr(precision, "map_copies", watched)
    sdaccel.accelerate(pipe, "none", precision=BF16)
    assert len(mapped) == 1
    assert len(mapped[0].storages) > 100
    notes = sdaccel.report(pipe)["precision"].notes
    assert any("that rounding took from the weights wait on disk" in note for note in notes)
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before


def test_without_a_disk_what_rounding_took_stays_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(_: Any) -> Any:
        raise NoDiskError("/tmp is not on a disk (tmpfs)")

    monkeypatch.setattr(precision, "PAYS_FROM", 1)
    monkeypatch.setattr(precision, "map_copies", nowhere)
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, "none", precision=BF16)
    notes = sdaccel.report(pipe)["precision"].notes
    assert "what rounding took from the weights stays in memory: /tmp is not on a disk (tmpfs)" in (
        notes
    )
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
