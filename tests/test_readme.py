"""What the README shows in Python can be typed in."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_block_imports_is_there(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            home = import_module(str(node.module))
            assert all(hasattr(home, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "sdaccel":
            assert hasattr(import_module("sdaccel"), node.attr)


def test_the_kernel_block_computes_what_its_comment_says() -> None:
    (block,) = (block for block in BLOCKS if "sdaccel.kernels" in block)
    names: dict[str, Any] = {}
    assert "4096" in block
    exec(block.replace("4096", "16"), names)  # Triton's interpreter is slow.
    x, scale, shift = names["x"], names["scale"][:, None], names["shift"][:, None]
    normed = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    torch.testing.assert_close(names["y"], normed * (1 + scale) + shift, atol=1e-4, rtol=1e-4)
