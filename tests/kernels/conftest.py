"""Where kernels are tested on a GPU, tensors that a test makes itself lie there too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def made_on_the_device() -> Iterator[None]:
    # imported here: this file is read before the options are, which choose the device
    import torch
    from kernel_checks import DEVICE

    if DEVICE == "cpu":
        yield
        return
    torch.set_default_device(DEVICE)
    try:
        yield
    finally:
        torch.set_default_device(None)
