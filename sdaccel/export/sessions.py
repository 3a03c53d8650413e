"""A runtime's session that computes a module's forward: arguments in, the module's own output out.

The module stays where it is, with its class, config, dtype, device and hooks; only its instance's
`forward` is another. Where a call asks for what the graph has no input for, the module's own
forward answers, if it has weights; otherwise the call fails with a sentence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError
from ..target import dtype_of
from .sessions_outputs import packed
from .sessions_shapes import check_sizes, resolved

if TYPE_CHECKING:
    import torch

    from ..report import PassRecord
    from .manifest import ComponentEntry, TensorInfo

_WAYS_TO_RETURN = ("return_dict", "output_hidden_states", "output_attentions")
"""Arguments that say how to return what is computed anyway."""


class Engine(Protocol):
    """A graph that a runtime has loaded."""

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs by their names, in the graph's dtypes; inputs are of those, contiguous.

        Raises `UnfitCallError` for a call that this engine was not made for.
        """


class UnfitCallError(Exception):
    """A call that the graph was not exported for; the message is a clause."""


@dataclass
class Session:
    """Stands in for one module's forward.

    `name` is the component's in the export; `owned` says whether the module still has weights of
    its own, so that a call that doesn't fit falls back to `by_torch`, which is the module's own
    forward unless the graph does more; `stale` why the graph must not answer any more, None while
    it may.
    """

    name: str
    module: torch.nn.Module
    entry: ComponentEntry
    engine: Engine
    record: PassRecord
    owned: bool = True
    by_torch: Callable[..., Any] | None = None
    stale: str | None = None
    _signature: inspect.Signature = field(init=False)

    def __post_init__(self) -> None:
        self._signature = inspect.signature(self._stock)

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """A copied module goes on with the graph that is loaded."""
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        try:
            if self.stale is not None:
                raise UnfitCallError(self.stale)
            given = self._signature.bind(*args, **kwargs).arguments
            outputs = self.engine.run(self._inputs(given))
        except UnfitCallError as reason:
            return self._fall_back(str(reason), args, kwargs)
        self.record.ran[f"{self.name} by the session"] += 1
        return packed(self.module, self._cast(outputs), bool(given.get("return_dict", True)))

    @property
    def _stock(self) -> Callable[..., Any]:
        forward: Callable[..., Any] = type(self.module).forward.__get__(self.module)
        return forward

    def _inputs(self, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        named = self.entry.arguments
        self._check_nothing_else(given, set(named.values()))
        found = {}
        for info in self.entry.inputs:
            value = at(given, named[info.name])
            if value is None:
                raise UnfitCallError(f"the graph needs '{named[info.name]}', which is not given")
            found[info.name] = as_input(info, value)
        sizes = check_sizes(self.entry.inputs, found)
        return {
            info.name: _fitted(info, found[info.name], sizes).contiguous()
            for info in self.entry.inputs
        }

    def _check_nothing_else(self, given: Mapping[str, Any], known: set[str]) -> None:
        defaults = {key: each.default for key, each in self._signature.parameters.items()}
        for path, value in leaves(given):
            root = path.split(".")[0]
            if root in _WAYS_TO_RETURN or value is None or _is(value, defaults.get(path)):
                continue
            if not any(path == each or path.startswith(f"{each}.") for each in known):
                raise UnfitCallError(f"the graph has no input for '{path}'")

    def _cast(self, outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        dtype = dtype_of(self.module)
        return {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in outputs.items()
        }

    def _fall_back(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.owned:
            raise InputError(
                f"{self.name} can't be called like this: {reason}. Export the pipeline again for "
                "such calls, or load it with its weights."
            )
        self.record.ran[f"{self.name} by torch"] += 1
        self.record.note(f"{self.name} by torch: {reason}")
        return (self.by_torch or self._stock)(*args, **kwargs)


def _is(value: Any, default: Any) -> bool:
    import torch

    return not isinstance(value, torch.Tensor) and bool(value == default)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What lies in nested arguments, each with its keys and indices joined by dots."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield path, value
        return
    for key, each in items:
        yield from leaves(each, f"{path}.{key}" if path else str(key))


def at(value: Any, path: str) -> Any:
    """What lies at a path in nested arguments; None where nothing does."""
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, (list, tuple)) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def as_input(info: TensorInfo, value: Any) -> torch.Tensor:
    """An argument as a tensor of the input's dtype: numbers and lists of tensors become tensors.

    Raises `UnfitCallError` where an integer is wanted and a fraction may come.
    """
    import torch

    dtype = getattr(torch, info.dtype)
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        if any(each.shape != value[0].shape for each in value):
            raise UnfitCallError(f"the tensors of '{info.name}' are of several shapes")
        value = torch.stack(list(value))
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    if tensor.is_floating_point() and not dtype.is_floating_point:
        raise UnfitCallError(f"the graph takes whole numbers as '{info.name}'")
    return tensor.to(dtype)


def _fitted(info: TensorInfo, tensor: torch.Tensor, sizes: Mapping[str, int]) -> torch.Tensor:
    """A timestep without dimensions, given to a graph that takes one a sample, is that of all."""
    shape = resolved(info.shape, sizes)
    return tensor if tensor.dim() or shape is None else tensor.expand(shape)
