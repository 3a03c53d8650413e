"""The package's own errors: each message is one sentence that says what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SdaccelError(Exception):
    """Anything that sdaccel itself refuses or fails to do."""


class PlanError(SdaccelError):
    """A plan names a pass, an option or a combination that does not exist."""


class TargetError(SdaccelError):
    """The object given is no diffusers pipeline, or one without anything to accelerate."""


class PassError(SdaccelError):
    """A pass failed half-way, or was refused under ``strict=True``; the pipe is as it was."""


class SavedError(SdaccelError):
    """A saved acceleration is damaged or of another kind, or can't be written."""


class ModelNotFoundError(SdaccelError):
    """No pipeline can be loaded from the name or the folder given."""


class InputError(SdaccelError):
    """A prompt, a size or another generation argument that the model cannot take."""


class ArgumentError(SdaccelError, ValueError):
    """A kernel was given a tensor or an option that it cannot take."""


class MetricError(SdaccelError, ValueError):
    """A measure of quality can't be taken: of these pictures, or without what is not installed."""


class ExportError(SdaccelError):
    """A model can't be exported, or an exported folder can't be used."""


class VerdictError(SdaccelError):
    """What was measured is not good enough; `result` is what was found."""

    def __init__(self, sentence: str, result: Mapping[str, Any]) -> None:
        super().__init__(sentence)
        self.result = result


class GateError(VerdictError):
    """A plan's pictures did not pass their quality gate."""


class RegressionError(VerdictError):
    """Rows of a benchmark got worse beyond noise."""


class SdaccelWarning(UserWarning):
    """Something did not go as the plan said, and was mended or needs a look."""
