"""TensorRT's package, what it complains of, and the GPU and the stream that engines run on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ExportError

if TYPE_CHECKING:
    import torch

_OLDEST = (10, 3)
"""The first release with every call that is used here."""


@dataclass(frozen=True)
class Gpu:
    """An engine is built for one kind of GPU, and runs on no other."""

    name: str
    capability: tuple[int, int]


def runtime() -> Any:
    """The package, or an `ExportError` that names the extra."""
    try:
        found = import_module("tensorrt")
    except ImportError as error:
        raise ExportError("TensorRT is not installed: pip install sdaccel[tensorrt].") from error
    if release(found) < _OLDEST:
        raise ExportError(
            f"TensorRT {found.__version__} is too old, {_OLDEST[0]}.{_OLDEST[1]} is the oldest "
            "that serves: pip install --upgrade sdaccel[tensorrt]."
        )
    return found


def release(package: Any) -> tuple[int, ...]:
    """Major and minor number of a package."""
    return tuple(int(each) for each in re.findall(r"\d+", package.__version__)[:2])


def gpu_of(device: torch.device) -> Gpu:
    """The GPU at a device, or an `ExportError` where that is none of NVIDIA's."""
    import torch

    if not torch.cuda.is_available() or torch.version.cuda is None:
        raise ExportError(
            "TensorRT needs a CUDA GPU, and torch finds none here: take the plan 'onnxruntime' or "
            "'openvino', or build engines where there is one."
        )
    if device.type != "cuda":
        raise ExportError(
            f"TensorRT computes on CUDA GPUs, and this pipe is on {device}: call pipe.to('cuda'), "
            "then sdaccel.accelerate(pipe, plan='tensorrt')."
        )
    found = torch.cuda.get_device_properties(device)
    return Gpu(str(found.name), (int(found.major), int(found.minor)))


def new_log(package: Any) -> Any:
    """A logger of TensorRT's that prints nothing; its `errors` are what went wrong, in order."""
    severity = package.ILogger.Severity
    bad = (severity.INTERNAL_ERROR, severity.ERROR)

    class Log(package.ILogger):
        def __init__(self) -> None:
            package.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in bad:
                self.errors.append(msg)

    return Log()


def reason(log: Any) -> str:
    """The first error that a log has, shortened."""
    lines = " ".join(log.errors[:1]).split("\n")
    return lines[0][:300] or "TensorRT says no reason"


@contextlib.contextmanager
def queue(device: torch.device, own: Any) -> Iterator[int]:
    """The handle of a stream whose work runs between torch's before and torch's after; no waiting.

    TensorRT synchronises on the default stream, so there `own` is taken instead, a `torch.cuda`
    stream that waits for torch's and that torch's waits for.
    """
    import torch

    theirs = torch.cuda.current_stream(device)
    with current(device):
        if theirs != torch.cuda.default_stream(device):
            yield theirs.cuda_stream
            return
        own.wait_stream(theirs)
        try:
            yield own.cuda_stream
        finally:
            theirs.wait_stream(own)


def new_stream(device: torch.device) -> Any:
    """A stream for `queue`."""
    import torch

    return torch.cuda.Stream(device)


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Let a GPU be the one that TensorRT builds for, loads to and refits on."""
    import torch

    return torch.cuda.device(device)
