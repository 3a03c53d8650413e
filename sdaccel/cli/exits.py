"""What the exit codes mean."""

from __future__ import annotations

from ..benchmarks.errors import BenchmarkError, ResultsError
from ..errors import (
    ExportError,
    GateError,
    InputError,
    ModelNotFoundError,
    PassError,
    PlanError,
    RegressionError,
    TargetError,
)

OK, UNEXPECTED, BAD_INPUT, NO_MODEL, NOT_ACCELERATED, GATE_FAILED, REGRESSED, INTERRUPTED = (
    *range(7),
    130,
)

TABLE = """exit codes:
  0    done
  1    an unexpected error (--debug shows where); a rung failed or is wrong (sdaccel bench)
  2    bad input: an option, a prompt, a size, a plan or a path
  3    no model under that name
  4    the pipeline can't be accelerated or exported, a pass failed, or refused under --strict
  5    the plan's pictures did not pass the quality gate (sdaccel compare)
  6    rows got worse beyond noise (sdaccel bench diff)
  130  interrupted"""


def code_of(error: BaseException) -> int:
    """The exit code for an error that ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, (InputError, PlanError, BenchmarkError, ResultsError)):
        return BAD_INPUT
    if isinstance(error, ModelNotFoundError):
        return NO_MODEL
    if isinstance(error, (ExportError, PassError, TargetError)):
        return NOT_ACCELERATED
    if isinstance(error, GateError):
        return GATE_FAILED
    if isinstance(error, RegressionError):
        return REGRESSED
    return UNEXPECTED
