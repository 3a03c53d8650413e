"""The passes, by name. Each is imported when it is first asked for."""

from __future__ import annotations

import difflib
from importlib import import_module

from ..errors import PlanError
from .base import Effect, Pass

__all__ = ["NAMES", "Effect", "Pass", "pass_class"]

_CLASSES = {
    "allocator": "Allocator",
    "precision": "Precision",
    "memory_format": "MemoryFormat",
    "no_ops": "NoOps",
    "vae": "Vae",
    "attention": "Attention",
    "group_norm": "GroupNorm",
    "compile": "Compile",
    "fuse": "Fuse",
    "schedulers": "Schedulers",
    "hoist": "Hoist",
    "sparse_attention": "SparseAttention",
    "token_merge": "TokenMerge",
    "step_cache": "StepCache",
    "guidance": "GuidanceReuse",
    "flatten": "Flatten",
    "cuda_graph": "CudaGraph",
    "onnxruntime": "OnnxRuntime",
    "openvino": "OpenVino",
    "tensorrt": "TensorRt",
}
NAMES = tuple(_CLASSES)


def pass_class(name: str) -> type[Pass]:
    """The class of the pass `name`; raises `PlanError`, with the nearest names, where none is."""
    if name not in _CLASSES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(NAMES)}."
        raise PlanError(f"There is no pass '{name}': {hint}")
    module = import_module(f"{__name__}.{name}")
    found: type[Pass] = getattr(module, _CLASSES[name])
    return found
