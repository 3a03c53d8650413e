"""The command: rows in a file, a table, and one sentence for a bad input."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import sdaccel
from sdaccel.benchmarks import command, memory, overheads, provenance
from sdaccel.benchmarks.__main__ import BAD_INPUT, INTERRUPTED, main
from sdaccel.benchmarks.alone import measure_alone
from sdaccel.benchmarks.errors import BenchmarkError
from sdaccel.benchmarks.ladder import Ladder, Options
from sdaccel.benchmarks.rows import Results
from sdaccel.benchmarks.workloads import workload


def run_tiny(folder: Path, *rungs: str) -> int:
    left_out = ["--prompts", "0", "--no-memory", "--no-stages", "--no-controls"]
    options = ["--repeats", "2", *left_out, "--output", str(folder)]
    return main(["--workload", "tiny", "--rungs", *rungs, *options])


def test_a_run_leaves_one_file_under_the_machines_name_and_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tiny(tmp_path, "none+memory_format") == 0
    (path,) = tmp_path.glob("*/*-tiny.json")
    results = Results.read(path)
    assert path.parent.name == results.machine["slug"]
    assert [row.rung for row in results.rows] == ["stock-fp32", "none+memory_format"]
    assert all(row.status == "ok" and len(row.seconds) == 2 for row in results.rows)
    assert results.machine["matmul_ceiling"] > 1e9
    assert results.machine["copy_ceiling"] > 1e8
    assert {"python", "torch", "diffusers"} <= set(results.versions)
    capsys.readouterr()
    assert main(["show", str(path), "--markdown"]) == 0
    assert "| none+memory_format | float32 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workload", "sd15-unett"], "did you mean 'sd15-unet'?"),
        (["--rungs", "loossless"], "There is no rung 'loossless'"),
        (["--rungs", "fewer-steps-0"], "a whole number above 0"),
        (["--each-pass", "loossless"], "There is no rung 'loossless'"),
        (["--each-pass", "torch-compile"], "'torch-compile' is no plan"),
        (["--each-pass", "plan.json"], "'plan.json' is a file"),
        (["--model", "./nowhere"], "There is no model './nowhere'"),
        (["show", "nowhere.json"], "nowhere.json can't be read"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = [] if arguments[0] == "show" else ["--output", str(tmp_path)]
    assert main([*arguments, *output]) == BAD_INPUT
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_keeps_the_rows_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Ladder._measure

    def interrupted(ladder: Ladder, group: list[object]) -> object:
        if len(ladder.rows) > 1:
            raise KeyboardInterrupt
        return whole(ladder, group)  # type: ignore[arg-type]

    monkeypatch.setattr(Ladder, "_measure", interrupted)
    assert run_tiny(tmp_path, "none+memory_format", "eager") == INTERRUPTED
    (path,) = tmp_path.glob("*/*-tiny.json")
    assert [row.rung for row in Results.read(path).rows] == ["stock-fp32", "none+memory_format"]


def test_several_workloads_are_measured_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def start(words: list[str]) -> subprocess.CompletedProcess[bytes]:
        started.append(words[3:])
        return subprocess.CompletedProcess(words, 0 if len(started) == 1 else 1)

    monkeypatch.setattr("sdaccel.benchmarks.__main__.run_beside", start)
    given = ["--workload", "tiny", "sd15-unet", "--quick", "--output", str(tmp_path)]
    assert main([*given, "--budget", "50"]) == 1, "the worst of the exit codes"
    parsed = [command.parser().parse_args(words) for words in started]
    assert [each.workload for each in parsed] == [["tiny"], ["sd15-unet"]]
    assert all(each.quick and each.output == tmp_path and each.budget <= 50 for each in parsed)


def test_a_workload_that_is_killed_is_told_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = iter([-9, 0])

    def start(words: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(words, next(codes))

    monkeypatch.setattr("sdaccel.benchmarks.__main__.run_beside", start)
    assert main(["--workload", "tiny", "sd15-unet"]) == 1
    assert "tiny was ended by signal 9; its rows so far are kept." in capsys.readouterr().err


def test_quick_compiles_nothing_and_takes_every_round_through_all_rungs() -> None:
    def asked(*words: str) -> tuple[list[str], Options]:
        given = command.parser().parse_args(words)
        return command.rungs_of(given), command.ladder_options(given, 0.0)

    rungs, options = asked("--quick")
    assert all("compile" not in sdaccel.Plan.of(name) for name in rungs if name != "stock-16bit")
    assert (options.together, options.memory, options.prompts, options.rounds) == (
        True,
        False,
        4,
        6,
    )
    rungs, options = asked("--quick", "--rungs", "lossless", "--prompts", "9")
    assert (rungs, options.prompts) == (["lossless"], 9)
    rungs, options = asked()
    assert {"lossless", "torch-compile"} <= set(rungs)
    assert (options.together, options.memory, options.prompts) == (False, True, 16)


def test_all_is_every_workload_there_is() -> None:
    chosen = command.workloads_of(command.parser().parse_args(["--workload", "all"]))
    assert {"sd15-unet", "shapes-dit", "flux-dev", "wan2.1-vae", "overheads"} <= set(chosen)
    assert len(chosen) == len(set(chosen))


def test_memory_of_a_rung_alone_is_printed_for_the_run_that_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["alone", "tiny", "stock-fp32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["setup"] > 100 << 20
    assert found["host"] is None, "it is the device"
    assert found["steady"] is None or 100 << 20 < found["steady"] <= found["setup"] * 1.5


def test_with_a_gpu_the_hosts_memory_stands_beside_the_devices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peaks = iter([7 << 30, 5 << 30])
    gpu = SimpleNamespace(
        max_memory_allocated=lambda: next(peaks), reset_peak_memory_stats=lambda: None
    )
    monkeypatch.setattr(memory, "_cuda", lambda: gpu)
    assert main(["alone", "tiny", "stock-fp32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["setup"], found["steady"]) == (7 << 30, 5 << 30)
    assert found["host"] is None or 100 << 20 < found["host"] < 5 << 30
    assert (found["host"] is None) == (not memory.reset_host_peak())


def test_why_memory_could_not_be_measured_is_told() -> None:
    nowhere = replace(workload("tiny"), name="tinny")
    with pytest.raises(BenchmarkError, match="There is no workload 'tinny'"):
        measure_alone(nowhere, "stock-fp32")


def test_importing_sdaccel_leaves_torch_alone() -> None:
    row = overheads.import_row(1)
    assert row.status == "ok", row.reason
    assert len(row.seconds) == 1
    assert row.target_seconds == 0.3


def test_accelerating_is_timed_without_compiling_and_leaves_the_pipe_restored() -> None:
    tiny = workload("tiny")
    pipe = tiny.build()
    there, back = overheads.accelerate_rows(pipe, tiny, "eager", rounds=2)
    assert len(there.seconds) == len(back.seconds) == 2
    assert there.passes["memory_format"] == "applied"
    assert type(pipe).__module__.startswith("diffusers.")


def test_a_machines_folder_is_plain() -> None:
    name = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert provenance.slug(name, 2) == "intel-xeon-platinum-8481c-cpu-2-70ghz-2-cores"
    assert provenance.slug("NVIDIA H200", 16) == "nvidia-h200-16-cores"
    assert provenance.slug("Xeon", 2, ("avx512f", "amx_bf16")) == "xeon-2-cores-amx"
    assert provenance.slug("Xeon", 2, ("avx512f",)) == "xeon-2-cores"
    assert provenance.file_name("a/model of mine") == "a-model-of-mine"
