"""The forms that retype a part of a model compute what the model's own forward does."""

from __future__ import annotations

import pytest
import torch

from sdaccel.benchmarks.families import families
from sdaccel.export.capture import draw
from sdaccel.export.examples import example_of, known_classes
from sdaccel.export.forms import form_of
from sdaccel.export.parity import sizes
from sdaccel.patch import Patch


@pytest.mark.parametrize(
    ("name", "component", "output"),
    [
        ("Qwen-Image", "transformer", "sample"),
        ("Z-Image", "transformer", "sample"),
        ("AutoencoderKLWan", "vae_encoder", "moments"),
        ("AutoencoderKLWan", "vae_decoder", "sample"),
    ],
)
def test_a_form_is_its_model(name: str, component: str, output: str) -> None:
    (family,) = families([name])
    form = form_of(component, family.build())
    example = example_of(component, form.module)
    assert example is not None
    for size in sizes(example):
        arguments = draw(form, example, size)
        patch = Patch()
        with torch.no_grad():
            expected = form.stock(arguments)
            form.prepare(patch)
            found = form(arguments)
            patch.undo()
            again = form.stock(arguments)
        assert found.keys() == expected.keys() == {output}
        error = (found[output] - expected[output]).norm() / expected[output].norm()
        assert error < 1e-6
        assert torch.equal(again[output], expected[output])


@pytest.mark.parametrize(
    "name",
    ["SD 1.5", "SDXL", "SD 3", "FLUX.1", "PixArt", "Sana", "CogVideoX", "LTX", "Wan 2.1"],
)
def test_the_arguments_of_an_example_are_what_the_model_takes(name: str) -> None:
    (family,) = families([name])
    form = form_of("transformer", family.build())
    example = example_of("transformer", form.module)
    assert example is not None
    assert family.model in known_classes()
    outputs = []
    for size in sizes(example):
        with torch.no_grad():
            outputs.append(form(draw(form, example, size))["sample"])
    assert [each.shape[0] for each in outputs] == [1, 3, 1, 3]
    assert all(bool(each.isfinite().all()) for each in outputs)
