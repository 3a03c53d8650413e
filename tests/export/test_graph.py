"""Tracing and translating: names of what may change, no float64, no complex, and clear failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="exporting needs sdaccel[onnx]")
pytest.importorskip("onnxscript", reason="exporting needs sdaccel[onnx]")
pytest.importorskip("onnxruntime", reason="exporting needs sdaccel[onnx]")

import onnx
import torch

from sdaccel.errors import ExportError
from sdaccel.export import graph, parity
from sdaccel.export.capture import capture
from sdaccel.export.examples import Arguments, Draw, Example, Extent, symbols
from sdaccel.export.forms import Form

pytestmark = pytest.mark.filterwarnings("ignore")
"""What torch and onnxscript warn of is theirs."""


class Model(torch.nn.Module):
    """A linear layer, with what diffusers' models have that an export reads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.config: dict[str, Any] = {"width": 8}


class Rotated(Model):
    """Tokens turned by their places: angles in float64, turned as complex numbers.

    A dimension of more than one token is squeezed, as in PixArt, and each sample is repeated as
    often as an argument says, as in AnimateDiff. A mask of booleans is filled, as in HunyuanVideo.
    """

    def forward(self, tokens: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
        hidden = self.linear(tokens)
        places = torch.arange(hidden.shape[1], dtype=torch.float64) + start
        angles = torch.outer(places, 0.1 ** torch.arange(4, dtype=torch.float64))
        turns = torch.view_as_complex(torch.stack([angles.cos(), angles.sin()], -1).float())
        with torch.amp.autocast("cuda", enabled=False):
            pairs = torch.view_as_complex(hidden.reshape(*hidden.shape[:-1], -1, 2))
            turned = torch.view_as_real(pairs * turns.unsqueeze(0)).flatten(2)
        late = torch.ones_like(places, dtype=torch.bool).masked_fill(places < start + 2, False)
        first = torch.zeros_like(late).masked_fill(places < start + 1, True)
        turned = turned + (late | first)[:, None]
        return {"tokens": turned.squeeze(1).repeat_interleave(start, dim=0) + 0.0}


class Undecided(Model):
    """What it computes depends on values."""

    def forward(self, tokens: torch.Tensor, start: int) -> torch.Tensor:
        return self.linear(tokens) if tokens.sum() > 0 else tokens


class Unknown(Model):
    """An operator that ONNX has not."""

    def forward(self, tokens: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
        return {"values": torch.linalg.eigvalsh(tokens @ tokens.mT)}


def make(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {"tokens": draw(size.batch, size.tokens, config["width"]), "start": size.frames}


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Form, Any, Path]:
    torch.manual_seed(0)
    form, folder = Form(Rotated()), tmp_path_factory.mktemp("rotated")
    model = graph.translate("rotated", form, capture("rotated", form, Example(make)), 20)
    graph.write(model, folder)
    return form, graph.described(model.graph.inputs), folder / graph.FILE


def test_a_graph_has_neither_float64_nor_complex_numbers(rotated: tuple[Form, Any, Path]) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(rotated[2]))
    inside = {each.type.tensor_type.elem_type for each in model.graph.value_info}
    constants = {each.data_type for each in model.graph.initializer}
    forbidden = onnx.TensorProto
    bad = {forbidden.DOUBLE, forbidden.COMPLEX64, forbidden.COMPLEX128}
    assert not (inside | constants) & bad
    casts = [node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"]
    assert not set(casts) & bad


def test_it_computes_what_the_module_does_at_every_size(rotated: tuple[Form, Any, Path]) -> None:
    form, inputs, path = rotated
    found = parity.distances(form, Example(make), path, inputs)
    assert {each.size.batch for each in found} == {1, 3}
    assert len({each.size.tokens for each in found}) == 2
    assert max(each.error for each in found) < 1e-5


def test_numbers_become_inputs_and_what_changes_has_a_name(
    rotated: tuple[Form, Any, Path],
) -> None:
    _, inputs, path = rotated
    assert [(each.name, each.dtype, each.shape) for each in inputs] == [
        ("tokens", "float32", ("batch", "tokens", 8)),
        ("start", "int64", ()),
    ]
    (output,) = onnx.load(path).graph.output
    assert output.name == "out_tokens"
    shape = output.type.tensor_type.shape.dim
    assert [each.dim_param or each.dim_value for each in shape] == [
        "frames*batch",
        "tokens",
        8,
    ]


def test_a_graph_that_computes_something_else_is_refused(rotated: tuple[Form, Any, Path]) -> None:
    _, inputs, path = rotated
    other = Form(Rotated())
    with pytest.raises(ExportError, match=r"rotated \(Rotated\).*differs .* relative L2"):
        parity.check("rotated", other, Example(make), path, inputs)


def test_a_branch_on_values_is_named_with_its_line() -> None:
    with pytest.raises(ExportError, match=r"unet \(Undecided\) can't be exported, at .*components"):
        capture("unet", Form(Undecided()), Example(make))


def test_an_operator_that_onnx_has_not_is_named() -> None:
    form = Form(Unknown())
    captured = capture("unet", form, Example(make))
    with pytest.raises(ExportError, match=r"unet \(Unknown\) .*at operator aten\W+_linalg_eigh"):
        graph.translate("unet", form, captured, 20)


def test_a_dimension_is_named_after_all_that_makes_it_change() -> None:
    def arguments(size: Extent) -> Arguments:
        return {
            "sample": torch.zeros(size.batch, 4, size.height * size.width),
            "sizes": ((size.frames, 1), torch.zeros(size.tokens)),
        }

    assert symbols(arguments, Extent()) == {
        "sample": {0: "batch", 2: "height_by_width"},
        "sizes": (("frames", None), {0: "tokens"}),
    }


def test_a_graph_that_the_runtime_can_not_compute_is_named(
    rotated: tuple[Form, Any, Path], tmp_path: Path
) -> None:
    form, inputs, path = rotated
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(
        ExportError, match=r"other\.onnx can't be computed by ONNX Runtime \(.*NoSuch"
    ):
        parity.distances(form, Example(make), tmp_path / "other.onnx", inputs)
