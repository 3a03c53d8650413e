"""Sinusoids of timesteps, as diffusion models are told the time: one launch instead of about ten.

    angle = t * exp(-log(max_period) * i / (dim // 2 - downscale_freq_shift)) * scale
    y     = [sin(angle), cos(angle)]        cosines first where flip_sin_to_cos; 0 last for odd dim

Shapes: timesteps (N,), i from 0 to dim // 2 - 1, y (N, dim).

The angle is rounded as diffusers' `get_timestep_embedding` rounds it, product by product in fp32,
so that both stray from the formula to the same side: at t = 1000 an angle's last digit is 6e-5. The
rest is exact to fp32: the exponential is taken in fp64 and rounded, the sine in fp64 of what is
left of whole turns, so that angles keep their digits up to 1e8. Relative L2 distances at t = 999
and dim 320, on a CPU: 5e-6 from stock that divides as it does on a GPU, 1e-5 from stock as it is
there, which is 1e-5 from the formula itself. A GPU's own fp32 exponential, with its relative error
of up to 2^-22 (PTX ISA, ex2.approx), would move angles by up to 2.4e-4.

Memory: 4 bytes written a value in fp32, far too few to matter: what counts is the launches. About
45 FLOPs a value, nearly all in fp64: where that runs at a 64th of fp32's rate, a program's 128
values take some 3,000 cycles.

Source: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), after Vaswani et al.,
"Attention Is All You Need" (2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ..errors import ArgumentError
from .arguments import FLOATS, check_choice, check_shape
from .cost import Cost, size
from .language import tl, triton
from .operator import Config, Operator, launch

TIMESTEPS = (*FLOATS, torch.float64, torch.int32, torch.int64)
"""What timesteps come in; they are rounded to fp32."""


@triton.jit
def _sine_of_turns(x):
    """sin(2 pi x) for x in fp64, to 1e-11: odd powers of what is left within a quarter turn."""
    x -= tl.floor(x + 0.5)
    x = tl.where(x > 0.25, 0.5 - x, tl.where(x < -0.25, -0.5 - x, x))
    angle = x * 6.283185307179586
    square = angle * angle
    y = 1.0 - square * (1 / 210)
    y = 1.0 - square * (1 / 156) * y
    y = 1.0 - square * (1 / 110) * y
    y = 1.0 - square * (1 / 72) * y
    y = 1.0 - square * (1 / 42) * y
    y = 1.0 - square * (1 / 20) * y
    y = 1.0 - square * (1 / 6) * y
    return angle * y


@triton.jit
def _timestep_embedding_kernel(
    timesteps_ptr,
    y_ptr,
    values,
    dim,
    stride,
    logarithm,
    inverse,
    scale,
    COSINE_FIRST: tl.constexpr,
    VALUES: tl.constexpr,
):
    place = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    inside = place < values
    row, channel = place // dim, place % dim
    half = dim // 2
    second = channel >= half
    index = tl.where(second, channel - half, channel).to(tl.float32)
    frequency = tl.exp((index * logarithm * inverse).to(tl.float64)).to(tl.float32)
    timestep = tl.load(timesteps_ptr + row * stride, inside, 0).to(tl.float32)
    angle = timestep * frequency * scale
    cosine = second != COSINE_FIRST
    turns = angle.to(tl.float64) * 0.15915494309189535
    y = _sine_of_turns(turns + tl.where(cosine, 0.25, 0.0)).to(tl.float32)
    y = tl.where(channel < 2 * half, y, 0.0)
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), inside)


def _run(
    timesteps: torch.Tensor,
    dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    scale: float,
    max_period: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    y = torch.empty((timesteps.shape[0], dim), dtype=dtype, device=timesteps.device)
    config = Config({"VALUES": 128}, warps=4)
    arguments = {
        "timesteps_ptr": timesteps,
        "y_ptr": y,
        "values": y.numel(),
        "dim": dim,
        "stride": timesteps.stride(0),
        "logarithm": -math.log(max_period),
        "inverse": _inverse(dim, downscale_freq_shift),
        "scale": float(scale),
    }
    constants = {"COSINE_FIRST": flip_sin_to_cos}
    grid = (triton.cdiv(y.numel(), config.blocks["VALUES"]),)
    launch(_timestep_embedding_kernel, grid, arguments, constants, config)
    return y


def _inverse(dim: int, downscale_freq_shift: float) -> float:
    """What stock divides the index by, as a factor, which is how torch divides on a GPU."""
    return 1.0 / (dim // 2 - downscale_freq_shift or 1)


def timestep_embedding(
    timesteps: torch.Tensor,
    dim: int,
    *,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1,
    scale: float = 1,
    max_period: float = 10000,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The embedding (N, dim) of timesteps (N,), rounded to a dtype; the formula stands above.

    Raises `ArgumentError` (a ValueError) for what has no embedding.
    """
    check_shape((-1,), timesteps=timesteps)
    check_choice("dtype", dtype, FLOATS)
    if timesteps.dtype not in TIMESTEPS:
        raise ArgumentError(f"timesteps are whole or floating point, not {timesteps.dtype}")
    if dim < 1 or dim // 2 == downscale_freq_shift != 0:
        raise ArgumentError(
            f"dim is above 0, and half of it isn't downscale_freq_shift: not {dim} and "
            f"{downscale_freq_shift}"
        )
    if max_period <= 0:
        raise ArgumentError(f"max_period is above 0, not {max_period}")
    return _OP(timesteps, dim, flip_sin_to_cos, downscale_freq_shift, scale, max_period, dtype)


def timestep_embedding_reference(
    timesteps: torch.Tensor,
    dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    scale: float,
    max_period: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The same in plain torch, in fp32 and rounded once."""
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = (-math.log(max_period) * index / (half - downscale_freq_shift)).exp()
    angle = scale * (timesteps.float()[:, None] * frequencies)
    waves = (angle.cos(), angle.sin()) if flip_sin_to_cos else (angle.sin(), angle.cos())
    rest = angle.new_zeros(timesteps.shape[0], dim % 2)
    return torch.cat((*waves, rest), dim=1).to(dtype)


def timestep_embedding_cost(
    timesteps: torch.Tensor, dim: int, dtype: torch.dtype = torch.float32
) -> Cost:
    """One read of the timesteps and one write of the values; 45 FLOPs a value."""
    values = timesteps.shape[0] * dim
    return Cost(size(timesteps) + values * dtype.itemsize, 45 * values)


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel as real models do, for compiling without a GPU; see `ahead`."""
    for name, dim, kind, dtype in (
        ("SD1.5", 320, torch.int64, torch.float16),
        ("FLUX", 256, torch.bfloat16, torch.bfloat16),
        ("Wan", 256, torch.float32, torch.float32),
    ):
        timesteps = torch.empty(2, dtype=kind, device="meta")
        _run(timesteps, dim, True, 0.0, 1.0, 10000.0, dtype)
        yield name


_OP = Operator(
    "timestep_embedding",
    "(Tensor timesteps, int dim, bool flip_sin_to_cos, float downscale_freq_shift, float scale, "
    "float max_period, ScalarType dtype) -> Tensor",
    launch=_run,
    reference=timestep_embedding_reference,
    fake=lambda timesteps, dim, *rest: timesteps.new_empty(
        (timesteps.shape[0], dim), dtype=rest[-1]
    ),
)
