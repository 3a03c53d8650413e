from __future__ import annotations

from pathlib import Path

from meeting import meet

from sdaccel.shapes.training.parallel import launch


def test_processes_average_their_tensors_and_follow_the_first(tmp_path: Path) -> None:
    launch(meet, 2, str(tmp_path))
    for index in range(2):
        assert (tmp_path / str(index)).read_text() == "[[0.5, 0.5], [0.5, 0.5]] True 2"


def test_a_process_alone_averages_with_nobody(tmp_path: Path) -> None:
    launch(meet, 1, str(tmp_path))
    assert (tmp_path / "0").read_text() == "[[0.0, 0.0], [0.0, 0.0]] True 1"
