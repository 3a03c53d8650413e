"""What to draw is checked before anything is computed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from sdaccel.cli.request import Request, parse_size, size_unit
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


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((20, 16), "a width of 20 pixels: it takes multiples of 8, the nearest are 16 and 24"),
        ((16, 7), "a height of 7 pixels: it takes multiples of 8, the nearest is 8"),
        ((0, 16), "a width of 0 pixels: it takes multiples of 8, the nearest is 8"),
    ],
)
def test_a_size_that_the_vae_cannot_make_is_refused_with_the_nearest(
    size: tuple[int, int], says: str, pipe: Any
) -> None:
    with pytest.raises(InputError, match=says):
        Request("a cat", size=size).arguments(pipe)


def test_a_transformer_takes_patches_of_latents() -> None:
    config = SimpleNamespace(patch_size=2)
    pipe = SimpleNamespace(vae_scale_factor=8, transformer=SimpleNamespace(config=config))
    assert size_unit(pipe) == 16
    config.patch_size = (1, 2, 2)
    assert size_unit(pipe) == 16
    config.patch_size = 1  # Flux packs two by two in the pipeline
    assert size_unit(pipe) == 16
    config.patch_size = 4
    assert size_unit(pipe) == 32


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


def test_a_pipeline_that_needs_more_than_a_prompt_or_makes_videos_is_refused() -> None:
    class Common:
        vae_scale_factor = 8

    class Editor(Common):
        def __call__(
            self,
            prompt: str,
            image: Any,
            num_inference_steps: int,
            generator: Any,
            output_type: str,
        ) -> None: ...

    class Video(Common):
        def __call__(
            self,
            prompt: str,
            num_frames: int = 16,
            num_inference_steps: int = 2,
            generator: Any = None,
            output_type: str = "pil",
        ) -> None: ...

    with pytest.raises(InputError, match="it also needs image"):
        Request("a cat").arguments(Editor())
    with pytest.raises(InputError, match="it makes videos"):
        Request("a cat").arguments(Video())
