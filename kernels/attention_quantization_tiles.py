"""The kernels that quantize query, key and value for attention; see `attention_quantization`.

Tensors are seen as (B, H, S, D), a program takes TOKENS tokens of one head. Strides come in units
of UNIT, so that Triton knows what they are multiples of.
"""

from __future__ import annotations

from .language import tl, triton


@triton.jit
def keys_within(lengths_ptr, batch, tokens):
    """How many keys of a sample take part."""
    if lengths_ptr is not None:
        tokens = tl.minimum(tokens, tl.load(lengths_ptr + batch))
    return tokens


@triton.jit
def _load_tokens(
    ptr,
    batch,
    token,
    head,
    batch_stride,
    token_stride,
    head_stride,
    channel,
    inside,
    UNIT: tl.constexpr,
):
    """A tile (TOKENS, WIDTH) of one head in fp32; zero outside. Strides are in units of UNIT."""
    row = (batch * batch_stride + token * token_stride + head * head_stride) * UNIT
    return tl.load(ptr + row[:, None] + channel[None, :], inside, 0.0).to(tl.float32)


@triton.jit
def statistics_kernel(
    key_ptr,
    value_ptr,
    lengths_ptr,
    sum_ptr,
    largest_ptr,
    tokens,
    heads,
    chunk,
    splits,
    key_batch,
    key_token,
    key_head,
    value_batch,
    value_token,
    value_head,
    UNIT: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The sum of key and the largest magnitude of value, by channel, of one part of the tokens."""
    program = tl.program_id(0)
    head = (program // splits % heads).to(tl.int64)
    batch = (program // splits // heads).to(tl.int64)
    first = program % splits * chunk
    last = tl.minimum(first + chunk, keys_within(lengths_ptr, batch, tokens))
    channel = tl.arange(0, WIDTH)
    within = channel < DIM
    total = tl.zeros((TOKENS, WIDTH), tl.float32)
    largest = tl.zeros((TOKENS, WIDTH), tl.float32)
    for start in range(first, last, TOKENS):
        token = (start + tl.arange(0, TOKENS)).to(tl.int64)
        inside = (token < last)[:, None] & within[None, :]
        if sum_ptr is not None:
            total += _load_tokens(
                key_ptr, batch, token, head, key_batch, key_token, key_head, channel, inside, UNIT
            )
        if largest_ptr is not None:
            x = _load_tokens(
                value_ptr,
                batch,
                token,
                head,
                value_batch,
                value_token,
                value_head,
                channel,
                inside,
                UNIT,
            )
            largest = tl.maximum(largest, tl.abs(x))
    row = program.to(tl.int64) * DIM + channel
    if sum_ptr is not None:
        tl.store(sum_ptr + row, tl.sum(total, axis=0), within)
    if largest_ptr is not None:
        tl.store(largest_ptr + row, tl.max(largest, axis=0), within)


@triton.jit
def _own_block(
    x_ptr,
    lengths_ptr,
    tokens,
    heads,
    blocks,
    x_batch,
    x_token,
    x_head,
    UNIT: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A program's block of one head's tokens, in fp32; where it is inside of how many; its place.

    The place is the block's number and that of its head among those of all samples.
    """
    block = tl.program_id(0) % blocks
    batch_head = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = batch_head // heads, batch_head % heads
    channel = tl.arange(0, WIDTH)
    token = (block * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    length = keys_within(lengths_ptr, batch, tokens)
    inside = (token < length)[:, None] & (channel < DIM)[None, :]
    x = _load_tokens(x_ptr, batch, token, head, x_batch, x_token, x_head, channel, inside, UNIT)
    return x, inside, length, block, batch_head


@triton.jit
def _parts(ptr, batch_head, splits, channel, DIM: tl.constexpr, SPLITS: tl.constexpr):
    """The statistics of one head, part by part: (SPLITS, WIDTH), zero outside."""
    split = tl.arange(0, SPLITS)
    place = (batch_head * splits + split)[:, None] * DIM + channel[None, :]
    return tl.load(ptr + place, (split < splits)[:, None] & (channel < DIM)[None, :], 0.0)


@triton.jit
def _scale_of(largest, LARGEST: tl.constexpr):
    """The scale that takes `largest` to LARGEST; never zero."""
    return tl.where(largest < 1e-12, 1e-12, largest) / LARGEST


@triton.jit
def quantize_int8_kernel(
    x_ptr,
    lengths_ptr,
    sum_ptr,
    y_ptr,
    scale_ptr,
    factor,
    tokens,
    heads,
    blocks,
    splits,
    x_batch,
    x_token,
    x_head,
    BY_TOKEN: tl.constexpr,
    UNIT: tl.constexpr,
    DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One block of one head: (x - its mean) * factor, by token or as a whole."""
    x, inside, length, block, batch_head = _own_block(
        x_ptr, lengths_ptr, tokens, heads, blocks, x_batch, x_token, x_head,
        UNIT, DIM, TOKENS, WIDTH,
    )  # fmt: skip
    channel = tl.arange(0, WIDTH)
    if sum_ptr is not None:
        parts = _parts(sum_ptr, batch_head, splits, channel, DIM, SPLITS)
        mean = tl.sum(parts, axis=0) / tl.maximum(length, 1).to(tl.float32)
        x = tl.where(inside, x - mean[None, :], 0.0)
    x = x * factor
    # times 0 it is 0, or NaN where it isn't finite, which max would drop
    largest = tl.max(tl.abs(x), axis=1) + tl.sum(x * 0.0, axis=1)
    row = batch_head * blocks * TOKENS + block * TOKENS + tl.arange(0, TOKENS)
    if BY_TOKEN:
        scale = _scale_of(largest, 127.0)
        tl.store(scale_ptr + row, scale)
        y = x * (1.0 / scale)[:, None]
    else:
        scale = _scale_of(tl.max(largest, axis=0) + tl.sum(largest * 0.0, axis=0), 127.0)
        tl.store(scale_ptr + batch_head * blocks + block, scale)
        y = x * (1.0 / scale)
    y = tl.where(y == y, tl.floor(y + 0.5), 0.0).to(tl.int8)
    tl.store(y_ptr + row[:, None] * DEPTH + channel[None, :], y, (channel < DEPTH)[None, :])


@triton.jit
def quantize_fp8_kernel(
    x_ptr,
    lengths_ptr,
    largest_ptr,
    y_ptr,
    scale_ptr,
    tokens,
    heads,
    blocks,
    splits,
    x_batch,
    x_token,
    x_head,
    UNIT: tl.constexpr,
    DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLITS: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One block of one head, by channel, and transposed."""
    x, _, _, block, batch_head = _own_block(
        x_ptr, lengths_ptr, tokens, heads, blocks, x_batch, x_token, x_head,
        UNIT, DIM, TOKENS, WIDTH,
    )  # fmt: skip
    channel = tl.arange(0, WIDTH)
    parts = _parts(largest_ptr, batch_head, splits, channel, DIM, SPLITS)
    scale = _scale_of(tl.max(parts, axis=0), 448.0)
    row = batch_head * DEPTH + channel
    if block == 0:
        tl.store(scale_ptr + row, scale, channel < DEPTH)
    y = (x * (1.0 / scale)[None, :]).to(y_ptr.dtype.element_ty)
    token = block * TOKENS + tl.arange(0, TOKENS)
    place = row[None, :] * (blocks * TOKENS) + token[:, None]
    tl.store(y_ptr + place, y, (channel < DEPTH)[None, :])
