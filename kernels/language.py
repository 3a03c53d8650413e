"""Triton and its language, or stand-ins with which the kernel files can still be read.

Triton comes with torch's builds for GPUs. Where it is missing, every op takes its reference.
"""

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:

    class _Missing:
        """Takes any attribute; as a decorator it leaves the function as it is."""

        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, function: Any) -> Any:
            return function

    triton = tl = _Missing()

__all__ = ["missing", "tl", "triton"]

_OLDEST = (3, 5)


def missing() -> str | None:
    """Why Triton's kernels can't be used with this installation, or None."""
    version = getattr(triton, "__version__", None)
    if not isinstance(version, str):
        return "Triton is not installed"
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return f"Triton {version} is too old: 3.5 or newer is needed"
    return None


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1), so also on a CPU."""
    return missing() is None and bool(triton.knobs.runtime.interpret)
