"""What a run leaves in the temporary directory: nothing, however it ends.

All that it and the processes it starts put there lies in one folder that goes with the run, also
after Ctrl-C and SIGTERM, and where a process that it started was killed for want of memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .kept_graphs import FOLDER

_PATIENCE = 10.0
"""Seconds that a process has to end by itself."""


@contextmanager
def nothing_left() -> Iterator[None]:
    """Within it the temporary directory is a folder that is gone afterwards.

    SIGTERM is a `KeyboardInterrupt`, as Ctrl-C is.
    """
    with _handling({signal.SIGTERM: signal.default_int_handler}):
        folder = tempfile.mkdtemp(prefix="sdaccel-run-")
        try:
            with _as_temporary_directory(folder):
                yield
        finally:
            with _handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN)):
                shutil.rmtree(folder, ignore_errors=True)


def run_beside(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run` has it, but where this process is to end, so is the other, in peace.

    It may have started more, which ends with it; killed at once it could see to nothing.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@contextmanager
def _as_temporary_directory(folder: str) -> Iterator[None]:
    before, place = {name: os.environ.get(name) for name in ("TMPDIR", FOLDER)}, tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = place
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _handling(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Other handlers of signals for a while, but for those that whoever started this ignores.

    Python takes signals in its main thread alone.
    """
    before = {each: signal.getsignal(each) for each in handlers}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, handlers[each])
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
