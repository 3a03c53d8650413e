"""How well a picture suits its prompt, by networks that read both.

Both look for weights on this machine and never download any: what is missing is a `MetricError`
that says how to get it. A clip is scored by four of its frames. Neither score is a measure of
quality alone: noise has one too, which is why `gates` looks for faults first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import MetricError
from .pixels import as_frames

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP = "openai/clip-vit-large-patch14"
_FRAMES = 4
_REWARD_HOME = Path("~/.cache/ImageReward")


def load_clip_score(model: str = CLIP) -> Callable[[Any, str], float]:
    """CLIP score of a picture and a prompt: 100 times the cosine of their features, 0 to 100.

    Hessel, Holtzman, Forbes, Bras and Choi, "CLIPScore: A Reference-free Evaluation Metric for
    Image Captioning" (2021), on another scale. torchmetrics 1.9 has it too, but fails on the CLIP
    of transformers 5. `model` is a folder, or a hub id in the cache. Prompts are cut to the tokens
    that CLIP reads.
    """
    import torch
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from transformers import AutoModel, AutoProcessor

    try:
        # Looked up here, because transformers asks the hub even for local files alone.
        folder = model if Path(model).is_dir() else snapshot_download(model, local_files_only=True)
        network = AutoModel.from_pretrained(folder).eval()
        processor = AutoProcessor.from_pretrained(folder)
    except (LocalEntryNotFoundError, OSError) as error:
        raise MetricError(
            f"CLIP score needs {model}, which is not (whole) on this machine: "
            f"hf download {model} gets it."
        ) from error

    @torch.no_grad()
    def clip_score(shown: Any, prompt: str) -> float:
        given = processor(
            text=[prompt],
            images=_images(shown),
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        text = _features(
            network.get_text_features(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"]
            )
        )
        images = _features(network.get_image_features(pixel_values=given["pixel_values"]))
        return 100 * max(0.0, float((images @ text.T).mean()))

    return clip_score


def load_image_reward(home: Path = _REWARD_HOME) -> Callable[[Any, str], float]:
    """ImageReward of a picture and a prompt: how people would rank it, 0 on average, no bounds.

    Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation"
    (2023), by its own package, from `ImageReward.pt` and `med_config.json` in `home`. The package's
    last version, 1.5, can't be imported beside transformers 5.
    """
    try:
        import ImageReward
    except ImportError as error:
        raise MetricError(
            f"ImageReward needs its package ({error}): pip install image-reward, in an environment "
            "with transformers 4."
        ) from error
    weights, config = (home.expanduser() / name for name in ("ImageReward.pt", "med_config.json"))
    for file in (weights, config):
        if not file.is_file():
            raise MetricError(
                f"ImageReward needs {file}: hf download THUDM/ImageReward --local-dir {home}."
            )
    network = ImageReward.load(str(weights), med_config=str(config))

    def image_reward(shown: Any, prompt: str) -> float:
        return fmean(float(network.score(prompt, image)) for image in _images(shown))

    return image_reward


def _images(shown: Any) -> list[Image]:
    """A picture, or four frames of a clip at equal distances, as PIL images."""
    import numpy
    from PIL import Image

    frames = as_frames(shown)
    kept = numpy.unique(numpy.linspace(0, len(frames) - 1, _FRAMES).round().astype(int))
    levels = (frames[kept].clip(0, 1) * 255).round().astype(numpy.uint8)
    return [Image.fromarray(each) for each in levels]


def _features(output: Any) -> Any:
    """CLIP's features, which transformers 5 wraps, scaled to length 1."""
    features = getattr(output, "pooler_output", output)
    return features / features.norm(dim=-1, keepdim=True)
