"""Step caching of what is compiled: as a whole in two functions, or block by block."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from caching import apart, cached, controlnet, draw, flux, ran
from torch._dynamo.backends.common import aot_autograd

import sdaccel

OPTIONS: dict[str, Any] = {"interval": 3, "forecast": 1}
CALM = 1e-5


@pytest.fixture(autouse=True)
def forget_programs() -> Iterator[None]:
    yield
    torch._dynamo.reset()


class Sizes:
    """A backend that runs graphs as they are, and keeps the number of their operations."""

    def __init__(self) -> None:
        self.found: list[int] = []
        self.backend = aot_autograd(fw_compiler=self._compile)

    def _compile(self, graph: Any, inputs: Any) -> Any:
        self.found.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward


def compiled(pipe: Any, backend: Any = "eager", scope: str = "whole", **options: Any) -> Any:
    """The pipe with its denoisers compiled and skipped in."""
    how = {"backend": backend, "scope": scope, "vae": False}
    return sdaccel.accelerate(pipe, "none", compile=how, step_cache={**OPTIONS, **options})


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_two_functions_are_compiled_and_the_shallow_one_is_smaller(make: Any) -> None:
    sizes, pipe = Sizes(), make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    compiled(pipe, sizes.backend)
    found, wanted = draw(pipe), cached(make(), **OPTIONS)
    assert apart(found, draw(wanted)) < CALM
    assert apart(found, plain) > 10 * CALM
    full, shallow = sizes.found
    assert shallow < 0.6 * full
    assert ran(pipe) == ran(wanted)
    assert sdaccel.report(pipe)["compile"].ran["compiled calls"] == sum(
        count for key, count in ran(pipe).items() if key.endswith((" full", " shallow"))
    )
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


def test_blocks_that_are_compiled_one_by_one_are_passed_by() -> None:
    pipe = compiled(flux(), scope="regional")
    assert apart(draw(pipe), draw(cached(flux(), **OPTIONS))) < CALM
    assert ran(pipe)["transformer shallow"] == 12
    assert sdaccel.report(pipe)["compile"].ran["compiled calls"] > 0


@pytest.mark.parametrize("options", [{"depth": 3}, {"forecast": 2, "steps": [0, 1, 2, 5, 8]}])
def test_every_depth_and_forecast_is_that_of_the_eager_cache(options: dict[str, Any]) -> None:
    pipe = compiled(tiny.stable_diffusion(), **options)
    wanted = cached(tiny.stable_diffusion(), **{**OPTIONS, **options})
    assert apart(draw(pipe), draw(wanted)) < CALM


def test_free_u_and_a_controlnet_count_within_a_graph_as_well() -> None:
    pictures = []
    for accelerated in (cached, compiled):
        pipe = controlnet()
        pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
        pictures.append(draw(accelerated(pipe, **OPTIONS)))
    assert apart(*pictures) < CALM


def test_without_a_generation_everything_is_computed() -> None:
    pipe = compiled(tiny.stable_diffusion())
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor(3), torch.randn(1, 16, 32))
    with torch.no_grad():
        wanted = tiny.stable_diffusion().unet(*inputs).sample
        assert apart(pipe.unet(*inputs).sample, wanted) < CALM
        assert apart(copy.deepcopy(pipe.unet)(*inputs).sample, wanted) < CALM
    assert not ran(pipe)


def test_what_a_compiler_fails_at_is_skipped_in_eagerly() -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no luck today")

    pipe = compiled(tiny.stable_diffusion(), failing)
    with pytest.warns(sdaccel.errors.SdaccelWarning, match="runs eagerly"):
        draw(pipe)
    found = draw(pipe)
    assert apart(found, draw(cached(tiny.stable_diffusion(), **OPTIONS))) < CALM
    assert ran(pipe)["unet shallow"] > 0


def test_frozen_weights_are_those_of_now_on_both_paths() -> None:
    """With Inductor, whose graphs hold the weights; changed between two generations."""
    pipe = tiny.flux(num_layers=1, num_single_layers=2)
    how = {"vae": False, "freeze": True}
    sdaccel.accelerate(pipe, "none", compile=how, step_cache=OPTIONS)
    before = draw(pipe)
    wanted = tiny.flux(num_layers=1, num_single_layers=2)
    assert apart(before, draw(cached(wanted, **OPTIONS))) < CALM
    for each in (pipe, wanted):
        with torch.no_grad():
            each.transformer.proj_out.weight.mul_(1.5)
            each.transformer.single_transformer_blocks[0].proj_mlp.weight.mul_(1.5)
    found = draw(pipe)
    assert apart(found, draw(wanted)) < CALM
    assert apart(found, before) > 10 * CALM
