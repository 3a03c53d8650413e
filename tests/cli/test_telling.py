"""sdaccel report, doctor and fidelity tell the truth."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel.cli import exits, inventory
from sdaccel.cli.passes_asked import ask_every_pass
from sdaccel.passes import NAMES


def test_report_shows_what_a_plan_does_to_a_model(run: Any, model: str) -> None:
    outcome = run("report", "--model", model, "--plan", "eager")
    assert outcome.code == exits.OK
    for word in ("eager: exact", "memory_format", "no_ops", "not yet"):
        assert word in outcome.out
    found = run("report", "--model", model, "--plan", "none+precision", "--json").json
    assert found["effect"] == "lower precision"
    assert found["plan"]["passes"] == [{"name": "precision", "options": {"dtype": "auto"}}]
    assert [each["name"] for each in found["report"]["passes"]] == ["precision"]


def test_asking_every_pass_leaves_the_pipe_as_it_was() -> None:
    pipe = tiny.stable_diffusion()
    before = tiny.draw(pipe)
    records = ask_every_pass(pipe)
    assert [record.name for record in records] == list(NAMES)
    assert next(each for each in records if each.name == "no_ops").applied
    assert not sdaccel.report(pipe).accelerated
    assert (tiny.draw(pipe) == before).all()


def test_asking_gives_the_reason_where_a_pass_would_not_apply() -> None:
    pipe = tiny.stable_diffusion().to(torch.bfloat16)
    records = {record.name: record for record in ask_every_pass(pipe)}
    assert not records["precision"].applied
    assert "bfloat16 already" in records["precision"].refused["pipe"]


def test_doctor_measures_this_machine_and_names_every_pass(run: Any, model: str) -> None:
    found = run("doctor", "--model", model, "--json").json
    assert set(found["measured"]["matmul"]) == {"float32", "bfloat16", "float16"}
    assert all(rate > 0 for rate in found["measured"]["matmul"].values())
    assert found["measured"]["copy"] > 0
    assert found["machine"]["kind"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    assert [each["name"] for each in found["passes"]] == list(NAMES)
    assert found["pipeline"] == "StableDiffusionPipeline"
    outcome = run("doctor", "--model", model)
    for word in ("matmul, measured", "C++ compiler", "would apply", *NAMES):
        assert word in outcome.out


def test_doctor_says_when_a_busy_machine_makes_its_figures_low(
    run: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for load, told in ((0.1, False), (1e4, True)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, load, load))
        assert ("measured figures are low" in run("doctor", "--model", model).out) == told


def test_a_missing_extra_comes_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [
        "torch>=2.9",
        'no-such-package>=2; extra == "engine"',
        'torch>=1; extra == "engine"',
        'torch>=1; extra == "here"',
        'torch>=999; extra == "newer"',
        'no-such-package; python_version < "3" and extra == "here"',
    ]
    monkeypatch.setattr(inventory.metadata, "requires", lambda _: lines)
    monkeypatch.setattr(
        inventory.metadata, "metadata", lambda _: _Metadata(["engine", "here", "newer"])
    )
    engine, here, newer = inventory.extras()
    assert engine.missing == ("no-such-package>=2",)
    assert engine.advice == 'pip install "sdaccel[engine]"'
    assert (here.missing, here.advice) == ((), None)
    assert newer.missing == ("torch>=999",)


class _Metadata:
    def __init__(self, extras: list[str]) -> None:
        self._extras = extras

    def get_all(self, name: str) -> list[str]:
        assert name == "Provides-Extra"
        return self._extras


def test_fidelity_is_measured_for_stock_and_plan_on_the_same_prompts(
    run: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdaccel.shapes import fidelity

    calls = []

    def measure(pipe: Any, **arguments: Any) -> fidelity.Fidelity:
        calls.append((sdaccel.report(pipe).plan, arguments))
        return fidelity.Fidelity(9, 10, {"count": 1})

    monkeypatch.setattr(fidelity, "prompt_fidelity", measure)
    words = ("fidelity", "--model", model, "-n", "10", "--seed", "4", "--plan", "eager")
    found = run(*words, "--json").json
    assert [plan for plan, _ in calls] == ["none", "eager"]
    assert calls[0][1] == calls[1][1] == {"count": 10, "steps": 25, "seed": 4}
    assert found["stock"]["share"] == found["accelerated"]["share"] == 0.9
    assert found["stock"]["low"] < 0.9 < found["stock"]["high"]
    outcome = run(*words)
    assert "stock: prompt fidelity 90.0%" in outcome.out
    assert "95% interval" in outcome.out


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize("words", [("-n", "0"), ("--steps", "0"), ("--seed", "-1")])
def test_fidelity_refuses_numbers_that_make_no_sense(words: tuple[str, str], run: Any) -> None:
    assert run("fidelity", *words).code == exits.BAD_INPUT
