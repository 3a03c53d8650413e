"""Peers at a setting: it reaches the peer, more of it skips more, and all of it is taken off."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import pytest
import tiny
import tiny_video
import torch

from sdaccel import device
from sdaccel.benchmarks import rungs
from sdaccel.benchmarks.errors import Skip
from sdaccel.benchmarks.judging import Judge
from sdaccel.benchmarks.mag_ratios import measured
from sdaccel.benchmarks.peer_tools import denoiser_of
from sdaccel.benchmarks.workloads import Workload, workload

STEPS = 8


def prepare(
    draw: Callable[..., Any], steps: int, pipe: Any, **more: Any
) -> Callable[[], torch.Tensor]:
    return lambda: torch.as_tensor(draw(pipe, num_inference_steps=steps, **more)).float()


@pytest.fixture(autouse=True)
def everywhere_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that computes no 16-bit type faster."""
    choice = device.DtypeChoice(torch.float32, "Nothing is faster.")
    monkeypatch.setattr(device, "faster_dtype", lambda _: choice)


def small(make: Callable[[], Any], draw: Callable[..., Any]) -> Workload:
    """A generation of 8 steps, guided in two calls a step."""
    call = partial(prepare, draw, STEPS)
    return Workload("small", "", "picture", lambda _: make(), call, steps=STEPS)


def wan() -> Any:
    pipe = tiny_video.wan()
    torch.manual_seed(7)
    config = {**pipe.transformer.config, "num_layers": 3}
    pipe.transformer = type(pipe.transformer).from_config(config).eval()
    return pipe


PIPES = {
    "flux": small(lambda: tiny.flux(2, 2), tiny.draw_flux),
    "wan": small(wan, tiny_video.draw),
}


def attention_calls(pipe: Any, call: Callable[[], torch.Tensor]) -> tuple[int, torch.Tensor]:
    """How often attention ran during a call, and what it drew."""
    norms = [each.norm_q for each in denoiser_of(pipe).modules() if hasattr(each, "norm_q")]
    ran: list[None] = []
    handles = [each.register_forward_pre_hook(lambda *_: ran.append(None)) for each in norms]
    drawn = call()
    for handle in handles:
        handle.remove()
    return len(ran), drawn


@pytest.mark.parametrize("kind", PIPES)
@pytest.mark.parametrize(
    "names",
    [
        ("taylorseer-2", "taylorseer-4"),
        ("taylorseer-lite-2", "taylorseer-lite-4"),
        ("mag-cache-0.000001", "mag-cache-9"),
        ("first-block-cache-0.000001", "first-block-cache-9"),
    ],
)
def test_a_cache_skips_more_at_the_faster_setting_and_leaves_no_trace(
    kind: str, names: tuple[str, str]
) -> None:
    chosen = PIPES[kind]
    pipe = chosen.build()
    call = chosen.prepare(pipe)
    counts = []
    everything, before = attention_calls(pipe, call)
    for name in names:
        with rungs.rung(name).open(pipe, chosen) as opened:
            assert opened.effect == "approximate"
            count, drawn = attention_calls(pipe, call)
            assert drawn.isfinite().all()
            assert torch.equal(call(), drawn), "a generation begins with what another has left"
            counts.append(count)
    assert everything >= counts[0] > counts[1] > 0
    assert attention_calls(pipe, call)[0] == everything
    assert torch.equal(call(), before)


def test_mag_cache_s_ratios_are_those_of_the_residuals_of_both_guidance_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = PIPES["wan"]
    pipe = chosen.build()
    blocks = pipe.transformer.blocks
    seen: dict[str, list[torch.Tensor]] = {"in": [], "out": []}
    handles = [
        blocks[0].register_forward_pre_hook(lambda _, args: seen["in"].append(args[0])),
        blocks[-1].register_forward_hook(lambda *seen_now: seen["out"].append(seen_now[-1])),
    ]
    chosen.prepare(pipe)()
    for handle in handles:
        handle.remove()
    residuals = torch.stack(seen["out"]) - torch.stack(seen["in"])
    norms = residuals.norm(dim=-1).reshape(STEPS, 2, -1)
    wanted = (norms[1:] / norms[:-1]).mean(dim=(1, 2))
    found = torch.tensor(measured(pipe, chosen))
    torch.testing.assert_close(found, torch.cat([torch.ones(1), wanted]), rtol=1e-4, atol=1e-5)
    assert capsys.readouterr().out == ""


def test_mag_cache_is_told_the_steps_in_which_pictures_are_judged_as_well() -> None:
    judged = replace(PIPES["wan"], prepare=partial(prepare, tiny_video.draw, 5), steps=5)
    both = replace(PIPES["wan"], judge=Judge("small", 5), with_steps=lambda _: judged)
    alone = []
    for chosen in (PIPES["wan"], judged):
        pipe = chosen.build()
        with rungs.rung("mag-cache-9").open(pipe, chosen):
            alone.append(attention_calls(pipe, chosen.prepare(pipe)))
    pipe = both.build()
    plain = judged.prepare(pipe)()
    with rungs.rung("mag-cache-9").open(pipe, both):
        for chosen, (count, wanted) in zip((both, judged, both), (*alone, alone[0]), strict=True):
            found_count, found = attention_calls(pipe, chosen.prepare(pipe))
            assert (found_count, torch.equal(found, wanted)) == (count, True)
    assert not torch.equal(plain, alone[1][1])
    assert torch.equal(judged.prepare(pipe)(), plain)


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        (
            "wan",
            "faster-cache",
            "FasterCache needs both branches of guidance in one batch, and Wan",
        ),
        (
            "flux",
            "faster-cache",
            "FasterCache needs both branches of guidance in one batch, and Fl",
        ),
        (
            "wan",
            "cache-dit",
            r"computes 8 blocks in full, and WanTransformer3DModel has 3: .*-0\.2",
        ),
    ],
)
def test_what_a_peer_would_stumble_over_at_its_first_call_is_the_reason(
    kind: str, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = MagicMock()
    peer.DBCacheConfig.return_value.Fn_compute_blocks = 8
    monkeypatch.setitem(sys.modules, "cache_dit", peer)
    chosen = PIPES[kind]
    with pytest.raises(Skip, match=reason), rungs.rung(name).open(chosen.build(), chosen):
        pass
    assert not peer.enable_cache.called


def test_faster_cache_runs_a_model_whose_guidance_is_distilled() -> None:
    chosen = replace(PIPES["flux"], make=lambda _: tiny.flux(2, 2, guidance_embeds=True))
    pipe = chosen.build()
    call = partial(prepare, tiny.draw_flux, STEPS, true_cfg_scale=1.0)(pipe)
    everything, plain = attention_calls(pipe, call)
    with rungs.rung("faster-cache").open(pipe, chosen):
        count, found = attention_calls(pipe, call)
    assert count < everything
    assert found.isfinite().all()
    assert not torch.equal(found, plain)


@pytest.fixture
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A stand-in for a peer's package."""
    found = MagicMock()
    monkeypatch.setitem(sys.modules, request.param, found)
    return found


@pytest.mark.parametrize("package", ["DeepCache"], indirect=True)
@pytest.mark.parametrize(("name", "interval"), [("deepcache", 3), ("deepcache-5", 5)])
def test_deepcache_gets_its_interval(package: MagicMock, name: str, interval: int) -> None:
    chosen = workload("tiny")
    helper = package.DeepCacheSDHelper.return_value
    with rungs.rung(name).open(chosen.build(), chosen):
        helper.set_params.assert_called_once_with(cache_interval=interval, cache_branch_id=0)
        helper.disable.assert_not_called()
    helper.disable.assert_called_once_with()


@pytest.mark.parametrize("package", ["tomesd"], indirect=True)
@pytest.mark.parametrize(("widest", "downsampled"), [(0, 1), (1, 2)])
def test_tomesd_merges_its_ratio_at_the_widest_level_that_has_attention(
    package: MagicMock, widest: int, downsampled: int
) -> None:
    chosen = workload("tiny")
    pipe = chosen.build()
    for level, block in enumerate(pipe.unet.down_blocks):
        block.attentions = torch.nn.ModuleList([torch.nn.Identity()] if level >= widest else [])
    with rungs.rung("tomesd-0.3").open(pipe, chosen):
        package.apply_patch.assert_called_once_with(pipe, ratio=0.3, max_downsample=downsampled)
        package.remove_patch.assert_not_called()
    package.remove_patch.assert_called_once_with(pipe)


@pytest.mark.parametrize("package", ["cache_dit"], indirect=True)
def test_cache_dit_gets_its_threshold_and_a_forecast(package: MagicMock) -> None:
    chosen = workload("tiny")
    pipe = chosen.build()
    with rungs.rung("cache-dit-0.2").open(pipe, chosen):
        (settings,) = [call.kwargs for call in package.DBCacheConfig.call_args_list]
        assert (settings["residual_diff_threshold"], settings["Fn_compute_blocks"]) == (0.2, 1)
        package.enable_cache.assert_called_once_with(
            pipe,
            cache_config=package.DBCacheConfig.return_value,
            calibrator_config=package.TaylorSeerCalibratorConfig.return_value,
        )
    package.disable_cache.assert_called_once_with(pipe)
