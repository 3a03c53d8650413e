"""The kernels' benchmark on a CPU at tiny sizes: who is timed, who is not, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdaccel.benchmarks import kernel_bench, kernel_cases, kernel_tables, kernel_timing, kernels
from sdaccel.benchmarks.__main__ import main
from sdaccel.benchmarks.errors import BenchmarkError, Skip
from sdaccel.benchmarks.kernel_bench import Bench, Options
from sdaccel.benchmarks.kernel_cases import Case, Draw, Family, Rival, chosen, families, package
from sdaccel.benchmarks.kernel_elementwise import ACTIVATION, GATED_ACTIVATION
from sdaccel.benchmarks.kernel_norms import NORM_MODULATE
from sdaccel.benchmarks.kernel_rows import (
    INDUCTOR,
    KERNEL,
    STOCK,
    TORCH,
    KernelResults,
    KernelRow,
    Target,
    judge,
)
from sdaccel.kernels.operator import operators

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def a_known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings are not measured here, and the host takes nothing from a sample."""
    monkeypatch.setattr(kernel_bench.machine, "copy_ceiling", lambda _: 1e10)
    monkeypatch.setattr(kernel_bench.machine, "matmul_ceiling", lambda *_: 1e12)
    monkeypatch.setattr(kernel_bench.measure, "stolen_seconds", lambda: 0.0)


def options(dtype: torch.dtype = torch.float32, *variants: str) -> Options:
    """Two rounds at tiny sizes; compiled lines are traced, but not compiled."""
    return Options(CPU, dtype, 2, variants, quick=True, backend="eager")


def measured(
    family: Family, dtype: torch.dtype = torch.float32, *variants: str
) -> dict[str, KernelRow]:
    """The rows of a family's first case, by variant."""
    rows = Bench(family, family.cases[0], options(dtype, *variants)).run()
    return {row.rung: row for row in rows}


def computed_by(function: Callable[[torch.Tensor], torch.Tensor]) -> Family:
    """The activation's family with another kernel."""

    def kernel(module: Any, x: torch.Tensor, activation: str) -> torch.Tensor:
        return function(x)

    return replace(ACTIVATION, kernel=kernel)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def rivals(**given: Rival) -> Callable[[], dict[str, Rival]]:
    return lambda: given


def test_every_variant_is_right_first_and_then_timed_in_turns_with_stock() -> None:
    rows = measured(GATED_ACTIVATION, torch.float16, INDUCTOR)
    assert list(rows) == [KERNEL, STOCK, INDUCTOR]
    for row in rows.values():
        assert row.status == "ok", row.reason
        assert len(row.seconds) == 2
        assert row.baseline_seconds == rows[STOCK].seconds
        assert row.error is not None
        assert 0 < row.error < 5e-3
        assert (row.workload, row.model, row.dtype, row.quick) == (
            "gated_activation",
            "SD1.5",
            "float16",
            True,
        )
    assert rows[STOCK].error_limit is None
    assert rows[KERNEL].error_limit == pytest.approx(1.25 * rows[STOCK].error)  # type: ignore[operator]
    assert rows[INDUCTOR].error_limit == pytest.approx(2 * rows[STOCK].error)  # type: ignore[operator]


def test_every_case_makes_inputs_that_its_own_lines_take() -> None:
    for family in families():
        for case in family.cases:
            draw = Draw(CPU, torch.float32)
            inputs = family.inputs(draw, **case.sizes_for(True), **case.options)
            output = case.stock(**inputs)
            for each in [output] if isinstance(output, torch.Tensor) else output:
                assert torch.isfinite(each).all(), (family.op, case.model, case.what)


@pytest.mark.parametrize("family", families(), ids=lambda family: family.op)
def test_the_kernel_of_every_op_is_right(family: Family) -> None:
    once = replace(options(), rounds=1)
    rows = {row.rung: row for row in Bench(family, family.cases[0], once).run()}
    if rows[KERNEL].reason.startswith("This version has no"):
        pytest.skip(rows[KERNEL].reason)
    assert rows[KERNEL].status == "ok", rows[KERNEL].reason
    assert rows[KERNEL].bytes
    assert rows[KERNEL].flops
    assert any("interpreter" in note for note in rows[KERNEL].notes)


def test_a_wrong_variant_is_caught_and_not_timed() -> None:
    def slightly_off(inputs: Any) -> Any:
        return lambda x, **_: 1.001 * gelu_tanh(x)

    family = replace(ACTIVATION, rivals=rivals(off=Rival(TORCH, slightly_off)))
    row = measured(family, torch.float32, "off")["off"]
    assert row.status == "wrong"
    assert "The error is 1.0e-03, above the 1.0e-05" in row.reason
    assert row.seconds == []
    assert row.median is None


def test_a_wrong_kernel_leaves_its_row_and_the_others_are_timed() -> None:
    rows = measured(computed_by(torch.zeros_like))
    assert (rows[KERNEL].status, rows[STOCK].status) == ("wrong", "ok")
    assert [verdict["met"] for verdict in rows[KERNEL].verdicts] == [None]


def test_in_16_bit_a_kernel_may_be_a_quarter_further_from_the_truth_than_stock() -> None:
    stock = measured(computed_by(gelu_tanh), torch.float16)
    assert stock[KERNEL].error == stock[STOCK].error
    assert stock[KERNEL].status == "ok"
    row = measured(computed_by(lambda x: gelu_tanh(x) * 1.01), torch.float16)[KERNEL]
    assert row.status == "wrong"


def test_nan_is_wrong() -> None:
    row = measured(computed_by(lambda x: x / 0 - x / 0))[KERNEL]
    assert (row.status, row.error) == ("wrong", None)
    assert "NaN" in row.reason


def test_lower_precision_is_held_to_a_bound_of_its_own() -> None:
    for factor, status in ((1.01, "ok"), (1.1, "wrong")):
        family = computed_by(lambda x, factor=factor: gelu_tanh(x) * factor)
        assert measured(replace(family, effect="lower precision"))[KERNEL].status == status


def test_a_missing_library_keeps_its_row_with_the_reason() -> None:
    def open_it(inputs: Any) -> Any:
        return package("a_library_that_nobody_has").attend

    family = replace(ACTIVATION, rivals=rivals(gone=Rival(TORCH, open_it)))
    row = measured(family, torch.float32, "gone")["gone"]
    assert (row.status, row.reason) == ("skipped", "a_library_that_nobody_has is not installed.")


def test_a_missing_op_keeps_its_row_and_stock_is_timed_without_a_rate() -> None:
    rows = measured(replace(ACTIVATION, module="not_yet_written"))
    assert rows[KERNEL].status == "skipped"
    assert "no sdaccel.kernels.not_yet_written" in rows[KERNEL].reason
    assert rows[STOCK].seconds
    assert rows[STOCK].rate is None


def test_a_variant_that_fails_leaves_the_rest_alone() -> None:
    def open_it(inputs: Any) -> Any:
        raise RuntimeError("CUDA error\nand a long story")

    family = replace(ACTIVATION, rivals=rivals(broken=Rival(TORCH, open_it)))
    rows = measured(family, torch.float32, "broken")
    assert rows["broken"].reason == "RuntimeError: CUDA error and a long story"
    assert rows[KERNEL].status == rows[STOCK].status == "ok"


def watched_run(reason: str | None) -> None:
    """The activation's kernel runs on a GPU; or its reference, for a reason."""
    row = KernelRow("activation", KERNEL, KERNEL, "exact", "call")
    op = operators()["activation"]
    with kernel_bench._watched(row, torch.device("cuda", 0)):
        op.runs["kernel" if reason is None else "reference"] += 1
        if reason is not None:
            op.reasons[reason] += 1


def test_a_kernel_that_fell_back_to_its_reference_is_not_timed_as_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ACTIVATION.load()
    op = operators()["activation"]
    monkeypatch.setattr(op, "reasons", Counter(earlier=1))
    monkeypatch.setattr(op, "_failed", {"a key": "PTXASError spilled"})
    watched_run(None)
    with pytest.raises(BenchmarkError, match="did not run: PTXASError spilled"):
        watched_run("PTXASError spilled")
    with pytest.raises(Skip, match="an old chip"):
        watched_run("an old chip")


def row_of(kind: str, seconds: float, **values: Any) -> KernelRow:
    """A row of an op that reads and writes 2 GB in 1 TFLOP; a machine of 4 GB/s and 8 TFLOP/s."""
    given = {"bytes": 2 * 10**9, "flops": 1e12, "copy_ceiling": 4e9, "matmul_ceiling": 8e12}
    row = KernelRow("op", kind, kind, "exact", "call", **{**given, **values})
    row.seconds = [seconds] * 3
    return row


def test_shares_of_ceilings_follow_from_the_cost_and_the_median() -> None:
    memory, compute = row_of(KERNEL, 1.0), row_of(KERNEL, 0.5, bound="compute")
    assert (memory.rate, memory.share) == (2e9, 0.5)
    assert (compute.rate, compute.share) == (2e12, 0.25)
    assert memory.to_dict()["share"] == 0.5


@pytest.mark.parametrize(
    ("target", "found", "met"),
    [
        (Target(0.85, "copy"), 0.5, False),
        (Target(0.4, "copy"), 0.5, True),
        (Target(1.0, (INDUCTOR,)), 1.5, True),
        (Target(1.3, (STOCK, TORCH)), 1.2, False),
        (Target(1.0, ("package",)), None, None),
    ],
)
def test_targets_are_judged_by_the_fastest_of_those_named(
    target: Target, found: float | None, met: bool | None
) -> None:
    wrong = row_of(TORCH, 0.1)
    wrong.status = "wrong"
    others = [row_of(STOCK, 3.0), row_of(TORCH, 1.2), row_of(INDUCTOR, 1.5), wrong]
    kernel = row_of(KERNEL, 1.0)
    judge([kernel, *others], [target])
    (verdict,) = kernel.verdicts
    assert (verdict["found"], verdict["met"]) == (pytest.approx(found) if found else None, met)


def test_issue_targets_stand_where_the_issue_names_them() -> None:
    wanted = {
        (family.op, case.model, case.what): [target.name for target in family.targets(case)]
        for family in families()
        for case in family.cases
    }
    assert "85% of copy" in wanted["norm_modulate", "FLUX", "adaLN, 1024x1024"]
    assert "1x the fastest of inductor" in wanted["norm_modulate", "PixArt", "adaLN, 1024x1024"]
    for what in ("self, 64x64", "self, 32x32", "self, 16x16"):
        (name,) = wanted["attention", "SD1.5", what]
        assert name.startswith("1.3x")
    assert wanted["attention_int8", "FLUX", "8k tokens"][0].startswith("1.3x")


def test_the_issue_s_models_are_there() -> None:
    models = {case.model for family in families() for case in family.cases}
    assert {"SD1.5", "SDXL", "SD3", "FLUX", "PixArt", "Wan-1.3B", "Wan-14B"} <= models
    whats = [case.what for family in families() for case in family.cases]
    assert any("VAE" in what for what in whats)


def test_inputs_go_round_more_copies_than_the_cache_holds(tmp_path: Path) -> None:
    for name, size in (("index0", "48K"), ("index3", "2M")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(size)
    assert kernel_timing.cache_bytes(CPU, tmp_path) == 2 << 20
    assert kernel_timing.cache_bytes(CPU, tmp_path / "gone") == 32 << 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_timing, "cache_bytes", lambda _: 10 << 20)
        assert kernel_timing.copies_for(4 << 20, CPU) == 8
        assert kernel_timing.copies_for(1 << 40, CPU) == 1
        assert kernel_timing.copies_for(100, CPU) == kernel_timing.MOST_COPIES


def test_a_round_calls_with_each_copy_and_its_time_is_that_of_one_call() -> None:
    seen: list[int] = []
    copies = [{"x": torch.full((1,), float(number))} for number in range(4)]
    turn = kernel_timing.Round(lambda x: seen.append(int(x)), copies)
    turn.settle()
    _, seconds = turn.clock(turn)
    assert seen == [0, 1, 2, 3] * 2
    assert 0 < seconds < 1
    assert turn.launched == "host"


def test_unknown_ops_and_models_are_refused_by_name() -> None:
    with pytest.raises(BenchmarkError, match="There is no op 'atention': choose from"):
        list(chosen(["atention"], None))
    with pytest.raises(BenchmarkError, match="There is no model 'SD9'"):
        list(chosen(None, ["SD9"]))
    ops = {family.op for family, _ in chosen(["activation"], ["flux"])}
    assert ops == {"activation"}


def test_the_command_writes_rows_that_come_back_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels.provenance.device, "copy_ceiling", lambda _: 1e10)
    monkeypatch.setattr(kernels.provenance.device, "matmul_ceiling", lambda *_: 1e12)
    given = ["--quick", "--op", "activation", "--model", "FLUX", "--variant", "--dtype", "float32"]
    assert kernels.main([*given, "--repeats", "2", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.rglob("*-kernels-quick.json")
    results = KernelResults.read(path)
    again = tmp_path / "again.json"
    results.write(again)
    assert KernelResults.read(again) == results
    assert json.loads(path.read_text())["command"].startswith("python -m sdaccel.benchmarks.kern")
    assert [row.rung for row in results.kernel_rows()] == [KERNEL, STOCK]
    for shown in (kernels.main(["--show", str(path)]), main(["show", str(path)])):
        assert shown == 0
    assert capsys.readouterr().out.count("activation, FLUX: GELU-tanh (float32)") == 3
    lines = kernel_tables.markdown(results).splitlines()
    assert lines[2].startswith("| activation | FLUX | GELU-tanh | float32 | kernel |")
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_bad_arguments_end_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.main(["--op", "nothing"]) == kernels.BAD_INPUT
    assert "There is no op 'nothing'" in capsys.readouterr().err


def test_a_case_has_sizes_of_its_own_or_the_quick_ones() -> None:
    case = Case("A", "b", {"batch": 2, "tokens": 4096, "dim": 40}, lambda: None)
    assert case.sizes_for(False) == {"batch": 2, "tokens": 4096, "dim": 40}
    assert case.sizes_for(True) == {"batch": 1, "tokens": 32, "dim": 40}
    assert NORM_MODULATE.bound == "memory"
    assert kernel_cases.MEMORY_TARGETS[0].at_least == 0.85


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", families(), ids=lambda family: family.op)
def test_on_a_gpu_every_kernel_runs_is_right_and_can_be_captured(
    family: Family, dtype: torch.dtype
) -> None:
    gpu = Options(torch.device("cuda", 0), dtype, 1, (), quick=True, backend="eager")
    for case in family.cases:
        row = Bench(family, case, gpu).run()[0]
        assert (row.status, row.reason) == ("ok", ""), (case.model, case.what)
        assert row.launched == "graph"
