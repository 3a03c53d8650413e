"""The statistics of large groups of channels, in two passes: the kernels behind `group_norm_silu`.

Tiles are read once for their means and squared deviations, by channel; these become a multiplier
and an offset for each channel (N, C), in fp32; then y = silu(x * multiplier + offset).
"""

from __future__ import annotations

from .language import tl, triton


@triton.jit
def _tile(
    channels,
    pixels,
    channel_stride,
    pixel_stride,
    tiles,
    length,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Of a program: sample, first pixel, channels; where its tile begins, and offsets from there.

    Each sample has so many tiles of a length in pixels; channels run fastest.
    """
    parts = tl.cdiv(channels, CHANNELS)
    rest = tl.program_id(0) // parts
    sample, tile = (rest // tiles).to(tl.int64), (rest % tiles).to(tl.int64)
    first = (tl.program_id(0) % parts).to(tl.int64) * CHANNELS
    start = sample * channels * pixels + first * channel_stride + tile * length * pixel_stride
    channel, pixel = tl.arange(0, CHANNELS), tl.arange(0, PIXELS)
    offset = channel[:, None] * channel_stride + pixel[None, :] * pixel_stride
    return sample, tile, first + channel, start, offset


@triton.jit
def moments_kernel(
    x_ptr,
    mean_ptr,
    squares_ptr,
    channels,
    pixels,
    channel_stride,
    pixel_stride,
    spans,
    span,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    sample, index, channel, start, offset = _tile(
        channels, pixels, channel_stride, pixel_stride, spans, span, CHANNELS, PIXELS
    )
    within, pixel = channel < channels, tl.arange(0, PIXELS)
    left = (pixels - index * span).to(tl.int32)
    x_ptr += start

    mean = tl.zeros((CHANNELS, PIXELS), tl.float32)
    squares = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for step in range(span // PIXELS):
        inside = within[:, None] & (step * PIXELS + pixel < left)[None, :]
        x = tl.load(x_ptr + offset, inside, 0.0).to(tl.float32)
        delta = tl.where(inside, x - mean, 0.0)
        mean += delta * (1.0 / (step + 1))
        squares += delta * (x - mean)
        x_ptr += PIXELS * pixel_stride

    steps = tl.minimum(tl.maximum(left - pixel + PIXELS - 1, 0) // PIXELS, span // PIXELS)
    count = steps.to(tl.float32)[None, :]
    channel_mean = tl.sum(mean * count, axis=1) / (tl.minimum(left, span) * 1.0)
    mean -= channel_mean[:, None]
    squares += mean * mean * count
    row = (sample * spans + index) * channels + channel
    tl.store(mean_ptr + row, channel_mean, within)
    tl.store(squares_ptr + row, tl.sum(squares, axis=1), within)


@triton.jit
def coefficients_kernel(
    mean_ptr,
    squares_ptr,
    weight_ptr,
    add_ptr,
    centre_ptr,
    multiplier_ptr,
    channels,
    pixels,
    spans,
    span,
    eps,
    GROUP: tl.constexpr,
    SPANS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    groups = channels // GROUP
    sample = (tl.program_id(0) // groups).to(tl.int64)
    index = tl.arange(0, SPANS)
    channel = (tl.program_id(0) % groups) * GROUP + tl.arange(0, CHANNELS)
    within = tl.arange(0, CHANNELS) < GROUP
    inside = (index < spans)[:, None] & within[None, :]
    place = (sample * spans + index)[:, None] * channels + channel[None, :]
    row = sample * channels + channel

    count = tl.where(inside, tl.minimum(pixels - index * span, span)[:, None] * 1.0, 0.0)
    mean = tl.load(mean_ptr + place, inside, 0.0)
    add = tl.zeros((CHANNELS,), tl.float32)
    if add_ptr is not None:
        add += tl.load(add_ptr + row, within, 0.0).to(tl.float32)
        mean += add[None, :]
    elements = pixels * (GROUP * 1.0)
    group_mean = tl.sum(tl.sum(mean * count, axis=0), axis=0) / elements
    delta = mean - group_mean
    squares = tl.load(squares_ptr + place, inside, 0.0) + delta * delta * count
    rstd = tl.rsqrt(tl.sum(tl.sum(squares, axis=0), axis=0) / elements + eps)
    tl.store(centre_ptr + row, group_mean - add, within)
    multiplier = tl.full((CHANNELS,), 1.0, tl.float32) * rstd
    if weight_ptr is not None:
        multiplier *= tl.load(weight_ptr + channel, within, 0.0).to(tl.float32)
    tl.store(multiplier_ptr + row, multiplier, within)


@triton.jit
def apply_kernel(
    x_ptr,
    bias_ptr,
    centre_ptr,
    multiplier_ptr,
    y_ptr,
    channels,
    pixels,
    channel_stride,
    pixel_stride,
    tiles,
    SILU: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    sample, tile, channel, start, offset = _tile(
        channels, pixels, channel_stride, pixel_stride, tiles, PIXELS, CHANNELS, PIXELS
    )
    within = channel < channels
    left = (pixels - tile * PIXELS).to(tl.int32)
    inside = within[:, None] & (tl.arange(0, PIXELS) < left)[None, :]

    row = sample * channels + channel
    x = tl.load(x_ptr + start + offset, inside, 0.0).to(tl.float32)
    y = x - tl.load(centre_ptr + row, within, 0.0)[:, None]
    y *= tl.load(multiplier_ptr + row, within, 0.0)[:, None]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + channel, within, 0.0).to(tl.float32)[:, None]
    if SILU:
        y *= tl.sigmoid(y)
    tl.store(y_ptr + start + offset, y.to(y_ptr.dtype.element_ty), inside)
