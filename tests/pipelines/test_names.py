"""Every pipeline of the installed diffusers is there under its name, and only then imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

from sdaccel import pipelines
from sdaccel.pipelines.names import is_pipeline_name, pipeline_names

EXPECTED = (
    "AutoPipelineForImage2Image",
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "CogVideoXPipeline",
    "DiffusionPipeline",
    "FluxInpaintPipeline",
    "FluxPipeline",
    "LTXPipeline",
    "PixArtSigmaPipeline",
    "QwenImagePipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
    "WanImageToVideoPipeline",
    "WanPipeline",
    "WanVideoToVideoPipeline",
)


def test_dir_names_the_pipelines() -> None:
    assert set(EXPECTED) <= set(dir(pipelines))
    assert dir(pipelines) == sorted(pipelines.__all__)


def test_listing_the_names_imports_neither_torch_nor_diffusers(tmp_path: Path) -> None:
    code = (
        "import sys, sdaccel.pipelines as pipelines; names = dir(pipelines); "
        "print('FluxPipeline' in names, 'torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.split() == ["True", "False", "False"], run.stderr


def test_the_names_are_those_of_diffusers() -> None:
    assert set(pipeline_names()) == {name for name in dir(diffusers) if is_pipeline_name(name)}


@pytest.mark.parametrize(
    "name",
    ["FluxModularPipeline", "OnnxStableDiffusionPipeline", "ImagePipelineOutput", "UNet2DModel"],
)
def test_other_things_are_no_pipelines(name: str) -> None:
    assert not is_pipeline_name(name)
    assert not hasattr(pipelines, name)


def test_every_pipeline_class_resolves() -> None:
    for name in dir(pipelines):
        stock, ours = getattr(diffusers, name), getattr(pipelines, name)
        if hasattr(stock, "_backends"):
            assert ours is stock
            continue
        assert ours is not stock
        assert issubclass(ours, stock)
        assert ours.__name__ == stock.__name__ == name
        assert ours.__init__ is stock.__init__
        for verb in ("from_pretrained", "from_single_file", "from_pipe"):
            assert hasattr(ours, verb) == hasattr(stock, verb)


def test_every_pipeline_of_the_auto_mappings_is_named() -> None:
    from diffusers.pipelines import auto_pipeline

    classes = {
        cls for mapping in auto_pipeline.SUPPORTED_TASKS_MAPPINGS for cls in mapping.values()
    }
    assert {cls.__name__ for cls in classes} <= set(dir(pipelines))


def test_a_pipeline_is_the_same_class_each_time() -> None:
    from sdaccel.pipelines import StableDiffusionPipeline

    assert StableDiffusionPipeline is pipelines.StableDiffusionPipeline


def test_a_missing_name_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean StableDiffusionPipeline"):
        _ = pipelines.StableDifusionPipeline
    with pytest.raises(ImportError, match="did you mean FluxKontextPipeline"):
        from sdaccel.pipelines import FluxContextPipeline  # noqa: F401


def test_names_of_modules_and_private_names_are_quick_to_miss() -> None:
    assert not hasattr(pipelines, "__wrapped__")
    assert not hasattr(pipelines, "nothing")
