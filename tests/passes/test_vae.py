"""Decoding in channels-last order, in tiles only when the memory would not suffice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel.device import describe
from sdaccel.passes import vae


def free(monkeypatch: Any, size: int) -> None:
    device = dataclasses.replace(describe("cpu"), memory_available=size)
    monkeypatch.setattr(vae, "describe", lambda _: device)


@pytest.mark.parametrize(("dtype", "reordered"), [(torch.bfloat16, True), (torch.float32, False)])
def test_channels_last_where_it_is_exact(dtype: torch.dtype, reordered: bool) -> None:
    pipe = tiny.stable_diffusion().to(dtype)
    sdaccel.accelerate(pipe, "none", vae=True)
    kernel, record = pipe.vae.decoder.conv_in.weight, sdaccel.report(pipe)["vae"]
    assert kernel.is_contiguous(memory_format=torch.channels_last) == reordered
    assert ("vae convolutions" in record.changed) == reordered
    assert any("round more" in note for note in record.notes) != reordered


def test_it_decodes_whole_while_memory_suffices() -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    sdaccel.accelerate(pipe, "none", vae=True)
    assert abs(tiny.draw(pipe) - picture).max() < 1e-5
    assert sdaccel.report(pipe)["vae"].ran == {"vae calls": 1}


def test_it_tiles_when_memory_does_not_suffice_and_says_so(monkeypatch: Any) -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", vae=True)
    free(monkeypatch, 1000)
    pipe.vae.tile_latent_min_size = 6
    tiny.draw(pipe)
    record = sdaccel.report(pipe)["vae"]
    assert record.ran["tiled decodes"] == 1
    assert record.ran["vae calls"] > 1
    assert any("in tiles, blended" in note for note in record.notes)
    assert not pipe.vae.use_tiling


def test_never_means_never(monkeypatch: Any) -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", vae={"tiling": "never"})
    free(monkeypatch, 1)
    tiny.draw(pipe)
    assert sdaccel.report(pipe)["vae"].ran == {"vae calls": 1}


def test_always_means_always() -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", vae={"tiling": "always"})
    tiny.draw(pipe)
    assert sdaccel.report(pipe)["vae"].ran["tiled decodes"] == 1


def test_the_user_s_own_tiling_is_left_on() -> None:
    pipe = tiny.stable_diffusion()
    pipe.vae.enable_tiling()
    sdaccel.accelerate(pipe, "none", vae=True)
    tiny.draw(pipe)
    assert pipe.vae.use_tiling
    assert "tiled decodes" not in sdaccel.report(pipe)["vae"].ran


@pytest.mark.parametrize(("side", "bytes_needed"), [(64, 4 * 512 * 512 * 256 * 4)])
def test_the_estimate_counts_the_last_level(side: int, bytes_needed: int) -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        )
    assert vae.decode_bytes(model, torch.zeros(1, 4, side, side)) == bytes_needed
