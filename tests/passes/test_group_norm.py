"""Group norms in machine code: which models get them, that they are exact, and the way back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel.kernels.group_norm_native import unavailable
from sdaccel.kernels.operator import operators
from sdaccel.passes import group_norm


@pytest.fixture(autouse=True)
def machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code where there is some, and any map large enough for it."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    op = operators()["group_norm_silu"]
    monkeypatch.setattr(op, "_interpreted", False)
    monkeypatch.setattr(op, "runs", Counter())
    monkeypatch.setattr(group_norm, "_WORTHWHILE", 0)


def channels_last() -> Any:
    pipe = tiny.stable_diffusion()
    for model in (pipe.unet, pipe.vae):
        model.to(memory_format=torch.channels_last)
    return pipe


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def decoded(pipe: Any) -> torch.Tensor:
    latents = torch.linspace(-1, 1, 256).view(1, 4, 8, 8)
    picture: torch.Tensor = pipe.vae.decode(latents, return_dict=False)[0]
    return picture


def test_a_decoder_computes_the_same_with_every_norm_of_its_own() -> None:
    pipe = channels_last()
    before = decoded(pipe)
    sdaccel.accelerate(pipe, "none", group_norm=True)
    operators()["group_norm_silu"].runs.clear()
    assert error(decoded(pipe), before) <= 1e-5
    norms = [m for m in pipe.vae.decoder.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert operators()["group_norm_silu"].runs == {"native": len(norms)}
    ran = sdaccel.report(pipe)["group_norm"].ran
    assert ran == {"group_norm_silu by machine code": len(norms)}, "outside of a generation too"
    sdaccel.restore(pipe)
    assert torch.equal(decoded(pipe), before)


def test_a_generation_counts_what_ran() -> None:
    pipe = channels_last()
    stock = tiny.draw(pipe)
    sdaccel.accelerate(pipe, "none", group_norm=True)
    assert abs(tiny.draw(pipe) - stock).max() <= 1e-5
    record = sdaccel.report(pipe)["group_norm"]
    assert record.state == "applied"
    assert set(record.ran) == {"group_norm_silu by machine code"}
    assert {name.split(" ")[0] for name in record.changed} == {"unet", "vae"}


def test_resnets_that_scale_between_norm_and_silu_keep_theirs() -> None:
    pipe = channels_last()
    for block in pipe.unet.modules():
        if hasattr(block, "time_embedding_norm"):
            block.time_embedding_norm = "scale_shift"
    swapped = {id(each.owner) for each in group_norm._swaps(pipe.unet)}
    resnets = [m for m in pipe.unet.modules() if hasattr(m, "time_embedding_norm")]
    assert resnets
    assert not any({id(m.norm1), id(m.norm2), id(m.nonlinearity)} & swapped for m in resnets)


def test_compiled_it_is_one_node_of_the_graph() -> None:
    pipe = channels_last()
    before = decoded(pipe)
    sdaccel.accelerate(pipe, "none", group_norm=True)
    compiled = torch.compile(pipe.vae.decoder.forward, fullgraph=True, backend="aot_eager")
    latents = torch.linspace(-1, 1, 256).view(1, 4, 8, 8)
    with torch.no_grad():
        found = compiled(pipe.vae.post_quant_conv(latents))
    assert error(found, before) <= 1e-5
    decoded(pipe)  # which counts
    with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile"):
        compiled(pipe.vae.post_quant_conv(latents))


def test_with_gradients_stock_computes() -> None:
    pipe = channels_last()
    sdaccel.accelerate(pipe, "none", group_norm=True)
    operators()["group_norm_silu"].runs.clear()
    latents = torch.zeros(1, 4, 8, 8, requires_grad=True)
    pipe.vae.decode(latents).sample.sum().backward()
    assert latents.grad is not None
    assert not operators()["group_norm_silu"].runs


def test_stock_order_and_small_maps_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", group_norm=True)
    refused = sdaccel.report(pipe)["group_norm"].refused
    assert all("stock's order" in refused[name] for name in ("unet", "vae"))
    monkeypatch.setattr(group_norm, "_WORTHWHILE", 1 << 23)
    pipe = sdaccel.accelerate(channels_last(), "none", group_norm=True)
    refused = sdaccel.report(pipe)["group_norm"].refused
    assert all("maps are small" in refused[name] for name in ("unet", "vae"))


def test_without_machine_code_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdaccel.kernels import group_norm_native

    monkeypatch.setattr(group_norm_native, "unavailable", lambda: "this CPU has no AVX-512")
    pipe = sdaccel.accelerate(channels_last(), "none", group_norm=True)
    assert sdaccel.report(pipe)["group_norm"].state == "refused"
    assert "no AVX-512" in str(sdaccel.report(pipe))
