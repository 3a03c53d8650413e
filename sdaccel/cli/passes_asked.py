"""Which passes would apply to a pipe: asked by applying each one and taking it back."""

from __future__ import annotations

from typing import Any

from .. import passes
from ..accelerate import accelerated
from ..accelerate import report as report_on
from ..errors import PassError
from ..plan import Plan
from ..report import PassRecord
from ..target import Target


def ask_every_pass(pipe: Any) -> list[PassRecord]:
    """What each pass, with those it needs, does to `pipe` or says against it.

    The pipe is restored after each. One that costs much is not tried beyond what it says itself.
    Raises `TargetError` where nothing could be accelerated.
    """
    return [_ask(pipe, name) for name in passes.NAMES]


def _ask(pipe: Any, name: str) -> PassRecord:
    kind = passes.pass_class(name)
    if kind.costly:
        record = PassRecord(name, kind.effect.value, kind.summary)
        reason = kind().refusal(Target.of(pipe)) or f"not tried: {kind.costly}"
        record.refuse("pipe", reason)
        return record
    try:
        with accelerated(pipe, _with_needs(name)):
            return report_on(pipe)[name]
    except PassError as error:
        record = PassRecord(name, kind.effect.value, kind.summary)
        record.refuse("pipe", str(error))
        return record


def _with_needs(name: str) -> Plan:
    wanted: dict[str, bool] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in wanted:
            wanted[each] = True
            waiting.extend(passes.pass_class(each).needs)
    return Plan.of(None).override(**wanted)
