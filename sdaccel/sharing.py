"""Who holds an accelerated component: two pipes may share a UNet, a VAE or a scheduler.

The undo log of a component hangs on the component itself, with the pipes that hold it. A restore
lets go of it; the last one to let go runs the undos.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from .patch import Undo, run_back

_HELD = "_sdaccel_held"


@dataclass
class Held:
    """The undos of one component, the plan they came from, and the pipes that hold them."""

    plan: str
    undos: list[Undo]
    holders: list[weakref.ref[Any]]

    def living(self) -> list[Any]:
        """The pipes that hold the component and still exist."""
        pipes = (reference() for reference in self.holders)
        return [pipe for pipe in pipes if pipe is not None]


def hold(component: Any, pipe: Any, plan: str, undos: list[Undo]) -> None:
    """Let `pipe` hold `component`; `undos` are what its own acceleration has to take back."""
    held: Held | None = component.__dict__.get(_HELD)
    if held is None:
        held = Held(plan, [], [])
        object.__setattr__(component, _HELD, held)
    held.undos.extend(undos)
    held.holders.append(weakref.ref(pipe))


def release(component: Any, pipe: Any) -> list[Any]:
    """Let go of `component`, undoing its acceleration when nobody else holds it.

    Returns the pipes that still do.
    """
    held: Held | None = component.__dict__.get(_HELD)
    if held is None:
        return []
    held.holders = [weakref.ref(each) for each in held.living() if each is not pipe]
    if held.holders:
        return held.living()
    object.__delattr__(component, _HELD)
    run_back(held.undos)
    return []


def shared_by(component: Any, pipe: Any) -> str | None:
    """The plan under which another living pipe holds `component`, or None."""
    held: Held | None = component.__dict__.get(_HELD)
    others = [each for each in held.living() if each is not pipe] if held else []
    return f"plan {held.plan}" if held and others else None
