"""What is written is read back: the frames, their size and their rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny_video
import torch
from PIL import Image

from sdaccel import video
from sdaccel.errors import InputError
from sdaccel.video import as_array, write_video

READERS = {".mp4": tiny_video.read_mp4, ".gif": tiny_video.read_gif}


@pytest.fixture
def frames() -> numpy.ndarray:
    """Seven frames, 32 pixels wide and 24 high, of a red bar that moves over a shaded ground."""
    clip = numpy.zeros((7, 24, 32, 3), numpy.uint8)
    clip[..., 1] = numpy.arange(32) * 2
    for index, frame in enumerate(clip):
        frame[:, 4 * index : 4 * index + 6] = (230, 30, 30)
    return clip


@pytest.mark.parametrize(("ending", "error"), [(".mp4", 8), (".gif", 0)])
@pytest.mark.parametrize("fps", [16, 7.5])
def test_the_frames_their_size_and_their_rate_are_read_back(
    ending: str, error: int, fps: float, frames: numpy.ndarray, tmp_path: Path
) -> None:
    path = write_video(frames, tmp_path / f"bar{ending}", fps)
    film = READERS[ending](path)
    assert film.frames.shape == frames.shape
    # 4:2:0 halves the colours' resolution, so the bar's edges are spared.
    apart = numpy.abs(film.frames.astype(int) - frames)
    assert numpy.median(apart, axis=(1, 2)).max() <= error
    assert apart.mean() <= error
    # A .gif counts hundredths of a second, so its seven frames end within half of one.
    assert film.fps == pytest.approx(fps, rel=0 if ending == ".mp4" else 0.005 * fps / 7, abs=1e-9)


def test_pictures_arrays_and_tensors_are_the_same_clip(frames: numpy.ndarray) -> None:
    floats = frames.astype(numpy.float32) / 255
    forms: tuple[Any, ...] = (
        [Image.fromarray(each) for each in frames],
        [Image.fromarray(each).convert("RGBA") for each in frames],
        list(frames),
        floats,
        list(floats),
        torch.from_numpy(floats).permute(0, 3, 1, 2),
        torch.from_numpy(frames).permute(0, 3, 1, 2),
    )
    for form in forms:
        assert (as_array(form) == frames).all()


def test_floats_are_rounded_to_bytes_and_kept_within_them() -> None:
    clip = torch.tensor([-0.5, 0.499, 1.5], dtype=torch.bfloat16).reshape(1, 3, 1, 1)
    assert as_array(clip).tolist() == [[[[0, 127, 255]]]]


def test_an_odd_side_is_made_even_by_its_last_line(frames: numpy.ndarray, tmp_path: Path) -> None:
    film = tiny_video.read_mp4(write_video(frames[:, :23, :31], tmp_path / "odd.mp4"))
    assert film.frames.shape == frames.shape
    assert numpy.abs(film.frames[:, -1].astype(int) - film.frames[:, -2]).mean() < 3


@pytest.mark.parametrize(
    ("name", "fps", "says"),
    [
        ("a.png", 16, "names no clip: let it end in .mp4 or .gif"),
        ("a", 16, "names no clip"),
        ("a.mp4", 0, "above 0 and at most 240 frames a second, not 0"),
        ("a.gif", 60, "above 0 and at most 50 frames a second, not 60"),
        ("a.mp4", float("nan"), "not nan"),
    ],
)
def test_a_path_or_a_rate_that_cannot_be_written_is_refused(
    name: str, fps: float, says: str, frames: numpy.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        write_video(frames, tmp_path / name, fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_place_that_cannot_be_written_is_refused(
    ending: str, frames: numpy.ndarray, tmp_path: Path
) -> None:
    (tmp_path / f"folder{ending}").mkdir()
    for name in (f"folder{ending}", f"nowhere/a{ending}"):
        with pytest.raises(InputError, match="can't be written: choose another place"):
            write_video(frames, tmp_path / name)


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        ([], "not \\(0,\\)"),
        (numpy.zeros((2, 8, 8), numpy.uint8), "not \\(2, 8, 8\\)"),
        (numpy.zeros((2, 8, 8, 4), numpy.uint8), "not \\(2, 8, 8, 4\\)"),
        (numpy.zeros((2, 8, 8, 3), numpy.int64), "not int64"),
        (numpy.full((2, 8, 8, 3), numpy.nan), "NaN"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 16))], "must all have one size"),
    ],
)
def test_what_is_no_clip_is_refused(clip: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        write_video(clip, tmp_path / "a.gif")


def test_without_the_extra_a_gif_is_written_and_an_mp4_names_the_extra(
    frames: numpy.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'pip install "sdaccel\[video\]"'):
        write_video(frames, tmp_path / "a.mp4")
    assert len(tiny_video.read_gif(write_video(frames, tmp_path / "a.gif")).frames) == 7
