"""Tiny pipes with `flatten`, and what they have run."""

from __future__ import annotations

from typing import Any

import recording

import sdaccel


def flattened(pipe: Any, **options: Any) -> Any:
    """The pipe with `flatten`."""
    return sdaccel.accelerate(pipe, "none", flatten=options or True)


def ran(pipe: Any, name: str) -> int:
    """A count of the report, of all denoisers."""
    return recording.ran(pipe, "flatten", name)
