"""The blocks that a model repeats, compiled one by one: which they are, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tiny
from compiling import error, replace_regionally, run, unet_inputs
from tiny_transformers import flux, pixart, sd3

from sdaccel.passes.regions import repeated_blocks

pytestmark = pytest.mark.usefixtures("forget_programs")
Model = tuple[Any, dict[str, Any]]


def unet() -> Model:
    return tiny.unet(), unet_inputs()


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (flux, {"FluxTransformerBlock", "FluxSingleTransformerBlock"}),
        (partial(sd3, 4), {"JointTransformerBlock"}),
        (partial(pixart, 4), {"BasicTransformerBlock"}),
        (unet, {"ResnetBlock2D", "BasicTransformerBlock", "Downsample2D", "Upsample2D"}),
    ],
)
def test_repeated_blocks_are_found_and_compute_what_they_did(
    make: Callable[[], Model], classes: set[str]
) -> None:
    model, inputs = make()
    expected = run(model, inputs)
    assert {type(block).__name__ for _, block in repeated_blocks(model)} == classes
    record = replace_regionally(model)
    assert error(run(model, inputs), expected) <= 1e-5
    assert record.ran["compiled calls"] == len(repeated_blocks(model))
    assert not record.ran["eager calls"]
    assert record.ran["compilations"] < record.ran["compiled calls"]
    assert record.notes == []


def test_no_block_lies_within_another() -> None:
    blocks = [block for _, block in repeated_blocks(tiny.unet())]
    inside = [inner for block in blocks for inner in block.modules() if inner is not block]
    assert not {id(each) for each in blocks} & {id(each) for each in inside}


@pytest.mark.parametrize("make", [flux, unet])
def test_all_that_diffusers_calls_repeated_is_found(make: Callable[[], Model]) -> None:
    model, _ = make()
    covered = {id(each) for _, block in repeated_blocks(model) for each in block.modules()}
    named = [each for each in model.modules() if type(each).__name__ in model._repeated_blocks]
    assert named
    assert all(id(each) in covered for each in named)
