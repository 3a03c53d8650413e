"""Compiled pipes draw what stock does, for any size and any weights, and say what was done."""

from __future__ import annotations

import copy
import gc
import shutil
import warnings
import weakref
from typing import Any

import pytest
import tiny
import torch
from compiling import compiled, ran, run, unet_inputs
from torch import nn

import sdaccel
from sdaccel.errors import PassError, PlanError
from sdaccel.passes.no_ops import One
from sdaccel.passes.regions import repeated_blocks

pytestmark = pytest.mark.usefixtures("forget_programs")
SCOPES = ("regional", "whole")


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
