"""Step caching beside other passes, LoRA, ControlNet and FreeU: each does what it does alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from caching import apart, cached, controlnet, draw, flux, ran
from features import lora

import sdaccel

pytestmark = pytest.mark.usefixtures("plain_torch")

EXACT = {
    "no_ops": True,
    "memory_format": True,
    "attention": {"measure": False},
    "fuse": True,
}
OPTIONS = {"interval": 3, "forecast": 1}
CALM = 1e-5


def free_u(pipe: Any) -> None:
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def unet_lora(pipe: Any) -> None:
    lora(pipe.unet)


def transformer_lora(pipe: Any) -> None:
    lora(pipe.transformer)


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux, controlnet])
def test_exact_passes_leave_the_cached_picture_as_it_is(make: Any) -> None:
    wanted = draw(cached(make(), **OPTIONS))
    pipe = make()
    plain, before = draw(pipe), tiny.snapshot(pipe)
    sdaccel.accelerate(pipe, "none", step_cache=OPTIONS, **EXACT)
    assert apart(draw(pipe), wanted) < CALM
    assert sum(sdaccel.report(pipe)["fuse"].ran.values()) > 0
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert apart(draw(pipe), plain) == 0


def embeddings() -> dict[str, torch.Tensor]:
    """What a FLUX pipe in bf16 is called with."""
    random = torch.Generator().manual_seed(4)
    shapes = {"prompt_embeds": (1, 8, 32), "pooled_prompt_embeds": (1, 32)}
    texts = {name: torch.randn(*shape, generator=random) for name, shape in shapes.items()}
    both = {**texts, **{f"negative_{name}": -text for name, text in texts.items()}}
    return {name: text.bfloat16() for name, text in both.items()}


@pytest.mark.parametrize("make", [tiny.stable_diffusion, flux])
def test_in_bf16_the_cached_picture_is_near_the_one_in_fp32(make: Any) -> None:
    given = embeddings() if make is flux else {}
    wide = {name: text.float() for name, text in given.items()}
    plain, wanted = draw(make(), **wide), draw(cached(make(), **OPTIONS), **wide)
    precision = {"dtype": "bfloat16"}
    pipe = make()
    sdaccel.accelerate(pipe, "none", precision=precision)
    rounded = apart(draw(pipe, **given), plain)
    sdaccel.accelerate(pipe, "none", precision=precision, step_cache=OPTIONS)
    assert apart(draw(pipe, **given), wanted) < 3 * rounded
    assert any(key.endswith("shallow") for key in ran(pipe))


@pytest.mark.parametrize("lora_first", [True, False])
@pytest.mark.parametrize(
    ("make", "add"), [(tiny.stable_diffusion, unet_lora), (flux, transformer_lora)]
)
def test_a_lora_counts_before_and_after(
    make: Any, add: Callable[[Any], None], lora_first: bool
) -> None:
    pipe, alone = make(), draw(cached(make(), **OPTIONS))
    if lora_first:
        add(pipe)
    found = draw(cached(pipe, **OPTIONS))
    if not lora_first:
        assert apart(found, alone) == 0
        add(pipe)
        found = draw(pipe)
    other = make()
    add(other)
    assert apart(found, draw(cached(other, **OPTIONS))) < CALM
    assert apart(found, alone) > CALM


def test_a_controlnet_works_on_shallow_steps_too() -> None:
    """By hand: what comes from below is repeated, and the outer layers get the ControlNet's."""
    stock = controlnet()
    step, kept = -1, [torch.empty(0)]

    def by_hand(_: Any, args: tuple[Any, ...]) -> Any:
        nonlocal step
        step += 1
        if step in (0, 3, 6, 9, 11):
            kept[0] = args[0][:, :32]
            return None
        return (torch.cat([kept[0], args[0][:, 32:]], dim=1), *args[1:])

    stock.unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(by_hand)
    pipe = cached(controlnet(), interval=3, forecast=0)
    assert apart(draw(pipe), draw(stock)) < CALM
    assert ran(pipe)["unet shallow"] == 7


@pytest.mark.parametrize("depth", [1, 3])
def test_free_u_scales_what_is_kept_once(depth: int) -> None:
    """It scales in place what comes from below; at equal steps nothing may be scaled twice."""
    pipe = tiny.stable_diffusion()
    free_u(pipe)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor(500), torch.randn(2, 16, 32))
    with torch.no_grad():
        truth = pipe.unet(*inputs).sample
        cached(pipe, interval=9, forecast=0, depth=depth)
        pipe.scheduler.set_timesteps(10)
        for timestep in pipe.scheduler.timesteps[:4]:
            assert apart(pipe.unet(*inputs).sample, truth) < CALM
            pipe.scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert ran(pipe)["unet shallow"] == 3
