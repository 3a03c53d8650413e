"""Rented GPUs: the task files are SkyPilot's, and the scripts give back what they rent."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_files import ROOT

CLOUD = ROOT / "benchmarks" / "cloud"
TASKS = sorted(CLOUD.glob("*.yaml"))
GPUS = {"A10", "L4", "L40S", "A100", "H100", "H200"}

PARSE = """
import sys, sky
for path in sys.argv[1:]:
    task = sky.Task.from_yaml(path)
    names = sorted({gpu for each in task.resources for gpu in each.accelerators})
    print(task.name, *names, task.run)
"""


def task(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return values


def accelerators(path: Path) -> set[str]:
    """The GPUs that a task may run on, without their numbers."""
    asked = task(path)["resources"]["accelerators"]
    return {asked.split(":")[0]} if isinstance(asked, str) else set(asked)


def test_there_is_a_task_for_each_gpu_and_each_asks_for_its_own() -> None:
    assert {path.stem for path in TASKS} == {gpu.lower() for gpu in GPUS}
    for path in TASKS:
        own = path.stem.upper()
        assert own in accelerators(path)
        assert all(gpu.startswith(own) for gpu in accelerators(path))


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_sets_up_and_measures_by_the_script_within_a_budget(path: Path) -> None:
    values = task(path)
    assert values["name"] == f"sdaccel-{path.stem}"
    assert int(values["envs"]["BUDGET_S"]) <= 2 * 3600
    for step in ("setup", "run"):
        script = ROOT / values[step].split()[0]
        assert os.access(script, os.X_OK)
    assert values["run"].split()[1:] == ["run", "cloud-results"]


def test_skypilots_own_parser_takes_every_task(tmp_path: Path) -> None:
    python = os.environ.get("SKYPILOT_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("sky") is None:
        pytest.skip('SkyPilot is not installed: pip install "sdaccel[cloud]", or SKYPILOT_PYTHON')
    environment = {**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run(
        [python, "-c", PARSE, *map(str, TASKS)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for path, line in zip(TASKS, lines, strict=True):
        assert line.startswith(f"sdaccel-{path.stem} ")
        assert path.stem.upper() in line.split()
        assert "benchmarks/cloud/machine.sh run cloud-results" in line


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a folder of their own, beside programs that only write down their calls."""
    cloud = tmp_path / "benchmarks" / "cloud"
    cloud.mkdir(parents=True)
    for path in (*TASKS, *CLOUD.glob("*.sh")):
        (cloud / path.name).write_text(path.read_text())
        (cloud / path.name).chmod(0o755)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sky", "rsync", "make"):
        program = programs / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >>"$CALLS"\ncase "{name} $1" in $FAILS) exit 1 ;; esac\n'
        )
        program.chmod(0o755)
    return tmp_path


def call(checkout: Path, script: str, *words: str, **more: str) -> tuple[int, list[str], str]:
    """The exit code, the calls of other programs, and what was said on stderr."""
    calls = checkout / "calls"
    environment = {
        **os.environ,
        "PATH": f"{checkout / 'programs'}:/usr/bin:/bin",
        "CALLS": str(calls),
        "FAILS": "nothing",
        **more,
    }
    command = ["bash", str(checkout / "benchmarks" / "cloud" / script), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    made = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, made, done.stderr


def test_a_gpu_is_rented_measured_on_and_given_back(checkout: Path) -> None:
    code, calls, _ = call(checkout, "launch.sh", "--cloud", "gcp", "l4")
    assert code == 0
    assert calls == [
        "sky launch --yes --cluster sdaccel-l4 --idle-minutes-to-autostop 30 --down "
        "--cloud gcp benchmarks/cloud/l4.yaml",
        "rsync --archive sdaccel-l4:sky_workdir/cloud-results/ benchmarks/results/",
        "sky down --yes sdaccel-l4",
    ]


def test_after_a_failure_rows_come_back_and_so_does_the_machine(checkout: Path) -> None:
    code, calls, said = call(checkout, "launch.sh", "l4", "h100", FAILS="sky launch")
    assert code == 1
    assert [line.split()[0:2] for line in calls] == 2 * [
        ["sky", "launch"],
        ["rsync", "--archive"],
        ["sky", "down"],
    ]
    assert "Not all went well with: l4 h100" in said


def test_an_unknown_gpu_is_one_sentence_before_anything_is_rented(checkout: Path) -> None:
    code, calls, said = call(checkout, "launch.sh", "l4", "tpu")
    assert (code, calls) == (2, [])
    assert said == "There is no 'tpu': the GPUs are a10 a100 h100 h200 l4 l40s.\n"
    code, calls, said = call(checkout, "launch.sh")
    assert (code, calls) == (2, [])
    assert said.startswith("Name a GPU: a10")


def test_without_skypilot_it_says_what_is_missing(checkout: Path) -> None:
    (checkout / "programs" / "sky").unlink()
    code, calls, said = call(checkout, "launch.sh", "l4")
    assert (code, calls) == (2, [])
    assert said.startswith('sky is missing: pip install "sdaccel[cloud]"')


def test_a_machine_of_ones_own_measures_within_the_budget(checkout: Path) -> None:
    code, calls, _ = call(checkout, "machine.sh", "run", "rows", BUDGET_S="60")
    assert (code, calls) == (0, ["make gpu OUT=rows BUDGET_S=60"])
    assert (checkout / "rows").is_dir()


def test_peers_that_cannot_be_installed_do_not_stop_it(checkout: Path) -> None:
    code, calls, said = call(checkout, "machine.sh")
    assert code == 0
    assert calls == ["make setup", "make gpu OUT=benchmarks/results"]
    assert "Not every peer could be installed" in said


def test_machine_takes_two_words(checkout: Path) -> None:
    code, calls, said = call(checkout, "machine.sh", "fly")
    assert (code, calls) == (2, [])
    assert said == "machine.sh takes 'setup' or 'run [FOLDER]', not 'fly'.\n"
