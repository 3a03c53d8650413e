"""As much of TensorRT's Python API as sdaccel uses, without a GPU: engines compute in ONNX Runtime.

Every class has the names and arguments that the package documents, and no others: anything else
raises, as it would there. `calls` are those that make a network and a config, in order. A plan
holds the graph with its weights, so an engine that is refitted computes something else afterwards.
`tests/export/test_tensorrt_build.py` holds this file to the package itself.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt_engine import (
    ICudaEngine,
    IExecutionContext,
    OnnxParserRefitter,
    Refitter,
    Runtime,
)
from fake_tensorrt_network import (
    Builder,
    BuilderFlag,
    IBuilderConfig,
    IHostMemory,
    ILogger,
    INetworkDefinition,
    IOptimizationProfile,
    IProgressMonitor,
    ITensor,
    ITimingCache,
    NetworkDefinitionCreationFlag,
    OnnxParser,
    ParserError,
    Severity,
    TensorLocation,
)

GPU = "Fake GPU"

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
