"""Which sizes and how many frames a model can make, known before it draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_video

from sdaccel.cli.limits import check_frames, check_size, frames_unit, size_unit
from sdaccel.errors import InputError


@pytest.fixture(scope="module")
def wan() -> Any:
    return tiny_video.wan()


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((20, 16), "a width of 20 pixels: it takes multiples of 8, the nearest are 16 and 24"),
        ((16, 7), "a height of 7 pixels: it takes multiples of 8, the nearest is 8"),
        ((0, 16), "a width of 0 pixels: it takes multiples of 8, the nearest is 8"),
    ],
)
def test_a_size_that_the_vae_cannot_make_is_refused_with_the_nearest(
    size: tuple[int, int], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        check_size(tiny.stable_diffusion(), size)


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((24, 16), "a width of 24 pixels: it takes multiples of 16, the nearest are 16 and 32"),
        ((16, 144), "a height of 144 pixels: it knows positions up to 128"),
    ],
)
def test_a_clip_s_size_is_of_whole_patches_and_within_the_rotary_tables(
    size: tuple[int, int], says: str, wan: Any
) -> None:
    check_size(wan, (128, 16))
    with pytest.raises(InputError, match=says):
        check_size(wan, size)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (4, "4 frames: it takes 1 more than a multiple of 2, the nearest are 3 and 5"),
        (17, "17 frames: it makes at most 15"),
    ],
)
def test_frames_that_a_causal_vae_cannot_make_are_refused_with_the_nearest(
    frames: int, says: str, wan: Any
) -> None:
    for possible in (1, 3, 15):
        check_frames(wan, possible)
    with pytest.raises(InputError, match=says):
        check_frames(wan, frames)


def test_a_motion_adapter_has_its_own_most_frames() -> None:
    pipe = tiny_video.animate_diff()
    check_frames(pipe, 8)
    with pytest.raises(InputError, match="9 frames: it makes at most 8"):
        check_frames(pipe, 9)


def test_what_a_pipeline_makes_unasked_shows_whether_its_vae_is_causal() -> None:
    class Pipe:
        vae_scale_factor_temporal = 4

        def __call__(self, num_frames: int | None = None) -> None: ...

    class Usual(Pipe):
        def __call__(self, num_frames: int = 81) -> None: ...

    class Helios(Pipe):
        def __call__(self, num_frames: int = 132) -> None: ...

    pipe = Pipe()
    pipe.transformer = SimpleNamespace(config=SimpleNamespace(sample_frames=49))
    assert frames_unit(pipe) == (4, 1)  # CogVideoX
    pipe.transformer.config.sample_frames = 22
    assert frames_unit(pipe) == (1, 0)  # Allegro
    assert frames_unit(Usual()) == (4, 1)
    assert frames_unit(Helios()) == (1, 0)


def test_a_transformer_takes_patches_of_latents() -> None:
    class Pipe:
        vae_scale_factor = 8

        def __call__(self, prompt: str) -> None: ...

    config = SimpleNamespace(patch_size=2)
    pipe = Pipe()
    pipe.transformer = SimpleNamespace(config=config)
    assert size_unit(pipe) == 16
    config.patch_size = (1, 2, 2)
    assert size_unit(pipe) == 16
    config.patch_size = 1  # Flux packs two by two in the pipeline
    assert size_unit(pipe) == 16
    config.patch_size = 4
    assert size_unit(pipe) == 32


def test_a_transformer_for_clips_may_take_single_latents() -> None:
    class Pipe:
        vae_spatial_compression_ratio = 32

        def __call__(self, prompt: str, num_frames: int = 161) -> None: ...

    pipe = Pipe()
    pipe.transformer = SimpleNamespace(config=SimpleNamespace(patch_size=1))  # LTX
    assert size_unit(pipe) == 32
