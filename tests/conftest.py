"""One thread a test: the tensors are tiny, and threads that wait for each other only cost.

What is measured is kept in a folder of the tests, never in the user's.
Kernels run in Triton's interpreter, which reads its switch when a kernel is defined.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDACCEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
