"""Plans with options in the name of a rung: "eager+step_cache[interval=2,forecast=0]"."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from sdaccel import Plan
from sdaccel.errors import PlanError

_OPTIONS = re.compile(r"(\w+)\[([^\[\]]*)\]")


def plan_of(expression: str) -> Plan:
    """The plan of an expression in which a pass may have options, numbers or words, in brackets.

    Its name is the expression. Raises `PlanError` for what is no plan, and for an option that a
    pass doesn't take.
    """
    options: dict[str, dict[str, Any]] = {}

    def bare(found: re.Match[str]) -> str:
        options[found[1]] = dict(_option(each) for each in found[2].split(","))
        return found[1]

    plan = Plan.of(_OPTIONS.sub(bare, expression))
    return replace(plan.override(**options), name=expression) if options else plan


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise PlanError(f"'{text}' is no option: write it as name=value, such as interval=2.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
