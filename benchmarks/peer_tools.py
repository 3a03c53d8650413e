"""What the peers share: finding a package and the denoiser, and skipping with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import Skip
from .memory import out_of_memory

if TYPE_CHECKING:
    from .workloads import Workload

    Change: TypeAlias = Callable[[Any, Workload], AbstractContextManager[None]]

HINT = "install the peers with `pip install -r requirements/peers.txt`"


def package(module: str, name: str) -> Any:
    """The module of a peer; raises `Skip`, with a way to get it, where it can't be imported."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise Skip(f"{name} is not installed: {HINT}.") from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise Skip(f"{name} can't be imported here ({error}).") from error


def denoiser_of(pipe: Any) -> Any:
    """The module that runs at every step; raises `Skip` where there is none."""
    from sdaccel.target import kind_of

    for name, part in pipe.components.items():
        if kind_of(name, type(part)) == "denoiser":
            return part
    raise Skip("This pipe has no denoiser.")


def needs_gpu(pipe: Any, name: str) -> None:
    """Raises `Skip` on a CPU."""
    if pipe.device.type != "cuda":
        raise Skip(f"{name} needs a GPU.")


@contextmanager
def unable(name: str) -> Iterator[None]:
    """What a peer raises while it is put on is why it is skipped; a lack of memory is not."""
    try:
        yield
    except Skip:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        text = " ".join(str(error).split())[:200]
        raise Skip(f"{name} can't be used here ({type(error).__name__}: {text}).") from error
