"""The half of the stand-in for TensorRT that builds: networks, parsers, configs and the builder."""

from __future__ import annotations

import enum
import pickle
import sys
from typing import Any


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
