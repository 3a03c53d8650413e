"""sdaccel generate writes clips: what the pipeline draws, as a film of the rate asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny_video

from sdaccel import quality, shapes
from sdaccel.cli import exits
from sdaccel.cli.clips import compose
from sdaccel.cli.comparison import Comparison
from sdaccel.report import Report
from sdaccel.shapes import weights

MAKE = ("generate", "a cat", "--plan", "eager", "--steps", "1", "--size", "16")


@pytest.fixture(scope="session")
def wan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a Wan that makes 2k + 1 frames of multiples of 16 pixels."""
    folder = tmp_path_factory.mktemp("wan")
    tiny_video.wan().save_pretrained(folder)
    return str(folder)


def _close(film: Any, frames: numpy.ndarray) -> bool:
    """Whether the brightness of a film's pixels, which it keeps in full, is that of frames."""
    weights = (0.299, 0.587, 0.114)
    return bool(abs(film.frames @ weights - frames @ weights).mean() < 3)


def test_a_clip_is_the_pipeline_s_own_and_lands_where_asked(
    run: Any, wan: str, tmp_path: Path
) -> None:
    words = ("--model", wan, "--num-frames", "5", "--fps", "8", "-o", "cat.mp4")
    outcome = run(*MAKE, *words)
    assert outcome.code == exits.OK, outcome.err
    assert str(tmp_path / "cat.mp4") in outcome.out
    assert "plan eager" in outcome.out
    assert "drawing:" in outcome.err  # the bar, which may be too quick to be drawn at its end
    assert "0/1 [" in outcome.err
    film = tiny_video.read_mp4(tmp_path / "cat.mp4")
    drawn = tiny_video.draw(tiny_video.wan())
    assert film.frames.shape == drawn.shape == (5, 16, 16, 3)
    assert film.fps == 8
    assert _close(film, drawn)


def test_names_follow_what_the_model_makes_and_seeds_count_up(
    run: Any, wan: str, tmp_path: Path
) -> None:
    words = (*MAKE, "--model", wan, "--num-frames", "3", "--json")
    found = run(*words).json
    assert found["clips"] == [str(tmp_path / "sdaccel.mp4")]
    assert found["fps"] == tiny_video.read_mp4(found["clips"][0]).fps == 16
    assert "pictures" not in found
    several = run(*words, "--num-images", "2", "-o", "cat.gif").json["clips"]
    assert several == [str(tmp_path / f"cat-{index}.gif") for index in (1, 2)]
    first, second = (tiny_video.read_gif(path).frames for path in several)
    assert (first != second).any()
    alone = run(*words, "--seed", "1", "-o", "alone.gif").json["clips"]
    assert abs(tiny_video.read_gif(*alone).frames.astype(int) - second).max() <= 1


def test_animate_diff_s_clip_becomes_a_gif(run: Any, tmp_path: Path) -> None:
    pipe = tiny_video.animate_diff()
    pipe.save_pretrained(tmp_path / "model")
    words = ("--model", "model", "--num-frames", "5", "-o", "cat.gif")
    assert run(*MAKE, *words).code == exits.OK
    film = tiny_video.read_gif(tmp_path / "cat.gif")
    drawn = tiny_video.draw(pipe)
    assert film.frames.shape == drawn.shape
    assert film.fps == pytest.approx(16, rel=0.01)
    assert abs(film.frames.astype(int) - drawn).max() <= 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--num-frames", "4"), "can't make 4 frames: it takes 1 more than a multiple of 2"),
        (("--num-frames", "99"), "can't make 99 frames: it makes at most 15"),
        (("--size", "24"), "can't draw a width of 24 pixels: it takes multiples of 16"),
        (("-o", "cat.png"), "makes clips, and 'cat.png' names a picture: let it end in .mp4"),
        (("-o", "cat.gif", "--fps", "60"), "A .gif plays above 0 and at most 50"),
    ],
)
def test_what_the_model_cannot_make_is_refused_before_drawing(
    words: tuple[str, ...], says: str, run: Any, wan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forbid_drawing(monkeypatch)
    outcome = run(*MAKE, "--model", wan, *words)
    assert outcome.code == exits.BAD_INPUT
    assert says in outcome.complaint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-o", "cat.mp4"), "makes pictures, and 'cat.mp4' names a clip: let it end in .png"),
        (("-o", "cat.gif"), "makes pictures, and 'cat.gif' names a clip"),
        (("--num-frames", "5"), "StableDiffusionPipeline makes pictures"),
        (("--fps", "5"), "StableDiffusionPipeline makes pictures"),
    ],
)
def test_a_model_of_pictures_makes_no_clip(
    words: tuple[str, ...], says: str, run: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forbid_drawing(monkeypatch)
    outcome = run(*MAKE, "--model", model, *words)
    assert outcome.code == exits.BAD_INPUT
    assert says in outcome.complaint


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--num-frames", "0"), "num-frames must be a whole number of at least 1"),
        (("--fps", "0"), "fps must be a finite number above 0"),
        (("-o", "cat.avi"), "names no picture and no clip"),
        (("-o", "nowhere/cat.mp4"), "nowhere doesn't exist"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    words: tuple[str, ...], says: str, run: Any
) -> None:
    outcome = run(*MAKE, *words)
    assert outcome.code == exits.BAD_INPUT
    assert says in outcome.complaint


@pytest.mark.usefixtures("no_loading")
def test_a_path_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    outcome = run(*MAKE, "-o", "cat.mp4")
    assert outcome.code == exits.BAD_INPUT
    assert "'cat.mp4' can't be written" in outcome.complaint


def test_compare_plays_both_side_by_side_and_measures_them(
    run: Any, wan: str, tmp_path: Path
) -> None:
    words = ("--model", wan, "--num-frames", "5", "--compare", "--rounds", "1")
    outcome = run(*MAKE, *words)
    assert outcome.code == exits.OK, outcome.err
    assert "the clips: " in outcome.out
    assert "as fast" in outcome.out
    film = tiny_video.read_mp4(tmp_path / "sdaccel-compare.mp4")
    assert len(film.frames) == 5
    assert film.frames.shape[2] == 2 * 320 + 3 * 16
    stock, accelerated = (film.frames[:, :, left : left + 320] for left in (16, 16 + 320 + 16))
    assert abs(stock[:, 60:380].astype(int) - accelerated[:, 60:380]).mean() < 2


def test_each_frame_of_a_comparison_shows_that_frame_of_both() -> None:
    random = numpy.random.default_rng(0)
    stock, fast = (_noise(random) for _ in range(2))
    report = Report("Pipe", "eager", "cpu", [], Report.no_calls(), 0)
    comparison = Comparison("eager", [stock], [fast], [2.0], [1.0], 0.0, report)
    (row,) = comparison.rows()
    frames = compose([row, row], "a heading")
    assert len(frames) == 3
    assert all(side % 2 == 0 for side in frames[0].size)
    for frame, *pair in zip(frames, stock, fast, strict=True):
        for picture, left in zip(pair, (16, 16 + 320 + 16), strict=True):
            assert _shows(frame, picture, left)


def test_a_clip_is_measured_over_all_its_frames() -> None:
    random = numpy.random.default_rng(0)
    stock = _noise(random)
    fast = [*stock[:2], _noise(random)[2]]
    report = Report("Pipe", "eager", "cpu", [], Report.no_calls(), 0)
    measured = Comparison("eager", [stock, stock], [fast, stock], [1.0], [1.0], 0.0, report)
    (psnr, ssim), same = measured.qualities()
    a, b = (numpy.stack(each) / 255 for each in (stock, fast))
    assert psnr == pytest.approx(-10 * numpy.log10(((a - b) ** 2).mean()))
    assert ssim == pytest.approx((2 + quality.ssim(a[2], b[2])) / 3)
    assert same == (float("inf"), pytest.approx(1.0))
    assert "the clips: identical" in measured.sentences()


def test_an_embedded_model_is_called_with_its_own_keywords(
    run: Any, wan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(wan, folder)
    defaults = {"num_inference_steps": 1, "num_frames": 3, "width": 32, "height": 16}
    weights.seal(folder, {**defaults, "max_sequence_length": 24})
    monkeypatch.setattr(weights, "_FOLDER", tmp_path)
    words = ("generate", "a cat", "--model", "shapes-tiny", "--plan", "eager")
    found = run(*words, "--json").json
    assert tiny_video.read_mp4(found["clips"][0]).frames.shape == (3, 16, 32, 3)
    assert found["report"]["calls"]["transformer"] == 2  # one step, and guidance
    next(folder.rglob("*.safetensors")).write_bytes(b"")
    outcome = run(*words)
    assert outcome.code == exits.NO_MODEL
    assert "shapes-tiny can't be loaded" in outcome.complaint
    assert "is truncated to 0 of" in outcome.complaint


@pytest.mark.skipif("video" not in shapes.names(), reason="the video model is not embedded")
def test_the_embedded_model_makes_a_clip_with_its_own_defaults(run: Any, tmp_path: Path) -> None:
    defaults = shapes.call_defaults("video")
    prompt = "a red circle moves left above a still green square"
    words = ("--model", "shapes-video", "--steps", "1", "--plan", "none", "-o", "clip.mp4")
    assert run("generate", prompt, *words).code == exits.OK
    film = tiny_video.read_mp4(tmp_path / "clip.mp4")
    expected = (defaults["num_frames"], defaults["height"], defaults["width"], 3)
    assert film.frames.shape == expected


def _noise(random: numpy.random.Generator) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(each) for each in random.integers(0, 256, (3, 16, 16, 3), numpy.uint8)]


def _shows(frame: Any, picture: Any, left: int) -> bool:
    """Whether a frame shows a picture, each pixel 20 wide, at some height from `left` on."""
    strip = numpy.asarray(frame)[:, left : left + 320][:, 10::20]
    first = numpy.asarray(picture)[0]
    tops = (strip == first).all((1, 2)).nonzero()[0]
    shown = strip[tops[0] + 10 : tops[0] + 320 : 20]
    return bool((shown == numpy.asarray(picture)).all())


def _forbid_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*_: object) -> None:
        raise AssertionError("something was drawn")

    monkeypatch.setattr("sdaccel.cli.generate.draw", draw)
    monkeypatch.setattr("sdaccel.cli.comparison.draw", draw)
