"""Reading result files: what is broken, cut off or foreign gets one sentence with its path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_files import COMMITTED, a_row, stock, written

from sdaccel.benchmarks.errors import ResultsError
from sdaccel.benchmarks.kernel_rows import KernelResults
from sdaccel.benchmarks.quality_rows import QualityResults
from sdaccel.benchmarks.reader import read, read_all


def test_a_file_comes_back_with_its_rows_as_they_stand(tmp_path: Path) -> None:
    path = written(tmp_path, stock(), a_row())
    values = json.loads(path.read_text())
    values["rows"][1]["stages"] = {"denoiser": 0.5}
    path.write_text(json.dumps(values))
    run = read(path)
    assert [row.rung for row in run.results.rows] == ["stock-fp32", "lossless"]
    assert run.raw_rows[1]["stages"] == {"denoiser": 0.5}
    assert run.machine == "a-cpu-2-cores, 2 threads"


def test_every_committed_file_is_read_as_what_it_is() -> None:
    kinds = {run.results.workload: type(run.results) for run in read_all([COMMITTED])}
    assert kinds["kernels"] is KernelResults
    assert kinds["compare-shapes-dit-lossless"] is QualityResults


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it is empty"),
        ("  \n", "it is empty"),
        ("not json at all", "it is no JSON from line 1 on"),
        ("[]", "it is JSON, but not of"),
        ('{"name": "some-package", "version": 1}', "it is JSON, but not of"),
        ('{"schema": 7, "rows": []}', "lacks 'workload'"),
        ('{"schema": 1, "rows": [NaN]}', "it holds NaN"),
    ],
)
def test_a_file_without_results_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ResultsError) as refused:
        read(path)
    said = str(refused.value)
    assert said.startswith(str(path))
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_says_so(tmp_path: Path, share: float) -> None:
    path = written(tmp_path, stock(), a_row())
    whole = path.read_text().rstrip()
    path.write_text(whole[: int(len(whole) * share)])
    with pytest.raises(ResultsError, match=r"holds no readable results"):
        read(path)


@pytest.mark.parametrize("behind", ['"rows": [', '"rung": "sto'])
def test_a_cut_between_two_values_or_in_a_word_is_called_a_cut(tmp_path: Path, behind: str) -> None:
    path = written(tmp_path, stock())
    whole = path.read_text()
    path.write_text(whole[: whole.index(behind) + len(behind)])
    with pytest.raises(ResultsError, match="cut off"):
        read(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.json"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ResultsError, match=r"picture\.json holds no readable results: it is no t"):
        read(path)


def test_a_wrong_value_is_named_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, stock())
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "fine"'))
    with pytest.raises(ResultsError, match=r'rows\[0\]\.status is "fine", not one of'):
        read(path)


def test_files_and_folders_are_read_once_each_oldest_first(tmp_path: Path) -> None:
    late = written(tmp_path, stock(), date="2026-02-02")
    early = written(tmp_path, stock(), date="2026-01-01", slug="b-cpu-2-cores")
    assert [run.path for run in read_all([late, tmp_path])] == [early, late]


def test_a_place_without_results_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"The folder .* holds no results"):
        read_all([tmp_path])
    with pytest.raises(ResultsError, match=r"gone\.json can't be read"):
        read_all([tmp_path / "gone.json"])
