"""The ops as a user has them, compilers and recorders without a past, and a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def no_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attention by no choice of another test: a tape doesn't see what is machine code."""
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path))


@pytest.fixture
def memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU counts as a device that has memory of its own."""
    for module in ("hoist_holdings", "hoist", "hoist_release"):
        name = f"sdaccel.passes.{module}.gains_memory"
        monkeypatch.setattr(name, lambda _: True, raising=False)


@pytest.fixture
def forget_programs() -> Iterator[None]:
    """What a test compiles is let go after it."""
    import torch

    yield
    torch._dynamo.reset()


@pytest.fixture
def pipe() -> Any:
    """A pipe that draws 16x16 pictures in milliseconds."""
    import tiny

    return tiny.stable_diffusion()


@pytest.fixture
def recorder() -> Iterator[Any]:
    """The tape that stands in for CUDA graphs."""
    from taping import taped

    with taped() as found:
        yield found
