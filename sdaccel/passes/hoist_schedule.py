"""How a pipeline makes a denoiser's timestep from the scheduler's, so that all are known ahead.

Pipelines hand over `t`, `t / 1000` or `1 - t / 1000`, in the scheduler's dtype or the model's,
once or for each sample. Which it is shows in the timesteps of two steps, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Transform = Callable[["torch.Tensor"], "torch.Tensor"]


def transform_of(scheduler: Any, seen: Sequence[torch.Tensor]) -> Transform | None:
    """What makes the timesteps `seen` of the scheduler's, or None where nothing known does.

    Waits for the device, once.
    """
    import torch

    timesteps = getattr(scheduler, "timesteps", None)
    if not isinstance(timesteps, torch.Tensor) or timesteps.dim() != 1:
        return None
    for transform in _transforms(scheduler, seen[-1]):
        made = transform(timesteps)
        if all(bool((made == each).reshape(len(made), -1).all(1).any()) for each in seen):
            return transform
    return None


def _transforms(scheduler: Any, like: torch.Tensor) -> Iterator[Transform]:
    """The candidates, the usual ones first; each gives (T, *shape of like) in its dtype."""
    import torch

    count = getattr(getattr(scheduler, "config", None), "num_train_timesteps", 1000) or 1000
    shape, dtype, device = like.shape, like.dtype, like.device
    arithmetic: tuple[Transform, ...] = (
        lambda t: t,
        lambda t: t / count,
        lambda t: 1 - t / count,
        lambda t: (count - t) / count,
    )

    def all_of(change: Transform, cast_first: bool) -> Transform:
        def transform(timesteps: torch.Tensor) -> torch.Tensor:
            given = timesteps.to(device, dtype if cast_first else None)
            made = change(given).to(dtype)
            return made.reshape(-1, *[1] * len(shape)).expand(-1, *shape)

        return transform

    for change in arithmetic:
        yield all_of(change, cast_first=True)
        if not isinstance(dtype, torch.dtype) or dtype.is_floating_point:
            yield all_of(change, cast_first=False)
