"""Counts the calls of torch's attention, whoever makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class AttentionCalls(TorchFunctionMode):
    """Within it `count` grows with each call of `scaled_dot_product_attention`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.count += function is torch.nn.functional.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))
