"""Whether an attention is sparse now, by which blocks, and what is known of the error.

Of one call nothing is kept for the next but masks that follow from sizes alone, so no picture's
blocks ever serve another. Densities and errors add up on the device, and are read when the pipe's
call is over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .expected_seconds import rates_of
from .sparse_attention_gain import EXPECTED_DENSITY, fewest_tokens
from .sparse_attention_measures import Settings, Sums
from .step_cache_state import arguments_of
from .video_blocks import VideoGrid, nearby_blocks, strongest_blocks

if TYPE_CHECKING:
    import torch

    from ..clock import Clock
    from ..report import PassRecord
    from .sparse_attention_budget import MeasuredKeep
    from .sparse_attention_models import Reads


class SparseState:
    """The attentions of one denoiser: which layer of which step is running, and the counts.

    `densities` are those of the first clips of each size and number of steps, when they are done.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        record: PassRecord,
        settings: Settings,
        reads: Reads,
        keeps: MeasuredKeep | None = None,
    ) -> None:
        self.name = name
        self.record = record
        self._clock = clock
        self._settings = settings
        self._reads = reads
        self._keeps = keeps
        self._chosen: tuple[int, VideoGrid] | None = None
        self._unmeasured = False
        self.densities: dict[tuple[VideoGrid, int | None], float] = {}
        self._grid: VideoGrid | None = None
        self._layer: bool | None = None
        self._masks: dict[Any, torch.Tensor] = {}
        self._judged: dict[Any, bool] = {}
        self._sums: dict[VideoGrid, Sums] = {}
        self._told: set[VideoGrid] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseState:
        """A copied denoiser is driven by no clock."""
        from ..clock import Clock

        return SparseState(
            *(self.name, Clock(), self.record, self._settings, self._reads, self._keeps)
        )

    def begin(self, host: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The denoiser is called: its forward pre-hook."""
        import torch

        eager = not torch.compiler.is_compiling() and not torch.is_grad_enabled()
        self._grid = self._reads(host, arguments_of(host, args, kwargs)) if eager else None
        if self._keeps is not None and self._grid is not None:
            self._choose(self._keeps, self._grid)

    def _choose(self, keeps: MeasuredKeep, grid: VideoGrid) -> None:
        """Take what is to be kept in this generation; where nothing was measured it is dense."""
        if self._chosen == (self._clock.generation, grid):
            return
        self._chosen = self._clock.generation, grid
        kept = keeps.choose(grid, self._clock.total_steps)
        self._unmeasured = kept.keep is None
        if kept.keep is None:
            self.record.note(f"{self.name}: all attention is dense, {kept.reason}")
        else:
            self._settings = replace(self._settings, keep=kept.keep)

    def end(self) -> None:
        """The denoiser's forward is over: its forward hook."""
        self._grid = self._layer = None

    def enter(self, in_the_middle: bool) -> None:
        """A self-attention begins, of one of the layers that may be sparse or not."""
        self._layer = in_the_middle

    def decline(self, reason: str) -> None:
        """An attention is dense because of what it is asked for."""
        if self._layer is not None and self._grid is not None:
            self.record.ran[f"{self.name} dense, {reason}"] += 1

    def leave(self) -> None:
        """The self-attention is over."""
        self._layer = None

    def tell(self) -> None:
        """The pipe's call is over: the report gets what was measured, once a size."""
        for grid, sums in self._sums.items():
            density, error = sums.mean("density"), sums.mean("error")
            if grid in self._told or density is None:
                continue
            self._told.add(grid)
            self.densities[grid, self._clock.total_steps] = density
            known = "its error was not measured, as no step was dense before"
            if error is not None:
                known = f"an attention is then {error:.2%} from the dense one (relative L2)"
            self.record.note(
                f"{self.name}: {grid.tokens} tokens at a density of {density:.1%}; {known}"
            )
        self._sums.clear()
        self.end()

    def attend(self, query: Any, key: Any, value: Any, scale: float | None, dense: Any) -> Any:
        """The attention of query, key, value (B, H, S, D), by blocks; None where it is to be dense.

        `dense` computes it densely, for the one step at which both are compared.
        """
        grid, middle = self._grid, self._layer
        if middle is None or grid is None:
            return None
        reason = self._reason(grid, middle, query, key)
        if reason is not None:
            self.record.ran[f"{self.name} dense, {reason}"] += 1
            return None
        if self._is_early():
            return self._compared(grid, query, key, value, scale, dense)
        self.record.ran[f"{self.name} sparse"] += 1
        return self._sparse(grid, query, key, value, scale)

    def _reason(self, grid: VideoGrid, middle: bool, query: Any, key: Any) -> str | None:
        """Why this attention is dense whatever the step, or None."""
        if not middle:
            return "a first or last layer"
        if query.shape[2] != grid.tokens or key.shape[2] != grid.tokens:
            return "its tokens are not the video's"
        if self._unmeasured:
            return "as nothing measured keeps the budget"
        if not self._pays(grid, query):
            return "too few tokens"
        return None

    def _pays(self, grid: VideoGrid, query: torch.Tensor) -> bool:
        least = self._settings.fewest_tokens
        if least is not None:
            return grid.tokens >= least
        key = grid, query.shape, query.device
        if key not in self._judged:
            self._judged[key] = self._expected_to_pay(grid, query)
        return self._judged[key]

    def _expected_to_pay(self, grid: VideoGrid, query: torch.Tensor) -> bool:
        """Whether time is expected to be saved; where not, the report says why."""
        batch, heads, _, dim = query.shape
        density = EXPECTED_DENSITY
        if self._settings.keep is None:
            reach, block_size = self._settings.reach, self._settings.block_size
            assert reach is not None, "the pass has checked that one of both is given"
            density = float(nearby_blocks(grid, reach, block_size).float().mean())
        rates = rates_of(query.device)
        least = fewest_tokens(batch, heads * dim, density, rates)
        if least is not None and grid.tokens >= least:
            return True
        begins = "it never pays" if least is None else f"it pays from about {least} tokens"
        self.record.note(
            f"{self.name}: {grid.tokens} tokens are dense: at an expected density of "
            f"{density:.0%} {begins}"
        )
        return False

    def _is_early(self) -> bool:
        total, settings = self._clock.total_steps, self._settings
        if total is None:
            return settings.first_steps > 0
        return self._clock.step < settings.dense_steps(total)

    def _compared(
        self, grid: VideoGrid, query: Any, key: Any, value: Any, scale: float | None, dense: Any
    ) -> Any:
        """One of the first steps is dense; in the last of them its error is measured once."""
        self.record.ran[f"{self.name} dense, a first step"] += 1
        total = self._clock.total_steps
        dense_steps = 0 if total is None else self._settings.dense_steps(total)
        if self._clock.step + 1 != dense_steps or grid in self._told:
            return None
        truth = dense()
        error = self._sparse(grid, query, key, value, scale) - truth
        distance = error.float().norm() / truth.float().norm()
        self._sums.setdefault(grid, Sums()).add("error", distance)
        return truth

    def _sparse(
        self, grid: VideoGrid, query: Any, key: Any, value: Any, scale: float | None
    ) -> torch.Tensor:
        from ..kernels.attention_sparse import attention_sparse

        mask = self._mask(grid, query, key, scale)
        if grid not in self._told:
            self._sums.setdefault(grid, Sums()).add("density", mask.float().mean())
        return attention_sparse(
            *(query, key, value, mask), block_size=self._settings.block_size, scale=scale
        )

    def _mask(self, grid: VideoGrid, query: Any, key: Any, scale: float | None) -> torch.Tensor:
        settings, mask = self._settings, None
        if settings.reach is not None:
            mask = self._nearby(grid, query.device)
        if settings.keep is not None:
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            strong = strongest_blocks(query, key, grid, settings.block_size, settings.keep, scale)
            mask = strong if mask is None else mask | strong
        assert mask is not None, "the pass has checked that one of both is given"
        return mask

    def _nearby(self, grid: VideoGrid, device: torch.device) -> torch.Tensor:
        """The mask of what is nearby, made once for a size."""
        reach = self._settings.reach
        assert reach is not None
        if (grid, device) not in self._masks:
            mask = nearby_blocks(grid, reach, self._settings.block_size)
            self._masks[grid, device] = mask.to(device, non_blocking=True)
        return self._masks[grid, device]
