"""Attention as diffusers calls it, and all who offer to compute it: torch's backends and packages.

Query, key and value are (batch, tokens, heads, dim), as linear layers leave them; torch wants heads
before tokens, which is a view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from .errors import Skip
from .kernel_cases import Case, Draw, Family, Inputs, Rival, Variant, package
from .kernel_rows import INDUCTOR, PACKAGE, STOCK, TORCH, Target

_UNPADDED = (40, 80, 160)
"""Head dimensions of SD1.5's UNet, which no library serves without padding."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **_: Any
) -> torch.Tensor:
    """AttnProcessor2_0's: torch chooses among its backends."""
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return y.transpose(1, 2)


def _inputs(
    draw: Draw, batch: int, tokens: int, text: int, heads: int, dim: int, masked: bool = False
) -> Inputs:
    """Self-attention where `text` is 0; `masked`: -10,000 added for the last fifth of the keys."""
    keys = text or tokens
    mask = None
    if masked:
        mask = torch.zeros(batch, 1, 1, keys, device=draw.device, dtype=draw.dtype)
        mask[..., keys - keys // 5 :] = -10000.0
        mask = mask.repeat(1, heads, 1, 1)
    return {
        "query": draw(batch, tokens, heads, dim),
        "key": draw(batch, keys, heads, dim),
        "value": draw(batch, keys, heads, dim),
        "mask": mask,
    }


def _case(
    model: str,
    what: str,
    batch: int,
    tokens: int,
    heads: int,
    dim: int,
    text: int = 0,
    **options: Any,
) -> Case:
    sizes = {"batch": batch, "tokens": tokens, "text": text, "heads": heads, "dim": dim}
    return Case(model, what, sizes, attend, options)


def _backend(name: str) -> Callable[[Inputs], Variant]:
    """torch's attention through one backend alone; it refuses by raising RuntimeError."""

    def open_it(inputs: Inputs) -> Variant:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backend = getattr(SDPBackend, name)
        if inputs["query"].device.type == "cpu" and name != "FLASH_ATTENTION":
            raise Skip("torch has this backend on GPUs alone.")

        def run(**named: Any) -> torch.Tensor:
            with sdpa_kernel([backend]):
                return attend(**named)

        try:
            run(**inputs)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            raise Skip("This backend refuses these shapes, this dtype or the mask.") from error
        return run

    return open_it


def _flex(inputs: Inputs) -> Variant:
    """FlexAttention, compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    if inputs["mask"] is not None:
        raise Skip("FlexAttention takes a mask as a function, and not as a tensor.")
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(query: Any, key: Any, value: Any, **_: Any) -> torch.Tensor:
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        y: torch.Tensor = compiled(query, key, value)
        return y.transpose(1, 2)

    return run


def _flash_attention(name: str) -> Callable[[Inputs], Variant]:
    """The FlashAttention package: 2, or 3 by its own name."""

    def open_it(inputs: Inputs) -> Variant:
        function = package(name).flash_attn_func
        if inputs["mask"] is not None:
            raise Skip(f"{name} takes no mask.")

        def run(query: Any, key: Any, value: Any, **_: Any) -> torch.Tensor:
            y: torch.Tensor = function(query, key, value)
            return y

        return run

    return open_it


def _sage(inputs: Inputs) -> Variant:
    """SageAttention: query and key in int8."""
    function = package("sageattention").sageattn
    if inputs["mask"] is not None:
        raise Skip("sageattention takes no mask.")

    def run(query: Any, key: Any, value: Any, **_: Any) -> torch.Tensor:
        y: torch.Tensor = function(query, key, value, tensor_layout="NHD")
        return y

    return run


def _rivals() -> Mapping[str, Rival]:
    return {
        "SDPA flash": Rival(TORCH, _backend("FLASH_ATTENTION")),
        "SDPA cuDNN": Rival(TORCH, _backend("CUDNN_ATTENTION")),
        "SDPA efficient": Rival(TORCH, _backend("EFFICIENT_ATTENTION")),
        "FlexAttention": Rival(TORCH, _flex),
        "FlashAttention 2": Rival(PACKAGE, _flash_attention("flash_attn")),
        "FlashAttention 3": Rival(PACKAGE, _flash_attention("flash_attn_interface")),
        "SageAttention": Rival(PACKAGE, _sage, "lower precision"),
    }


def _targets(case: Case) -> tuple[Target, ...]:
    ratio = 1.3 if case.sizes["dim"] in _UNPADDED else 1.0
    return (Target(ratio, (STOCK, INDUCTOR, TORCH)),)


def _attention(module: ModuleType, query: Any, key: Any, value: Any, mask: Any) -> Any:
    return module.attention(query, key, value, mask, layout="bshd")


def _attention_cost(module: ModuleType, query: Any, key: Any, value: Any, mask: Any) -> Any:
    return module.attention_cost(query, key, value, mask, layout="bshd")


ATTENTION = Family(
    "attention",
    "attention",
    "compute",
    (
        _case("SD1.5", "self, 64x64", 2, 4096, 8, 40),
        _case("SD1.5", "self, 32x32", 2, 1024, 8, 80),
        _case("SD1.5", "self, 16x16", 2, 256, 8, 160),
        _case("SD1.5", "text, 64x64", 2, 4096, 8, 40, text=77),
        _case("SD1.5", "text, 32x32", 2, 1024, 8, 80, text=77),
        _case("SD1.5", "self, 96x96 of 768x768", 2, 9216, 8, 40),
        _case("SDXL", "self, 64x64", 2, 4096, 10, 64),
        _case("SDXL", "self, 32x32", 2, 1024, 20, 64),
        _case("SDXL", "text, 32x32", 2, 1024, 20, 64, text=77),
        _case("SD3", "joint, 1024x1024", 2, 4250, 24, 64),
        _case("PixArt", "self, 1024x1024", 2, 4096, 16, 72),
        _case("PixArt", "text of 300, masked", 2, 4096, 16, 72, text=300, masked=True),
        _case("FLUX", "joint, 1024x1024", 1, 4608, 24, 128),
        _case("Wan-1.3B", "self, 832x480x81", 1, 32760, 12, 128),
        _case("Wan-14B", "self, 832x480x81", 1, 32760, 40, 128),
        _case("Wan-14B", "text of 512", 1, 32760, 40, 128, text=512),
    ),
    _inputs,
    _attention,
    _attention_cost,
    _rivals,
    _targets,
)


def _int8_targets(case: Case) -> tuple[Target, ...]:
    """1.3 times the best 16-bit backend at 8k tokens."""
    return (Target(1.3, (STOCK, INDUCTOR, TORCH)),) if case.sizes["tokens"] >= 8192 else ()


def _int8_inputs(draw: Draw, value_dtype: str = "16bit", **sizes: Any) -> Inputs:
    return {**_inputs(draw, **sizes), "value_dtype": value_dtype}


def _attention_int8(
    module: ModuleType, query: Any, key: Any, value: Any, mask: None, value_dtype: str
) -> Any:
    return module.attention_int8(query, key, value, layout="bshd", value_dtype=value_dtype)


def _attention_int8_cost(
    module: ModuleType, query: Any, key: Any, value: Any, mask: None, value_dtype: str
) -> Any:
    return module.attention_int8_cost(query, key, value, layout="bshd", value_dtype=value_dtype)


_FP8: dict[str, Any] = {"value_dtype": "fp8"}


ATTENTION_INT8 = Family(
    "attention_int8",
    "attention_int8",
    "compute",
    (
        _case("SDXL", "self, 64x64", 2, 4096, 10, 64),
        _case("PixArt", "self, 1024x1024", 2, 4096, 16, 72),
        _case("FLUX", "joint, 1024x1024", 1, 4608, 24, 128),
        _case("FLUX", "8k tokens", 1, 8192, 24, 128),
        _case("FLUX", "8k tokens, values in fp8", 1, 8192, 24, 128, **_FP8),
        _case("Wan-1.3B", "self, 832x480x81", 1, 32760, 12, 128),
        _case("Wan-14B", "self, 832x480x81", 1, 32760, 40, 128),
        _case("Wan-14B", "self, 832x480x81, values in fp8", 1, 32760, 40, 128, **_FP8),
    ),
    _int8_inputs,
    _attention_int8,
    _attention_int8_cost,
    _rivals,
    _int8_targets,
    effect="lower precision",
)

_BLOCK = (128, 64)
"""Tokens of query and of key and value that a place of the block mask stands for."""


def _sparse_inputs(draw: Draw, chosen: float, **sizes: Any) -> Inputs:
    """A share of all key blocks is chosen at random, for all heads alike; the first one always."""
    inputs = _inputs(draw, **sizes)
    tokens, keys = inputs["query"].shape[1], inputs["key"].shape[1]
    shape = [-(-length // block) for length, block in zip((tokens, keys), _BLOCK, strict=True)]
    block_mask = draw.mask(1, 1, *shape, share=chosen)
    block_mask[..., 0] = True
    dense = block_mask.repeat_interleave(_BLOCK[0], 2).repeat_interleave(_BLOCK[1], 3)
    return {
        **inputs,
        "mask": dense[..., :tokens, :keys],
        "block_mask": block_mask,
        "chosen": float(block_mask.float().mean()),
    }


def _attention_sparse(
    module: ModuleType, query: Any, key: Any, value: Any, block_mask: Any, **_: Any
) -> Any:
    return module.attention_sparse(query, key, value, block_mask, block_size=_BLOCK, layout="bshd")


def _attention_sparse_cost(
    module: ModuleType, query: Any, key: Any, value: Any, block_mask: Any, chosen: float, **_: Any
) -> Any:
    tensors = (query, key, value, block_mask)
    return module.attention_sparse_cost(*tensors, chosen=chosen, layout="bshd")


def _flex_blocks(inputs: Inputs) -> Variant:
    """FlexAttention over lists of the chosen blocks, compiled."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    chosen = inputs["block_mask"].int()
    counts = chosen.sum(-1, dtype=torch.int32)
    none = torch.zeros_like(counts)
    order = chosen.argsort(-1, descending=True, stable=True).int()
    lengths = (inputs["query"].shape[1], inputs["key"].shape[1])
    blocks = BlockMask.from_kv_blocks(
        none, order, counts, order, BLOCK_SIZE=_BLOCK, seq_lengths=lengths
    )
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(query: Any, key: Any, value: Any, **_: Any) -> torch.Tensor:
        query, key, value = (each.transpose(1, 2) for each in (query, key, value))
        y: torch.Tensor = compiled(query, key, value, block_mask=blocks)
        return y.transpose(1, 2)

    return run


def _sparse_rivals() -> Mapping[str, Rival]:
    return {
        "SDPA efficient": Rival(TORCH, _backend("EFFICIENT_ATTENTION")),
        "FlexAttention": Rival(TORCH, _flex_blocks),
    }


ATTENTION_SPARSE = Family(
    "attention_sparse",
    "attention_sparse",
    "compute",
    (
        _case("Wan-1.3B", "a quarter of the blocks", 1, 32760, 12, 128, chosen=0.25),
        _case("Wan-14B", "a quarter of the blocks", 1, 32760, 40, 128, chosen=0.25),
    ),
    _sparse_inputs,
    _attention_sparse,
    _attention_sparse_cost,
    _sparse_rivals,
    _targets,
)

FAMILIES = (ATTENTION, ATTENTION_INT8, ATTENTION_SPARSE)
