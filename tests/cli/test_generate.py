"""sdaccel generate draws what the pipeline draws, and says what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny
from PIL import Image

from sdaccel.cli import exits

DRAW = ("generate", "a cat", "--plan", "eager", "--steps", "2")


def test_a_picture_is_the_pipeline_s_own_and_lands_where_asked(
    run: Any, model: str, tmp_path: Path
) -> None:
    outcome = run(*DRAW, "--model", model, "--seed", "0", "-o", "cat.png")
    assert outcome.code == exits.OK
    assert str(tmp_path / "cat.png") in outcome.out
    assert "plan eager" in outcome.out
    drawn = numpy.asarray(Image.open(tmp_path / "cat.png")) / 255
    assert abs(drawn - tiny.draw(tiny.stable_diffusion())[0]).max() < 1 / 255


def test_json_is_one_object_with_the_pictures_and_the_report(
    run: Any, model: str, tmp_path: Path
) -> None:
    found = run(*DRAW, "--model", model, "--num-images", "2", "--json").json
    assert found["pictures"] == [str(tmp_path / f"sdaccel-{index}.png") for index in (1, 2)]
    first, second = (numpy.asarray(Image.open(path)) for path in found["pictures"])
    assert (first != second).any()
    assert found["request"]["prompt"] == "a cat"
    assert found["report"]["calls"]["unet"] == 2
    states = {each["name"]: each["state"] for each in found["report"]["passes"]}
    assert states["no_ops"] == "applied"
    alone = run(*DRAW, "--model", model, "--seed", "1", "--json").json
    assert abs(numpy.asarray(Image.open(alone["pictures"][0])).astype(int) - second).max() <= 1


def test_an_exported_folder_is_drawn_by_its_graphs(run: Any, exported: Path) -> None:
    found = run(*DRAW, "--model", str(exported), "--json").json
    (record,) = [each for each in found["report"]["passes"] if each["name"] == "onnxruntime"]
    assert record["ran"]["unet by the session"] == 2
    drawn = numpy.asarray(Image.open(found["pictures"][0])) / 255
    assert abs(drawn - tiny.draw(tiny.stable_diffusion())[0]).max() < 1 / 255


def test_size_and_guidance_reach_the_pipeline(run: Any, model: str, tmp_path: Path) -> None:
    run(*DRAW, "--model", model, "--size", "32x16", "--guidance-scale", "1", "-o", "wide.png")
    image = Image.open(tmp_path / "wide.png")
    expected = tiny.draw(tiny.stable_diffusion(), width=32, height=16, guidance_scale=1.0)[0]
    assert image.size == (32, 16)
    assert abs(numpy.asarray(image) / 255 - expected).max() < 1 / 255


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("",), "The prompt is empty"),
        (("a", "--steps", "0"), "steps must be"),
        (("a", "--size", "huge"), "A size is"),
        (("a", "--plan", "fsat"), "no plan 'fsat': did you mean 'fast'"),
        (("a", "--plan", "eager+presicion"), "did you mean 'precision'"),
        (("a", "-o", "nowhere/a.png"), "nowhere doesn't exist"),
        (("a", "-o", "a.docx"), "names no picture"),
        (("a", "-o", "a"), "names no picture"),
        (("a", "--compare", "--rounds", "0"), "rounds must be"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    words: tuple[str, ...], says: str, run: Any
) -> None:
    outcome = run("generate", *words)
    assert outcome.code == exits.BAD_INPUT
    assert says in outcome.complaint
    assert outcome.out == ""


def test_a_folder_in_the_place_of_the_picture_is_refused(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    assert "is a folder" in run("generate", "a", "-o", "a.png").complaint


def test_a_size_that_the_model_cannot_draw_is_refused_before_drawing(
    run: Any, model: str, tmp_path: Path
) -> None:
    outcome = run(*DRAW, "--model", model, "--size", "20")
    assert outcome.code == exits.BAD_INPUT
    assert "the nearest are 16 and 24" in outcome.complaint
    assert not list(tmp_path.glob("*.png"))


def test_a_folder_without_a_model_has_its_own_exit_code(run: Any, tmp_path: Path) -> None:
    outcome = run(*DRAW, "--model", str(tmp_path))
    assert outcome.code == exits.NO_MODEL
    assert str(tmp_path) in outcome.complaint
    assert "Traceback" not in outcome.err


def test_strict_fails_where_a_pass_refuses(run: Any, model: str, tmp_path: Path) -> None:
    # Without time embeddings in need of it, 16 bit is refused for a pipe that is in 16 bit already.
    words = (*DRAW[:2], "--steps", "1", "--model", model, "--plan", "none+precision")
    outcome = run(*words, "--dtype", "bfloat16", "--strict")
    assert outcome.code == exits.NOT_ACCELERATED
    assert "precision refused" in outcome.complaint
    assert not list(tmp_path.glob("*.png"))
