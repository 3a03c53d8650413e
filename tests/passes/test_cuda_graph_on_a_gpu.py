"""CUDA graphs themselves: pictures, waits, memory, and what a failed capture leaves behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import caching
import pytest
import tiny
import torch
from recording import Waits

import sdaccel
from sdaccel.benchmarks.measure import relative_error

pytestmark = pytest.mark.gpu
PLANS: dict[str, dict[str, Any]] = {
    "alone": {},
    "exact": {"memory_format": True, "no_ops": True, "attention": {"measure": False}},
    "fuse": {"fuse": True, "schedulers": True},
    "hoist": {"hoist": True, "schedulers": True},
    "step_cache": {"step_cache": {"interval": 3}},
    "hoist and step_cache": {"hoist": True, "step_cache": {"interval": 3}},
    "compile": {"compile": {"vae": False}},
}


def drawn(pipe: Any) -> torch.Tensor:
    """Two generations, and two of other sizes in between."""
    found = [caching.draw(pipe)]
    if not hasattr(pipe, "transformer"):
        caching.draw(pipe, **({} if hasattr(pipe, "controlnet") else {"height": 32}))
    found.append(caching.draw(pipe))
    return torch.stack([torch.from_numpy(each) for each in found])


@contextmanager
def no_waits() -> Iterator[None]:
    """Inside, whatever makes the host wait for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("make", [tiny.stable_diffusion, caching.controlnet])
@pytest.mark.parametrize("plan", PLANS)
def test_pictures_are_those_without_graphs(plan: str, make: Any) -> None:
    pipe = make().to("cuda")
    sdaccel.accelerate(pipe, "none", **PLANS[plan])
    wanted = drawn(pipe)
    sdaccel.accelerate(pipe, "none", **PLANS[plan], cuda_graph=True)
    assert relative_error(drawn(pipe), wanted) <= 1e-5
    counts = sdaccel.report(pipe)["cuda_graph"].ran
    assert counts["unet replays"] > 12
    assert counts["unet fallbacks"] == 0


@pytest.mark.parametrize("plan", ["fuse", "hoist", "step_cache"])
@torch.no_grad()
def test_a_whole_loop_never_waits_for_the_device(plan: str) -> None:
    pipe = tiny.stable_diffusion().to("cuda")
    sdaccel.accelerate(pipe, "none", **{**PLANS[plan], "schedulers": True}, cuda_graph=True)
    text = torch.randn(2, 16, 32, device="cuda")

    def loop(latents: torch.Tensor) -> torch.Tensor:
        for t in pipe.scheduler.timesteps:
            both = pipe.scheduler.scale_model_input(torch.cat([latents, latents]), t)
            empty, cond = pipe.unet(both, t, text, return_dict=False)[0].chunk(2)
            prediction = empty + 7.5 * (cond - empty)
            latents = pipe.scheduler.step(prediction, t, latents, return_dict=False)[0]
        return latents

    found = []
    for _ in range(3):
        pipe.scheduler.set_timesteps(12, device="cuda")
        start = torch.ones(1, 4, 8, 8, device="cuda")
        found.append(loop(start))
    replays = sdaccel.report(pipe)["cuda_graph"].ran["unet replays"]
    pipe.scheduler.set_timesteps(12, device="cuda")
    start = torch.ones(1, 4, 8, 8, device="cuda")
    with no_waits():
        found.append(loop(start))
    assert sdaccel.report(pipe)["cuda_graph"].ran["unet replays"] >= replays + 10
    assert torch.equal(found[-1], found[-2])


def test_restore_gives_the_graphs_memory_back() -> None:
    pipe = tiny.stable_diffusion(unet=tiny.unet(block_out_channels=(128, 256))).to("cuda")
    sdaccel.accelerate(pipe, "none", cuda_graph=True)
    sample, text = torch.randn(2, 4, 128, 128, device="cuda"), torch.randn(2, 16, 32, device="cuda")
    with torch.no_grad():
        for _ in range(3):
            pipe.unet(sample, torch.tensor(500, device="cuda"), text)
    assert sdaccel.report(pipe)["cuda_graph"].ran["unet captures"] == 1
    torch.cuda.empty_cache()
    taken = torch.cuda.memory_reserved()
    sdaccel.restore(pipe)
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < taken


def test_a_failed_capture_leaves_the_stream_the_random_numbers_and_the_next_one_alone() -> None:
    pipe = tiny.stable_diffusion().to("cuda")
    conv_in = pipe.unet.conv_in
    pipe.unet.conv_in = torch.nn.Sequential(Waits(), conv_in)
    wanted = torch.from_numpy(tiny.draw(pipe, num_inference_steps=4))
    sdaccel.accelerate(pipe, "none", cuda_graph=True)
    stream = torch.cuda.current_stream()
    assert relative_error(torch.from_numpy(tiny.draw(pipe, num_inference_steps=4)), wanted) <= 1e-5
    assert torch.cuda.current_stream() == stream
    record = sdaccel.report(pipe)["cuda_graph"]
    assert "captur" in record.notes[0]
    torch.cuda.manual_seed(0)
    assert torch.isfinite(torch.randn(8, device="cuda")).all()
    pipe.unet.conv_in = conv_in
    tiny.draw(pipe, num_inference_steps=4)
    assert record.ran["unet captures"] == 1
    assert record.ran["unet replays"] == 3
