"""The metrics that need a network: what they say with one here, and how they refuse without."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import tiny

from sdaccel.errors import MetricError
from sdaccel.quality.perceptual import load_lpips
from sdaccel.quality.text_image import load_clip_score, load_image_reward

PICTURE = numpy.random.default_rng(0).random((40, 48, 3))


def _clip() -> tuple[Any, Any]:
    """A CLIP of random weights for pictures of 32x32, and its processor."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor

    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    tokenizer = tiny.tokenizer()
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return model.eval(), CLIPProcessor(CLIPImageProcessor(**size), tokenizer)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    for each in _clip():
        each.save_pretrained(folder)
    return folder


def test_clip_score_is_the_cosine_of_what_clip_makes_of_picture_and_prompt(
    clip_folder: Path,
) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor

    levels = (PICTURE * 255).round().astype(numpy.uint8)
    processor = AutoProcessor.from_pretrained(clip_folder)
    given = processor(text=["a cat"], images=[levels], return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(clip_folder).eval()(**given)
    cosine = float((expected.text_embeds * expected.image_embeds).sum())
    score = load_clip_score(str(clip_folder))
    assert score(PICTURE, "a cat") == pytest.approx(max(0.0, 100 * cosine), abs=1e-3)
    other = score(1 - PICTURE, "a dog, and so on and so on, far beyond what it reads")
    assert 0 <= other <= 100


def test_clip_score_of_a_clip_is_of_its_frames(clip_folder: Path) -> None:
    score = load_clip_score(str(clip_folder))
    still = numpy.repeat(PICTURE[None], 9, 0)
    assert score(still, "a cat") == pytest.approx(score(PICTURE, "a cat"), abs=1e-3)


def test_without_its_weights_clip_score_says_how_to_get_them() -> None:
    with pytest.raises(MetricError, match="hf download nobody/has-this-clip"):
        load_clip_score("nobody/has-this-clip")


@pytest.mark.parametrize("missing", ["torchmetrics", "torchvision"])
def test_without_a_package_lpips_names_the_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else name)
    with pytest.raises(MetricError, match=rf"needs {missing}: pip install .sdaccel\[quality\]"):
        load_lpips()


def test_a_torchvision_for_another_torch_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MetricError, match="a torchvision that fits this torch"):
        load_lpips()


def test_lpips_never_downloads_and_says_which_file_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = SimpleNamespace(DEFAULT=SimpleNamespace(url="https://somewhere/alexnet-1.pth"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.models", SimpleNamespace(AlexNet_Weights=here))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(MetricError, match=r"alexnet-1\.pth: fetch them once with python -c"):
        load_lpips()


def test_without_its_package_or_weights_image_reward_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(MetricError, match="transformers 4"):
        load_image_reward()
    monkeypatch.setitem(sys.modules, "ImageReward", SimpleNamespace())
    with pytest.raises(MetricError, match=r"ImageReward\.pt: hf download"):
        load_image_reward(tmp_path)


def test_image_reward_scores_pil_images_with_the_weights_at_hand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ImageReward.pt", "med_config.json"):
        (tmp_path / name).touch()

    def load(weights: str, med_config: str) -> Any:
        assert (weights, med_config) == (
            str(tmp_path / "ImageReward.pt"),
            str(tmp_path / "med_config.json"),
        )
        return SimpleNamespace(score=lambda prompt, image: len(prompt) + image.width)

    monkeypatch.setitem(sys.modules, "ImageReward", SimpleNamespace(load=load))
    assert load_image_reward(tmp_path)(PICTURE, "a cat") == 5 + 48
