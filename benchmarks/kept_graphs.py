"""Exported graphs that the rungs of a run share with each other and with the processes it starts.

They lie in a temporary folder that the environment names, and are gone when the run ends. Exporting
Stable Diffusion 1.5's UNet takes longer than timing it, and four rungs of two processes each want
it; int8 is calibrated once for all runtimes.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdaccel.export.quantize import Calibration
    from sdaccel.target import Component

FOLDER = "SDACCEL_BENCHMARK_GRAPHS"
"""The environment's name for the folder."""


def in_fp32(pipe: Any, denoisers: list[Component]) -> Path:
    """The folder with the denoisers' graphs; raises `ExportError`."""
    from sdaccel.export.sessions_cache import cached_export

    names = [each.name for each in denoisers]
    return cached_export(pipe, denoisers, names, "fp32", home=_home(), check=False)


def in_int8(
    source: Path,
    pipe: Any,
    label: str,
    draw: Callable[[], object],
    tolerance: float | None,
    outputs: bool,
) -> Path:
    """The folder with the graphs of `source` in int8, calibrated by `draw`, which goes by `label`.

    The rest is `quantize`'s; raises `ExportError`.
    """
    from sdaccel.export.quantize import apply_calibration, calibrate

    name = f"{source.name}-{re.sub(r'[^A-Za-z0-9]+', '-', label)}"
    folder = source.with_name(f"{name}-{'outputs' if outputs else 'inputs'}")
    if not folder.exists():
        noted = source.with_name(f"{name}.json")
        if not noted.exists():
            found = calibrate(source, pipe, draw, tolerance=tolerance)
            noted.write_text(json.dumps(asdict(found)), encoding="utf-8")
        apply_calibration(source, folder, _read(noted), outputs=outputs)
    return folder


def _home() -> Path:
    kept = os.environ.get(FOLDER)
    if kept is None:
        kept = os.environ[FOLDER] = tempfile.mkdtemp(prefix="sdaccel-graphs-")
        atexit.register(shutil.rmtree, kept, ignore_errors=True)
    return Path(kept)


def _read(path: Path) -> Calibration:
    from sdaccel.export.quantize import Calibration
    from sdaccel.export.quantize_calibration import LayerRanges, Range

    found = json.loads(path.read_text(encoding="utf-8"))
    ranges = {
        name: LayerRanges(Range(**each["input"]), Range(**each["output"]))
        for name, each in found["ranges"].items()
    }
    return Calibration(ranges, tuple(found["left_out"]), found["sensitivities"])
