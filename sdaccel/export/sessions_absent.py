"""Modules without weights, for a pipe that is loaded from an exported folder.

Their parameters have class, shape, dtype and device, but all values of one are the same zero, which
takes no memory. What pipelines read of a module (its config, dtype, device) is there; only calling
it needs a session.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ExportError
from ..patch import same_name_subclass
from ..target import ABSENT
from .manifest import FILE, Manifest
from .sessions_parts import HALVES, keeps_frames

_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


def is_export(folder: object) -> bool:
    """Whether a folder holds an exported pipeline."""
    return isinstance(folder, (str, Path)) and (Path(folder).expanduser() / FILE).is_file()


def absent_modules(folder: str | Path, given: Collection[str] = ()) -> dict[str, Any]:
    """A module without weights for each component that a folder has graphs of, by its name.

    Those that are `given` are left out. Raises `ExportError` for a folder that this version can't
    read.
    """
    home = Path(folder).expanduser()
    manifest = Manifest.read(home)
    try:
        index = json.loads((home / "model_index.json").read_text(encoding="utf-8"))
        return {
            name: _absent(home, name, _DTYPES.get(precision, "float32"), *index[name])
            for name, precision in _exported(manifest).items()
            if name not in given
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"'{folder}' lacks the pipeline's configuration ({error!r}): export the pipeline again."
        ) from error


def denoiser_precision(folder: str | Path) -> str:
    """The precision of a folder's denoiser: of what is neither the VAE nor a text encoder."""
    components = Manifest.read(Path(folder).expanduser()).components
    others = (
        entry.precision
        for name, entry in components.items()
        if name not in HALVES and not name.startswith("text_encoder")
    )
    return next(others, "fp32")


def _exported(manifest: Manifest) -> dict[str, str]:
    """The components of the pipeline that are exported, each with a precision of its graphs."""
    return {
        "vae" if name in HALVES else name: entry.precision
        for name, entry in manifest.components.items()
    }


def _absent(home: Path, name: str, dtype: str, library: str, class_name: str) -> Any:
    import torch
    from accelerate import init_empty_weights

    kind = getattr(import_module(library), class_name)
    with init_empty_weights():
        module = _made(kind, home / name)
    if keeps_frames(module):
        raise ExportError(
            f"No session takes the place of a {class_name}, for its halves keep frames between "
            f"calls: give it with its weights, from_pretrained(folder, {name}=...)."
        )
    module.eval().requires_grad_(False)
    target = getattr(torch, dtype)
    _convert(module, lambda value: value.to(target) if value.is_floating_point() else value)
    stock: Any = type(module)
    object.__setattr__(module, "__class__", _absent_class(stock))
    module.__dict__[ABSENT] = str(home)
    halves = [getattr(module, half, None) for half, _ in HALVES.values()]
    for each in [each for each in halves if each is not None] if name == "vae" else [module]:
        each.__dict__["forward"] = _unable
    return module


def _made(kind: Any, folder: Path) -> Any:
    if hasattr(kind, "load_config"):
        return kind.from_config(kind.load_config(str(folder)))
    return kind(kind.config_class.from_pretrained(str(folder)))


@functools.cache
def _absent_class(kind: Any) -> type:
    """A module's class, for which moving and casting makes no weights either."""
    return same_name_subclass(kind, {"_apply": _convert})


def _convert(module: Any, function: Callable[[Any], Any], recurse: bool = True) -> Any:
    """What `Module._apply` does: one zero of each parameter is converted, buffers as they are."""
    import torch

    for each in module.modules():
        for key, value in each._parameters.items():
            if value is not None:
                zero = function(torch.zeros((), dtype=value.dtype, device=_place(value)))
                each._parameters[key] = torch.nn.Parameter(zero.expand(value.shape), False)
        for key, value in each._buffers.items():
            if value is not None:
                each._buffers[key] = function(value)
    return module


def _place(value: Any) -> Any:
    return "cpu" if value.is_meta else value.device


def _unable(*args: Any, **kwargs: Any) -> Any:
    raise ExportError(
        "This pipe was loaded from an export and has no weights of its own: "
        "sdaccel.accelerate(pipe, plan='onnxruntime'), or 'openvino' or 'tensorrt', lets its "
        "graphs compute; sdaccel.report(pipe) says why a plan has not."
    )
