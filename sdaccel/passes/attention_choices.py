"""What was measured stays on disk: one file a machine and set of versions, in JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..kernels.native import cache_folder

STOCK = "stock"
"""The name of what stock would run, where nothing beats it."""


@dataclass(frozen=True)
class Verdict:
    """What won for one shape, how many times as fast as stock's it is, and what was dropped why.

    `errors` holds the winner's and stock's relative L2 distance from the truth.
    """

    winner: str
    speedup: float = 1.0
    dropped: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


class Choices:
    """The verdicts of one machine, by shape; `identity` is what they depend on besides.

    A file that can't be read is started anew and one that can't be written is done without; either
    way `note` gets a sentence.
    """

    def __init__(
        self, folder: Path | None, identity: Mapping[str, Any], note: Callable[[str], object]
    ) -> None:
        self.path = (folder or cache_folder() / "attention") / _file_name(identity)
        self._identity = dict(identity)
        self._note = note
        self._verdicts = self._read()

    def get(self, shape: str) -> Verdict | None:
        """The verdict on a shape, or None."""
        return self._verdicts.get(shape)

    def keep(self, shape: str, verdict: Verdict) -> None:
        """Add a verdict, and write the file; what another process wrote meanwhile is kept."""
        self._add({shape: verdict})

    def adopt(self, saved: bytes) -> None:
        """Take over the verdicts in a copy of such a file, on shapes that are unknown here."""
        try:
            verdicts = self._parsed(saved.decode())
        except (ValueError, KeyError, TypeError, AttributeError):
            self._note("saved choices are of another machine, or damaged: they are measured anew")
            return
        self._add({shape: each for shape, each in verdicts.items() if shape not in self._verdicts})

    def _add(self, verdicts: Mapping[str, Verdict]) -> None:
        self._verdicts = {**self._read(), **self._verdicts, **verdicts}
        content = {
            "identity": self._identity,
            "verdicts": {key: asdict(each) for key, each in self._verdicts.items()},
        }
        try:
            self._write(json.dumps(content, indent=1))
        except OSError as error:
            self._note(f"choices are not kept: {self.path} can't be written ({error.strerror})")

    def _write(self, text: str) -> None:
        """All or nothing: a reader never finds half a file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _read(self) -> dict[str, Verdict]:
        try:
            return self._parsed(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._note(f"kept choices can't be read: {self.path} ({error.strerror})")
        except (ValueError, KeyError, TypeError, AttributeError):
            self._note(f"kept choices are measured anew: {self.path} is damaged")
        return {}

    def _parsed(self, text: str) -> dict[str, Verdict]:
        content = json.loads(text)
        if content["identity"] != self._identity:
            raise ValueError("of another machine")
        return {key: _verdict(values) for key, values in content["verdicts"].items()}


def _file_name(identity: Mapping[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True)
    device = re.sub(r"[^a-z0-9]+", "-", str(identity.get("device", "")).lower()).strip("-")
    return f"{device or 'device'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def _verdict(values: Mapping[str, Any]) -> Verdict:
    verdict = Verdict(**values)
    if not isinstance(verdict.winner, str) or not isinstance(verdict.speedup, (int, float)):
        raise TypeError("no verdict")
    if verdict.winner != STOCK and not {verdict.winner, STOCK} <= verdict.errors.keys():
        raise ValueError("no errors")
    return verdict
