"""The kernel behind `attention` and `attention_sparse`: the keys in one pass.

A program holds QUERIES rows of one head and walks over the keys, KEYS at a time. It keeps each
row's largest logit, its total weight and its weighted sum of values in registers, in fp32, and
corrects them when a larger logit turns up: the logits never reach memory. Powers of two stand in
for powers of e, the scale times log2(e) is folded into one multiplication and subtraction.

Matrix units want powers of two, head dims are often none: a head is cut into MAIN channels, the
largest power of two within it, and REST, the rest rounded up to one. 40 becomes 32 + 16, not 64; 72
and 80 become 64 + 16, not 128; 96 becomes 64 + 32, 160 becomes 128 + 32. Channels beyond the head
are never read: loads are masked, and a TMA box fills them with zeros.

Programs are numbered through the queries of a head first, so those that run at one time read the
same keys and values from L2.

Online softmax: Milakov and Gimelshein (2018); tiling: Dao, "FlashAttention-2" (2023).
"""

from __future__ import annotations

from .language import tl, triton

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_tile(
    source,
    batch,
    head,
    token,
    tokens,
    batch_stride,
    head_stride,
    token_stride,
    BOUND: tl.constexpr,
    FIRST: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    TMA: tl.constexpr,
):
    """(ROWS, WIDTH) of a head, from a token and channel FIRST on.

    Zeros beyond the head's channels, and beyond its tokens where BOUND says that the tile may end
    there. `source` is a pointer, or with TMA a descriptor of (1, 1, ROWS, WIDTH) boxes.
    """
    if TMA:
        tile = source.load([batch, head, token, FIRST]).reshape(ROWS, WIDTH)
    else:
        row, channel = tl.arange(0, ROWS), FIRST + tl.arange(0, WIDTH)
        start = batch.to(tl.int64) * batch_stride + head.to(tl.int64) * head_stride
        start = (start + tl.cast(token, tl.int64) * token_stride) * UNIT
        offset = row[:, None] * (token_stride * UNIT) + channel[None, :]
        if BOUND and FIRST + WIDTH > DIM:
            inside = (token + row < tokens)[:, None] & (channel < DIM)[None, :]
            tile = tl.load(source + start + offset, inside, 0.0)
        elif BOUND:
            tile = tl.load(source + start + offset, (token + row < tokens)[:, None], 0.0)
        elif FIRST + WIDTH > DIM:
            tile = tl.load(source + start + offset, (channel < DIM)[None, :], 0.0)
        else:
            tile = tl.load(source + start + offset)
    return tile


@triton.jit
def _dot(left, right, sums, PRECISION: tl.constexpr):
    """left @ right + sums. PRECISION None: in fp32, for an interpreter that can't multiply bf16."""
    if PRECISION is None:
        sums = tl.dot(left.to(tl.float32), right.to(tl.float32), sums, input_precision="ieee")
    else:
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
    return sums


@triton.jit
def _attend(
    largest,
    total,
    sums,
    sums_rest,
    query,
    query_rest,
    key,
    key_rest,
    value,
    value_rest,
    batch,
    head,
    token,
    tokens,
    key_batch,
    key_head,
    key_token,
    value_batch,
    value_head,
    value_token,
    mask_row,
    mask_key,
    is_query,
    scale,
    BOUND: tl.constexpr,
    ADDITIVE: tl.constexpr,
    BY_QUERY: tl.constexpr,
    DIM: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    KEYS: tl.constexpr,
    UNIT: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The state of all rows after KEYS more keys, from a token on."""
    tile = load_tile(
        key, batch, head, token, tokens, key_batch, key_head, key_token,
        BOUND, 0, DIM, KEYS, MAIN, UNIT, TMA,
    )  # fmt: skip
    logits = _dot(query, tl.trans(tile), None, PRECISION)
    if REST:
        tile = load_tile(
            key_rest, batch, head, token, tokens, key_batch, key_head, key_token,
            BOUND, MAIN, DIM, KEYS, REST, UNIT, TMA,
        )  # fmt: skip
        logits = _dot(query_rest, tl.trans(tile), logits, PRECISION)

    column = token + tl.arange(0, KEYS)
    if mask_row is not None:
        if BY_QUERY:
            inside = is_query[:, None]
            if BOUND:
                inside = inside & (column < tokens)[None, :]
            mask = tl.load(mask_row[:, None] + column.to(tl.int64)[None, :] * mask_key, inside, 0)
        else:
            mask = tl.load(mask_row + column.to(tl.int64) * mask_key, column < tokens, 0)[None, :]
        if ADDITIVE:
            logits = logits * scale + mask.to(tl.float32)
        else:
            logits = tl.where(mask != 0, logits, float("-inf"))
    if BOUND:
        logits = tl.where((column < tokens)[None, :], logits, float("-inf"))

    largest_now = tl.maximum(largest, tl.max(logits, 1))
    # A row that is masked so far has -inf less -inf, which is NaN: any number will do instead.
    finite = largest_now
    if mask_row is not None:
        finite = tl.where(largest_now == float("-inf"), 0.0, largest_now)
    if ADDITIVE:
        # Masks of the dtype's least number would overflow if they were multiplied first.
        weights = tl.exp2((logits - finite[:, None]) * LOG2E)
        correction = tl.exp2((largest - finite) * LOG2E)
    else:
        shift = finite * (scale * LOG2E)
        weights = tl.exp2(logits * (scale * LOG2E) - shift[:, None])
        correction = tl.exp2(largest * (scale * LOG2E) - shift)
    total = total * correction + tl.sum(weights, 1)

    tile = load_tile(
        value, batch, head, token, tokens, value_batch, value_head, value_token,
        BOUND, 0, DIM, KEYS, MAIN, UNIT, TMA,
    )  # fmt: skip
    weights = weights.to(tile.dtype)
    sums = _dot(weights, tile, sums * correction[:, None], PRECISION)
    if REST:
        tile = load_tile(
            value_rest, batch, head, token, tokens, value_batch, value_head, value_token,
            BOUND, MAIN, DIM, KEYS, REST, UNIT, TMA,
        )  # fmt: skip
        sums_rest = _dot(weights, tile, sums_rest * correction[:, None], PRECISION)
    return largest_now, total, sums, sums_rest


@triton.jit
def _first_key(tile, blocks, PARTS: tl.constexpr, KEYS: tl.constexpr):
    """Where a program's so many-th tile of keys begins; `blocks` lists those of PARTS tiles."""
    if blocks is None:
        token = tile * KEYS
    else:
        token = (tl.load(blocks + tile // PARTS) * PARTS + tile % PARTS) * KEYS
    return token


@triton.jit
def _listed_tiles(listed, count, tokens, PARTS: tl.constexpr, KEYS: tl.constexpr):
    """How many tiles of the listed blocks are full, and how many have keys at all.

    The last of all blocks may end early, within a tile and with tiles that have no key.
    """
    last = tl.load(listed + tl.maximum(count - 1, 0))
    rest = tl.minimum(tokens - last * PARTS * KEYS, PARTS * KEYS)
    before = tl.maximum(count - 1, 0) * PARTS
    return (
        tl.where(count > 0, before + rest // KEYS, 0),
        tl.where(count > 0, before + tl.cdiv(rest, KEYS), 0),
    )


@triton.jit
def _store_tile(
    out_ptr, sums, row, queries, batch, head, heads,
    FIRST: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    channel = FIRST + tl.arange(0, WIDTH)
    inside = (row < queries)[:, None] & (channel < DIM)[None, :]
    start = (batch.to(tl.int64) * queries * heads + head) * DIM
    offset = row.to(tl.int64)[:, None] * (heads * DIM) + channel[None, :]
    tl.store(out_ptr + start + offset, sums.to(out_ptr.dtype.element_ty), inside)


@triton.jit
def attention_kernel(
    query,
    query_rest,
    key,
    key_rest,
    value,
    value_rest,
    mask_ptr,
    key_lengths_ptr,
    blocks_ptr,
    counts_ptr,
    out_ptr,
    heads,
    group,
    queries,
    keys,
    query_batch,
    query_head,
    query_token,
    key_batch,
    key_head,
    key_token,
    value_batch,
    value_head,
    value_token,
    mask_batch,
    mask_head,
    mask_query,
    mask_key,
    lists_batch,
    lists_head,
    blocks,
    scale,
    ADDITIVE: tl.constexpr,
    BY_QUERY: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    DIM: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    UNIT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    TMA: tl.constexpr,
    SPECIALISED: tl.constexpr,
    TENSOR_FLOAT: tl.constexpr,
    WIDENED: tl.constexpr,
):
    """Attention of QUERIES queries of one head over all keys, or over the blocks in their list.

    `blocks_ptr` (B or 1, H or 1, lists, blocks) lists key blocks of KEY_BLOCK in rising order, for
    each QUERY_BLOCK queries; `counts_ptr` says how many there are.
    """
    precision: tl.constexpr = None if WIDENED else "tf32x3" if TENSOR_FLOAT else "ieee"
    programs = tl.cdiv(queries, QUERIES)
    first = tl.program_id(0) % programs * QUERIES
    head = tl.program_id(0) // programs % heads
    batch = tl.program_id(0) // programs // heads
    kept = head // group
    row = first + tl.arange(0, QUERIES)

    tile = load_tile(
        query, batch, head, first, queries, query_batch, query_head, query_token,
        True, 0, DIM, QUERIES, MAIN, UNIT, TMA,
    )  # fmt: skip
    tile_rest = None
    if REST:
        tile_rest = load_tile(
            query_rest, batch, head, first, queries, query_batch, query_head, query_token,
            True, MAIN, DIM, QUERIES, REST, UNIT, TMA,
        )  # fmt: skip
    mask_row = None
    if mask_ptr is not None:
        start = batch.to(tl.int64) * mask_batch + head.to(tl.int64) * mask_head
        mask_row = mask_ptr + start
        if BY_QUERY:
            mask_row += row.to(tl.int64) * mask_query

    tokens = keys
    if key_lengths_ptr is not None:
        tokens = tl.minimum(keys, tl.maximum(tl.load(key_lengths_ptr + batch), 0))
    parts: tl.constexpr = 1 if KEY_BLOCK is None else KEY_BLOCK // KEYS
    if blocks_ptr is None:
        listed = None
        full, tiles = tokens // KEYS, tl.cdiv(tokens, KEYS)
    else:
        which = (batch * lists_batch + head * lists_head + first // QUERY_BLOCK).to(tl.int64)
        listed = blocks_ptr + which * blocks
        full, tiles = _listed_tiles(listed, tl.load(counts_ptr + which), tokens, parts, KEYS)

    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, MAIN], tl.float32)
    sums_rest = total
    if REST:
        sums_rest = tl.zeros([QUERIES, REST], tl.float32)
    if SPECIALISED:
        full = tiles
    for number in tl.range(0, full, warp_specialize=SPECIALISED):
        token = _first_key(number, listed, parts, KEYS)
        largest, total, sums, sums_rest = _attend(
            largest, total, sums, sums_rest, tile, tile_rest,
            key, key_rest, value, value_rest, batch, kept, token, tokens,
            key_batch, key_head, key_token, value_batch, value_head, value_token,
            mask_row, mask_key, row < queries, scale,
            SPECIALISED, ADDITIVE, BY_QUERY, DIM, MAIN, REST, KEYS, UNIT, TMA, precision,
        )  # fmt: skip
    if not SPECIALISED:
        for number in tl.range(full, tiles, num_stages=1):
            token = _first_key(number, listed, parts, KEYS)
            largest, total, sums, sums_rest = _attend(
                largest, total, sums, sums_rest, tile, tile_rest,
                key, key_rest, value, value_rest, batch, kept, token, tokens,
                key_batch, key_head, key_token, value_batch, value_head, value_token,
                mask_row, mask_key, row < queries, scale,
                True, ADDITIVE, BY_QUERY, DIM, MAIN, REST, KEYS, UNIT, TMA, precision,
            )  # fmt: skip

    # A row without keys has no weights and no sums, whatever they are divided by: zeros.
    inverse = (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
    _store_tile(out_ptr, sums * inverse, row, queries, batch, head, heads, 0, DIM, MAIN)
    if REST:
        _store_tile(out_ptr, sums_rest * inverse, row, queries, batch, head, heads, MAIN, DIM, REST)
