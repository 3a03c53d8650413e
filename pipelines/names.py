"""Which pipelines the installed diffusers has, read from its source without importing it.

`import diffusers` costs seconds and loads torch; a completion list must not.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_OTHER_THINGS = ("Modular", "Onnx", "Flax", "Output", "Blocks", "Quantization")
_LISTS = tuple(f"_import_structure['pipelines'].{verb}" for verb in ("extend", "append"))


@functools.cache
def pipeline_names() -> tuple[str, ...]:
    """The names of diffusers' pipelines and AutoPipelines, sorted; empty without diffusers."""
    spec = find_spec("diffusers")
    if spec is None or spec.origin is None:
        return ()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return tuple(sorted({name for name in _listed(tree) if is_pipeline_name(name)}))


def is_pipeline_name(name: str) -> bool:
    """Whether diffusers would call a pipeline so: `FluxPipeline`, `AutoPipelineForText2Image`.

    Modular, ONNX and Flax pipelines are other kinds of objects.
    """
    return "Pipeline" in name and not any(other in name for other in _OTHER_THINGS)


def _listed(tree: ast.AST) -> Iterator[str]:
    """The strings in every `_import_structure["pipelines"].extend([...])`."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in _LISTS:
            for each in (each for argument in call.args for each in ast.walk(argument)):
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield each.value
