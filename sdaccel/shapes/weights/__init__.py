"""The trained weights, as package data, and how to load them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The embedded models there are."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/model_index.json")))


def load(
    name: str = "unet", *, dtype: torch.dtype | None = None, **kwargs: Any
) -> StableDiffusionPipeline:
    """Load an embedded model as a stock diffusers pipeline; nothing is downloaded.

    `dtype` is float32 unless given. Other keywords go to `from_pretrained`. An unknown name is a
    ValueError that lists the names there are.
    """
    if name not in names():
        raise ValueError(f"there is no embedded model {name!r}; there is {', '.join(names())}")
    import torch
    from diffusers import StableDiffusionPipeline

    settings = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
        "local_files_only": True,
        **kwargs,
    }
    pipe = StableDiffusionPipeline.from_pretrained(str(_FOLDER / name), **settings)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            # Module.to, because from_pretrained renamed its keyword for the dtype in 2026.
            torch.nn.Module.to(component, dtype or torch.float32)
    return pipe
