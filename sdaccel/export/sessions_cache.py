"""Exports made on the fly, kept in the user's cache and found again by what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from ..kernels.native import cache_folder
from .manifest import FILE, Precision

if TYPE_CHECKING:
    from ..target import Component

_PACKAGES = ("sdaccel", "torch", "diffusers", "transformers", "onnx", "onnxscript")


def cached_export(
    pipe: Any,
    components: Collection[Component],
    names: Collection[str] | None,
    precision: str | None,
) -> Path:
    """The folder with graphs of these components; exported now unless it is there.

    `names` are those in the manifest, None all that the pipe runs; without a `precision` each is
    exported as its weights are. What is not exported has no weights there, for the pipe has them.
    The key is a checksum of the weights, their configs, and the versions of the packages. Raises
    `ExportError`.
    """
    folder = cache_folder() / "exports" / key_of(components, names, precision)
    if not (folder / FILE).is_file():
        from .pipeline import export

        export(pipe, folder, components=names, precision=_exportable(precision), rest=False)
    return folder


def _exportable(precision: str | None) -> Precision | None:
    if precision in (None, "fp32", "fp16", "bf16"):
        return precision  # type: ignore[return-value]
    raise ExportError(
        f"An export in {precision} has to be calibrated: make one with "
        "sdaccel.export.quantize.quantize, and name its folder."
    )


def key_of(
    components: Iterable[Component], names: Collection[str] | None, precision: str | None
) -> str:
    """What `cached_export` finds an export by: the same for the same graphs."""
    digest = hashlib.sha256()
    versions = {each: _version(each) for each in _PACKAGES}
    asked = None if names is None else sorted(names)
    digest.update(json.dumps([versions, asked, precision]).encode())
    for component in components:
        digest.update(f"{component.name} {type(component.module).__name__}".encode())
        digest.update(json.dumps(_settings(component.module), sort_keys=True, default=str).encode())
        _add_weights(digest, component.module)
    return digest.hexdigest()[:24]


def _settings(module: Any) -> dict[str, Any]:
    """A module's config without what is noted of how it was made, whose order is a set's."""
    from .examples import settings_of

    if getattr(module, "config", None) is None:
        return {}
    return {key: each for key, each in settings_of(module).items() if not key.startswith("_")}


def _add_weights(digest: Any, module: Any) -> None:
    import torch

    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().flatten()
        digest.update(memoryview(plain.view(torch.uint8).numpy()))


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return ""
