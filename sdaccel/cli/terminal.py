"""Where output goes: results to stdout, progress and errors to stderr, or one JSON object."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SdaccelError, SdaccelWarning, VerdictError
from .exits import OK, UNEXPECTED, code_of

_HOSTS = ("diffusers", "transformers")


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
    def step(self, sentence: str, spinner: bool = True) -> Iterator[None]:
        """Say on stderr what is under way, and afterwards how long it took.

        Without `spinner` there is room for a progress bar of somebody else's.
        """
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(file=sys.stderr)
        start = time.perf_counter()
        if console.is_terminal and spinner:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            with Progress(*columns, console=console, transient=True) as progress:
                progress.add_task(sentence, total=None)
                yield
        else:
            print(f"{sentence} ...", file=sys.stderr, flush=True)
            yield
        print(f"{sentence}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)

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
            told = {"type": type(error).__name__, "message": sentence}
            result = error.result if isinstance(error, VerdictError) else {}
            print(json.dumps({"error": told, **result}, indent=2, allow_nan=False))
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
        """Keep diffusers' and transformers' remarks for `--debug`; errors are always shown.

        A library that is not imported yet takes its level from the environment.
        """
        import logging

        before = {name: logging.getLogger(name).level for name in _HOSTS}
        environment = {f"{name.upper()}_VERBOSITY": "error" for name in _HOSTS}
        mine = {name: value for name, value in environment.items() if name not in os.environ}
        if self.debug:
            before, mine = {}, {}
        try:
            os.environ.update(mine)
            for name in before:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
            for name in mine:
                del os.environ[name]


def _sentence(error: BaseException) -> str:
    if isinstance(error, SdaccelError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}" + (f": {text}" if text else "")
