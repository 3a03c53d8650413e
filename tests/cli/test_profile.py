"""sdaccel profile: operators in a table and in JSON, one sentence for what can't be watched."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sdaccel.benchmarks.operations import Operation, Profile
from sdaccel.benchmarks.workloads import workload
from sdaccel.cli.profile import sentences, table

ATTENTION = "_scaled_dot_product_flash_attention"


def test_operators_come_with_their_figures_the_longest_first(run) -> None:
    found = run("profile", "tiny", "--json").json
    operations = found["operations"]
    seconds = [each["seconds"] for each in operations]
    assert found["workload"] == "tiny"
    assert seconds == sorted(seconds, reverse=True)
    convolution = next(each for each in operations if each["name"] == "convolution")
    assert convolution["flops"] > 1e6
    assert convolution["bytes"] > 1e5
    assert convolution["bound"] in ("compute", "memory")
    assert convolution["matmul_share"] > 0
    assert sum(found["bound_seconds"].values()) == pytest.approx(sum(seconds))


def test_the_table_fits_80_columns_and_says_what_it_adds_up_to() -> None:
    ceilings = {"matmul_ceiling": 1e11, "copy_ceiling": 1e10}
    shapes = ((2, 320, 64, 64), (320, 320, 3, 3), (320,))
    operations = (
        Operation("convolution", shapes, "float32", 1234, 1e12, 3e9, 12.5, **ceilings),
        Operation(f"{ATTENTION}_for_cpu", (), "float32", 64, 0.0, 1e8, 0.1, **ceilings),
    )
    found = Profile(operations, 13.0)
    console = Console(width=80, file=io.StringIO())
    console.print(table(list(operations), found), *sentences(found, workload("tiny")), sep="\n")
    said = console.file.getvalue()
    head, _, first, *rest = said.splitlines()
    titles = "operator calls ms time GFLOP MB matmul copy bound"
    assert " ".join(head.split()) == titles
    figures = "2x320x64x64 1234 12500 99% 1000 3000 80% 2% compute"
    assert " ".join(first.split()) == f"convolution {figures}"
    assert any(line.split()[:3] == ["flash_attention_for_cpu", "64", "100"] for line in rest)
    assert "One picture of tiny takes 13000.0 ms unwatched" in said
    assert "Bound by compute 12500.0 ms, by memory 100.0 ms." in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--plan", "lossless"), "take --plan lossless-compile"),
        (("--top", "0"), "--top must be at least 1"),
        (("sd15-unett",), "did you mean 'sd15-unet'"),
    ],
)
def test_what_cannot_be_watched_is_refused(run, words: tuple[str, ...], sentence: str) -> None:
    outcome = run("profile", *words)
    assert outcome.code == 2
    assert sentence in outcome.err
