"""One thread a test: the tensors are tiny, and threads that wait for each other only cost.

What is measured is kept in a folder of the tests, never in the user's.
Kernels run in Triton's interpreter, which reads its switch when a kernel is defined; with `--gpu`
they are compiled, and their tests' tensors lie on the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the kernels' tests on the GPU")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--gpu"):
        if not _has_gpu():
            raise pytest.UsageError("--gpu: there is no GPU here that this torch can use")
        os.environ.pop("TRITON_INTERPRET", None)
    else:
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--gpu"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and the option --gpu"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDACCEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Stable Diffusion pipeline as ONNX graphs in a folder."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import exports
    import tiny

    return exports.by_hand(tiny.stable_diffusion(), tmp_path_factory.mktemp("exported"))


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of schedulers go the device's way, which is the interpreter's here."""
    from sdaccel.schedulers.trajectory import Trajectory

    begin = Trajectory.__init__

    def __init__(self: Trajectory, *arguments: Any) -> None:  # noqa: N807
        begin(self, *arguments)
        self._on_host = False

    monkeypatch.setattr(Trajectory, "__init__", __init__)


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
