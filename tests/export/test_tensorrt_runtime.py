"""The GPU that an engine is for, the stream that it runs in, and what TensorRT complains of."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import fake_tensorrt
import pytest
import torch

from sdaccel.errors import ExportError
from sdaccel.export.tensorrt_runtime import Gpu, gpu_of, new_log, new_stream, queue, reason, release

CUDA = torch.device("cuda", 1)


class Stream:
    """A stream that writes down whom it waits for."""

    def __init__(self, handle: int, told: list[Any]) -> None:
        self.cuda_stream, self.told = handle, told

    def wait_stream(self, other: Stream) -> None:
        self.told.append((self.cuda_stream, "waits for", other.cuda_stream))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens on streams; torch's current one is 7, its default 0."""
    found: list[Any] = []
    streams = {"current_stream": Stream(7, found), "default_stream": Stream(0, found)}
    for name, stream in streams.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, stream=stream: stream)

    @contextlib.contextmanager
    def device(chosen: Any) -> Any:
        found.append(str(chosen))
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    return found


def test_work_joins_torch_s_own_stream(told: list[Any]) -> None:
    with queue(CUDA, Stream(9, told)) as handle:
        told.append(handle)
    assert told == ["cuda:1", 7]


@pytest.mark.parametrize("fails", [False, True])
def test_beside_the_default_stream_each_waits_for_the_other(
    told: list[Any], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    default = torch.cuda.default_stream(CUDA)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: default)
    with contextlib.suppress(InterruptedError), queue(CUDA, Stream(9, told)) as handle:
        told.append(handle)
        if fails:
            raise InterruptedError
    assert told == ["cuda:1", (9, "waits for", 0), 9, (0, "waits for", 9)]


def test_an_engine_is_for_one_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    there = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, total_memory=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: there)
    assert gpu_of(CUDA) == Gpu("NVIDIA H200", (9, 0))
    with pytest.raises(ExportError, match=r"is on cpu: call pipe.to\('cuda'\), then"):
        gpu_of(torch.device("cpu"))
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ExportError, match="needs a CUDA GPU, and torch finds none"):
        gpu_of(CUDA)


def test_only_errors_are_kept_and_the_first_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    package = fake_tensorrt.package()
    log = new_log(package)
    assert reason(log) == "TensorRT says no reason"
    severity = package.ILogger.Severity
    for level in severity:
        log.log(level, f"{level.name}\nmore")
    assert log.errors == ["INTERNAL_ERROR\nmore", "ERROR\nmore"]
    assert reason(log) == "INTERNAL_ERROR"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("version", "numbers"), [("10.13.3.9", (10, 13)), ("11.0.0.114", (11, 0)), ("10.3.0", (10, 3))]
)
def test_a_release_is_its_first_two_numbers(version: str, numbers: tuple[int, int]) -> None:
    assert release(fake_tensorrt.package(version)) == numbers


@pytest.mark.gpu
def test_on_a_gpu_what_is_queued_runs_between_torch_s_before_and_after() -> None:
    device = torch.device("cuda")
    own, value = new_stream(device), torch.zeros(1 << 20, device=device)
    for _ in range(20):
        value.add_(1)
        with queue(device, own) as handle, torch.cuda.stream(torch.cuda.ExternalStream(handle)):
            value.mul_(2)
        value.sub_(1)
    expected = 0.0
    for _ in range(20):
        expected = (expected + 1) * 2 - 1
    assert value.eq(torch.tensor(expected, dtype=torch.float32)).all()
