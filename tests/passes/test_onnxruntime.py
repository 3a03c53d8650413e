"""ONNX Runtime in the place of modules: the same pictures, the same pipe, and the way back."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sdaccel
from sdaccel.errors import ExportError, InputError, PassError
from sdaccel.pipelines import StableDiffusionPipeline
from sdaccel.target import home_of


@pytest.fixture
def folder(exported: Path) -> Path:
    return exported


def plan(folder: Path, **options: Any) -> dict[str, Any]:
    return {"onnxruntime": {"folder": folder, **options}}


def draw(pipe: Any, **changes: Any) -> Any:
    options = {
        "prompt": "abc",
        "num_inference_steps": 3,
        "height": 16,
        "width": 16,
        "generator": torch.Generator().manual_seed(1),
        "output_type": "np",
    }
    return pipe(**{**options, **changes}).images


def distance(found: Any, truth: Any) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("parts", ["denoiser", "all"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 1.0},
        {"height": 32, "width": 24},
        {"prompt": ["abc", "de"], "generator": None, "latents": torch.ones(2, 4, 8, 8)},
    ],
    ids=["guided", "unguided", "size", "batch"],
)
def test_the_picture_is_the_same(folder: Path, parts: str, changes: dict[str, Any]) -> None:
    pipe = tiny.stable_diffusion()
    truth = draw(pipe, **changes)
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder, parts=parts))
    fresh = {} if "generator" in changes else {"generator": torch.Generator().manual_seed(1)}
    assert distance(draw(pipe, **{**changes, **fresh}), truth) <= 1e-4
    record = sdaccel.report(pipe)["onnxruntime"]
    assert record.ran["unet by the session"] == 3
    assert record.ran["vae_decoder by the session"] == (1 if parts == "all" else 0)
    assert not any("by torch" in each for each in record.ran)


@torch.no_grad()
def test_a_forward_is_exact_in_both_ways_to_return(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 32)
    truth = pipe.unet(sample, 7, text).sample
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder))
    named = pipe.unet(sample, torch.tensor(7), text)
    plain = pipe.unet(sample, torch.tensor([7, 7]), text, return_dict=False)
    assert type(named).__name__ == "UNet2DConditionOutput"
    assert isinstance(plain, tuple)
    assert distance(named.sample.numpy(), truth.numpy()) <= 1e-5
    assert torch.equal(plain[0], named.sample)


def test_restore_brings_the_module_back(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    before = {key: dict(value.__dict__) for key, value in pipe.unet.named_modules()}
    truth = draw(pipe)
    with sdaccel.accelerated(pipe, "onnxruntime", **plan(folder, parts="all")):
        assert (pipe.unet.dtype, pipe.device.type) == (torch.float32, "cpu")
        draw(pipe)
    assert {key: dict(value.__dict__) for key, value in pipe.unet.named_modules()} == before
    assert np.array_equal(draw(pipe), truth)


def test_released_weights_are_off_memory_and_come_back(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    before = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    first = next(pipe.unet.parameters())
    address = first.data_ptr()
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder, release=True))
    record = sdaccel.report(pipe)["onnxruntime"]
    assert record.ran["weights parked"] == len(before)
    assert first.data_ptr() != address
    draw(pipe)
    sdaccel.restore(pipe)
    assert all(torch.equal(value, before[key]) for key, value in pipe.unet.state_dict().items())
    draw(pipe)


def test_callbacks_and_our_schedulers_go_on_working(folder: Path) -> None:
    pipe, steps = tiny.stable_diffusion(), []
    truth = draw(pipe)

    def note(_: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return values

    sdaccel.accelerate(pipe, "onnxruntime+schedulers", **plan(folder))
    assert distance(draw(pipe, callback_on_step_end=note), truth) <= 1e-4
    assert steps == [0, 1, 2]
    assert sdaccel.report(pipe)["schedulers"].applied


def test_other_passes_leave_a_session_alone_and_take_the_rest(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    options = plan(folder)
    sdaccel.accelerate(pipe, "none", memory_format=True, step_cache=True, fuse=True, **options)
    found = sdaccel.report(pipe)
    for name in ("memory_format", "step_cache", "fuse"):
        assert "a session computes it" in found[name].refused["unet"]
    assert "vae" not in found["fuse"].refused


def test_changed_weights_are_noticed(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder))
    draw(pipe)
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(2)
    expected = tiny.stable_diffusion()
    expected.unet.load_state_dict(pipe.unet.state_dict())
    assert np.array_equal(draw(pipe), draw(expected))
    record = sdaccel.report(pipe)["onnxruntime"]
    assert record.ran["unet by torch"] == 3
    assert any("have changed" in note for note in record.notes)


@torch.no_grad()
def test_a_call_that_the_graph_lacks_an_input_for_is_torchs(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    call = (torch.randn(2, 4, 8, 8), torch.tensor(7), torch.randn(2, 16, 32))
    truth = pipe.unet(*call, encoder_attention_mask=torch.ones(2, 16)).sample
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder))
    assert torch.equal(pipe.unet(*call, encoder_attention_mask=torch.ones(2, 16)).sample, truth)
    (note,) = sdaccel.report(pipe)["onnxruntime"].notes
    assert "no input for 'encoder_attention_mask'" in note


@torch.no_grad()
def test_a_size_outside_of_the_graph_is_named(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder))
    with pytest.raises(InputError, match=r"'sample' of shape \(2, 4, 9, 8\) is outside"):
        pipe.unet(torch.randn(2, 4, 9, 8), torch.tensor(7), torch.randn(2, 16, 32))


def test_a_tampered_graph_is_refused_and_the_pipe_is_as_it_was(
    folder: Path, tmp_path: Path
) -> None:
    pipe, copy = tiny.stable_diffusion(), tmp_path / "copy"
    shutil.copytree(folder, copy)
    graph = copy / "unet" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(PassError, match="truncated or was changed"):
        sdaccel.accelerate(pipe, "onnxruntime", **plan(copy))
    with pytest.raises(PassError, match="truncated or was changed"):
        StableDiffusionPipeline.from_pretrained(str(copy))
    assert "forward" not in pipe.unet.__dict__


def test_a_folder_of_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(PassError, match="format 99"):
        sdaccel.accelerate(tiny.stable_diffusion(), "onnxruntime", **plan(copy))
    with pytest.raises(ExportError, match="format 99"):
        StableDiffusionPipeline.from_pretrained(str(copy))
    shutil.copyfile(folder / "manifest.json", copy / "manifest.json")
    (copy / "unet" / "config.json").unlink()
    with pytest.raises(ExportError, match="lacks the pipeline's configuration"):
        StableDiffusionPipeline.from_pretrained(str(copy))


def test_a_folder_of_another_precision_or_pipeline_is_refused(folder: Path) -> None:
    with pytest.raises(PassError, match="exported in fp32, and int8 is asked"):
        sdaccel.accelerate(tiny.stable_diffusion(), "onnxruntime", **plan(folder, precision="int8"))
    with pytest.raises(PassError, match="nothing that takes the place"):
        sdaccel.accelerate(tiny.flux(), "onnxruntime", **plan(folder))


def test_a_missing_extra_or_provider_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny.stable_diffusion()
    options = plan(folder, providers=["NoneExecutionProvider"])
    with pytest.raises(PassError, match="has no NoneExecutionProvider, only"):
        sdaccel.accelerate(pipe, "onnxruntime", strict=True, **options)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder))
    assert "pip install sdaccel[onnx]" in sdaccel.report(pipe)["onnxruntime"].refused["pipe"]


def test_without_a_folder_it_exports_once_for_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def export(pipe: Any, place: Path, *, components: Any, precision: str, rest: bool) -> None:
        made.append((components, precision, rest))
        shutil.copytree(folder, place)

    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path))
    monkeypatch.setattr("sdaccel.export.pipeline.export", export)
    for noted in (["act_fn", "dropout"], ["dropout", "act_fn"]):
        pipe = tiny.stable_diffusion()
        pipe.unet.register_to_config(_use_default_values=noted)  # a set's order, by process another
        sdaccel.accelerate(pipe, "onnxruntime")
    assert made == [(["unet"], "fp32", False)]
    pipe = tiny.stable_diffusion()
    pipe.unet.conv_in.bias.data.add_(1)
    sdaccel.accelerate(pipe, "onnxruntime")
    assert len(made) == 2
    with pytest.raises(PassError, match="has to be calibrated"):
        sdaccel.accelerate(pipe, "onnxruntime", onnxruntime={"precision": "int8"})


def test_a_folder_alone_makes_a_pipe(folder: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(str(folder), plan="none+memory_format")
    pipe.set_progress_bar_config(disable=True)
    assert home_of(pipe.unet) == str(folder)
    assert next(pipe.unet.parameters()).untyped_storage().nbytes() == 4
    pipe.to(torch.float32)
    assert next(pipe.unet.parameters()).untyped_storage().nbytes() == 4
    assert distance(draw(pipe), draw(tiny.stable_diffusion())) <= 1e-4
    found = sdaccel.report(pipe)
    assert found["onnxruntime"].ran["text_encoder by the session"] == 2
    assert found["memory_format"].refused["unet"] == "a session computes it (pass onnxruntime)"


def test_a_pipe_without_weights_says_so_once_it_is_restored(folder: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(str(folder), plan=None)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(sdaccel.SdaccelError, match="no weights of its own"):
        draw(pipe)
    sdaccel.accelerate(pipe, "onnxruntime")
    draw(pipe)
    with pytest.raises(InputError, match="no input for 'encoder_attention_mask'"):
        pipe.unet(
            torch.ones(2, 4, 8, 8),
            torch.tensor(7),
            torch.ones(2, 16, 32),
            encoder_attention_mask=torch.ones(2, 16),
        )
    sdaccel.restore(pipe)
    with pytest.raises(sdaccel.SdaccelError, match="no weights of its own"):
        draw(pipe)


def test_a_half_of_the_vae_that_torch_computes_keeps_its_convolution(folder: Path) -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "onnxruntime", **plan(folder, parts="all"))
    draw(pipe)
    with torch.no_grad():
        pipe.vae.decoder.conv_in.weight.mul_(2)
    expected = tiny.stable_diffusion()
    expected.vae.load_state_dict(pipe.vae.state_dict())
    assert distance(draw(pipe), draw(expected)) <= 1e-4
    assert sdaccel.report(pipe)["onnxruntime"].ran["vae_decoder by torch"] == 1
