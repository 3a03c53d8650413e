"""Exported graphs that the rungs of a run share with each other and with the processes it starts.

They lie in a temporary folder that the environment names, and are gone when the run ends. Exporting
Stable Diffusion 1.5's UNet takes longer than timing it, and five rungs of two processes each want
it; int8 is calibrated once for all runtimes.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdaccel.export.quantize import Calibration
    from sdaccel.target import Component

FOLDER = "SDACCEL_BENCHMARK_GRAPHS"
"""The environment's name for the folder."""


@dataclass(frozen=True)
class Kept:
    """A folder with graphs, and the seconds that earlier rungs have `spent` on what is in it."""

    folder: Path
    spent: float


def in_fp32(pipe: Any, denoisers: list[Component]) -> Kept:
    """The denoisers' graphs; raises `ExportError`."""
    from sdaccel.export import export
    from sdaccel.export.sessions_cache import key_of

    names = [each.name for each in denoisers]
    folder = _home() / key_of(denoisers, names, "fp32")
    options: Any = {"components": names, "precision": "fp32", "check": False, "rest": False}
    return Kept(folder, _once(folder, lambda: export(pipe, folder, **options)))


def at_its_shapes(
    pipe: Any, names: Sequence[str], label: str, make: Callable[[Path], object]
) -> Path:
    """A folder in which `make` has put graphs of these networks for the inputs of a workload.

    The workload goes by `label`.
    """
    from sdaccel.export.sessions_cache import key_of
    from sdaccel.target import Target

    networks = [each for each in Target.of(pipe).components if each.name in names]
    folder = _home() / f"{key_of(networks, names, None)}-{_plain(label)}-shapes"

    def made() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)

    _once(folder, made)
    return folder


def in_int8(
    whole: Kept,
    pipe: Any,
    label: str,
    draw: Callable[[], object],
    tolerance: float | None,
    outputs: bool,
) -> Kept:
    """The graphs of `whole` in int8, calibrated by `draw`, which goes by `label`.

    The rest is `quantize`'s; raises `ExportError`.
    """
    from sdaccel.export.quantize import apply_calibration, calibrate

    source = whole.folder
    name = f"{source.name}-{_plain(label)}"
    folder = source.with_name(f"{name}-{'outputs' if outputs else 'inputs'}")
    noted = source.with_name(f"{name}.json")

    def note() -> None:
        found = calibrate(source, pipe, draw, tolerance=tolerance)
        noted.write_text(json.dumps(asdict(found)), encoding="utf-8")

    def write() -> None:
        apply_calibration(source, folder, _read(noted), outputs=outputs)

    return Kept(folder, whole.spent + _once(noted, note) + _once(folder, write))


def _once(path: Path, make: Callable[[], object]) -> float:
    """Make what is not there yet; returns the seconds that it took before, 0 where it is new."""
    seconds = path.with_name(f"{path.name}.seconds")
    if seconds.exists():
        return float(seconds.read_text(encoding="utf-8"))
    start = time.perf_counter()
    make()
    seconds.write_text(str(time.perf_counter() - start), encoding="utf-8")
    return 0.0


def _plain(label: str) -> str:
    """A workload's label as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label)


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
