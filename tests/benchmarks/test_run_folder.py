"""A run leaves nothing in the temporary directory, and no process, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from sdaccel.benchmarks import __main__, kept_graphs
from sdaccel.benchmarks.run_folder import nothing_left, run_beside

FILL = """
import tempfile
from pathlib import Path
from sdaccel.benchmarks import kept_graphs
(kept_graphs._home() / "graph").write_text("kept")
Path(tempfile.mkdtemp(), "cache").write_text("kept")
"""
WAIT = """
import os, time
Path(NOTE).with_suffix(".new").write_text(str(os.getpid()))
Path(NOTE).with_suffix(".new").rename(NOTE)
time.sleep(600)
"""
RUN = """
import sys
from sdaccel.benchmarks.run_folder import nothing_left, run_beside
try:
    with nothing_left():
        exec(FILL)
        run_beside([sys.executable, "-c", CHILD])
except KeyboardInterrupt:
    sys.exit(130)
"""


# Tests that run in the background of a shell ignore Ctrl-C, and so would what they start.
LISTENING = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def python(code: str, **values: str) -> list[str]:
    constants = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    return [sys.executable, "-c", LISTENING + constants + code]


def environment(temporary: Path) -> Mapping[str, str]:
    temporary.mkdir()
    kept = {name: each for name, each in os.environ.items() if name != kept_graphs.FOLDER}
    return {**kept, "TMPDIR": str(temporary)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_takes_its_files_and_its_processes_along(
    number: signal.Signals, tmp_path: Path
) -> None:
    temporary, note = tmp_path / "temporary", tmp_path / "note"
    *_, alone = python(FILL + WAIT, NOTE=str(note))
    *_, workload = python(RUN, FILL=FILL, CHILD=alone)
    command = python(RUN, FILL=FILL, CHILD=workload)
    with subprocess.Popen(command, env=environment(temporary)) as process:
        while not note.exists():
            assert process.poll() is None
        assert len(list(temporary.rglob("graph"))) == 1, "processes that were started share it"
        assert len(list(temporary.rglob("cache"))) == 3
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
    assert not list(temporary.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_process_that_is_killed_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = f"{FILL}\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    with nothing_left():
        done = run_beside([sys.executable, "-c", code])
        assert list(tmp_path.rglob("cache"))
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_what_a_process_prints_comes_back() -> None:
    done = run_beside(python("print('yes')"), stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "yes\n")


def test_afterwards_all_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kept_graphs.FOLDER, raising=False)
    monkeypatch.setenv("TMPDIR", "/somewhere")
    before = tempfile.gettempdir(), signal.getsignal(signal.SIGTERM)
    with nothing_left():
        graphs = kept_graphs._home()
        assert graphs.parent == Path(tempfile.gettempdir()) == Path(os.environ["TMPDIR"])
    assert (tempfile.gettempdir(), signal.getsignal(signal.SIGTERM)) == before
    assert os.environ["TMPDIR"] == "/somewhere"
    assert kept_graphs.FOLDER not in os.environ
    assert not graphs.parent.exists()


def test_a_signal_that_is_ignored_stays_so() -> None:
    code = (
        "import os, signal\nfrom sdaccel.benchmarks.run_folder import nothing_left\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "with nothing_left():\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert subprocess.run(python(code)).returncode == 0


def test_every_verb_of_the_harness_has_such_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []

    def show(given: object) -> int:
        found.append(Path(tempfile.mkdtemp()))
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "_show", show)
    assert __main__.main(["show"]) == __main__.INTERRUPTED
    assert not found[0].exists()
    assert found[0].parent.name.startswith("sdaccel-run-")
