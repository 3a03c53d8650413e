"""One thread a test: the tensors are tiny, and threads that wait for each other only cost.

Kernels run in Triton's interpreter, which reads its switch when a kernel is defined.
"""

from __future__ import annotations

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
