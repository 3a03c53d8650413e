"""What to draw is checked before anything is computed."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_video

from sdaccel.cli.request import Request, parse_size
from sdaccel.errors import InputError


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.stable_diffusion()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": " \n"}, "The prompt is empty"),
        ({"prompt": 42}, "The prompt must be text, not int"),
        ({"prompt": None}, "The prompt must be text, not NoneType"),
        ({"prompt": ["a"]}, "The prompt must be text, not list"),
        ({"negative_prompt": 3}, "The negative prompt must be text, not int"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"steps": 2.5}, "steps must be a whole number of at least 1, not 2.5"),
        ({"num_images": -1}, "num-images must be a whole number of at least 1"),
        ({"num_frames": 0}, "num-frames must be a whole number of at least 1"),
        ({"fps": 0.0}, "fps must be a finite number above 0, not 0.0"),
        ({"fps": float("inf")}, "fps must be a finite number above 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"seed": 2**63}, "The seed must be below"),
        ({"guidance_scale": float("nan")}, "The guidance scale must be a finite number"),
    ],
)
def test_values_that_no_pipeline_takes_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Request(**{"prompt": "a cat", **values})


def test_a_size_is_one_number_or_width_by_height() -> None:
    assert parse_size("512") == (512, 512)
    assert parse_size("768x512") == (768, 512)
    for text in ("", "big", "12x", "x12", "1x2x3", "-8", "8.5"):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(text)


def test_arguments_are_what_the_pipeline_calls_them(pipe: Any) -> None:
    request = Request("a cat", steps=3, seed=5, num_images=2, size=(24, 16), guidance_scale=2.0)
    arguments = request.arguments(pipe)
    generators = arguments.pop("generator")
    assert arguments == {
        "prompt": "a cat",
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "width": 24,
        "height": 16,
        "num_images_per_prompt": 2,
        "output_type": "pil",
    }
    assert [each.initial_seed() for each in generators] == [5, 6]


def test_the_models_own_keywords_stand_where_nothing_was_asked_for(pipe: Any) -> None:
    defaults = {"num_inference_steps": 7, "guidance_scale": 3.0, "height": 24}
    left = Request("a cat", defaults=defaults)
    assert left.step_count == 7
    assert left.arguments(pipe).items() >= defaults.items()
    asked = Request("a cat", steps=2, guidance_scale=1.0, size=(8, 16), defaults=defaults)
    arguments = asked.arguments(pipe)
    assert arguments["num_inference_steps"] == 2
    assert arguments["guidance_scale"] == 1.0
    assert (arguments["width"], arguments["height"]) == (8, 16)
    assert Request("a cat").step_count == 25


def test_guidance_goes_to_true_guidance_where_the_model_is_made_for_that() -> None:
    request = Request("a cat", guidance_scale=4.0, defaults={"true_cfg_scale": 2.0})
    arguments = request.arguments(tiny.flux())
    assert arguments["true_cfg_scale"] == 4.0
    assert "guidance_scale" not in arguments


def test_what_a_pipeline_has_no_argument_for_is_refused_by_name() -> None:
    class Pipe:
        vae_scale_factor = 8

        def __call__(
            self, prompt: str, num_inference_steps: int, generator: Any, output_type: str
        ) -> None: ...

    Request("a cat").arguments(Pipe())
    with pytest.raises(InputError, match="Pipe takes no negative_prompt"):
        Request("a cat", negative_prompt="a dog").arguments(Pipe())


def test_a_pipeline_that_needs_more_than_a_prompt_is_refused() -> None:
    class Editor:
        vae_scale_factor = 8

        def __call__(
            self,
            prompt: str,
            image: Any,
            num_inference_steps: int,
            generator: Any,
            output_type: str,
        ) -> None: ...

    with pytest.raises(InputError, match="it also needs image"):
        Request("a cat").arguments(Editor())


def test_a_clip_s_arguments_are_what_the_pipeline_calls_them() -> None:
    request = Request("a cat", num_images=2, num_frames=5, fps=8.0, size=(32, 16))
    arguments = request.arguments(tiny_video.wan())
    assert arguments["num_videos_per_prompt"] == 2
    assert (arguments["num_frames"], arguments["width"], arguments["height"]) == (5, 32, 16)
    assert not {"fps", "frame_rate", "num_images_per_prompt"} & arguments.keys()
    told = request.arguments(Told())
    assert (told["video_length"], told["frame_rate"]) == (5, 8.0)
    assert told["num_images_per_prompt"] == 2


def test_a_clip_plays_as_asked_or_as_its_model_is_told_or_as_wan_s() -> None:
    assert Request("a cat", fps=8.0).frame_rate(Told()) == 8.0
    assert Request("a cat").frame_rate(Told()) == 25.0
    assert Request("a cat").frame_rate(tiny_video.wan()) == 16.0


@pytest.mark.parametrize("asked", [{"num_frames": 5}, {"fps": 8.0}])
def test_a_model_of_pictures_takes_no_frames(asked: dict[str, Any], pipe: Any) -> None:
    with pytest.raises(InputError, match="StableDiffusionPipeline makes pictures"):
        Request("a cat", **asked).arguments(pipe)


class Told:
    """A pipeline that is told the frame rate as LTX is, and names its arguments as Latte does."""

    def __call__(
        self,
        prompt: str,
        width: int = 16,
        height: int = 16,
        video_length: int = 16,
        frame_rate: int = 25,
        num_images_per_prompt: int = 1,
        num_inference_steps: int = 2,
        generator: Any = None,
        output_type: str = "pil",
    ) -> None: ...
