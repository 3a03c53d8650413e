"""How far two results are apart before a VAE decodes them."""

from __future__ import annotations

from typing import Any

from ..errors import MetricError


def latent_distance(first: Any, second: Any) -> float:
    """Relative L2 distance ||second - first|| / ||first|| of final latents, tensors of one shape.

    0 for equal latents, about 1.4 for unrelated ones of equal size. Raises `MetricError` where
    there are none, the first are all 0, or the shapes differ.
    """
    if first is None or second is None:
        raise MetricError("This pipeline doesn't hand out its latents (no callback_on_step_end).")
    if first.shape != second.shape:
        raise MetricError(
            f"The latents differ in shape: {tuple(first.shape)} and {tuple(second.shape)}."
        )
    a, b = first.double(), second.double()
    size = float(a.norm())
    if size == 0:
        raise MetricError("The first plan's latents are all 0: there is nothing to compare with.")
    return float((b - a).norm()) / size
