"""Passes over memory that compute nothing, and look-ups that always find the same.

Attention and ResNets end in `hidden_states / factor` with a factor of 1.0 in nearly every model: a
read and a write of the whole stream (12 ms of SD1.5's forward on two AMX cores). The factor becomes
a float that knows it is one, so the division returns its input. `Attention.forward` also reads its
processor's signature at every call (about 20 microseconds); it is read once. Compiled code has
neither, so what `compile` took is left to it.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target

_FACTORS = ("output_scale_factor", "rescale_output_factor")
_DIVISIONS = {"div", "true_divide", "__truediv__"}


@dataclass(frozen=True)
class NoOps(Pass):
    """Remove divisions by 1.0 and repeated signature look-ups from denoisers and VAEs."""

    name: ClassVar[str] = "no_ops"
    summary: ClassVar[str] = "no division by 1.0, signatures of attention processors read once"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 90

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        for component, model in target.each(record, "denoiser", "vae", weights=False):
            with patch.scope(component.module):
                left = [each for each in model.modules() if id(each) not in target.compiled]
                for module in left:
                    _skip_divisions(module, patch, record)
                    _keep_signature(module, patch, record)
            if not left:
                record.refuse(component.name, "compiled, which leaves them out already")


class One(float):
    """1.0, by which a tensor can be divided without being copied: `x / One()` is `x`.

    `ran` counts the divisions left out.
    """

    ran: Counter[str] | None = None

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if len(args) == 2 and not kwargs and getattr(function, "__name__", "") in _DIVISIONS:
            dividend, divisor = args
            if isinstance(divisor, One) and dividend.is_floating_point():
                if divisor.ran is not None:
                    divisor.ran["divisions left out"] += 1
                return dividend
        plain = tuple(float(each) if isinstance(each, One) else each for each in args)
        return function(*plain, **(kwargs or {}))


class Signed:
    """Stands where a processor's bound `__call__` is looked up: the same, its signature kept."""

    def __init__(self, call: Callable[..., Any], ran: Counter[str]) -> None:
        self._call = call
        self._signature = inspect.signature(call)
        self._ran = ran

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        self._ran["signature look-ups left out"] += 1
        return self._signature


def _skip_divisions(module: Any, patch: Patch, record: PassRecord) -> None:
    for name in _FACTORS:
        factor = module.__dict__.get(name)
        if isinstance(factor, (int, float)) and factor == 1 and not isinstance(factor, One):
            one = One(1.0)
            one.ran = record.ran
            patch.set(module, name, one)
            record.changed["divisions by 1.0"] += 1


def _keep_signature(module: Any, patch: Patch, record: PassRecord) -> None:
    processor = getattr(module, "processor", None)
    if processor is None or not callable(processor) or "__call__" in vars(processor):
        return
    patch.set(processor, "__call__", Signed(processor.__call__, record.ran))
    record.changed["attention processors"] += 1
