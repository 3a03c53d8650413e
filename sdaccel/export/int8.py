"""A pipeline exported with its denoiser in static int8, in one go."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from ..target import Target
from .pipeline import Attention, Job, Told, export, jobs_of, left_by, room_of
from .quantize import Quantized, quantize

if TYPE_CHECKING:
    import torch


def export_int8(
    pipe: Any,
    folder: str | Path,
    draw: Callable[[], object],
    *,
    components: Collection[str] | None = None,
    attention: Attention = "decomposed",
    check: bool = True,
    tell: Told | None = None,
    **options: Any,
) -> Quantized:
    """Export a pipeline as `export` does in fp32, but its denoiser in static int8.

    `draw` makes a few typical calls of the pipe; `options` are `quantize`'s. For a while the graphs
    in fp32 lie beside the folder. Raises `ExportError` and leaves nothing behind; too little room
    on the disk for all of it is found before anything is exported.
    """
    import torch

    from .space import GRAPH, bytes_of, check_new, check_room

    path = Path(folder)
    jobs = list(jobs_of(pipe, components, "fp32", attention))
    check_new(path)
    in_int8 = bytes_of(_denoiser(pipe, jobs), torch.int8) + GRAPH
    check_room(path, room_of(jobs, left_by(pipe, jobs)) + in_int8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fp32-") as made:
        source = Path(made) / "fp32"
        export(
            pipe,
            source,
            components=components,
            precision="fp32",
            attention=attention,
            check=check,
            tell=tell,
        )
        return quantize(source, path, pipe, draw, move=True, **options)


def _denoiser(pipe: Any, jobs: Collection[Job]) -> torch.nn.Module:
    """What will be in int8."""
    names = [each.name for each in Target.of(pipe).denoisers]
    for job in jobs:
        if job.name in names:
            return job.module
    raise ExportError(
        f"It is the denoiser that int8 is for: export {' or '.join(names)} as well, or leave "
        "components out."
    )
