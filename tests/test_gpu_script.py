"""`make gpu` within a budget: steps in their order, cut off in time, what is there kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sdaccel.benchmarks.rungs import rung

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "gpu"
STEPS = ("tests", "telling", "kernels", "kernel-tests", "passes", "ladder", "peers")
SLOW = "sdaccel.benchmarks.kernels"
FAKE = f"""#!/bin/sh
[ "$1" = -c ] && exit 0
echo "$@"
case "$*" in *{SLOW}*) sleep "${{SLEEP:-0}}" ;; *kernels*) exit "${{CODE:-0}}" ;; esac
"""

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs coreutils")


def run_script(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """The script in an empty checkout, with a Python that only says what it was called with."""
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci" / "gpu")
    for name, text in (("nvidia-smi", "#!/bin/sh\n"), ("python", FAKE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **settings}
    environment["PYTHON"] = str(folder / "python")
    command = [str(folder / ".ci" / "gpu"), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_without_a_budget_every_step_runs_to_its_end(tmp_path: Path) -> None:
    done = run_script(tmp_path)
    assert done.returncode == 0, done.stderr
    logs = [tmp_path / "out" / f"gpu-{name}.log" for name in STEPS]
    texts = [log.read_text() for log in logs]
    assert not any("--budget" in text for text in texts)
    assert "stock-16bit lossless" in texts[1], "the most telling rungs first"
    rungs = texts[1].split("--rungs")[1].split("--workload")[0].split()
    assert any("cuda_graph" in name for name in rungs)
    assert all(rung(name) for name in rungs)


def test_a_step_that_takes_longer_than_its_share_is_cut_off_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    done = run_script(tmp_path, BUDGET_S="10", SLEEP="30")
    assert done.returncode == 0, done.stderr
    assert "rows so far kept: kernels." in done.stdout
    assert (tmp_path / "out" / "gpu-peers.log").read_text()
    assert "--budget " in (tmp_path / "out" / "gpu-telling.log").read_text()


def test_a_step_that_fails_is_named_at_the_end(tmp_path: Path) -> None:
    done = run_script(tmp_path, CODE="1")
    assert done.returncode == 1
    assert "Failed: kernel-tests;" in done.stderr
    assert (tmp_path / "out" / "gpu-peers.log").read_text()


def test_a_budget_that_is_no_number_is_refused(tmp_path: Path) -> None:
    done = run_script(tmp_path, BUDGET_S="ten")
    assert done.returncode == 2
    assert "BUDGET_S is a whole number of seconds" in done.stderr
