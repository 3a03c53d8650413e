"""An exported folder with engines beside its graphs, for the kind of GPU that is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import tensorrt_runtime
from .pipeline import export
from .sessions_parts import parts_of
from .space import new_folder
from .tensorrt_engines import ENGINES, Opened, build_engine, wanted
from .tensorrt_profiles import Request
from .tensorrt_store import EngineStore

if TYPE_CHECKING:
    import torch

    from .manifest import Manifest
    from .sessions_parts import Part
    from .tensorrt_progress import Bars

Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Exported:
    """A folder's manifest, and its engines by the names of their components."""

    manifest: Manifest
    engines: dict[str, Opened]


def check_gpu(device: torch.device) -> None:
    """Raise `ExportError` where no engine can be built: before a model is loaded."""
    tensorrt_runtime.gpu_of(device)
    tensorrt_runtime.runtime()


def export_engines(
    pipe: Any,
    folder: str | Path,
    device: torch.device,
    *,
    sizes: Sequence[str] | None = None,
    batch: int = 1,
    tokens: int | None = None,
    tell: Told | None = None,
    bars: Bars | None = None,
    **options: Any,
) -> Exported:
    """Export a pipeline as `export` does, and build an engine of each of its models.

    `sizes`, `batch` and `tokens` are those of the pass `tensorrt`, which takes these engines where
    it is asked for the same on the same kind of GPU; `bars` makes progress bars of the builds, and
    `options` are `export`'s. Raises `ExportError` and leaves no folder behind.
    """
    check_gpu(device)
    request = Request.of(pipe, sizes, batch, tokens)
    with new_folder(Path(folder)) as made:
        manifest = export(pipe, made, tell=tell, **options)
        parts = _parts(pipe, manifest)
        engines = {}
        for index, part in enumerate(parts):
            if tell is not None:
                tell(f"{part.name}'s engine", index, len(parts))
            with tensorrt_runtime.current(device):
                asked = wanted(part, made, pipe, device, request)
                engines[part.name] = build_engine(asked, EngineStore(made / ENGINES), bars)
    return Exported(manifest, engines)


def _parts(pipe: Any, manifest: Manifest) -> list[Part]:
    from ..target import Target

    components = [each for each in Target.of(pipe).components if each.kind != "other"]
    return [part for each in components for part in parts_of(each, manifest)]
