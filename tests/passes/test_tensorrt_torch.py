"""torch-tensorrt in the denoiser's place: what it is given, what it is told, and the way back."""

from __future__ import annotations

import dataclasses
import enum
import importlib.machinery
import sys
import types
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
import tiny
import torch

import sdaccel
from sdaccel.kernels.native import cache_folder


class RefitFlag(enum.Enum):
    UNKNOWN, NEEDS_REFIT, NEEDS_RECOMPILE, LIVE = range(4)


class RefitState:
    """Whether weights have to be looked at again, as torch-tensorrt keeps it."""

    def __init__(self) -> None:
        self._state = RefitFlag.NEEDS_RECOMPILE

    def get_state(self) -> RefitFlag:
        return self._state

    def set_state(self, state: RefitFlag) -> None:
        if not isinstance(state, RefitFlag):
            raise ValueError(f"Invalid state: {state}")
        self._state = state


class MutableTorchTensorRTModule:
    """Takes what the documented one takes, and computes with the weights that it last looked at."""

    made: list[MutableTorchTensorRTModule]

    def __init__(self, pytorch_model: Any, *, device: Any, **settings: Any) -> None:
        self.original_model, self.device, self.settings = pytorch_model, device, settings
        self.refit_state, self.seen = RefitState(), []
        self.made.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(self.refit_state.get_state())
        self.refit_state.set_state(RefitFlag.LIVE)
        return self.original_model(*args, **kwargs)


def settings_class(*names: str) -> Any:
    return dataclasses.make_dataclass("CompilationSettings", [(each, Any, None) for each in names])


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake_tensorrt.install(monkeypatch)
    found: Any = types.ModuleType("torch_tensorrt")
    found.__spec__ = importlib.machinery.ModuleSpec("torch_tensorrt", None)
    known = ("disable_tf32", "cache_built_engines", "reuse_cached_engines", "use_explicit_typing")
    found.dynamo = types.SimpleNamespace(CompilationSettings=settings_class(*known))
    found.MutableTorchTensorRTModule = type("Mutable", (MutableTorchTensorRTModule,), {"made": []})
    monkeypatch.setitem(sys.modules, "torch_tensorrt", found)
    return found


def draw(pipe: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
    return pipe("abc", generator=generator, **call).images


def accelerated(pipe: Any, **options: Any) -> Any:
    return sdaccel.accelerate(pipe, "tensorrt", tensorrt={"route": "torch", **options})


def test_the_denoiser_s_calls_are_torch_tensorrt_s_and_restore_is_bit_for_bit(
    package: Any,
) -> None:
    pipe = tiny.stable_diffusion()
    before = {key: dict(value.__dict__) for key, value in pipe.unet.named_modules()}
    truth = draw(pipe)
    accelerated(pipe)
    (compiled,) = package.MutableTorchTensorRTModule.made
    assert np.array_equal(draw(pipe), truth)
    assert compiled.seen == [RefitFlag.NEEDS_RECOMPILE, RefitFlag.LIVE]
    record = sdaccel.report(pipe)["tensorrt"]
    assert record.ran["unet by torch-tensorrt"] == 2
    assert record.changed["unet by torch-tensorrt"] == 1
    sdaccel.restore(pipe)
    assert {key: dict(value.__dict__) for key, value in pipe.unet.named_modules()} == before
    assert np.array_equal(draw(pipe), truth)
    assert len(compiled.seen) == 2


def test_it_is_given_a_shallow_copy_that_calls_itself(package: Any) -> None:
    pipe = tiny.stable_diffusion()
    accelerated(pipe)
    (compiled,) = package.MutableTorchTensorRTModule.made
    shallow = compiled.original_model
    assert shallow is not pipe.unet
    assert "forward" not in shallow.__dict__, "or torch-tensorrt would trace itself"
    for (name, one), (other, two) in zip(
        pipe.unet.named_parameters(), shallow.named_parameters(), strict=True
    ):
        assert name == other
        assert one is two


def test_its_engines_are_kept_in_the_user_s_cache_and_typed_strongly(package: Any) -> None:
    accelerated(tiny.stable_diffusion(), settings={"optimization_level": 5})
    (compiled,) = package.MutableTorchTensorRTModule.made
    folder = cache_folder() / "torch-tensorrt"
    assert compiled.settings == {
        "use_explicit_typing": True,
        "disable_tf32": True,
        "cache_built_engines": True,
        "reuse_cached_engines": True,
        "engine_cache_dir": str(folder),
        "timing_cache_path": str(folder / "timings"),
        "optimization_level": 5,
    }


def test_a_release_that_has_no_other_types_is_not_asked_for_them(package: Any) -> None:
    package.dynamo.CompilationSettings = settings_class("disable_tf32")
    accelerated(tiny.stable_diffusion())
    (compiled,) = package.MutableTorchTensorRTModule.made
    assert "use_explicit_typing" not in compiled.settings
    assert compiled.settings["disable_tf32"]


def test_changed_weights_are_looked_at_again_at_the_next_generation(package: Any) -> None:
    pipe = tiny.stable_diffusion()
    accelerated(pipe)
    (compiled,) = package.MutableTorchTensorRTModule.made
    draw(pipe)
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(2)
    expected = tiny.stable_diffusion()
    expected.unet.load_state_dict(pipe.unet.state_dict())
    assert np.array_equal(draw(pipe), draw(expected))
    assert compiled.seen[2:] == [RefitFlag.UNKNOWN, RefitFlag.LIVE]
    draw(pipe)
    assert compiled.seen[4:] == [RefitFlag.LIVE, RefitFlag.LIVE]
    record = sdaccel.report(pipe)["tensorrt"]
    assert record.ran["changed weights of unet noticed"] == 1


def test_other_passes_leave_it_alone(package: Any) -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "tensorrt+fuse", tensorrt={"route": "torch"})
    assert "a session computes it" in sdaccel.report(pipe)["fuse"].refused["unet"]
