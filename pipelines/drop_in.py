"""One factory: from a pipeline class of diffusers to the drop-in of the same name.

A drop-in differs from stock in three class methods. `from_pretrained`, `from_single_file` and
`from_pipe` take two more keywords, `plan` and `strict`, and hand what they made to
`sdaccel.accelerate`; `plan=None` leaves it stock. It carries stock's `__name__`, because diffusers
writes that into `model_index.json`: what a drop-in saves, stock diffusers loads.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..accelerate import accelerate
from ..errors import TargetError
from ..patch import same_name_subclass
from ..plan import Plan
from . import loading, names

_VERBS = ("from_pretrained", "from_single_file", "from_pipe")
_MORE = """

        sdaccel adds `plan` ("lossless"; another name, an expression, a `Plan`, a JSON file, or None
        for stock) and `strict` (False; raise where a pass refuses). {note}
"""
_NOTES = {
    "from_pretrained": (
        "Raises `ModelNotFoundError` where there is no model to load. Of an exported folder its "
        "graphs compute, in ONNX Runtime or by the plan 'openvino'."
    ),
    "from_single_file": "Raises `ModelNotFoundError` where there is no model to load.",
    "from_pipe": "Without a `dtype` the components keep theirs; stock casts them to float32.",
}


@functools.cache
def drop_in(name: str) -> Any:
    """The drop-in for diffusers' pipeline `name`; the same class each time.

    A pipeline whose optional dependency is missing is diffusers' own placeholder, which says what
    to install when it is used. Raises `AttributeError`, with the nearest names, for anything else.
    """
    import diffusers

    stock = getattr(diffusers, name, None) if names.is_pipeline_name(name) else None
    if stock is None:
        raise AttributeError(_no_such(name))
    if hasattr(stock, "_backends"):
        return stock
    return same_name_subclass(
        stock, {verb: _member(stock, verb) for verb in _VERBS if hasattr(stock, verb)}
    )


def _member(stock: Any, verb: str) -> Any:
    """Stock's class method `verb` with `plan` and `strict`."""
    original = getattr(stock, verb).__func__
    call = _sharing if verb == "from_pipe" else _loading

    def member(
        cls: Any,
        /,
        *args: Any,
        plan: Plan | str | Path | None = "lossless",
        strict: bool = False,
        **options: Any,
    ) -> Any:
        chosen = Plan.of(plan)
        pipe = call(original, cls, *args, **options)
        if plan is None:
            return pipe
        model = _model_of(args, options) if verb == "from_pretrained" else None
        return accelerate(pipe, loading.with_sessions(chosen, model), strict=strict)

    member.__name__, member.__qualname__ = verb, f"{stock.__name__}.{verb}"
    member.__doc__ = (original.__doc__ or "") + _MORE.format(note=_NOTES[verb])
    return classmethod(member)


def _loading(original: Callable[..., Any], cls: Any, *args: Any, **options: Any) -> Any:
    """`from_pretrained` or `from_single_file`, with clear errors where there is no such model."""
    model = _model_of(args, options)
    loading.check_name(model, original.__name__)
    if original.__name__ == "from_pretrained":
        options = {**loading.exported_modules(model, options), **options}
    with loading.clear_errors(model):
        return original(cls, *args, **options)


def _model_of(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    keyword = next((name for name in options if name.startswith("pretrained_model")), "")
    return args[0] if args else options.get(keyword)


def _sharing(original: Callable[..., Any], cls: Any, pipeline: Any, **options: Any) -> Any:
    """`from_pipe` without its last step, which casts the weights that both pipes share."""
    from diffusers import DiffusionPipeline

    if not isinstance(pipeline, DiffusionPipeline):
        raise TargetError(
            f"{cls.__name__}.from_pipe takes a diffusers pipeline, not {type(pipeline).__name__}."
        )
    dtypes = (options.get("dtype"), options.get("torch_dtype"))
    if not issubclass(cls, DiffusionPipeline) or any(dtype is not None for dtype in dtypes):
        return original(cls, pipeline, **options)
    pipe = original(same_name_subclass(cls, {"to": _stay}), pipeline, **options)
    if isinstance(pipe, cls):
        pipe.__class__ = cls
    return pipe


def _stay(pipe: Any, *args: Any, **kwargs: Any) -> Any:
    return pipe


def _no_such(name: str) -> str:
    near = difflib.get_close_matches(name, names.pipeline_names(), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "dir(sdaccel.pipelines) lists them."
    return f"The installed diffusers has no pipeline '{name}': {hint}"
