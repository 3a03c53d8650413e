"""sdaccel: one verb makes a diffusers pipeline faster, one verb puts it back.

    pipe = sdaccel.accelerate(pipe)
    print(sdaccel.report(pipe))
    sdaccel.restore(pipe)

torch and diffusers are imported when they are first needed.
"""

from __future__ import annotations

from typing import Any

from .accelerate import accelerate, accelerated, report, restore
from .cold_start import load, save
from .errors import SdaccelError, SdaccelWarning
from .plan import Plan

__all__ = [
    "Plan",
    "SdaccelError",
    "SdaccelWarning",
    "accelerate",
    "accelerated",
    "load",
    "report",
    "restore",
    "save",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sdaccel")
    raise AttributeError(f"module 'sdaccel' has no attribute '{name}'")
