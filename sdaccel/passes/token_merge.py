"""Similar tokens of a picture attend as one: the widest self-attentions work on fewer tokens.

Merging is decided by a matching that serves several steps, and applied by one gather before the
attention and one after it. It is done only where the time that it is expected to save is clearly
above what it takes.

SD1.5's UNet, 512x512, batch 2, bf16, CPU seconds of one forward on one thread of a busy AMD EPYC
(Zen 5; torch 2.13; random weights): 7.84 whole, 5.62 with a new map and 5.45 with a kept one, 5.64
by tomesd 0.1.3 at the same ratio. Beside the pass `attention`: 5.23, 4.77 and 4.64.

How much it changes depends on the model. Merged whatever that costs, with the defaults, pictures of
the embedded UNet (64 tokens, 4 prompts) have a mean PSNR of 43 dB against stock's, as with a map
for each step, and of 34 with one map for all 25; those of the embedded transformer (64 tokens, all
blocks, 3 prompts) one of 17, and of 21 with a ratio of 0.25 or in two blocks alone, and they take
longer. By themselves both stay whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Effect, Pass
from .eager_models import not_eager
from .step_cache_schedule import whole_number

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target
    from .token_merge_state import MergeState


@dataclass(frozen=True)
class TokenMerge(Pass):
    """Merge similar tokens for self-attention, in UNets and in transformers that draw pictures.

    What matters:
        ratio: the share of tokens that is merged into others, above 0 and at most 0.75.
        every: for how many steps a matching serves.
        layers: of a UNet, at how many resolutions, from the largest that attends (None: one); of a
            transformer, in how many blocks, from the first (None: all).
    For tinkering:
        fewest_tokens: merge from so many tokens on; None where it is expected to save time.
    """

    ratio: float = 0.5
    every: int = 4
    layers: int | None = None
    fewest_tokens: int | None = None

    name: ClassVar[str] = "token_merge"
    summary: ClassVar[str] = "similar tokens attend as one"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    # after what changes attentions and blocks, before what looks at whole forwards
    order: ClassVar[int] = 92

    def __post_init__(self) -> None:
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, (int, float)):
            raise TypeError(f"ratio is a number, not {self.ratio!r}")
        if not 0 < self.ratio <= 0.75:
            raise ValueError(f"ratio is above 0 and at most 0.75, not {self.ratio!r}")
        whole_number("every", self.every, 1)
        if self.layers is not None:
            whole_number("layers", self.layers, 1)
        if self.fewest_tokens is not None:
            whole_number("fewest_tokens", self.fewest_tokens, 0)

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        from .token_merge_attention import MergedAttention, Settings
        from .token_merge_blocks import places
        from .token_merge_state import MergeState

        settings = Settings(self.ratio, self.every, self.fewest_tokens)
        for component, model in target.each(record, "denoiser", weights=False):
            reason = not_eager(component, model, target)
            found = places(model, self.layers) if reason is None else []
            if not found:
                unknown = "no self-attention over a picture's tokens is known in it"
                record.refuse(component.name, reason or unknown)
                continue
            with patch.scope(component.module):
                state = MergeState(component.name, target.clock, record, self.every)
                for place in found:
                    merged = MergedAttention(place, state, settings)
                    patch.set(place.attention, "forward", merged)
                _watch(state, component, target, patch)
            record.changed[f"{component.name} attentions of fewer tokens"] = len(found)


def _watch(state: MergeState, component: Component, target: Target, patch: Patch) -> None:
    """Tell a state of its denoiser's calls, and of a generation's beginning and end."""
    entry, clock = component.entry, target.clock
    patch.add_handle(entry.register_forward_pre_hook(state.begin, with_kwargs=True))
    patch.add_handle(entry.register_forward_hook(lambda *_: state.end()))
    for listeners in (clock.listeners, clock.end_listeners):
        patch.on_undo(lambda listeners=listeners: listeners.remove(state.reset))  # type: ignore[misc]
        listeners.append(state.reset)
