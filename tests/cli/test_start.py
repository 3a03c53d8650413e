"""Starting: help is quick, errors are one sentence, and exit codes mean what --help says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdaccel import errors
from sdaccel.benchmarks.errors import ResultsError
from sdaccel.cli import exits, main

_NO_TORCH = """
import contextlib, io, sys
from sdaccel.cli import main
for words in (["--help"], ["generate", "--help"], ["bench", "--help"], ["--version"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(words)
assert main(["generate", "", "--model", "x"]) == 2
assert main(["generate", "a", "--steps", "0"]) == 2
print(sorted({"torch", "diffusers", "transformers", "rich", "numpy"} & set(sys.modules)))
"""


def test_help_and_mistyped_options_import_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_TORCH], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    said = capsys.readouterr().out
    assert left.value.code == 0
    for word in ("generate", "doctor", "report", "fidelity", "compare", "bench", "profile"):
        assert re.search(rf"^ +{word} ", said, re.MULTILINE)
    codes = {int(code) for code in re.findall(r"^  (\d+) +\w", said, re.MULTILINE)}
    assert codes == {0, 1, 2, 3, 4, 5, 6, 130}


def test_a_hub_id_while_offline_is_one_sentence_and_no_traceback(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    outcome = run("report", "--model", "some-owner/some-model")
    assert outcome.code == exits.NO_MODEL
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.complaint.startswith("sdaccel: some-owner/some-model is not in the local cache")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x"), exits.BAD_INPUT),
        (errors.PlanError("x"), exits.BAD_INPUT),
        (errors.ModelNotFoundError("x"), exits.NO_MODEL),
        (errors.TargetError("x"), exits.NOT_ACCELERATED),
        (errors.PassError("x"), exits.NOT_ACCELERATED),
        (errors.GateError("x", {}), exits.GATE_FAILED),
        (errors.RegressionError("x", {}), exits.REGRESSED),
        (ResultsError("x"), exits.BAD_INPUT),
        (errors.SdaccelError("x"), exits.UNEXPECTED),
        (KeyboardInterrupt(), exits.INTERRUPTED),
        (ZeroDivisionError("x"), exits.UNEXPECTED),
    ],
)
def test_each_error_has_its_exit_code_and_sentence(
    error: BaseException,
    code: int,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr("sdaccel.cli.models.load", load)
    outcome = run("report", "--plan", "none")
    assert outcome.code == code
    assert outcome.complaint.startswith("sdaccel: ")
    assert "Traceback" not in outcome.err


def test_debug_shows_the_traceback_and_json_carries_the_error(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("sdaccel.cli.models.load", load)
    outcome = run("report", "--plan", "none", "--debug", "--json")
    assert "Traceback" in outcome.err
    assert outcome.json["error"]["type"] == "ZeroDivisionError"
    assert "by nought" in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["paint"], "invalid choice: 'paint'"),
        (["generate"], "required: PROMPT"),
        (["generate", "a", "--steps", "many"], "invalid int value: 'many'"),
        (["generate", "a", "--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_a_mistyped_command_line_is_one_sentence(words: list[str], says: str, run: Any) -> None:
    outcome = run(*words)
    assert outcome.code == exits.BAD_INPUT
    assert says in outcome.complaint
    assert outcome.complaint.startswith("sdaccel: ")
    assert len(outcome.err.strip().splitlines()) == 1
