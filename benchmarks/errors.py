"""What stops a benchmark, and what stops only one rung of it."""

from __future__ import annotations

from sdaccel.errors import SdaccelError


class BenchmarkError(SdaccelError):
    """A workload, a rung or an option that does not exist."""


class ResultsError(SdaccelError):
    """A file that holds no benchmark results."""


class Skip(SdaccelError):  # noqa: N818  (nothing is wrong: the rung has no place on this machine)
    """Why a rung is not measured here; its row is written with this sentence."""
