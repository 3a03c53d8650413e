"""sdaccel profile: operators in a table and in JSON, one sentence for what can't be watched."""

from __future__ import annotations

import re

import pytest


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


def test_the_table_fits_and_says_what_it_adds_up_to(run) -> None:
    outcome = run("profile", "tiny", "--top", "3", "--shapes", "--plan", "none+no_ops")
    assert outcome.code == 0, outcome.err
    said = outcome.out + outcome.err
    assert re.search(r"operator +calls +ms +time +GFLOP +MB +matmul +copy +bound by", said)
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "One picture of tiny takes" in said
    assert "Bound by compute" in said


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
