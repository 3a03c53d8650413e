"""As much of TensorRT's Python API as sdaccel uses, without a GPU: engines compute in ONNX Runtime.

Every class has the names and arguments that the package documents, and no others: anything else
raises, as it would there. `calls` are those that make a network and a config, in order. A plan
holds the graph with its weights, so an engine that is refitted computes something else afterwards.
`tests/export/test_tensorrt_build.py` holds this file to the package itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import importlib.machinery
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GPU = "Fake GPU"


class Strict:
    """Takes no attribute but its `settable` ones from outside."""

    settable: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self.settable:
            raise AttributeError(f"{type(self).__name__} has no attribute '{name}' to set")
        super().__setattr__(name, value)


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class BuilderFlag(enum.IntEnum):
    REFIT = 4
    TF32 = 6


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class TensorLocation(enum.IntEnum):
    DEVICE, HOST = range(2)


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITensor(Strict):
    def __init__(self, info: Any) -> None:
        self._info = info

    @property
    def name(self) -> str:
        return str(self._info.name)

    @property
    def shape(self) -> tuple[int, ...]:
        dims = self._info.type.tensor_type.shape.dim
        return tuple(each.dim_value if each.HasField("dim_value") else -1 for each in dims)

    @property
    def is_shape_tensor(self) -> bool:
        from onnx import TensorProto

        return not self.shape and self._info.type.tensor_type.elem_type == TensorProto.INT64


class INetworkDefinition(Strict):
    def __init__(self, flags: int) -> None:
        self._flags, self._model = flags, None

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._model.graph.input[index])


class ParserError(Strict):
    def __init__(self, told: str) -> None:
        self._told = told

    def __str__(self) -> str:
        return self._told


class OnnxParser(Strict):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._errors = network, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        import onnx

        assert isinstance(model, str)
        try:
            self._network._model = onnx.load(model)
        except Exception as error:
            self._errors.append(ParserError(f"In node -1 (parse): {error}"))
            return False
        return True


class IOptimizationProfile(Strict):
    def __init__(self, calls: list[Any]) -> None:
        self._calls, self._shapes = calls, dict[str, Any]()

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._calls.append(("set_shape", input, min, opt, max))
        self._shapes[input] = (min, opt, max)

    def set_shape_input(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._calls.append(("set_shape_input", input, min, opt, max))
        self._shapes[input] = ((), (), ())


class ITimingCache(Strict):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content)


class IBuilderConfig(Strict):
    settable = ("builder_optimization_level", "progress_monitor")

    def __init__(self, calls: list[Any]) -> None:
        self._calls, self._profiles = calls, list[IOptimizationProfile]()
        self._flags, self._cache = {BuilderFlag.TF32}, None
        self.builder_optimization_level, self.progress_monitor = 3, None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._calls.append(("set_flag", flag.name))
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._calls.append(("clear_flag", flag.name))
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._calls.append(("add_optimization_profile",))
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        content = bytes(serialized_timing_cache)
        return None if content.startswith(b"damaged") else ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._calls.append(("set_timing_cache", cache._content, ignore_mismatch))
        self._cache = cache
        return True


class Runtime(Strict):
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        try:
            held = pickle.loads(bytes(serialized_engine))
        except Exception:
            self._logger.log(Severity.ERROR, "Serialization assertion magicTag failed.")
            return None
        if held["version"] != sys.modules["tensorrt"].__version__:
            self._logger.log(Severity.ERROR, "The engine plan file is not compatible.")
            return None
        return ICudaEngine(held)


class ICudaEngine(Strict):
    def __init__(self, held: dict[str, Any]) -> None:
        import onnx

        self._held, self._model = held, onnx.ModelProto.FromString(held["model"])
        self._revision = 0

    @property
    def device_memory_size_v2(self) -> int:
        return 5_000_000

    @property
    def refittable(self) -> bool:
        return bool(self._held["refit"])

    def get_tensor_location(self, name: str) -> TensorLocation:
        infos = {each.name: ITensor(each) for each in self._model.graph.input}
        return TensorLocation.HOST if infos[name].is_shape_tensor else TensorLocation.DEVICE

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)

    @property
    def _weights(self) -> dict[str, Any]:
        from onnx import TensorProto

        floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
        scales = {x for n in self._model.graph.node if n.op_type == "Resize" for x in n.input[1:]}
        found = self._model.graph.initializer
        return {
            each.name: each
            for each in found
            if each.data_type in floats and each.dims and each.name not in scales
        }


class IExecutionContext(Strict):
    """One call at a time: addresses are the host's."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._profile = engine, 0
        self._shapes, self._places = dict[str, Any](), dict[str, int]()
        self._computed: Any = None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile, self._shapes = profile_index, {}
        return profile_index < len(self._engine._held["profiles"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert isinstance(shape, tuple)
        low, _, high = self._engine._held["profiles"][self._profile][name]
        inside = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        self._shapes[name] = shape if inside else None
        self._computed = None
        return inside

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._places[name] = int(memory)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._outputs()[name].shape)

    def execute_async_v3(self, stream_handle: int) -> bool:
        for name, array in self._outputs().items():
            ctypes.memmove(self._places[name], array.ctypes.data, array.nbytes)
        return True

    def _outputs(self) -> dict[str, Any]:
        import numpy as np
        import onnx
        import onnxruntime

        if self._computed is None:
            graph = self._engine._model.graph
            feeds = {}
            for each in graph.input:
                kind = onnx.helper.tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type)
                shape = self._shapes[each.name]
                size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
                held = ctypes.string_at(self._places[each.name], size)
                feeds[each.name] = np.frombuffer(held, kind).reshape(shape)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                self._engine._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            names = [each.name for each in graph.output]
            found = session.run(names, feeds)
            self._computed = {
                name: np.ascontiguousarray(each) for name, each in zip(names, found, strict=True)
            }
        return dict(self._computed)


class Refitter(Strict):
    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        if not engine.refittable:
            raise RuntimeError("the engine is not refittable")
        self._engine, self._given = engine, dict[str, Any]()

    def get_all_weights(self) -> list[str]:
        return list(self._engine._weights)

    def get_missing_weights(self) -> list[str]:
        return [each for each in self._engine._weights if each not in self._given]

    def refit_cuda_engine(self) -> bool:
        for name, own in self._engine._weights.items():
            own.CopyFrom(self._given[name])
        return True


class OnnxParserRefitter(Strict):
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter, self._errors = refitter, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def refit_from_file(self, model: str) -> bool:
        import onnx

        given = {each.name: each for each in onnx.load(model).graph.initializer}
        for name, own in self._refitter._engine._weights.items():
            if name not in given or list(given[name].dims) != list(own.dims):
                self._errors.append(ParserError(f"no weights of this shape for {name}"))
                return False
            self._refitter._given[name] = given[name]
        return True


class Builder(Strict):
    def __init__(self, logger: ILogger) -> None:
        self._logger, self._calls = logger, sys.modules["tensorrt"].calls

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        self._calls.append(("create_network", flags))
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._calls)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self._calls)

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        self._calls.append(("build_serialized_network", config.builder_optimization_level))
        if not self._told(config.progress_monitor):
            return None
        dynamic = [x for x in map(network.get_input, range(network.num_inputs)) if -1 in x.shape]
        for profile in config._profiles:
            lacking = [each.name for each in dynamic if each.name not in profile._shapes]
            if lacking:
                self._logger.log(Severity.ERROR, f"{lacking[0]} has no profile")
                return None
        config._cache._content += b"+"
        held = {
            "version": sys.modules["tensorrt"].__version__,
            "profiles": [each._shapes for each in config._profiles],
            "refit": BuilderFlag.REFIT in config._flags,
            "model": network._model.SerializeToString(),
        }
        return IHostMemory(pickle.dumps(held))

    @staticmethod
    def _told(watch: IProgressMonitor) -> bool:
        watch.phase_start("Building engine", None, 2)
        watch.phase_start("Timing tactics", "Building engine", 1)
        going = watch.step_complete("Timing tactics", 0)
        watch.phase_finish("Timing tactics")
        return going and watch.step_complete("Building engine", 0)


CLASSES = (
    *(Severity, BuilderFlag, NetworkDefinitionCreationFlag, TensorLocation, IHostMemory, ILogger),
    *(IProgressMonitor, ITensor, INetworkDefinition, ParserError, OnnxParser, IBuilderConfig),
    *(IOptimizationProfile, ITimingCache, Runtime, ICudaEngine, IExecutionContext, Refitter),
    *(OnnxParserRefitter, Builder),
)


def package(version: str = "10.13.3.9") -> Any:
    """The package under its own name; `Severity` is a part of `ILogger`, as it is there."""
    found: Any = types.ModuleType("tensorrt")
    found.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    found.__version__, found.calls = version, []
    for each in CLASSES:
        if each is not Severity:
            setattr(found, each.__name__, each)
    return found


def install(monkeypatch: pytest.MonkeyPatch, version: str = "10.13.3.9", gpu: str = GPU) -> Any:
    """Let the package be there, and the CPU pass for a GPU; returns the package."""
    from sdaccel.export import tensorrt_runtime

    found = package(version)
    monkeypatch.setitem(sys.modules, "tensorrt", found)
    there = tensorrt_runtime.Gpu(gpu, (9, 0))
    monkeypatch.setattr(tensorrt_runtime, "gpu_of", lambda _: there)
    monkeypatch.setattr(tensorrt_runtime, "queue", _no_queue)
    monkeypatch.setattr(tensorrt_runtime, "new_stream", lambda _: None)
    monkeypatch.setattr(tensorrt_runtime, "current", lambda _: contextlib.nullcontext())
    return found


@contextlib.contextmanager
def _no_queue(device: Any, own: Any) -> Iterator[int]:
    yield 0


def names_of(folder: Path) -> list[str]:
    """The engines that a folder holds."""
    return sorted(each.name for each in folder.iterdir() if each.is_dir())
