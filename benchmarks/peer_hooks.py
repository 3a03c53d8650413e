"""diffusers' own caches as peers: what each is told, for a model, a workload and a setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from sdaccel.passes.guidance_kind import guidance_of

from .errors import Skip
from .mag_ratios import mag_ratios
from .peer_tools import denoiser_of

if TYPE_CHECKING:
    from .peer_tools import Change
    from .workloads import Workload

Settings = Callable[[Any, "Workload", float], Mapping[str, Any]]
_ATTENTION = r"[^.]*blocks\.[0-9]+\.attn[0-9]?"
"""What TaylorSeer forecasts unless told otherwise, and Wan's `attn1` and `attn2`, which it doesn't
find by itself."""
_CAREFUL = 0.12
"""Up to this threshold MagCache skips as many steps in a row as diffusers lets it, and twice as
many above: no threshold would make it faster."""


def hooked(config: str, settings: Settings) -> Callable[[float], Change]:
    """One of diffusers' caches, by the name of its config and what it gets for a value."""
    return lambda value: cached(config, lambda pipe, workload: settings(pipe, workload, value))


def cached(config: str, settings: Callable[[Any, Workload], Mapping[str, Any]]) -> Change:
    """One of diffusers' caches, by the name of its config and what it gets."""

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


def taylor(pipe: Any, workload: Workload, interval: float) -> Mapping[str, Any]:
    """Attention is forecast between full steps, from the third on, as diffusers has it."""
    import torch

    dtype = next(denoiser_of(pipe).parameters()).dtype
    factors = torch.float32 if dtype == torch.float32 else torch.bfloat16
    return {
        "cache_interval": int(interval),
        "disable_cache_before_step": 3,
        "taylor_factors_dtype": factors,
        "cache_identifiers": [_ATTENTION],
    }


def taylor_lite(pipe: Any, workload: Workload, interval: float) -> Mapping[str, Any]:
    """Whole blocks are left out, and only the last projection is forecast."""
    settings = {**taylor(pipe, workload, interval), "use_lite_mode": True}
    del settings["cache_identifiers"]
    return settings


def mag_cache(threshold: float) -> Change:
    """diffusers' MagCache, which is told the number of steps before each generation.

    A scaled-down workload is timed in other steps than its pictures are judged in.
    """

    @contextmanager
    def change(pipe: Any, workload: Workload) -> Iterator[None]:
        settings: dict[int | None, Mapping[str, Any]] = {}

        def measure(pipe: Any, workload: Workload) -> Mapping[str, Any]:
            for each in (workload, *_as_judged(workload)):
                settings[each.steps] = _mag(pipe, each, threshold)
            return settings[workload.steps]

        with cached("MagCacheConfig", measure)(pipe, workload), _told_anew(pipe, settings):
            yield

    return change


def _as_judged(workload: Workload) -> Iterator[Workload]:
    """The workload in the number of steps in which its pictures are judged, if that is another."""
    judge, in_steps = workload.judge, workload.with_steps
    if judge is not None and in_steps is not None and judge.steps != workload.steps:
        yield in_steps(judge.steps)


@contextmanager
def _told_anew(pipe: Any, settings: Mapping[int | None, Mapping[str, Any]]) -> Iterator[None]:
    """MagCache gets its settings for a generation's number of steps when that becomes known."""
    from diffusers.hooks import MagCacheConfig

    model, stock = denoiser_of(pipe), pipe.scheduler.set_timesteps

    @wraps(stock)
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        result = stock(*args, **kwargs)
        if len(pipe.scheduler.timesteps) in settings:
            model.disable_cache()
            model.enable_cache(MagCacheConfig(**settings[len(pipe.scheduler.timesteps)]))
        return result

    if len(settings) > 1:
        pipe.scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        pipe.scheduler.__dict__.pop("set_timesteps", None)


def _mag(pipe: Any, workload: Workload, threshold: float) -> Mapping[str, Any]:
    """Ratios that were measured for the model in this number of steps."""
    return {
        "threshold": threshold,
        "max_skip_steps": 3 if threshold <= _CAREFUL else 6,
        "mag_ratios": mag_ratios(pipe, workload),
        "num_inference_steps": workload.steps,
    }


def threshold_alone(pipe: Any, workload: Workload, threshold: float) -> Mapping[str, Any]:
    """The threshold, and diffusers' defaults for the rest."""
    return {"threshold": threshold}


def _timestep(pipe: Any) -> Callable[[], Any]:
    """What tells a cache the pipeline's timestep."""
    if not hasattr(type(pipe), "current_timestep"):
        raise Skip(f"{type(pipe).__name__} does not tell its timestep, by which this cache skips.")
    return lambda: pipe.current_timestep


def pyramid(pipe: Any, workload: Workload) -> Mapping[str, Any]:
    """Attention is computed at every second step."""
    return {"spatial_attention_block_skip_range": 2, "current_timestep_callback": _timestep(pipe)}


def faster(pipe: Any, workload: Workload) -> Mapping[str, Any]:
    """Attention is computed at every second step, and the layout is that of the latents.

    Raises `Skip` where guidance is no batch of two, which FasterCache takes apart.
    """
    distilled = bool(getattr(denoiser_of(pipe).config, "guidance_embeds", False))
    kind: Any = type(pipe)
    guidance = guidance_of(kind)
    if not distilled and guidance is not None and not guidance.batched:
        raise Skip(
            f"FasterCache needs both branches of guidance in one batch, and {kind.__name__} "
            "computes them one after the other."
        )
    return {
        "is_guidance_distilled": distilled,
        "spatial_attention_block_skip_range": 2,
        "current_timestep_callback": _timestep(pipe),
        "attention_weight_callback": lambda _: 0.3,
        "tensor_format": "BCFHW" if workload.unit == "clip" else "BCHW",
    }
