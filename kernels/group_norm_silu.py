"""GroupNorm of feature maps, with a time embedding before it and SiLU after it.

    x = x + add
    y = (x - mean) * rstd * weight + bias       mean, rstd: of each sample's each group of channels
    y = y * sigmoid(y)

Shapes: x (N, C, ...) with any number of pixels; add (N, C); weight and bias (C,); y as x. Both are
contiguous or both channels-last; x of other strides is copied first, and y is then contiguous.
Statistics and arithmetic are fp32, rounded once. Beyond 2^30 pixels, or 16,384 channels a group
that is read twice, plain torch computes.

On a CPU with AVX-512 machine code computes (`group_norm_native`).

Memory: a group of up to 32,768 elements (channels and pixels each rounded up to a power of two) is
held in registers by one program: one read and one write, 4 bytes an element in 16 bit. Larger ones
are read twice, 6 bytes: means and squared deviations of spans of pixels, by channel; from these a
centre and a multiplier for each channel; then y = silu((x - centre) * multiplier + bias). Plain
torch takes 10 bytes (norm 6, SiLU 4), 14 with the embedding. About 10 FLOPs an element.

GroupNorm: Wu and He (2018); SiLU: Elfwing et al. (2018). Statistics are updated by one value after
another (Welford, 1962), and combined by the formula of Chan, Golub and LeVeque, "Updating Formulae
and a Pairwise Algorithm for Computing Sample Variances" (1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from ..errors import ArgumentError
from .arguments import check_device, check_float, check_shape
from .cost import Cost, size
from .group_norm_native import group_norm_native
from .group_statistics import apply_kernel, coefficients_kernel, moments_kernel
from .language import tl, triton
from .operator import Config, Operator, UnsupportedError, launch

MOST_HELD = 32768
"""Elements of a group that one program holds in registers: 64 a thread with 16 warps."""
MOST_PARTS = 16384
"""Statistics of a group, by span and channel, that one program holds: a mean and squares each."""
MOST_PIXELS = 1 << 30
"""A pixel's index has 32 bits."""
PROGRAMS = 1056
"""The statistics of a large map are spread over so many: eight for each of an H100's 132 SMs."""


@triton.jit
def _group_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    add_ptr,
    y_ptr,
    channels,
    pixels,
    channel_stride,
    pixel_stride,
    eps,
    GROUP: tl.constexpr,
    SILU: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    groups = channels // GROUP
    sample = (tl.program_id(0) // groups).to(tl.int64)
    first = (tl.program_id(0) % groups) * GROUP
    channel, pixel = tl.arange(0, CHANNELS), tl.arange(0, PIXELS)
    within = channel < GROUP
    inside = within[:, None] & (pixel < pixels)[None, :]
    start = sample * channels * pixels + first.to(tl.int64) * channel_stride
    offset = channel[:, None] * channel_stride + pixel[None, :] * pixel_stride

    x = tl.load(x_ptr + start + offset, inside, 0.0).to(tl.float32)
    if add_ptr is not None:
        add = tl.load(add_ptr + sample * channels + first + channel, within, 0.0).to(tl.float32)
        x = tl.where(inside, x + add[:, None], 0.0)
    elements = pixels * (GROUP * 1.0)
    mean = tl.sum(tl.sum(x, axis=1), axis=0) / elements
    centred = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(tl.sum(centred * centred, axis=1), axis=0) / elements
    y = centred * tl.rsqrt(variance + eps)
    if weight_ptr is not None:
        y *= tl.load(weight_ptr + first + channel, within, 0.0).to(tl.float32)[:, None]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + first + channel, within, 0.0).to(tl.float32)[:, None]
    if SILU:
        y *= tl.sigmoid(y)
    tl.store(y_ptr + start + offset, y.to(y_ptr.dtype.element_ty), inside)


def _group_config(per_group: int, pixels: int) -> Config:
    """A whole group a program: 16 elements a thread up to 16 warps, then more."""
    wide, long = triton.next_power_of_2(per_group), triton.next_power_of_2(pixels)
    return Config({"CHANNELS": wide, "PIXELS": long}, warps=min(16, max(1, wide * long // 512)))


def _tile_config(channels: int, pixels: int, channels_last: bool) -> Config:
    """4,096 elements a program, 16 a thread, longest along what is contiguous.

    Channels-last has 64 channels: 128 bytes in 16 bit, and a divisor of every UNet's widths.
    """
    wide, long = triton.next_power_of_2(channels), triton.next_power_of_2(pixels)
    wide = min(wide, 64 if channels_last else max(1, 4096 // long))
    long = min(long, 4096 // wide)
    return Config({"CHANNELS": wide, "PIXELS": long}, warps=max(1, wide * long // 512))


def _run(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    silu: bool,
    add: torch.Tensor | None,
) -> torch.Tensor:
    """y, in one pass where a group can be held in registers, or else in two."""
    seen, sizes = _laid_out(x), _sizes(x)
    y = torch.empty_like(seen)
    if sizes["pixels"] > MOST_PIXELS:
        raise UnsupportedError(f"more than {MOST_PIXELS} pixels")
    if y.numel() == 0:
        return y
    weight, bias, add = (
        each if each is None else each.contiguous() for each in (weight, bias, add)
    )
    per_group = x.shape[1] // groups
    config = _group_config(per_group, sizes["pixels"])
    if math.prod(config.blocks.values()) > MOST_HELD:
        _run_in_two(seen, sizes, per_group, weight, bias, eps, silu, add, y)
        return y
    arguments = {
        "x_ptr": seen,
        "weight_ptr": weight,
        "bias_ptr": bias,
        "add_ptr": add,
        "y_ptr": y,
        "eps": eps,
        **sizes,
    }
    constants = {"GROUP": per_group, "SILU": silu}
    launch(_group_kernel, (x.shape[0] * groups,), arguments, constants, config)
    return y


def _run_in_two(
    x: torch.Tensor,
    sizes: Mapping[str, int],
    per_group: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    silu: bool,
    add: torch.Tensor | None,
    y: torch.Tensor,
) -> None:
    """Statistics of spans of pixels, from these a centre and a multiplier, all by channel; y."""
    samples, channels, pixels = x.shape[0], sizes["channels"], sizes["pixels"]
    wide = triton.next_power_of_2(per_group)
    if wide > MOST_PARTS:
        raise UnsupportedError(f"more than {MOST_PARTS} channels a group")
    config = _tile_config(channels, pixels, sizes["pixel_stride"] != 1)
    parts = samples * triton.cdiv(channels, config.blocks["CHANNELS"])
    tiles = triton.cdiv(pixels, config.blocks["PIXELS"])
    most = max(1, min(PROGRAMS // parts, MOST_PARTS // wide))
    span = config.blocks["PIXELS"] * triton.cdiv(tiles, most)
    spans = triton.cdiv(pixels, span)
    mean, squares = x.new_empty((2, samples, spans, channels), dtype=torch.float32)
    centre, multiplier = x.new_empty((2, samples, channels), dtype=torch.float32)

    partial = {"mean_ptr": mean, "squares_ptr": squares, "spans": spans, "span": span}
    launch(moments_kernel, (parts * spans,), {"x_ptr": x, **partial, **sizes}, {}, config)

    coefficients = {"centre_ptr": centre, "multiplier_ptr": multiplier}
    given = {"weight_ptr": weight, "add_ptr": add, "eps": eps}
    shape = {"channels": channels, "pixels": pixels}
    block = triton.next_power_of_2(spans) * wide
    held = Config({"SPANS": block // wide, "CHANNELS": wide}, warps=min(16, max(1, block // 256)))
    arguments = {**partial, **coefficients, **given, **shape}
    grid = (samples * channels // per_group,)
    launch(coefficients_kernel, grid, arguments, {"GROUP": per_group}, held)

    arguments = {"x_ptr": x, "bias_ptr": bias, "y_ptr": y, "tiles": tiles, **coefficients, **sizes}
    launch(apply_kernel, (parts * tiles,), arguments, {"SILU": silu}, config)


def _sizes(x: torch.Tensor) -> dict[str, int]:
    """A kernel's arguments for the shape and the layout of x."""
    channels, pixels = x.shape[1], math.prod(x.shape[2:])
    last = _is_channels_last(x)
    return {
        "channels": channels,
        "pixels": pixels,
        "channel_stride": 1 if last else pixels,
        "pixel_stride": channels if last else 1,
    }


def _is_channels_last(x: torch.Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous() and not x.is_contiguous()


def _laid_out(x: torch.Tensor) -> torch.Tensor:
    """x where it is contiguous or channels-last, or else a contiguous copy."""
    return x if _is_channels_last(x) else x.contiguous()


def group_norm_silu(
    hidden_states: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    eps: float = 1e-5,
    silu: bool = True,
    add: torch.Tensor | None = None,
) -> torch.Tensor:
    """silu(group_norm(hidden_states + add) * weight + bias), or without SiLU; shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_float(hidden_states=hidden_states, weight=weight, bias=bias, add=add)
    check_device(hidden_states=hidden_states, weight=weight, bias=bias, add=add)
    shape = hidden_states.shape
    if len(shape) < 3 or shape[1] == 0:
        raise ArgumentError(f"hidden_states is (N, C, ...) with C above 0, not {list(shape)}")
    if groups < 1 or shape[1] % groups:
        raise ArgumentError(f"groups divides {shape[1]} channels; {groups} does not")
    check_shape(shape[1:2], weight=weight, bias=bias)
    check_shape(shape[:2], add=add)
    return _OP(hidden_states, groups, weight, bias, eps, silu, add)


def group_norm_silu_reference(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    silu: bool,
    add: torch.Tensor | None,
) -> torch.Tensor:
    """The same in plain torch; in 16 bit each step is computed in fp32 and rounded, as in stock.

    Contiguous maps are flattened, which torch norms faster; pictures in channels-last are not,
    since torch would no longer know them as such, and take four times as long.
    """
    seen = _laid_out(x)
    if not x.numel():  # torch 2.14 refuses
        return torch.empty_like(seen)
    as_is = x.dim() == 4 and _is_channels_last(seen)
    flat = seen if as_is else seen.view(*x.shape[:2], 1, math.prod(x.shape[2:]))
    if add is not None:
        flat = flat + add.to(x.dtype)[:, :, None, None]
    if any(each is not None and each.dtype != x.dtype for each in (weight, bias)):
        weight, bias = (None if each is None else each.float() for each in (weight, bias))
        flat = flat if x.device.type == "cpu" else flat.float()
    y = torch.group_norm(flat, groups, weight, bias, eps)
    if silu:
        y = torch.nn.functional.silu(y, inplace=True)
    y = y.view(x.shape).to(x.dtype)
    return y if y.stride() == seen.stride() else torch.empty_like(seen).copy_(y)


def group_norm_silu_cost(
    hidden_states: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    add: torch.Tensor | None = None,
) -> Cost:
    """One read of everything and one write of y; 10 FLOPs an element.

    The second read of a large group is the kernel's own, so it is not counted.
    """
    return Cost(size(hidden_states, hidden_states, weight, bias, add), 10 * hidden_states.numel())


def ahead_of_time() -> Iterator[str]:
    """Launch the kernels at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, shape, embedded in (
        ("SD1.5 16x16", (2, 1280, 16, 16), True),
        ("SD1.5 32x32", (2, 640, 32, 32), True),
        ("SDXL 128x128", (2, 320, 128, 128), True),
        ("VAE 128x128", (1, 512, 128, 128), False),
        ("VAE 1024x1024", (1, 128, 1024, 1024), False),
    ):
        x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        weight, add = x.new_empty(shape[1]), x.new_empty(shape[:2]) if embedded else None
        _run(x, 32, weight, weight, 1e-5, True, add)
        yield name
        x = x.contiguous(memory_format=torch.channels_last)
        _run(x, 32, weight, weight, 1e-5, True, add)
        yield f"{name} channels-last"


_OP = Operator(
    "group_norm_silu",
    "(Tensor x, int groups, Tensor? weight, Tensor? bias, float eps, bool silu, Tensor? add)"
    " -> Tensor",
    launch=_run,
    reference=group_norm_silu_reference,
    fake=lambda x, *_: torch.empty_like(_laid_out(x)),
    native=lambda x, *more: group_norm_native(_laid_out(x), *more),
)
