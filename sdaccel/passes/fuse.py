"""Ops of `kernels` in the place of what diffusers spells out in several passes over memory.

It works on what is not compiled: compilers fuse the same things. On a GPU an op is one Triton
kernel; on a CPU it is plain torch with fewer passes than stock, and what was slower so is left as
it is: products and attention take most of a block there. Blocks on 2 cores of an AMD EPYC (Zen 5,
AVX-512 with bf16), bf16, stock over fused, medians while another process kept a core busy: FLUX
double 1.2 and single 1.1 (1280 tokens, width 1536), Wan-1.3B 1.1 (1560 tokens), Qwen-Image 1.1,
PixArt and SD3 1.0. Left alone 1.0 to 1.1, SD3 0.99, then with a tanh-GELU that torch has now.

Of few tokens the host's share shows. Each op of PixArt takes less time than stock's lines (2 x 576
x 1152 in bf16, 2 threads: norm and modulation 0.36 ms against 0.39, gated residual 0.15 against
0.19), but finding what can be fused takes the host 0.06 to 0.08 ms an op. One such block, by the
same weights in turns, took 0.999 to 1.005 of stock's CPU time with one thread and 1.004 to 1.009
with two, and two copies of stock were 0.7% apart. At 1024x1024 a block has more than seven times
the work for the same few calls.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Effect, Pass

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target


@dataclass(frozen=True)
class Fuse(Pass):
    """Fused norms, modulations, rotations, gates and activations in denoisers and VAEs."""

    name: ClassVar[str] = "fuse"
    summary: ClassVar[str] = "norms, rotations, gates, activations in fewer passes over memory"
    effect: ClassVar[Effect] = Effect.EXACT
    order: ClassVar[int] = 85

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        for component, model in target.each(record, "denoiser", "vae", weights=False):
            with patch.scope(model):
                saved = _fuse(component, target, patch, record)
            if saved:
                record.note(f"{component.name}: spares {saved} reads or writes of a tensor a call")
            elif id(component.entry) in target.compiled:
                record.refuse(component.name, "compiled, which fuses them already")
            else:
                record.refuse(component.name, "no rule knows its blocks")
        ops = OpsPerGeneration(record)
        target.clock.listeners.append(ops.begin)
        target.clock.end_listeners.append(ops.end)


def _fuse(component: Component, target: Target, patch: Patch, record: PassRecord) -> int:
    """Swap what the rules find; returns the passes over memory that a call is spared."""
    from .fusions import swaps
    from .rotations import unknown_rotations
    from .swap import RAN, is_hooked

    saved = hooked = 0
    for swap in swaps(component.module, target.compiled):
        if is_hooked(swap.owner):
            hooked += 1
            continue
        patch.set_class(swap.owner, swap.subclass)
        patch.set(swap.owner, RAN, record.ran)
        record.changed.update(swap.counts)
        saved += swap.saved
    if hooked:
        record.note(f"{component.name}: {hooked} modules with hooks of others are left as they are")
    for name in unknown_rotations(component.module):
        record.note(f"{component.name}: {name} is left to rotate by itself")
    return saved


class OpsPerGeneration:
    """Counts what computed the ops during each generation, and why where it was no kernel."""

    def __init__(self, record: PassRecord) -> None:
        self._record = record
        self._before: dict[str, Counter[str]] = {}

    def begin(self) -> None:
        """Called when a generation begins."""
        self._before = runs_of_ops()

    def end(self) -> None:
        """Called when the pipe's call is over."""
        before, self._before = self._before, {}
        for name, runs in runs_of_ops().items():
            for who, count in (runs - before.get(name, Counter())).items():
                self._record.ran[f"{name} by {WHO[who]}"] += count


WHO = {"kernel": "Triton", "native": "machine code", "reference": "plain torch"}


def runs_of_ops() -> dict[str, Counter[str]]:
    """How often each op has run so far, by who computed it."""
    from ..kernels.operator import operators

    return {name: Counter(each.runs) for name, each in operators().items()}
