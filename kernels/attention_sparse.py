"""Attention of blocks of queries to chosen blocks of keys: `attention`, and the rest left out.

    o = softmax(query @ key.T * scale, over the keys of chosen blocks) @ value

Shapes: query, key, value and the result as in `attention`; block_mask, boolean, (B or 1, H or 1,
ceil(S / QUERY_BLOCK), ceil(T / KEY_BLOCK)) says which key block takes part for which query block,
for blocks of block_size = (QUERY_BLOCK, KEY_BLOCK) tokens, multiples of 16 each. The last may be
shorter. Where none is chosen the result is zeros. What is beyond the limits of `attention` (heads
of more than 256 channels) plain torch computes.

The mask becomes lists of block numbers on its device: nothing waits for the GPU. A program walks
over its list, and neither loads nor multiplies what isn't on it. FLOPs and reads of key and value
are those of `attention` times the share that is chosen.

Which blocks to choose for video: Xi et al., "Sparse VideoGen" (2025); Zhang et al., "Fast Video
Generation with Sliding Tile Attention" (2025).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import ArgumentError
from .arguments import check_choice, check_device
from .attention import attention_reference
from .attention_arguments import Layout, check_tensors, empty_result, heads_before_tokens
from .attention_launch import run
from .cost import Cost, size
from .language import triton
from .operator import Operator


def attention_sparse(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: torch.Tensor,
    *,
    block_size: tuple[int, int] = (128, 64),
    scale: float | None = None,
    layout: Layout = "bhsd",
) -> torch.Tensor:
    """The attention of query to the chosen blocks of key and value; shapes as above.

    Raises `ArgumentError` (a ValueError) for shapes, dtypes or devices that don't go together.
    """
    check_choice("layout", layout, ("bhsd", "bshd"))
    check_tensors(query, key, value, layout)
    if len(block_size) != 2 or any(each < 16 or each % 16 for each in block_size):
        raise ArgumentError(f"block_size is two multiples of 16, not {block_size}")
    _check_blocks(
        block_mask, heads_before_tokens(query, layout), heads_before_tokens(key, layout), block_size
    )
    return _OP(query, key, value, block_mask, list(block_size), scale, layout)


def _check_blocks(
    block_mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor, block_size: tuple[int, int]
) -> None:
    if block_mask.dtype != torch.bool:
        raise ArgumentError(f"block_mask is boolean, not {block_mask.dtype}")
    check_device(query=query, block_mask=block_mask)
    wanted = (
        *query.shape[:2],
        triton.cdiv(query.shape[2], block_size[0]),
        triton.cdiv(key.shape[2], block_size[1]),
    )
    fits = block_mask.dim() == 4 and all(
        length == size or (length == 1 and place < 2)
        for place, (length, size) in enumerate(zip(block_mask.shape, wanted, strict=True))
    )
    if not fits:
        raise ArgumentError(
            f"block_mask has shape {list(block_mask.shape)}; {list(wanted)} was expected, the "
            "first two of which may be 1"
        )


def _lists(block_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the chosen blocks in rising order, then zeros; and how many they are; int32.

    Shapes as block_mask, and that without its last dimension.
    """
    blocks = block_mask.shape[-1]
    places = block_mask.cumsum(-1) - 1
    numbers = torch.arange(blocks, dtype=torch.int32, device=block_mask.device)
    # what isn't chosen goes to a place beyond the end
    places = torch.where(block_mask, places, blocks)
    found = numbers.new_zeros(*block_mask.shape[:-1], blocks + 1)
    found.scatter_(-1, places, numbers.expand(block_mask.shape))
    return found[..., :blocks].contiguous(), block_mask.sum(-1, dtype=torch.int32)


def _run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: torch.Tensor,
    block_size: list[int],
    scale: float | None,
    layout: str,
) -> torch.Tensor:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = (heads_before_tokens(each, layout) for each in (query, key, value))
    lists = _lists(block_mask)
    out = run(query, key, value, None, None, scale, lists, (block_size[0], block_size[1]))
    return out if layout == "bshd" else out.transpose(1, 2)


def attention_sparse_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: torch.Tensor,
    block_size: list[int],
    scale: float | None,
    layout: str,
) -> torch.Tensor:
    """The same in plain torch, with a mask of all queries and keys."""
    queries, keys = (heads_before_tokens(each, layout).shape[2] for each in (query, key))
    mask = block_mask.repeat_interleave(block_size[0], 2)[:, :, :queries]
    mask = mask.repeat_interleave(block_size[1], 3)[..., :keys]
    return attention_reference(query, key, value, mask, None, scale, layout)


def attention_sparse_cost(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_mask: torch.Tensor,
    *,
    chosen: float,
    layout: Layout = "bhsd",
) -> Cost:
    """One read of everything and one write of the result; FLOPs by the share that is chosen.

    The share is given, since counting the mask would wait for its device.
    """
    keys = heads_before_tokens(key, layout).shape[2]
    flops = round(4 * query.numel() * keys * chosen)
    return Cost(size(query, query, key, value, block_mask), flops)


def ahead_of_time() -> Iterator[str]:
    """Launch the kernel at the shapes of real models, for compiling without a GPU; see `ahead`."""
    for name, heads, queries, dim, block_size in (
        ("Wan-14B", 40, 32760, 128, (128, 64)),
        ("Wan-14B, small blocks", 40, 32760, 128, (64, 64)),
        ("CogVideoX", 48, 17776, 64, (128, 128)),
    ):
        query = torch.empty(1, queries, heads, dim, dtype=torch.bfloat16, device="meta")
        shape = [triton.cdiv(queries, each) for each in block_size]
        block_mask = query.new_empty(1, heads, *shape, dtype=torch.bool)
        _run(query, query, query, block_mask, list(block_size), None, "bshd")
        yield name


_OP = Operator(
    "attention_sparse",
    "(Tensor query, Tensor key, Tensor value, Tensor block_mask, int[] block_size, float? scale, "
    "str layout) -> Tensor",
    launch=_run,
    reference=attention_sparse_reference,
    fake=lambda query, *rest: empty_result(query, rest[-1]),
)
