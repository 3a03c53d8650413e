"""A drop-in is stock with another way in: it loads accelerated, and saves what stock loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import tiny
import tiny_video
import torch

import sdaccel
from sdaccel import pipelines
from sdaccel.errors import PassError, PlanError, SdaccelWarning, TargetError
from sdaccel.pipelines import drop_in as factory

STOCK = diffusers.StableDiffusionPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline, as stock diffusers saves it."""
    path = tmp_path_factory.mktemp("saved")
    tiny.stable_diffusion().save_pretrained(path)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the drop-ins hand to `accelerate`, which does nothing."""
    seen: list[dict[str, Any]] = []

    def accelerate(pipe: Any, plan: Any, **options: Any) -> Any:
        seen.append({"pipe": pipe, "plan": plan.name, **options})
        return pipe

    monkeypatch.setattr(factory, "accelerate", accelerate)
    monkeypatch.setattr(factory.Plan, "of", lambda plan: type("Plan", (), {"name": plan}))
    return seen


def load(cls: Any, source: Any, **options: Any) -> Any:
    pipe = cls.from_pretrained(source, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weights(pipe: Any) -> dict[str, tuple[int, torch.dtype, torch.Tensor]]:
    """Every parameter's address, dtype and a copy of its values."""
    return {
        f"{name}.{key}": (value.data_ptr(), value.dtype, value.detach().clone())
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
        for key, value in part.named_parameters()
    }


def test_it_draws_what_stock_draws(folder: Path) -> None:
    ours = tiny.draw(load(pipelines.StableDiffusionPipeline, folder, plan="eager"))
    stock = tiny.draw(load(STOCK, folder))
    assert numpy.linalg.norm(ours - stock) <= 1e-5 * numpy.linalg.norm(stock)


def test_it_is_accelerated_and_restores_to_the_drop_in(folder: Path) -> None:
    pipe = load(pipelines.StableDiffusionPipeline, folder, plan="eager")
    assert sdaccel.report(pipe).accelerated
    assert isinstance(pipe, STOCK)
    assert type(sdaccel.restore(pipe)) is pipelines.StableDiffusionPipeline
    assert not sdaccel.report(pipe).accelerated


def test_a_plan_of_none_is_stock(folder: Path) -> None:
    pipe = load(pipelines.StableDiffusionPipeline, folder, plan=None)
    stock = load(STOCK, folder)
    assert vars(pipe).keys() == vars(stock).keys()
    assert numpy.array_equal(tiny.draw(pipe), tiny.draw(stock))


def test_lossless_is_the_default_and_strict_passes_through(
    folder: Path, calls: list[dict[str, Any]]
) -> None:
    load(pipelines.StableDiffusionPipeline, folder)
    load(pipelines.StableDiffusionPipeline, folder, plan="fast", strict=True)
    given = [{"plan": call["plan"], "strict": call["strict"]} for call in calls]
    assert given == [{"plan": "lossless", "strict": False}, {"plan": "fast", "strict": True}]


def test_other_keywords_reach_stock(folder: Path) -> None:
    pipe = load(pipelines.StableDiffusionPipeline, folder, plan=None, vae=None)
    assert pipe.vae is None
    assert pipe.unet is not None


def test_an_unknown_plan_fails_before_anything_is_loaded() -> None:
    with pytest.raises(PlanError, match="lossless"):
        pipelines.StableDiffusionPipeline.from_pretrained("no/such-model", plan="losless")


def test_stock_loads_what_it_saves(folder: Path, tmp_path: Path) -> None:
    pipe = load(pipelines.StableDiffusionPipeline, folder, plan="eager")
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index.pop("_name_or_path")
    assert index == json.loads((folder / "model_index.json").read_text())
    again = load(diffusers.DiffusionPipeline, tmp_path)
    assert type(again) is STOCK
    assert numpy.array_equal(tiny.draw(again), tiny.draw(load(STOCK, folder)))


def test_the_generic_pipeline_finds_the_class_that_was_saved(folder: Path) -> None:
    pipe = load(pipelines.DiffusionPipeline, folder, plan="eager")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert sdaccel.report(pipe).accelerated


def test_the_auto_pipelines_load_accelerated(folder: Path) -> None:
    pipe = load(pipelines.AutoPipelineForText2Image, folder, plan="eager")
    assert isinstance(pipe, STOCK)
    assert sdaccel.report(pipe).accelerated
    other = pipelines.AutoPipelineForImage2Image.from_pipe(pipe, plan="eager")
    assert isinstance(other, diffusers.StableDiffusionImg2ImgPipeline)
    assert sdaccel.report(other).accelerated
    assert other.unet is pipe.unet


@pytest.fixture
def mixed(folder: Path) -> Any:
    """A stock pipe whose UNet is in bf16 and whose VAE is in fp32."""
    pipe = load(STOCK, folder)
    pipe.unet.to(torch.bfloat16)
    return pipe


def test_from_pipe_leaves_the_weights_where_they_are(mixed: Any) -> None:
    before = weights(mixed)
    other = pipelines.StableDiffusionImg2ImgPipeline.from_pipe(mixed, plan=None)
    assert type(other) is pipelines.StableDiffusionImg2ImgPipeline
    for pipe in (mixed, other):
        after = weights(pipe)
        assert after.keys() == before.keys()
        for name, (address, dtype, values) in before.items():
            assert after[name][:2] == (address, dtype)
            assert torch.equal(after[name][2], values)


def test_from_pipe_with_a_plan_keeps_dtypes_and_values(mixed: Any) -> None:
    before = weights(mixed)
    pipelines.StableDiffusionImg2ImgPipeline.from_pipe(mixed, plan="eager")
    after = weights(mixed)
    for name, (_, dtype, values) in before.items():
        assert after[name][1] == dtype
        assert torch.equal(after[name][2], values)


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")
def test_from_pipe_casts_when_asked_to(mixed: Any) -> None:
    cls = pipelines.StableDiffusionImg2ImgPipeline
    other = cls.from_pipe(mixed, plan=None, torch_dtype=torch.float32)
    assert other.unet.dtype == torch.float32


def test_from_pipe_of_an_accelerated_pipe_shares_its_acceleration(folder: Path) -> None:
    stock = tiny.draw(load(STOCK, folder))
    pipe = load(pipelines.StableDiffusionPipeline, folder, plan="eager")
    picture = tiny.draw(pipe)
    other = pipelines.StableDiffusionImg2ImgPipeline.from_pipe(pipe, plan="eager")
    assert numpy.array_equal(tiny.draw(pipe), picture)
    with pytest.warns(SdaccelWarning, match="shares them"):
        sdaccel.restore(pipe)
    assert numpy.array_equal(tiny.draw(pipe), picture)
    sdaccel.restore(other)
    assert numpy.array_equal(tiny.draw(pipe), stock)


def test_from_pipe_refuses_what_is_no_pipe() -> None:
    with pytest.raises(TargetError, match="not str"):
        pipelines.StableDiffusionImg2ImgPipeline.from_pipe("a folder", plan=None)


def test_from_single_file_accelerates_what_stock_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    (tmp_path / "model.safetensors").touch()
    loaded = tiny.stable_diffusion()
    seen = []

    def from_single_file(cls: Any, path: str, **options: Any) -> Any:
        seen.append((cls.__name__, path, options))
        return loaded

    monkeypatch.setattr(STOCK, "from_single_file", classmethod(from_single_file))
    made = factory.drop_in.__wrapped__("StableDiffusionPipeline")
    path = str(tmp_path / "model.safetensors")
    assert made.from_single_file(path, plan="fast", strict=True, config="c") is loaded
    assert seen == [("StableDiffusionPipeline", path, {"config": "c"})]
    assert calls == [{"pipe": loaded, "plan": "fast", "strict": True}]


def test_strict_raises_where_a_pass_refuses(folder: Path) -> None:
    pipe = load(pipelines.StableDiffusionPipeline, folder, plan="eager")
    with pytest.raises(PassError):
        pipelines.StableDiffusionImg2ImgPipeline.from_pipe(pipe, plan="eager", strict=True)


def test_a_video_pipeline_loads_accelerated_and_makes_stock_s_clip(tmp_path: Path) -> None:
    tiny_video.wan().save_pretrained(tmp_path)
    pipe = load(pipelines.WanPipeline, tmp_path, plan="eager")
    assert isinstance(pipe, diffusers.WanPipeline)
    assert sdaccel.report(pipe).accelerated
    stock = tiny_video.draw(tiny_video.wan()).astype(int)
    assert abs(tiny_video.draw(pipe) - stock).max() <= 1
    sdaccel.restore(pipe)
    assert (tiny_video.draw(pipe) == stock).all()
