"""Tiny pipes whose tokens are merged whatever that costs, and what they have run."""

from __future__ import annotations

from typing import Any

import sdaccel

OPTIONS: dict[str, Any] = {"fewest_tokens": 0, "every": 3}


def merging(pipe: Any, plan: str = "none", **options: Any) -> Any:
    """The pipe with token_merge, for however few tokens unless asked otherwise."""
    return sdaccel.accelerate(pipe, plan, token_merge={**OPTIONS, **options})


def record(pipe: Any) -> Any:
    """What the report has on token_merge."""
    return sdaccel.report(pipe)["token_merge"]
