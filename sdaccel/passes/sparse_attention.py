"""Self-attention of videos by blocks: each block of queries attends to the key blocks that matter.

Those are the nearby ones, in time and space, or the strongest by a quick estimate, or both. First
steps, and first and last layers, which decide most, stay dense. It is for GPUs: on a CPU the op is
plain torch, with a mask of all queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Effect, Pass
from .budget import calibration_files, check_budget
from .eager_models import not_eager
from .sparse_attention_budget import SPARSE, MeasuredKeep, measured_keep
from .step_cache import StepCache
from .step_cache_schedule import whole_number

if TYPE_CHECKING:
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target
    from .sparse_attention_measures import Settings
    from .sparse_attention_models import VideoModel
    from .sparse_attention_state import SparseState


@dataclass(frozen=True)
class SparseAttention(Pass):
    """Sparse self-attention for Wan, CogVideoX and LTX.

    What matters:
        keep: the share of each query block's attention that its key blocks are to hold, as far as
            their means tell, above 0 and at most 1; None to go by `reach` alone.
        reach: how many frames, rows and columns of the latent video a token sees to each side;
            None to go by `keep` alone. With both, blocks of either kind are taken.
        budget: the least mean PSNR against stock's clips, in dB, that is to be kept: takes `keep`
            from what `sdaccel calibrate --sparse-attention` has measured for this model, scheduler,
            size, number of steps, guidance scale and the other options that choose what is dense.
            Beside the budget of another pass the mean squares of both errors add.
        first_steps: the share of steps, from the first, that are dense, 0 to 1.
    For tinkering:
        first_layers, last_layers: how many layers at either end are dense.
        fewest_tokens: sparse from so many tokens on; None where it is expected to save time.
        block_size: tokens in a block of queries and in one of keys, multiples of 16.
        anywhere: on a CPU too, where it is slower.
        calibration: the file that was measured into; None for the user's cache, then the package.
    """

    keep: float | None = 0.9
    reach: Sequence[int] | None = None
    budget: float | None = None
    first_steps: float = 0.2
    first_layers: int = 1
    last_layers: int = 1
    fewest_tokens: int | None = None
    block_size: Sequence[int] = (128, 64)
    anywhere: bool = False
    calibration: str | None = None

    name: ClassVar[str] = "sparse_attention"
    summary: ClassVar[str] = "self-attention of videos by blocks that matter"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    # before attention, which routes what is left: cross-attention, and other models
    order: ClassVar[int] = 74
    # it chooses by step and layer, and a graph does the same at every step
    conflicts: ClassVar[frozenset[str]] = frozenset({"compile"})

    def __post_init__(self) -> None:
        if self.keep is None and self.reach is None and self.budget is None:
            raise ValueError("give keep, reach or budget: they choose the blocks")
        if self.budget is not None:
            check_budget(self.budget)
        if self.keep is not None:
            _share("keep", self.keep)
        if self.reach is not None:
            object.__setattr__(self, "reach", _numbers("reach", self.reach, 3, 0))
        object.__setattr__(self, "block_size", _numbers("block_size", self.block_size, 2, 16))
        if any(each % 16 for each in self.block_size):
            raise ValueError(f"block_size is two multiples of 16, not {self.block_size!r}")
        _share("first_steps", self.first_steps, least=0)
        for name in ("first_layers", "last_layers"):
            whole_number(name, getattr(self, name), 0)
        if self.fewest_tokens is not None:
            whole_number("fewest_tokens", self.fewest_tokens, 0)

    def refusal(self, target: Target) -> str | None:
        if target.device.type != "cuda" and not self.anywhere:
            return (
                f"it is for GPUs: on a {target.device.type} attention by blocks is plain torch "
                "with a mask of all queries and keys, and slower than a dense one"
            )
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        from .sparse_attention_models import video_model
        from .sparse_attention_state import SparseState

        for component, model in target.each(record, "denoiser", weights=False):
            reason = not_eager(component, model, target)
            found = video_model(model) if reason is None else None
            middle = 0 if found is None else self._middle(found)
            if found is None:
                record.refuse(
                    component.name, reason or "no self-attention of a video is known in it"
                )
            elif middle <= 0:
                record.refuse(component.name, "its first and last layers are all that it has")
            else:
                try:
                    keeps = self._keeps(component, target)
                except ValueError as error:
                    record.refuse(component.name, str(error))
                    continue
                state = SparseState(
                    component.name, target.clock, record, self._settings(), found.grid, keeps
                )
                with patch.scope(component.module):
                    self._sparsen(component, found, state, target, patch)
                record.changed[f"{component.name} self-attentions by blocks"] = middle

    def _middle(self, found: VideoModel) -> int:
        return len(found.attentions) - self.first_layers - self.last_layers

    @property
    def beside(self) -> dict[str, Any]:
        """The options beside `keep` that a calibration depends on, in plain values."""
        names = "reach", "first_steps", "first_layers", "last_layers", "block_size"
        values = {name: getattr(self, name) for name in names}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def _keeps(self, component: Component, target: Target) -> MeasuredKeep | None:
        """What chooses for the budget; `ValueError` with a sentence where that can't be kept."""
        if self.budget is None:
            return None
        budget = float(self.budget)
        return measured_keep(component, target, budget, self.beside, self.calibration)

    def calibrations(self, target: Target) -> list[tuple[Path, dict[str, Any]]]:
        return calibration_files(target, StepCache().cut, self.calibration)

    def _settings(self) -> Settings:
        from .sparse_attention_measures import Settings

        reach: Any = None if self.reach is None else tuple(self.reach)
        block_size: Any = tuple(self.block_size)
        return Settings(
            *(self.keep, reach, self.first_steps, self.first_layers, self.last_layers),
            *(self.fewest_tokens, block_size),
        )

    def _sparsen(
        self,
        component: Component,
        found: VideoModel,
        state: SparseState,
        target: Target,
        patch: Patch,
    ) -> None:
        from .attention_seam import Seam
        from .sparse_attention_calls import Layer, sparse_stand_ins

        record = state.record
        seam = Seam(sparse_stand_ins(state))
        last = len(found.attentions) - self.last_layers
        for index, attention in enumerate(found.attentions):
            processor: Any = attention.processor
            subclass = seam.subclass_of(type(processor))
            if subclass is None:
                kind = type(processor).__name__
                record.note(f"{component.name}: a {kind} is left alone, which has its own way")
                continue
            if not seam.made(type(processor)):
                patch.set_class(processor, subclass)
            in_the_middle = self.first_layers <= index < last
            patch.set(attention, "forward", Layer(attention, state, in_the_middle))
        entry, listeners = component.entry, target.clock.end_listeners
        patch.set(entry, SPARSE, state)
        patch.add_handle(entry.register_forward_pre_hook(state.begin, with_kwargs=True))
        patch.add_handle(entry.register_forward_hook(lambda *_: state.end()))
        patch.on_undo(lambda: listeners.remove(state.tell))
        listeners.append(state.tell)


def _share(name: str, value: Any, least: float | None = None) -> None:
    """Raise where `value` is no share up to 1, above 0 or from `least` on."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number, not {value!r}")
    if not (value > 0 if least is None else least <= value) or value > 1:
        begins = "above 0" if least is None else f"at least {least}"
        raise ValueError(f"{name} is {begins} and at most 1, not {value!r}")


def _numbers(name: str, values: Any, count: int, least: int) -> tuple[int, ...]:
    """`values` as so many whole numbers; raises `ValueError` for anything else."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != count:
        raise ValueError(f"{name} is {count} whole numbers, not {values!r}")
    return tuple(whole_number(f"each of {name}", each, least) for each in values)
