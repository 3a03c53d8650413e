"""Peers that reuse or merge what was computed: diffusers' own caches, DeepCache, tomesd, cache-dit
and ParaAttention, each with the settings that its own documentation begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from .errors import Skip
from .peer_tools import denoiser_of, needs_gpu, package

if TYPE_CHECKING:
    from .peer_tools import Change
    from .workloads import Workload

Settings = Callable[[Any, "Workload"], Mapping[str, Any]]
_APPROXIMATE = "approximate"
_FLUX, _FLUX_LAYERS = "FluxTransformer2DModel", 19


def _hooked(config: str, settings: Settings) -> Change:
    """One of diffusers' caches, by the name of its config."""

    @contextmanager
    def change(pipe: Any, workload: Workload) -> Iterator[None]:
        import diffusers
        from diffusers import hooks

        kind = getattr(hooks, config, None)
        if kind is None:
            raise Skip(f"diffusers {diffusers.__version__} has no {config}.")
        model = denoiser_of(pipe)
        if not hasattr(model, "enable_cache"):
            raise Skip(f"{type(model).__name__} takes none of diffusers' caches.")
        model.enable_cache(kind(**settings(pipe, workload)))
        try:
            yield
        finally:
            model.disable_cache()

    return change


def _taylor(pipe: Any, workload: Workload) -> Mapping[str, Any]:
    """Every third step, from the third on: 25 steps have less room than the 50 of the default."""
    import torch

    dtype = next(denoiser_of(pipe).parameters()).dtype
    taylor = torch.float32 if dtype == torch.float32 else torch.bfloat16
    return {"cache_interval": 3, "disable_cache_before_step": 3, "taylor_factors_dtype": taylor}


def _mag(pipe: Any, workload: Workload) -> Mapping[str, Any]:
    """The ratios of residuals are measured for a model; diffusers brings those of FLUX.1-dev."""
    model = denoiser_of(pipe)
    if type(model).__name__ != _FLUX or model.config.num_layers != _FLUX_LAYERS:
        raise Skip("MagCache needs ratios that were measured for the model: FLUX.1-dev has some.")
    from diffusers.hooks import mag_cache

    return {"mag_ratios": mag_cache.FLUX_MAG_RATIOS, "num_inference_steps": workload.steps}


def _timestep(pipe: Any) -> Callable[[], Any]:
    """What tells a cache the pipeline's timestep."""
    if not hasattr(type(pipe), "current_timestep"):
        raise Skip(f"{type(pipe).__name__} does not tell its timestep, by which this cache skips.")
    return lambda: pipe.current_timestep


def _pyramid(pipe: Any, workload: Workload) -> Mapping[str, Any]:
    return {"spatial_attention_block_skip_range": 2, "current_timestep_callback": _timestep(pipe)}


def _faster(pipe: Any, workload: Workload) -> Mapping[str, Any]:
    return {
        "spatial_attention_block_skip_range": 2,
        "current_timestep_callback": _timestep(pipe),
        "attention_weight_callback": lambda _: 0.3,
        "tensor_format": "BCFHW" if workload.unit == "clip" else "BCHW",
    }


def _defaults(pipe: Any, workload: Workload) -> Mapping[str, Any]:
    return {}


@contextmanager
def _deepcache(pipe: Any, workload: Workload) -> Iterator[None]:
    """Only the outermost level of a UNet is computed, two steps of three."""
    if not hasattr(pipe, "unet"):
        raise Skip("DeepCache is for UNets.")
    helper = package("DeepCache", "DeepCache").DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


@contextmanager
def tomesd(pipe: Any, workload: Workload) -> Iterator[None]:
    """Half of a UNet's tokens merged before attention, at its widest level."""
    if not hasattr(pipe, "unet"):
        raise Skip("tomesd is for UNets.")
    peer = package("tomesd", "tomesd")
    peer.apply_patch(pipe, ratio=0.5)
    try:
        yield
    finally:
        peer.remove_patch(pipe)


@contextmanager
def _cache_dit(pipe: Any, workload: Workload) -> Iterator[None]:
    peer = package("cache_dit", "cache-dit")
    with _own_class(pipe):
        peer.enable_cache(pipe)
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


CACHES: tuple[tuple[str, str, str, Callable[..., AbstractContextManager[None]]], ...] = (
    (
        "first-block-cache",
        "diffusers' FirstBlockCache, threshold 0.05",
        _APPROXIMATE,
        _hooked("FirstBlockCacheConfig", _defaults),
    ),
    (
        "taylorseer",
        "diffusers' TaylorSeer, every third step",
        _APPROXIMATE,
        _hooked("TaylorSeerCacheConfig", _taylor),
    ),
    (
        "mag-cache",
        "diffusers' MagCache, with FLUX's ratios",
        _APPROXIMATE,
        _hooked("MagCacheConfig", _mag),
    ),
    ("sea-cache", "diffusers' SeaCache", _APPROXIMATE, _hooked("SeaCacheConfig", _defaults)),
    (
        "pyramid-attention",
        "diffusers' PyramidAttentionBroadcast, every second step",
        _APPROXIMATE,
        _hooked("PyramidAttentionBroadcastConfig", _pyramid),
    ),
    ("faster-cache", "diffusers' FasterCache", _APPROXIMATE, _hooked("FasterCacheConfig", _faster)),
    ("deepcache", "DeepCache, interval 3, branch 0", _APPROXIMATE, _deepcache),
    ("cache-dit", "cache-dit's own defaults", _APPROXIMATE, _cache_dit),
    ("para-attention", "ParaAttention's first block cache", _APPROXIMATE, _para_attention),
)
"""Name, summary, effect, and what puts it on a pipe; all need several steps."""
