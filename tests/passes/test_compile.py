"""Compiled code computes what stock does, for any size, any weights, and says what it did."""

from __future__ import annotations

import copy
import gc
import shutil
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import nn

import sdaccel
from sdaccel.errors import PassError, PlanError, SdaccelWarning
from sdaccel.passes.compiled import Compiler
from sdaccel.passes.compiled_region import Region
from sdaccel.passes.frozen import Fingerprint
from sdaccel.passes.no_ops import One
from sdaccel.passes.regions import repeated_blocks
from sdaccel.report import PassRecord

SCOPES = ("regional", "whole")


@pytest.fixture(autouse=True)
def forget_programs() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def flux() -> Any:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=False,
    ).eval()


def flux_inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(16, 3).round(),
        "txt_ids": torch.zeros(8, 3),
    }


def sd3() -> Any:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    ).eval()


def sd3_inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.tensor([500.0, 500.0]),
    }


def pixart() -> Any:
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        cross_attention_dim=32,
        caption_channels=32,
        use_additional_conditions=False,
    ).eval()


def pixart_inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 6, 32),
        "timestep": torch.tensor([500, 500]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def unet_inputs(size: int = 8, batch: int = 2, width: int | None = None) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(batch, 4, size, width or size),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(batch, 6, 32),
    }


def run(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def compiled(pipe: Any = None, **options: Any) -> Any:
    """A pipe with nothing but `compile`, with a backend that compiles nothing and counts."""
    options = {"backend": "eager", "vae": False, **options}
    return sdaccel.accelerate(pipe or tiny.stable_diffusion(), "none", compile=options)


def ran(pipe: Any) -> Any:
    return sdaccel.report(pipe)["compile"].ran


def replace_regionally(model: Any, **options: Any) -> PassRecord:
    """What the pass does to a model that stands in no pipeline."""
    record = PassRecord("compile", "exact")
    compiler = Compiler("model", record, **{"backend": "eager", **options})
    for _, block in repeated_blocks(model):
        block.forward = Region(block, compiler)
    return record


@pytest.mark.parametrize(
    ("build", "inputs", "classes"),
    [
        (flux, flux_inputs, {"FluxTransformerBlock", "FluxSingleTransformerBlock"}),
        (sd3, sd3_inputs, {"JointTransformerBlock"}),
        (pixart, pixart_inputs, {"BasicTransformerBlock"}),
        (
            tiny.unet,
            unet_inputs,
            {"ResnetBlock2D", "BasicTransformerBlock", "Downsample2D", "Upsample2D"},
        ),
    ],
)
def test_repeated_blocks_are_found_and_compute_what_they_did(build, inputs, classes) -> None:
    model = build()
    expected = run(model, inputs())
    assert {type(block).__name__ for _, block in repeated_blocks(model)} == classes
    record = replace_regionally(model)
    assert error(run(model, inputs()), expected) <= 1e-5
    assert record.ran["compiled calls"] == len(repeated_blocks(model))
    assert not record.ran["eager calls"]
    assert record.ran["compilations"] < record.ran["compiled calls"]
    assert record.notes == []


def test_no_block_lies_within_another() -> None:
    blocks = [block for _, block in repeated_blocks(tiny.unet())]
    inside = [inner for block in blocks for inner in block.modules() if inner is not block]
    assert not {id(each) for each in blocks} & {id(each) for each in inside}


@pytest.mark.parametrize("build", [flux, tiny.unet])
def test_all_that_diffusers_calls_repeated_is_found(build) -> None:
    model = build()
    covered = {id(each) for _, block in repeated_blocks(model) for each in block.modules()}
    named = [each for each in model.modules() if type(each).__name__ in model._repeated_blocks]
    assert named
    assert all(id(each) in covered for each in named)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_picture_is_that_of_stock(scope) -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    compiled(pipe, scope=scope, vae=True)
    assert abs(tiny.draw(pipe) - picture).max() < 1e-4
    blocks = len(repeated_blocks(pipe.unet)) if scope == "regional" else 1
    assert ran(pipe)["compiled calls"] >= 2 * blocks + 1
    assert not ran(pipe)["eager calls"]
    assert sdaccel.report(pipe)["compile"].seconds["compile"] > 0


@pytest.mark.parametrize("freeze", [False, True])
def test_inductor_keeps_to_fp32_accuracy(freeze) -> None:
    unet, record = tiny.unet(), PassRecord("compile", "exact")
    expected = run(unet, unet_inputs())
    resnet = unet.mid_block.resnets[0]
    resnet.forward = Region(resnet, Compiler("unet", record, freeze=freeze))
    assert error(run(unet, unet_inputs()), expected) <= 1e-5
    assert record.ran["compiled calls"] == 1
    assert torch._inductor.config.freezing is False


def convolutions() -> nn.Sequential:
    """Three blocks alike, in a list."""
    blocks = nn.ModuleList(
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)) for _ in range(3)
    )
    model = nn.Sequential()
    model.blocks = blocks
    return model


def test_a_new_size_compiles_once_more_and_the_next_not_at_all() -> None:
    model = convolutions()
    record = replace_regionally(model)
    counts = []
    for size, batch in [(8, 2), (16, 2), (24, 2), (32, 4), (40, 6)]:
        with torch.no_grad():
            x = torch.randn(batch, 4, size, size)
            for block in model.blocks:
                x = block(x)
        counts.append(record.ran["compilations"])
    assert counts == [1, 2, 2, 3, 3]
    assert record.ran["compiled calls"] == 15
    assert record.ran["recompilations"] == 2
    assert not record.ran["eager calls"]


def test_a_whole_unet_compiles_twice_for_any_number_of_sizes() -> None:
    pipe = compiled(scope="whole")
    counts = []
    for size in (8, 16, 24):
        run(pipe.unet, unet_inputs(size))
        counts.append(ran(pipe)["compilations"])
    assert counts == [1, 2, 2]
    assert not ran(pipe)["eager calls"]


@pytest.mark.parametrize("scope", SCOPES)
def test_restore_leaves_nothing_behind(scope) -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    before = _state(pipe.unet), _state(pipe.vae)
    compiled(pipe, scope=scope, vae=True, freeze=True)
    tiny.draw(pipe)
    assert before != (_state(pipe.unet), _state(pipe.vae))
    sdaccel.restore(pipe)
    assert (_state(pipe.unet), _state(pipe.vae)) == before
    assert (tiny.draw(pipe) == picture).all()


def test_compiled_code_dies_with_its_region() -> None:
    pipe = compiled(scope="whole", freeze=True)
    run(pipe.unet, unet_inputs())
    code = weakref.ref(pipe.unet.forward.own.program)
    sdaccel.restore(pipe)
    torch._dynamo.reset()
    gc.collect()
    assert code() is None


@pytest.mark.parametrize("edit", ["in place", "through data", "new parameter"])
def test_frozen_weights_that_change_are_compiled_in_again(edit) -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
    x, record = torch.randn(2, 8), PassRecord("compile", "exact")
    stock = layer.forward
    region = layer.forward = Region(layer, Compiler("layer", record, freeze=True))
    with torch.no_grad():
        before = layer(x)
        assert not region.renew_if_stale()
        _edit(layer[0], edit)
        assert region.renew_if_stale()
        after, expected = layer(x), stock(x)
    assert not torch.allclose(before, after)
    assert error(after, expected) <= 1e-5
    assert record.ran["compilations"] == 2


def test_two_functions_of_a_module_are_compiled_and_renewed_together() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
    x, record = torch.randn(2, 8), PassRecord("compile", "exact")
    region = layer.forward = Region(layer, Compiler("layer", record, freeze=True))
    twice = region.variant(lambda module, x: 2 * nn.Sequential.forward(module, x))
    with torch.no_grad():
        for _ in range(2):
            expected = nn.Sequential.forward(layer, x)
            assert error(layer(x), expected) <= 1e-5
            assert error(twice(x), 2 * expected) <= 1e-5
            assert not region.renew_if_stale()
            _edit(layer[0], "in place")
            assert region.renew_if_stale()
    assert record.ran["compilations"] == 4


def test_a_generation_begins_with_a_look_at_the_frozen_weights() -> None:
    pipe = compiled(freeze=True, scope="regional")
    tiny.draw(pipe)
    tiny.draw(pipe)
    assert not ran(pipe)["renewed for new weights"]
    _edit(pipe.unet.conv_in, "through data")
    tiny.draw(pipe)
    assert not ran(pipe)["renewed for new weights"], "conv_in is in no block, so not compiled in"
    _edit(pipe.unet.mid_block.resnets[0].conv1, "through data")
    tiny.draw(pipe)
    assert ran(pipe)["renewed for new weights"] == 1
    assert "weights have changed" in str(sdaccel.report(pipe))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_fingerprint_sees_any_merge_and_nothing_else(memory_format) -> None:
    convolution = nn.Conv2d(5, 7, 3).to(memory_format=memory_format)
    before = Fingerprint.of(convolution)
    assert Fingerprint.of(convolution) == before
    convolution.weight.data += 1e-3
    assert Fingerprint.of(convolution) != before


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("freeze", [False, True])
def test_an_adapter_loaded_before_or_after_counts(scope, freeze) -> None:
    pipe, twin = tiny.stable_diffusion(), tiny.stable_diffusion()
    _adapt(pipe.unet, "first")
    _adapt(twin.unet, "first")
    compiled(pipe, scope=scope, freeze=freeze)
    assert abs(tiny.draw(pipe) - tiny.draw(twin)).max() < 1e-4
    for each in (pipe.unet, twin.unet):
        _adapt(each, "second")
    changed = tiny.draw(twin)
    assert abs(tiny.draw(pipe) - changed).max() < 1e-4
    for each in (pipe.unet, twin.unet):
        each.disable_adapters()
    assert abs(tiny.draw(twin) - changed).max() > 1e-3
    assert abs(tiny.draw(pipe) - tiny.draw(twin)).max() < 1e-4


class Breaks(nn.Module):
    """Dynamo has to leave this forward in the middle; `lifts` says whether it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        torch._dynamo.graph_break()
        return x.sin()


@torch.no_grad()
def test_a_graph_break_is_reported_and_the_rest_compiled() -> None:
    model, record = Breaks(), PassRecord("compile", "exact")
    x = torch.randn(2, 4)
    expected = model(x)
    model.forward = Region(model, Compiler("model", record, backend="eager"))
    assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)
    assert record.ran["eager calls"] == 1
    assert record.ran["compiled calls"] == 1
    assert "compiled in parts" in record.notes[0]


def test_a_backend_that_fails_leaves_the_stock_forward_and_says_so() -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no room")

    model, record = nn.Linear(4, 4), PassRecord("compile", "exact")
    x = torch.randn(2, 4)
    expected = model(x)
    model.forward = Region(model, Compiler("model", record, backend=failing))
    with pytest.warns(SdaccelWarning, match="runs eagerly"):
        assert torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)
    assert not record.ran["compiled calls"]
    assert "runs eagerly" in record.notes[0]


def test_an_error_of_the_model_is_the_models() -> None:
    model, record = nn.Linear(4, 4), PassRecord("compile", "exact")
    model.forward = Region(model, Compiler("model", record, backend="eager"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(2, 5))
    model(torch.randn(2, 4))
    assert record.ran["compiled calls"] == 1
    assert record.notes == []


class Variants(nn.Module):
    """Dynamo compiles a variant for each value of `kind`."""

    def forward(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        return x + len(kind)


def test_more_variants_than_dynamo_keeps_are_no_silent_eager_run() -> None:
    model, record = Variants(), PassRecord("compile", "exact")
    model.forward = Region(model, Compiler("model", record, backend="eager"))
    for length in range(12):
        assert torch.equal(model(torch.zeros(2), "x" * length), torch.full((2,), float(length)))
    assert record.ran["eager calls"] == 1
    assert record.ran["compiled calls"] == 11
    assert "more variants than Dynamo keeps" in record.notes[0]


def test_frozen_blocks_of_one_class_do_not_share_code() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(10))
    model = nn.Sequential()
    model.blocks = blocks
    x = torch.randn(2, 4)
    with torch.no_grad():
        expected = [block(x) for block in blocks]
        record = replace_regionally(model, backend="eager", freeze=True)
        found = [block(x) for block in blocks]
    assert all(map(torch.equal, found, expected))
    assert record.ran["compilations"] == 10
    assert not record.ran["eager calls"]


def test_blocks_at_two_sizes_do_not_make_each_other_dynamic() -> None:
    graphs = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(any(isinstance(each, torch.SymInt) for each in inputs))
        return graph

    pipe = compiled(scope="regional", backend=keep)
    run(pipe.unet, unet_inputs())
    assert graphs
    assert not any(graphs)


def test_a_copy_of_a_compiled_model_runs_on_its_own_weights() -> None:
    pipe = compiled(scope="whole")
    run(pipe.unet, unet_inputs())
    twin = copy.deepcopy(pipe.unet)
    for weight in twin.parameters():
        weight.data.zero_()
    assert not run(twin, unet_inputs()).any()
    assert run(pipe.unet, unet_inputs()).any()


def test_pipelines_can_still_read_the_signature() -> None:
    import inspect

    pipe = tiny.stable_diffusion()
    expected = inspect.signature(pipe.unet.forward)
    compiled(pipe, scope="whole")
    assert inspect.signature(pipe.unet.forward) == expected


def test_what_the_user_compiled_is_left_alone() -> None:
    pipe = tiny.stable_diffusion()
    pipe.unet.compile_repeated_blocks(backend="eager")
    compiled(pipe)
    assert "compiled already" in sdaccel.report(pipe)["compile"].refused["unet"]
    assert "forward" not in pipe.unet.__dict__


def test_without_a_cpp_compiler_it_refuses(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    pipe = compiled(backend="inductor")
    assert "install g++" in sdaccel.report(pipe)["compile"].refused["pipe"]
    with pytest.raises(PassError, match="install g"):
        sdaccel.accelerate(
            tiny.stable_diffusion(), "none", strict=True, compile={"backend": "inductor"}
        )


def test_compiled_modules_are_left_out_by_no_ops() -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "none", compile={"backend": "eager", "scope": "whole"}, no_ops=True)
    assert not isinstance(pipe.unet.mid_block.resnets[0].output_scale_factor, One)
    tiny.draw(pipe)
    assert "compiled" in sdaccel.report(pipe)["no_ops"].refused["unet"]


@pytest.mark.parametrize("options", [{"scope": "half"}, {"mode": "fastest"}, {"cache": 1}])
def test_bad_options_are_refused_at_once(options) -> None:
    with pytest.raises(PlanError):
        sdaccel.accelerate(tiny.stable_diffusion(), "none", compile=options)


def test_a_warm_call_does_not_count_as_compiling() -> None:
    pipe = compiled()
    run(pipe.unet, unet_inputs())
    first = sdaccel.report(pipe)["compile"].seconds["compile"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(pipe.unet, unet_inputs())
    assert sdaccel.report(pipe)["compile"].seconds["compile"] == first


def _edit(layer: Any, how: str) -> None:
    with torch.no_grad():
        if how == "in place":
            layer.weight.add_(1)
        elif how == "through data":
            layer.weight.data += 1
        else:
            layer.weight = nn.Parameter(layer.weight + 1)


def _adapt(unet: Any, name: str) -> None:
    """Add a LoRA that changes the picture."""
    from peft import LoraConfig

    torch.manual_seed(len(name))
    unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), adapter_name=name
    )


def _state(model: nn.Module) -> list[Any]:
    state: list[Any] = []
    for name, module in model.named_modules():
        values = {key: id(value) for key, value in module.__dict__.items()}
        state.append((name, type(module), values, list(module._forward_pre_hooks)))
    weights = [*model.parameters(), *model.buffers()]
    return [state, [(id(each), sorted(each.__dict__)) for each in weights]]
