"""Plan: a frozen, ordered, serialisable choice of passes; the named plans."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import PlanError
from .passes import NAMES, Effect, Pass, pass_class

_EAGER = ("allocator", "memory_format", "no_ops", "vae", "attention", "group_norm")
NAMED: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "eager": _EAGER,
    "lossless": (*_EAGER, "compile"),
    "balanced": (*_EAGER, "compile", "precision", "step_cache"),
    "fast": (*_EAGER, "compile", "precision", "step_cache"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
}
"""What each name stands for: `eager` is exact and compiles nothing, `lossless` exact; `balanced`
and `fast` compute in 16 bit where the machine does that faster, and not every step in full; those
named after runtimes let exported graphs compute."""
_OPTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "balanced": {"step_cache": {"budget": 44.0, "interval": 2, "otherwise": "interval"}},
    "fast": {"step_cache": {"budget": 39.0, "interval": 3, "otherwise": "interval"}},
}
"""Options of a named plan's passes: a PSNR in dB to be kept where a model is calibrated, else each
second step in full, or each third.

A mean PSNR is no prompt fidelity: shapes-dit with 8 of 25 steps in full, at 38 dB, lost 3.5 points
over 200 held-out prompts; with 9, which 39 dB takes, 1."""


@dataclass(frozen=True)
class Plan:
    """Which passes to apply, with their options, in the order in which they are applied.

    Raises `PlanError` for passes that are twice in it, exclude each other or miss one they need.
    """

    name: str
    passes: tuple[Pass, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.passes, key=lambda each: each.order))
        object.__setattr__(self, "passes", ordered)
        _check(ordered)

    @classmethod
    def of(cls, value: Plan | str | Path | None) -> Plan:
        """A plan from a plan, a name, an expression or a JSON file; None is the empty plan.

        An expression adds passes to a named plan or takes them away: "lossless+precision",
        "fast-compile". Raises `PlanError` for anything else, naming the nearest match.
        """
        if value is None:
            return cls("none", ())
        if isinstance(value, Plan):
            return value
        if isinstance(value, Path) or str(value).endswith(".json"):
            return cls._read(Path(value))
        if not isinstance(value, str):
            raise PlanError(
                f"A plan is a name, an expression or a Plan, not {type(value).__name__}."
            )
        return cls._parse(value)

    @classmethod
    def _parse(cls, expression: str) -> Plan:
        name, *rest = re.split(r"([+-])", re.sub(r"\s", "", expression))
        if name not in NAMED:
            near = difflib.get_close_matches(name, NAMED, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(NAMED)}."
            raise PlanError(f"There is no plan '{name}': {hint}")
        changes = {key: sign == "+" for sign, key in zip(rest[::2], rest[1::2], strict=True)}
        options = _OPTIONS.get(name, {})
        passes = tuple(pass_class(key)(**options.get(key, {})) for key in NAMED[name])
        return cls(name, passes).override(**changes)

    def override(self, **overrides: bool | Mapping[str, Any]) -> Plan:
        """This plan with passes added (True), taken away (False) or given options (a mapping).

        Raises `PlanError` for an unknown pass or option, and for a value of another kind.
        """
        passes = {each.name: each for each in self.passes}
        for key, value in overrides.items():
            kind = pass_class(key)
            before = passes.pop(key, None)
            if value is not False:
                passes[key] = _with_options(kind, before, value)
        return Plan(_expression(self.name, set(passes)), tuple(passes.values()))

    def without(self, *names: str) -> Plan:
        """This plan without the passes of these names; those it does not have are ignored."""
        left = tuple(each for each in self.passes if each.name not in names)
        return Plan(_expression(self.name, {each.name for each in left}), left)

    @property
    def effect(self) -> Effect:
        """The strongest effect among its passes: what the whole plan does to the result."""
        ranks = list(Effect)
        return max((each.effect for each in self.passes), key=ranks.index, default=Effect.EXACT)

    def __contains__(self, name: object) -> bool:
        return any(each.name == name for each in self.passes)

    def __str__(self) -> str:
        return self.name

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the name, and each pass's name and options."""
        passes = [{"name": each.name, "options": each.options} for each in self.passes]
        return {"name": self.name, "passes": passes}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`; raises `PlanError` for what no plan would have written."""
        try:
            entries = [(entry["name"], entry.get("options", {})) for entry in values["passes"]]
            name = str(values["name"])
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"This is no plan: {error!r} while reading it.") from error
        passes = (_with_options(pass_class(key), None, options) for key, options in entries)
        return cls(name, tuple(passes))

    def to_json(self) -> str:
        """The plan as JSON text, which `from_json` and `Plan.of("plan.json")` read back."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`; raises `PlanError` for text that is no JSON or no plan."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"This is no plan: {error}.") from error
        return cls.from_dict(values)

    @classmethod
    def _read(cls, path: Path) -> Plan:
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"The plan {path} can't be read: {error.strerror}.") from error


def _expression(name: str, passes: set[str]) -> str:
    """The plan's name, with the passes that were added to it or taken away."""
    base = re.split(r"[+-]", name)[0]
    if base not in NAMED:
        return name
    added = [key for key in NAMES if key in passes.difference(NAMED[base])]
    removed = [key for key in NAMED[base] if key not in passes]
    return base + "".join(f"+{key}" for key in added) + "".join(f"-{key}" for key in removed)


def _with_options(kind: type[Pass], before: Pass | None, value: object) -> Pass:
    """A pass of this kind: as it was, with its defaults, or with some options changed."""
    if value is True:
        return before or kind()
    if not isinstance(value, Mapping):
        raise PlanError(f"{kind.name} takes True, False or a mapping of options, not {value!r}.")
    known = [each.name for each in fields(kind)]
    for option in value:
        if option not in known:
            choices = f"it has {', '.join(known)}" if known else "it has none"
            raise PlanError(f"The pass {kind.name} has no option '{option}': {choices}.")
    try:
        return kind(**{**(before.options if before else {}), **value})
    except (TypeError, ValueError) as error:
        raise PlanError(f"The pass {kind.name} can't take these options: {error}.") from error


def _check(passes: Iterable[Pass]) -> None:
    names = [each.name for each in passes]
    for each in passes:
        if names.count(each.name) > 1:
            raise PlanError(f"The pass {each.name} is in this plan twice.")
        for other in sorted(each.conflicts.intersection(names)):
            raise PlanError(f"{each.name} and {other} exclude each other: leave one out.")
        for other in sorted(each.needs.difference(names)):
            raise PlanError(f"{each.name} needs {other}: add it to the plan.")
