"""The kernel behind `attention_int8`: one pass over the keys for a block of queries.

Channels are cut into a main part and a tail, each a power of two, as matrix products want them: 72
are 64 + 16 of value, and 64 + 32 of query and key, since 32 is what an int8 product takes at once.
"""

from __future__ import annotations

from .attention_quantization_tiles import keys_within
from .attention_tiles import load_tile
from .language import tl, triton


@triton.jit
def _scores(
    query,
    query_tail,
    key,
    key_tail,
    batch,
    head,
    token,
    key_batch,
    key_head,
    KEYS: tl.constexpr,
    KEY_MAIN: tl.constexpr,
    KEY_TAIL: tl.constexpr,
    TMA: tl.constexpr,
):
    """The products with KEYS keys, not yet scaled, in fp32, which holds them exactly."""
    depth: tl.constexpr = KEY_MAIN + KEY_TAIL
    tile = load_tile(
        key, batch, head, token, 0, key_batch, key_head, depth,
        False, 0, depth, KEYS, KEY_MAIN, 1, TMA,
    )  # fmt: skip
    score = tl.dot(query, tl.trans(tile), out_dtype=tl.int32)
    if KEY_TAIL:
        tile = load_tile(
            key_tail, batch, head, token, 0, key_batch, key_head, depth,
            False, KEY_MAIN, depth, KEYS, KEY_TAIL, 1, TMA,
        )  # fmt: skip
        score = tl.dot(query_tail, tl.trans(tile), score, out_dtype=tl.int32)
    return score.to(tl.float32)


@triton.jit
def _load_channels(
    source,
    batch,
    head,
    token,
    batch_stride,
    head_stride,
    channel_stride,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    TMA: tl.constexpr,
):
    """(WIDTH, KEYS) of fp8 value (B, Hk, D", T'), which has all tokens of a channel together."""
    if TMA:
        tile = source.load([batch, head, FIRST, token]).reshape(WIDTH, KEYS)
    else:
        start = batch.to(tl.int64) * batch_stride + head.to(tl.int64) * head_stride + token
        channel = (FIRST + tl.arange(0, WIDTH)).to(tl.int64)
        tile = tl.load(source + start + channel[:, None] * channel_stride + tl.arange(0, KEYS))
    return tile


@triton.jit
def _add_values(
    y,
    weight,
    fading,
    value,
    batch,
    head,
    token,
    tokens,
    value_batch,
    value_head,
    value_step,
    MASKED: tl.constexpr,
    FP8: tl.constexpr,
    WIDENED: tl.constexpr,
    DIM: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    UNIT: tl.constexpr,
    TMA: tl.constexpr,
):
    """y * fading + weight @ value, for WIDTH channels from FIRST on.

    Sums of fp8 products start anew each time: an accumulator of fp8 has fewer digits than fp32.
    """
    if FP8:
        tile = _load_channels(
            value, batch, head, token, value_batch, value_head, value_step, FIRST, WIDTH, KEYS, TMA
        )
        y = y * fading[:, None] + tl.dot(weight.to(tile.dtype), tl.trans(tile))
    else:
        tile = load_tile(
            value, batch, head, token, tokens, value_batch, value_head, value_step,
            MASKED, FIRST, DIM, KEYS, WIDTH, UNIT, TMA,
        )  # fmt: skip
        if MASKED and TMA:
            # beyond a sample's length there may be anything, NaN too
            tile = tl.where((token + tl.arange(0, KEYS) < tokens)[:, None], tile, 0.0)
        weight = weight.to(tile.dtype)
        if WIDENED:
            weight, tile = weight.to(tl.float32), tile.to(tl.float32)
        y = tl.dot(weight, tile, y * fading[:, None])
    return y


@triton.jit
def _store(
    y_ptr,
    y,
    inverse,
    scale_ptr,
    row,
    tokens,
    row_stride,
    DIM: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write y * inverse, times the scale of each channel, for WIDTH channels from FIRST on."""
    channel = FIRST + tl.arange(0, WIDTH)
    y = y * inverse[:, None]
    if scale_ptr is not None:
        y *= tl.load(scale_ptr + channel)[None, :]
    inside = (row < tokens)[:, None] & (channel < DIM)[None, :]
    place = row.to(tl.int64)[:, None] * row_stride + channel[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def attention_int8_kernel(
    query_ptr,
    query_scale_ptr,
    key,
    key_tail,
    key_scale_ptr,
    value,
    value_tail,
    value_scale_ptr,
    lengths_ptr,
    y_ptr,
    tokens,
    key_tokens,
    heads,
    group,
    padded_tokens,
    key_blocks,
    value_batch,
    value_head,
    value_step,
    FP8: tl.constexpr,
    WIDENED: tl.constexpr,
    UNIT: tl.constexpr,
    DIM: tl.constexpr,
    KEY_MAIN: tl.constexpr,
    KEY_TAIL: tl.constexpr,
    VALUE_MAIN: tl.constexpr,
    VALUE_TAIL: tl.constexpr,
    BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    TMA: tl.constexpr,
):
    """One block of queries of one head, over all keys; channels are a main part and a tail.

    The largest score is found before scores are scaled, since scales are above zero: scaling and
    subtracting the largest are one instruction then. KEYS divides the BLOCK that shares a scale.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(tokens, QUERIES)
    batch, head = program // blocks // heads, program // blocks % heads
    batch_head = (program // blocks).to(tl.int64)
    kept, keeping = head // group, heads // group
    key_batch_head = batch.to(tl.int64) * keeping + kept
    row = program % blocks * QUERIES + tl.arange(0, QUERIES)

    query_ptrs = query_ptr + batch_head * padded_tokens * (KEY_MAIN + KEY_TAIL)
    query_ptrs += row[:, None] * (KEY_MAIN + KEY_TAIL)
    query = tl.load(query_ptrs + tl.arange(0, KEY_MAIN)[None, :])
    query_tail = query
    if KEY_TAIL:
        query_tail = tl.load(query_ptrs + (KEY_MAIN + tl.arange(0, KEY_TAIL))[None, :])
    row_scale = tl.load(query_scale_ptr + batch_head * padded_tokens + row)
    key_scale_ptr += key_batch_head * key_blocks
    key_head = tl.cast(key_blocks, tl.int64) * (BLOCK * (KEY_MAIN + KEY_TAIL))

    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    y = tl.zeros((QUERIES, VALUE_MAIN), tl.float32)
    if VALUE_TAIL:
        y_tail = tl.zeros((QUERIES, VALUE_TAIL), tl.float32)
    length = keys_within(lengths_ptr, batch, key_tokens)
    whole = length // KEYS * KEYS
    for masked in tl.static_range(2):  # all whole blocks, then what is left
        for start in range(whole if masked else 0, length if masked else whole, KEYS):
            factor = row_scale * tl.load(key_scale_ptr + start // BLOCK)
            score = _scores(
                query, query_tail, key, key_tail, batch, kept, start,
                key_head * keeping, key_head, KEYS, KEY_MAIN, KEY_TAIL, TMA,
            )  # fmt: skip
            if masked:
                present = start + tl.arange(0, KEYS) < length
                score = tl.where(present[None, :], score, float("-inf"))
            higher = tl.maximum(highest, factor * tl.max(score, axis=1))
            fading = tl.exp2(highest - higher)
            highest = higher
            # in fp8, whose smallest number is 2**-9, the largest becomes 2**8
            weight = tl.exp2(score * factor[:, None] - (higher - (8 if FP8 else 0))[:, None])
            total = total * fading + tl.sum(weight, axis=1)
            y = _add_values(
                y, weight, fading, value, batch, kept, start, length,
                value_batch, value_head, value_step,
                masked, FP8, WIDENED, DIM, 0, VALUE_MAIN, KEYS, UNIT, TMA,
            )  # fmt: skip
            if VALUE_TAIL:
                y_tail = _add_values(
                    y_tail, weight, fading, value_tail, batch, kept, start, length,
                    value_batch, value_head, value_step,
                    masked, FP8, WIDENED, DIM, VALUE_MAIN, VALUE_TAIL, KEYS, UNIT, TMA,
                )  # fmt: skip

    inverse = 1.0 / tl.where(total == 0.0, 1.0, total)
    y_ptr += (batch_head // heads * tokens * heads + head) * DIM
    if FP8:
        value_scale_ptr += key_batch_head * (VALUE_MAIN + VALUE_TAIL)
    stride = heads * DIM
    _store(y_ptr, y, inverse, value_scale_ptr, row, tokens, stride, DIM, 0, VALUE_MAIN)
    if VALUE_TAIL:
        _store(
            y_ptr, y_tail, inverse, value_scale_ptr, row, tokens, stride,
            DIM, VALUE_MAIN, VALUE_TAIL,
        )  # fmt: skip
