"""The ops on a CPU as a user has them."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.fixture
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ops are computed by plain torch, as without TRITON_INTERPRET: a hundred times faster."""
    from sdaccel.kernels.ahead import FILES
    from sdaccel.kernels.operator import operators

    for name in FILES:
        import_module(f"sdaccel.kernels.{name}")
    monkeypatch.setattr("sdaccel.kernels.language.interpreted", lambda: False)
    for operator in operators().values():
        monkeypatch.setattr(operator, "_interpreted", False)
