"""The building of an engine: a graph, parsed into a strongly typed network, with its profiles.

Strongly typed: every tensor keeps the precision that it has in the graph. TensorRT 10 is asked for
it, TensorRT 11 knows nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ExportError
from .tensorrt_keys import Recipe
from .tensorrt_profiles import Profile
from .tensorrt_progress import Bars, monitor
from .tensorrt_runtime import new_log, reason, release, runtime


@dataclass(frozen=True)
class Built:
    """An engine as bytes (`plan`), what was timed on the way, and how long it took in seconds."""

    plan: Any
    timings: bytes
    seconds: float


def build(graph: Path, recipe: Recipe, timings: bytes = b"", bars: Bars | None = None) -> Built:
    """Build an engine on the current GPU, which takes minutes.

    `timings` are those of engines built before, which are left out where TensorRT can't read them;
    `bars` makes a progress bar. Raises `ExportError`
    where TensorRT can't read the graph or build it, and `KeyboardInterrupt`.
    """
    package, start = runtime(), time.perf_counter()
    log = new_log(package)
    builder = made(package, log)
    network = builder.create_network(network_flags(package))
    # the network reads its weights from the parser's memory
    parser = parse(package, network, graph, log)
    config = configure(package, builder, network, recipe)
    cache = config.create_timing_cache(timings) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    watch = monitor(package, bars)
    config.progress_monitor = watch
    plan = builder.build_serialized_network(network, config)
    watch.close()
    del parser
    if watch.stopped:
        raise KeyboardInterrupt
    if plan is None:
        raise ExportError(
            f"TensorRT can't build an engine of {graph} ({reason(log)}): name smaller sizes, or "
            "use the plan 'onnxruntime'."
        )
    return Built(plan, bytes(memoryview(cache.serialize())), time.perf_counter() - start)


def made(package: Any, log: Any) -> Any:
    """A builder, or an `ExportError`: without a driver TensorRT makes none."""
    try:
        return package.Builder(log)
    except (TypeError, RuntimeError) as error:
        raise ExportError(
            f"TensorRT can't start here ({reason(log)}): look whether the GPU's driver is new "
            "enough for it."
        ) from error


def network_flags(package: Any) -> int:
    """Strong types, which TensorRT 11 has without being asked."""
    if release(package) >= (11, 0):
        return 0
    return 1 << int(package.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def parse(package: Any, network: Any, graph: Path, log: Any) -> Any:
    """Fill a network from a graph and the weights beside it; returns the parser, which holds them.

    Raises `ExportError` with the first node that TensorRT can't take.
    """
    parser = package.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        first = str(parser.get_error(0)).strip() if parser.num_errors else reason(log)
        raise ExportError(
            f"TensorRT can't read {graph} ({first[:300]}): use the plan 'onnxruntime'."
        )
    return parser


def configure(package: Any, builder: Any, network: Any, recipe: Recipe) -> Any:
    """The config that a recipe stands for; raises `ExportError` for a profile that does not fit."""
    config = builder.create_builder_config()
    config.builder_optimization_level = recipe.level
    flag = package.BuilderFlag
    (config.set_flag if recipe.tf32 else config.clear_flag)(flag.TF32)
    if recipe.refit:
        config.set_flag(flag.REFIT)
    inputs = {each.name: each for each in map(network.get_input, range(network.num_inputs))}
    for profile in recipe.profiles:
        _add(builder, config, profile, inputs)
    return config


def _add(builder: Any, config: Any, profile: Profile, inputs: dict[str, Any]) -> None:
    own = builder.create_optimization_profile()
    for name, shapes in profile.shapes.items():
        if name not in inputs:
            raise ExportError(f"The graph has no input '{name}': export the pipeline again.")
        if inputs[name].is_shape_tensor and name in profile.values:
            value = [profile.values[name]]
            _fitting(profile, own.set_shape_input, name, value, value, value)
        else:
            _fitting(profile, own.set_shape, name, *shapes)
    if config.add_optimization_profile(own) < 0:
        raise ExportError(f"TensorRT takes no profile for {profile.name}: name other sizes.")


def _fitting(profile: Profile, act: Callable[..., Any], name: str, *shapes: Any) -> None:
    try:
        act(name, *shapes)
    except RuntimeError as error:
        raise ExportError(
            f"TensorRT takes no profile for {profile.name}, at '{name}' ({error}): name others."
        ) from error
