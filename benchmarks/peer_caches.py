"""Peers that reuse or merge what was computed: diffusers' own caches, DeepCache, tomesd, cache-dit
and ParaAttention, each with the settings that its own documentation begins with.

Most have one number that trades quality for speed, which may stand in their names: `deepcache-5`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import Skip
from .peer_hooks import (
    cached,
    faster,
    hooked,
    mag_cache,
    pyramid,
    taylor,
    taylor_lite,
    threshold_alone,
)
from .peer_tools import needs_gpu, package
from .settings import Setting

if TYPE_CHECKING:
    from .peer_tools import Change
    from .workloads import Workload

_APPROXIMATE = "approximate"


@dataclass(frozen=True)
class Family:
    """A peer with one setting: `change` puts it on at a value, `usual` is that of the plain name.

    `summary` has a place for the value. With `steps` it needs several.
    """

    name: str
    setting: Setting
    usual: float
    summary: str
    change: Callable[[float], Change]
    steps: bool = True

    def said(self, value: float) -> str:
        """The summary of the rung at a value."""
        return self.summary.format(f"{value:g}")


def _deepcache(interval: float) -> Change:
    """Only the outermost level of a UNet is computed, but for one step of `interval`."""

    @contextmanager
    def change(pipe: Any, workload: Workload) -> Iterator[None]:
        if not hasattr(pipe, "unet"):
            raise Skip("DeepCache is for UNets.")
        helper = package("DeepCache", "DeepCache").DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=int(interval), cache_branch_id=0)
        helper.enable()
        try:
            yield
        finally:
            helper.disable()

    return change


def _tomesd(ratio: float) -> Change:
    """That share of a UNet's tokens merged before attention, at the widest level that has any."""

    @contextmanager
    def change(pipe: Any, workload: Workload) -> Iterator[None]:
        if not hasattr(pipe, "unet"):
            raise Skip("tomesd is for UNets.")
        peer = package("tomesd", "tomesd")
        peer.apply_patch(pipe, ratio=ratio, max_downsample=_widest(pipe.unet))
        try:
            yield
        finally:
            peer.remove_patch(pipe)

    return change


def _widest(unet: Any) -> int:
    """How many times smaller than the latents a UNet's widest level with attention is, a side."""
    for level, block in enumerate(unet.down_blocks):
        if getattr(block, "attentions", None):
            return int(2**level)
    raise Skip("This UNet has no attention for which tokens could be merged.")


def _cache_dit(threshold: float) -> Change:
    """The first block alone decides, after 4 steps, and TaylorSeer forecasts what is skipped.

    By itself cache-dit computes 8 blocks and 8 steps, which leaves small models nothing to skip.
    """

    @contextmanager
    def change(pipe: Any, workload: Workload) -> Iterator[None]:
        peer = package("cache_dit", "cache-dit")
        config = peer.DBCacheConfig(
            Fn_compute_blocks=1, max_warmup_steps=4, residual_diff_threshold=threshold
        )
        forecast = peer.TaylorSeerCalibratorConfig(taylorseer_order=1)
        with _with_cache_dit(pipe, cache_config=config, calibrator_config=forecast):
            yield

    return change


@contextmanager
def _cache_dit_itself(pipe: Any, workload: Workload) -> Iterator[None]:
    if hasattr(pipe, "transformer"):
        least = package("cache_dit", "cache-dit").DBCacheConfig().Fn_compute_blocks
        _needs_blocks(pipe.transformer, least)
    with _with_cache_dit(pipe):
        yield


def _needs_blocks(model: Any, least: int) -> None:
    """Raises `Skip` where a model is not deep enough, which cache-dit says at its first call."""
    blocks = sum(len(each) for name, each in model.named_children() if name.endswith("blocks"))
    if blocks < least:
        raise Skip(
            f"By default cache-dit computes {least} blocks in full, and {type(model).__name__} has "
            f"{blocks}: give it a threshold, as in cache-dit-0.2."
        )


@contextmanager
def _with_cache_dit(pipe: Any, **settings: Any) -> Iterator[None]:
    peer = package("cache_dit", "cache-dit")
    with _own_class(pipe):
        peer.enable_cache(pipe, **settings)
        try:
            yield
        finally:
            peer.disable_cache(pipe)


@contextmanager
def _para_attention(pipe: Any, workload: Workload) -> Iterator[None]:
    adapters = package("para_attn.first_block_cache.diffusers_adapters", "ParaAttention")
    needs_gpu(pipe, "ParaAttention")
    with _own_class(pipe):
        adapters.apply_cache_on_pipe(pipe)
        yield


@contextmanager
def _own_class(pipe: Any) -> Iterator[None]:
    """The pipe is of a class of its own within: these peers replace `__call__` in its class, which
    stock shares."""
    before = type(pipe)
    pipe.__class__ = type(before.__name__, (before,), {"__module__": before.__module__})
    try:
        yield
    finally:
        pipe.__class__ = before


_INTERVAL = Setting("interval", "3", above=1, whole=True)
FAMILIES = (
    Family(
        "first-block-cache",
        Setting("threshold", "0.2"),
        0.05,
        "diffusers' FirstBlockCache, threshold {}",
        hooked("FirstBlockCacheConfig", threshold_alone),
    ),
    Family(
        "taylorseer",
        _INTERVAL,
        3,
        "diffusers' TaylorSeer of attention, full at one step of {}",
        hooked("TaylorSeerCacheConfig", taylor),
    ),
    Family(
        "taylorseer-lite",
        _INTERVAL,
        3,
        "diffusers' TaylorSeer of whole blocks, full at one step of {}",
        hooked("TaylorSeerCacheConfig", taylor_lite),
    ),
    Family(
        "mag-cache",
        Setting("threshold", "0.12"),
        0.06,
        "diffusers' MagCache, threshold {}, with FLUX's ratios or the model's own",
        mag_cache,
    ),
    Family(
        "sea-cache",
        Setting("threshold", "0.5"),
        0.25,
        "diffusers' SeaCache, threshold {}",
        hooked("SeaCacheConfig", threshold_alone),
    ),
    Family("deepcache", _INTERVAL, 3, "DeepCache, interval {}, branch 0", _deepcache),
    Family(
        "tomesd",
        Setting("ratio", "0.3", at_most=0.75),
        0.5,
        "tomesd, that share of the tokens merged: {}",
        _tomesd,
        steps=False,
    ),
)
"""Peers whose plain name stands for their usual value."""

CACHE_DIT = Family(
    "cache-dit",
    Setting("residual threshold", "0.2"),
    0.08,
    "cache-dit, F1B0 with TaylorSeer, residual threshold {}",
    _cache_dit,
)
"""Its plain name stands for its own defaults."""

CACHES: tuple[tuple[str, str, str, Change], ...] = (
    (
        "pyramid-attention",
        "diffusers' PyramidAttentionBroadcast, every second step",
        _APPROXIMATE,
        cached("PyramidAttentionBroadcastConfig", pyramid),
    ),
    ("faster-cache", "diffusers' FasterCache", _APPROXIMATE, cached("FasterCacheConfig", faster)),
    ("cache-dit", "cache-dit's own defaults", _APPROXIMATE, _cache_dit_itself),
    ("para-attention", "ParaAttention's first block cache", _APPROXIMATE, _para_attention),
)
"""Name, summary, effect, and what puts it on a pipe; all need several steps."""
