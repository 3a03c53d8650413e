"""What pictures and video cost, at a machine's price per hour."""

from __future__ import annotations

from typing import Any

from .rows import Row

PICTURES = 1000


def cost(row: Row, per_hour: float) -> tuple[float, str] | None:
    """An amount in the price's own currency, and what it buys; None where no time says it.

    A scaled-down workload costs nothing that anybody would pay. Where the unit is a forward of the
    denoiser, the amount is for all forwards of a picture or a clip and leaves out the rest.
    """
    if row.quick or row.median is None or row.status != "ok" or row.unit not in _UNITS:
        return None
    seconds = row.median * row.calls_per_picture
    part = "" if row.unit in ("picture", "clip") else f", {_UNITS[row.unit]} alone"
    length = _clip_seconds(row.settings)
    if length is not None:
        return seconds / length * 60 * per_hour / 3600, f"a minute of video{part}"
    return seconds * PICTURES * per_hour / 3600, f"{PICTURES:,} pictures{part}"


_UNITS = {"picture": "", "clip": "", "forward": "the denoiser", "decode": "the VAE"}


def _clip_seconds(settings: dict[str, Any]) -> float | None:
    """How long the clip is that a workload makes; None for a picture."""
    frames, rate = settings.get("num_frames"), settings.get("fps")
    if isinstance(frames, (int, float)) and isinstance(rate, (int, float)) and frames > 1 < rate:
        return frames / rate
    return None
