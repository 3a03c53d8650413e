"""Rungs of a family that differ by a number in their names: "deepcache-3", "fewer-steps-12-unipc".

Peers and controls have the same form: the family, its setting, and for some a word behind it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import BenchmarkError

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Setting:
    """What the number of a family is and what it may be; `words` may stand behind it.

    `meaning` is the field's term for it, `example` a value that makes sense.
    """

    meaning: str
    example: str
    above: float = 0.0
    at_most: float = math.inf
    whole: bool = False
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The numbers that it takes: "a whole number above 1"."""
        kind = "a whole number" if self.whole else "a number"
        limit = f" and at most {self.at_most:g}" if math.isfinite(self.at_most) else ""
        return f"{kind} above {self.above:g}{limit}"

    def value(self, text: str) -> float | None:
        """The number that `text` is; None where this setting does not take it."""
        if not _NUMBER.fullmatch(text) or (self.whole and "." in text):
            return None
        found = float(text)
        return found if self.above < found <= self.at_most and math.isfinite(found) else None


@dataclass(frozen=True)
class Named:
    """A name taken apart; the word is empty where there is none."""

    family: str
    value: float
    word: str = ""


def parse(name: str, families: Mapping[str, Setting]) -> Named | None:
    """The family, the number and the word of a name; None where it begins with none of these.

    Raises `BenchmarkError` where what stands behind the family is not what it takes.
    """
    begun = [each for each in families if name.startswith(f"{each}-")]
    if not begun:
        return None
    family = max(begun, key=len)
    setting = families[family]
    number, dash, word = name.removeprefix(f"{family}-").partition("-")
    value = setting.value(number)
    if value is None or (dash and word not in setting.words):
        raise BenchmarkError(_refusal(name, family, setting))
    return Named(family, value, word)


def _refusal(name: str, family: str, setting: Setting) -> str:
    words = " or ".join(f"-{each}" for each in setting.words)
    then = f"; {words} may follow" if words else ""
    return (
        f"There is no rung '{name}': behind '{family}-' stands its {setting.meaning}, {setting}, "
        f"such as {family}-{setting.example}{then}."
    )
