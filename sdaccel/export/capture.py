"""A component traced by torch.export, with dimensions that may change and names for its inputs."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree

from ..errors import ExportError
from ..patch import Patch
from .amend import amend
from .examples import Arguments, Draw, Example, Extent, settings_of, symbols
from .forms import Form
from .real import to_real

_OPERATOR = re.compile(r"torch\.ops\.(\w+\.\w+)|OpOverload\(op='([\w:.]+)'")


@dataclass(frozen=True)
class Captured:
    """A traced graph; `inputs` and `outputs` are the names of what it takes and gives, in order.

    `symbols` maps torch's names of dimensions that may change to those that the manifest uses.
    """

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbols: Mapping[str, str]


def capture(name: str, form: Form, example: Example) -> Captured:
    """Trace a component without computing anything.

    Raises `ExportError` with the module, the operator and the reason where that can't be done.
    """
    arguments = draw(form, example, example.size)
    axes = symbols(lambda size: draw(form, example, size), example.size)
    patch = Patch()
    try:
        form.prepare(patch)
        with torch.no_grad():
            program = torch.export.export(
                form, (arguments,), dynamic_shapes=(_dynamic(axes),), strict=False
            )
            to_real(program)
            amend(program)
    except Exception as error:
        raise failure(name, form, error) from error
    finally:
        patch.undo()
    return _named(program, arguments, axes)


def draw(form: Form, example: Example, size: Extent, seed: int = 0) -> Arguments:
    """Random arguments of a component, of this size, in the dtype that it computes in."""
    from ..target import dtype_of

    chosen = Draw(dtype_of(form.module), seed)
    return example.make(settings_of(form.module), chosen, size)


def paths(arguments: Arguments) -> list[tuple[str, Any]]:
    """Each value of the arguments and its place, keys and indices joined by dots."""
    leaves, _ = _pytree.tree_flatten_with_path(arguments)
    return [(".".join(str(_key(each)) for each in path), value) for path, value in leaves]


def failure(name: str, form: Form, error: BaseException) -> ExportError:
    """One sentence: which module, at which operator or line, and why."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    told = " ".join(str(each) for each in causes)
    operators = [one or other for one, other in _OPERATOR.findall(told)]
    where = f"operator {operators[-1]}" if operators else _line_of(causes[-1])
    reason = str(causes[-1]).strip().splitlines() or [type(causes[-1]).__name__]
    return ExportError(
        f"{name} ({type(form.module).__name__}) can't be exported, at {where}: "
        f"{reason[0].rstrip('.')}. Leave it out with components=..., and export the others."
    )


def _line_of(error: BaseException) -> str:
    """Where in a model's own code tracing ended."""
    frames = traceback.extract_tb(error.__traceback__)
    models = [each for each in frames if "/torch/" not in each.filename]
    last = (models or list(frames))[-1]
    return f"{last.filename.rpartition('/')[2]} line {last.lineno} (`{last.line}`)"


def _dynamic(axes: Any) -> Any:
    """The same structure in torch's terms."""
    free = torch.export.Dim.DYNAMIC
    return _pytree.tree_map(lambda name: None if name is None else free, axes)


def _named(program: torch.export.ExportedProgram, arguments: Arguments, axes: Any) -> Captured:
    """The names of the graph's own inputs and symbols, by the places of the arguments."""
    specs = [
        each.arg
        for each in program.graph_signature.input_specs
        if each.kind == InputKind.USER_INPUT
    ]
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    axes_of = _pytree.tree_leaves(axes, is_leaf=_is_axes)
    inputs: list[str] = []
    found: dict[str, str] = {}
    for spec, (path, _), axis in zip(specs, paths(arguments), axes_of, strict=True):
        if isinstance(spec, ConstantArgument):
            continue
        inputs.append(path)
        value = nodes[spec.name].meta["val"]
        if isinstance(axis, dict):
            found |= {str(value.shape[at]): symbol for at, symbol in axis.items()}
        elif axis is not None:
            found[str(value)] = axis
    output_spec = program.call_spec.out_spec
    assert output_spec is not None
    places = _pytree.tree_unflatten(range(output_spec.num_leaves), output_spec)
    return Captured(program, tuple(inputs), tuple(places), found)


def _is_axes(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, int) for key in value)


def _key(entry: Any) -> Any:
    return entry.key if hasattr(entry, "key") else entry.idx
