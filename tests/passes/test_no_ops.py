"""What computes nothing is left out, bit for bit, and counted."""

from __future__ import annotations

import inspect

import pytest
import tiny
import torch

import sdaccel
from sdaccel.passes.no_ops import One


def test_a_division_by_one_returns_its_input() -> None:
    one, tensor = One(1.0), torch.randn(3)
    assert (tensor / one) is tensor
    assert torch.div(tensor, one) is tensor
    assert one == 1.0
    assert float(one) == 1.0


@pytest.mark.parametrize(
    "expression",
    [
        lambda x, one: x * one,
        lambda x, one: one / x,
        lambda x, one: x + one,
        lambda x, one: x.long() / one,
        lambda x, one: torch.div(x, one, rounding_mode="floor"),
    ],
)
def test_everything_else_computes_what_it_did(expression) -> None:
    tensor = torch.tensor([1.5, -2.25, 4.0])
    expected, found = expression(tensor, 1.0), expression(tensor, One(1.0))
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype


def test_the_picture_is_bit_identical_and_the_work_is_counted() -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    sdaccel.accelerate(pipe, "none", no_ops=True)
    assert (tiny.draw(pipe) == picture).all()
    ran = sdaccel.report(pipe)["no_ops"].ran
    attentions = sum(hasattr(module, "rescale_output_factor") for module in pipe.unet.modules())
    resnets = sum(hasattr(module, "output_scale_factor") for module in pipe.unet.modules())
    assert ran["divisions left out"] >= 2 * (attentions + resnets)
    assert ran["signature look-ups left out"] >= 2 * attentions


def test_a_factor_other_than_one_is_kept() -> None:
    pipe = tiny.stable_diffusion()
    resnet = pipe.unet.mid_block.resnets[0]
    resnet.output_scale_factor = 2.0
    picture = tiny.draw(pipe)
    sdaccel.accelerate(pipe, "none", no_ops=True)
    assert resnet.output_scale_factor == 2.0
    assert not isinstance(resnet.output_scale_factor, One)
    assert (tiny.draw(pipe) == picture).all()


def test_a_kept_signature_is_the_processor_s_own() -> None:
    pipe = tiny.stable_diffusion()
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    expected = inspect.signature(attention.processor.__call__)
    sdaccel.accelerate(pipe, "none", no_ops=True)
    assert inspect.signature(attention.processor.__call__) is inspect.signature(
        attention.processor.__call__
    )
    assert inspect.signature(attention.processor.__call__) == expected


def test_a_processor_set_later_works_and_survives_the_restore() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", no_ops=True)
    mine = AttnProcessor()
    pipe.unet.set_attn_processor(mine)
    tiny.draw(pipe)
    sdaccel.restore(pipe)
    assert set(pipe.unet.attn_processors.values()) == {mine}
