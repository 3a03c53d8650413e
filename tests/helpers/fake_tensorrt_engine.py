"""The half of the stand-in for TensorRT that computes: engines, contexts and what refits them."""

from __future__ import annotations

import ctypes
import pickle
import sys
from typing import Any

from fake_tensorrt_network import ILogger, ITensor, ParserError, Severity, Strict, TensorLocation


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
