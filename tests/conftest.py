"""One thread a test: the tensors are tiny, and threads that wait for each other only cost."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
