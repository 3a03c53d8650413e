"""The options every command shares: which model, which plan; and how a model is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

DEFAULT = "shapes-unet"
_EMBEDDED = "shapes-"
DTYPES = ("float32", "bfloat16", "float16")


def add_options(parser: argparse.ArgumentParser, plan: str | None) -> None:
    """Those of `add_model_options`, and `--plan`; a `plan` of None means that none is applied."""
    add_model_options(parser)
    parser.add_argument(
        "--plan",
        default=plan,
        metavar="P",
        help="none, eager, lossless, balanced, fast, lossless+precision, a .json file "
        f"({plan or 'none'})",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--dtype`, and `--strict`."""
    parser.add_argument(
        "--model",
        default=DEFAULT,
        metavar="M",
        help="shapes-unet (the default), shapes-dit, shapes-video, a hub id, a folder or a "
        ".safetensors file",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="load the weights as this dtype (default: as they are saved)",
    )
    parser.add_argument("--strict", action="store_true", help="fail where a pass refuses")


def load(model: str, dtype: str | None = None) -> Any:
    """The stock pipeline of that name, on the GPU if there is one.

    Raises `ModelNotFoundError` where there is none.
    """
    import torch

    from ..pipelines.loading import load_pipeline

    pipe = load_pipeline(model)
    if dtype is not None:
        pipe = pipe.to(getattr(torch, dtype))
    return pipe.to("cuda") if torch.cuda.is_available() else pipe


def is_embedded(model: str) -> bool:
    """Whether the name is that of a model in the package."""
    return model.startswith(_EMBEDDED) and not Path(model).exists()


def call_defaults(model: str) -> dict[str, Any]:
    """The keywords that an embedded model is meant to be called with; none for other models."""
    if not is_embedded(model):
        return {}
    from .. import shapes

    return shapes.call_defaults(model.removeprefix(_EMBEDDED))
