"""The trained weights, as package data, and how to load them.

A model is a folder that `save_pretrained` wrote, with two files more: `defaults.json`, the keywords
of the call that it is made for, and `checksums.json`, what its weight files must be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdaccel.shapes.weights.checksums import WeightsError, verify, write_checksums

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

__all__ = ["WeightsError", "call_defaults", "load", "names", "seal"]

_FOLDER = Path(__file__).parent
_DEFAULTS = "defaults.json"
_INDEX = "model_index.json"


def names() -> tuple[str, ...]:
    """The embedded models there are."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob(f"*/{_INDEX}")))


def call_defaults(name: str = "unet") -> dict[str, Any]:
    """The keywords that an embedded model is meant to be called with: `pipe(prompt, **these)`.

    An unknown name is a ValueError that lists the names there are.
    """
    path = _folder(name) / _DEFAULTS
    try:
        defaults: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} can't be read: reinstall sdaccel, or restore it.") from error
    return defaults


def load(
    name: str = "unet", *, dtype: torch.dtype | None = None, **kwargs: Any
) -> DiffusionPipeline:
    """Load an embedded model as the stock pipeline that it was saved as; nothing is downloaded.

    `dtype` is float32 unless given. Other keywords go to `from_pretrained`. An unknown name is a
    ValueError that lists the names there are, a missing, truncated or altered weight file a
    `WeightsError`, before any of it is loaded.
    """
    folder = _folder(name)
    verify(folder)
    import torch
    from diffusers import DiffusionPipeline, __version__
    from packaging.version import Version

    keyword = "dtype" if Version(__version__) >= Version("0.40.0") else "torch_dtype"
    settings = {keyword: dtype or torch.float32, "local_files_only": True}
    return DiffusionPipeline.from_pretrained(
        str(folder), **{**settings, **_left_out(folder), **kwargs}
    )


def seal(folder: Path, defaults: Mapping[str, Any]) -> None:
    """Make a saved pipeline an embedded model: write its call's keywords and its checksums.

    An export calls this last; whatever changes a weight file afterwards makes `load` refuse it.
    """
    text = json.dumps(dict(defaults), indent=2) + "\n"
    (folder / _DEFAULTS).write_text(text, encoding="utf-8")
    write_checksums(folder)


def _left_out(folder: Path) -> dict[str, None]:
    """The components saved as none: some pipelines load only when they are passed as none again."""
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    return {name: None for name, home in index.items() if home == [None, None]}


def _folder(name: str) -> Path:
    if name not in names():
        raise ValueError(f"there is no embedded model {name!r}; there is {', '.join(names())}")
    return _FOLDER / name
