"""Where an engine comes from: the disk, another that is refitted, or TensorRT's builder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ExportError
from ..kernels.native import cache_folder
from . import tensorrt_runtime
from .tensorrt_build import build
from .tensorrt_keys import EngineKey, Recipe, key_of
from .tensorrt_profiles import Request, joined, profiles_of
from .tensorrt_runtime import Gpu, new_log, reason, runtime
from .tensorrt_store import DamagedEngineError, EngineStore, Kept, write_whole

if TYPE_CHECKING:
    import torch

    from .manifest import ComponentEntry
    from .sessions_parts import Part
    from .tensorrt_progress import Bars

_MORE = 1.25
"""How much larger than its weights an engine is taken to be, before it is built."""
_DROPS_BIASES = (11, 3)
"""TensorRT 11.3 may lose biases in engines that can be refitted (its release notes)."""

ENGINES = "engines"
"""The folder of engines, in the user's cache and in an exported folder."""

How = Literal["loaded", "refitted", "built"]


@dataclass(frozen=True)
class Opened:
    """An engine in TensorRT; `notes` say what stood in the way of a shorter way to it."""

    engine: Any
    how: How
    seconds: float
    plan_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """An engine of one exported graph, on one kind of GPU."""

    name: str
    graph: Path
    entry: ComponentEntry
    recipe: Recipe
    gpu: Gpu

    @property
    def key(self) -> EngineKey:
        """Its key under the TensorRT that is here."""
        return key_of(self.graph, self.entry, self.recipe, self.gpu, runtime().__version__)

    @property
    def about(self) -> dict[str, Any]:
        """What is kept beside the engine, for people and for `others`."""
        return {
            "component": self.name,
            "gpu": self.gpu.name,
            "tensorrt": runtime().__version__,
            "sizes": joined(self.recipe.profiles),
            "precision": self.entry.precision,
        }


def wanted(
    part: Part,
    folder: Path,
    pipe: Any,
    device: torch.device,
    request: Request,
    *,
    refit: bool = True,
    level: int = 3,
) -> Wanted:
    """The engine of one part of an exported folder. Raises `ExportError`; see `profiles_of`."""
    profiles = profiles_of(part.name, part.owner, part.entry, pipe, request)
    safe = tensorrt_runtime.release(runtime()) != _DROPS_BIASES
    recipe = Recipe(profiles, refit=refit and safe, level=level)
    gpu = tensorrt_runtime.gpu_of(device)
    return Wanted(part.name, folder / part.entry.file, part.entry, recipe, gpu)


def cache(gigabytes: float) -> EngineStore:
    """The user's engines, of which so many GB are kept."""
    return EngineStore(cache_folder() / ENGINES, int(gigabytes * 1e9))


def open_engine(
    wanted: Wanted, shipped: EngineStore, cache: EngineStore, bars: Bars | None = None
) -> Opened:
    """The engine from a user's folder, from the cache, by refitting one, or built.

    What was built is kept in the cache. Raises `ExportError`: for an engine in the user's folder
    that was tampered with, a graph that TensorRT can't build, a disk without room.
    """
    key = wanted.key
    found = shipped.find(key)
    if found is not None:
        try:
            return _opened(wanted, found, "loaded", ())
        except DamagedEngineError as error:
            raise ExportError(f"{error}: export the pipeline again.") from error
    notes = others(wanted, shipped)
    for how, kept in _candidates(wanted, key, (cache, shipped)):
        try:
            return _opened(wanted, kept, how, notes)
        except ExportError as error:
            notes.append(f"{wanted.name}: {error}: another is built")
            if isinstance(error, DamagedEngineError):
                cache.drop(kept)
    return build_engine(wanted, cache, bars, notes)


def build_engine(
    wanted: Wanted, store: EngineStore, bars: Bars | None = None, notes: Sequence[str] = ()
) -> Opened:
    """Build an engine, and keep it in a store, with what was timed. See `open_engine`."""
    needed = sum((wanted.graph.parents[1] / each).stat().st_size for each in wanted.entry.checksums)
    store.check_room(int(_MORE * needed))
    timings = store.timings(_file_name(wanted.gpu))
    known = timings.read_bytes() if timings.is_file() else b""
    built = build(wanted.graph, wanted.recipe, known, bars)
    kept = store.keep(wanted.key, built.plan, {**wanted.about, "seconds": round(built.seconds, 1)})
    write_whole(timings, built.timings)
    plan = memoryview(built.plan).cast("B")
    return Opened(_load(plan, kept.folder), "built", built.seconds, plan.nbytes, tuple(notes))


def others(wanted: Wanted, shipped: EngineStore) -> list[str]:
    """Why none of a folder's engines of this component serves; nothing where it has none."""
    about = wanted.about
    for kept in shipped.all():
        if kept.about.get("component") != wanted.name:
            continue
        differs = [
            f"{key} {kept.about.get(key)}" for key in about if kept.about.get(key) != about[key]
        ]
        there = ", ".join(differs) or "other weights or settings"
        return [f"{wanted.name}: the engine in {shipped.folder} is for {there}"]
    return []


def refit(engine: Any, graph: Path, log: Any) -> None:
    """Put a graph's weights into an engine of the same structure.

    Raises `ExportError` where TensorRT lacks a weight, or rejects one; the engine is useless then.
    """
    package = runtime()
    refitter = package.Refitter(engine, log)
    parser = package.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(graph)):
        told = str(parser.get_error(0)) if parser.num_errors else reason(log)
        raise ExportError(f"the engine can't be refitted ({told[:300]})")
    lacking = refitter.get_missing_weights()
    if lacking or not refitter.refit_cuda_engine():
        raise ExportError(f"the engine can't be refitted ({lacking[:3] or reason(log)})")


def _candidates(
    wanted: Wanted, key: EngineKey, stores: Sequence[EngineStore]
) -> Iterator[tuple[How, Kept]]:
    """Engines to try: of the same weights, then the last used of the same structure."""
    exact = [found for found in (each.find(key) for each in stores) if found is not None]
    yield from (("loaded", each) for each in exact)
    if wanted.recipe.refit:
        alike = [each for store in stores for each in store.alike(key)]
        names = [each.folder for each in exact]
        others = (each for each in alike if each.folder not in names)
        yield from (("refitted", each) for each in islice(others, 1))


def _opened(wanted: Wanted, kept: Kept, how: How, notes: Sequence[str]) -> Opened:
    start = time.perf_counter()
    plan = kept.read()
    engine = _load(plan, kept.folder)
    if how == "refitted":
        refit(engine, wanted.graph, new_log(runtime()))
    return Opened(engine, how, time.perf_counter() - start, len(plan), tuple(notes))


def _load(plan: Any, place: Path) -> Any:
    package = runtime()
    log = new_log(package)
    engine = package.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise DamagedEngineError(f"TensorRT can't load {place} ({reason(log)})")
    return engine


def _file_name(gpu: Gpu) -> str:
    return hashlib.sha256(f"{gpu} {runtime().__version__}".encode()).hexdigest()[:24]
