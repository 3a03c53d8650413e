"""Where output goes: results to stdout, progress and errors to stderr, or one JSON object."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SdaccelError, SdaccelWarning
from .exits import OK, UNEXPECTED, code_of


@dataclass(frozen=True)
class Terminal:
    """One command's output. With `json`, stdout gets exactly one object, and `say` is silent."""

    json: bool = False
    debug: bool = False

    def say(self, *things: Any) -> None:
        """Print text or anything that rich can print, for a reader."""
        if not self.json:
            from rich.console import Console

            console = Console(file=sys.stdout)
            for thing in things:
                console.print(
                    thing, soft_wrap=isinstance(thing, str), highlight=False, markup=False
                )

    @contextlib.contextmanager
    def step(self, sentence: str) -> Iterator[None]:
        """Show on stderr that something is under way, and afterwards how long it took."""
        from rich.console import Console

        console = Console(file=sys.stderr)
        start = time.perf_counter()
        with console.status(sentence) if console.is_terminal else contextlib.nullcontext():
            yield
        seconds = time.perf_counter() - start
        console.print(f"{sentence}: {seconds:.1f} s", style="dim", soft_wrap=True, highlight=False)

    def run(self, command: Callable[[], Mapping[str, Any]]) -> int:
        """Run a command, print its result or its error, and return the exit code."""
        stdout = sys.stdout
        with self._warnings_as_sentences(), self._hosts_quiet():
            try:
                with (
                    contextlib.redirect_stdout(sys.stderr)
                    if self.json
                    else contextlib.nullcontext()
                ):
                    result = command()
            except (Exception, KeyboardInterrupt) as error:
                return self._fail(error)
        if self.json:
            print(json.dumps(result, indent=2, allow_nan=False), file=stdout)
        return OK

    def _fail(self, error: BaseException) -> int:
        code, sentence = code_of(error), _sentence(error)
        if self.debug:
            traceback.print_exception(error, file=sys.stderr)
        if self.json:
            print(
                json.dumps({"error": {"type": type(error).__name__, "message": sentence}}, indent=2)
            )
        hint = " (--debug shows where)" if code == UNEXPECTED and not self.debug else ""
        print(f"sdaccel: {sentence}{hint}", file=sys.stderr)
        return code

    @contextlib.contextmanager
    def _warnings_as_sentences(self) -> Iterator[None]:
        """Show this package's warnings like its errors, without a source line."""
        with warnings.catch_warnings():
            show = warnings.showwarning

            def show_sentence(
                message: Any, category: type[Warning], *rest: Any, **more: Any
            ) -> None:
                if issubclass(category, SdaccelWarning):
                    print(f"sdaccel: {message}", file=sys.stderr)
                else:
                    show(message, category, *rest, **more)

            warnings.simplefilter("always", SdaccelWarning)
            warnings.showwarning = show_sentence
            yield

    @contextlib.contextmanager
    def _hosts_quiet(self) -> Iterator[None]:
        """Keep diffusers' and transformers' remarks for `--debug`; errors are always shown."""
        import logging

        names = () if self.debug else ("diffusers", "transformers")
        before = {name: logging.getLogger(name).level for name in names}
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def _sentence(error: BaseException) -> str:
    if isinstance(error, SdaccelError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}" + (f": {text}" if text else "")
