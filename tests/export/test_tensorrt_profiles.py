"""Profiles: from the sizes that a user names to the shapes that an engine takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_transformers
import torch

from sdaccel.benchmarks.families import families
from sdaccel.errors import ExportError
from sdaccel.export.manifest import ComponentEntry, TensorInfo
from sdaccel.export.tensorrt_profiles import Profile, Request, Size, profiles_of

SAMPLE = TensorInfo("sample", "float32", ("batch", 4, "height", "width"))
STEP = TensorInfo("timestep", "float32", ("batch",))
TEXT = TensorInfo("encoder_hidden_states", "float32", ("batch", "tokens", 32))
PIPE = SimpleNamespace(vae_scale_factor=8)


def entry_of(*inputs: TensorInfo) -> ComponentEntry:
    return ComponentEntry("X", "x/model.onnx", "fp32", inputs, (), {}, {})


def unet_profiles(request: Request, pipe: Any = PIPE) -> tuple[Profile, ...]:
    return profiles_of("unet", tiny.unet(), entry_of(SAMPLE, STEP, TEXT), pipe, request)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", Size(512, 512)),
        ("768x512", Size(768, 512)),
        (" 832X480x81 ", Size(832, 480, 81)),
    ],
)
def test_a_size_is_read(text: str, size: Size) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "x", "512x", "0x512", "512x512x0", "-8x8", "1x2x3x4", "wide"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a size is WIDTHxHEIGHT"):
        Size.parse(text)


def test_each_size_has_a_profile_in_which_only_samples_and_tokens_change() -> None:
    wide, tall = unet_profiles(Request((Size(64, 32), Size(32, 64)), batch=2, tokens=10))
    assert wide.shapes == {
        "sample": ((1, 4, 4, 8), (4, 4, 4, 8), (4, 4, 4, 8)),
        "timestep": ((1,), (4,), (4,)),
        "encoder_hidden_states": ((1, 1, 32), (4, 10, 32), (4, 10, 32)),
    }
    assert tall.shapes["sample"][2] == (4, 4, 8, 4)
    assert (wide.name, tall.name) == ("64x32", "32x64")


def test_sizes_that_are_alike_for_a_component_are_one_profile() -> None:
    ids = entry_of(TensorInfo("input_ids", "int64", ("batch", 16)))
    request = Request((Size(64, 32), Size(32, 64)), batch=3, tokens=10)
    encoder = tiny.stable_diffusion().text_encoder
    (found,) = profiles_of("text_encoder", encoder, ids, PIPE, request)
    assert found.shapes == {"input_ids": ((1, 16), (3, 16), (3, 16))}, "not doubled by guidance"


def test_a_text_encoder_gets_no_more_tokens_than_it_has_positions_for() -> None:
    encoder = tiny.stable_diffusion().text_encoder
    positions = encoder.config.max_position_embeddings
    ids = entry_of(TensorInfo("input_ids", "int64", ("batch", "tokens")))
    request = Request((Size(64, 32),), batch=1, tokens=positions + 5)
    (found,) = profiles_of("text_encoder", encoder, ids, PIPE, request)
    assert found.shapes["input_ids"] == ((1, 1), (1, positions), (1, positions))


def test_a_vae_s_decoder_takes_latents_and_its_encoder_pixels() -> None:
    vae, request = tiny.stable_diffusion().vae, Request((Size(64, 32),), 1, 10)
    latents = entry_of(TensorInfo("z", "float32", ("batch", 4, "height", "width")))
    pixels = entry_of(TensorInfo("x", "float32", ("batch", 3, "height", "width")))
    (decoder,) = profiles_of("vae_decoder", vae, latents, PIPE, request)
    (encoder,) = profiles_of("vae_encoder", vae, pixels, PIPE, request)
    assert decoder.shapes["z"] == ((1, 4, 4, 8),) * 3
    assert encoder.shapes["x"] == ((1, 3, 32, 64),) * 3


def test_packed_latents_are_counted_in_tokens() -> None:
    inputs = entry_of(
        TensorInfo("hidden_states", "float32", ("batch", "height_by_width", 16)),
        TensorInfo("img_ids", "float32", ("height_by_width", 3)),
    )
    flux, _ = tiny_transformers.flux()
    (found,) = profiles_of("transformer", flux, inputs, PIPE, Request((Size(64, 32),), 1, 9))
    assert found.shapes["hidden_states"][2][:2] == (2, 8)
    assert found.shapes["img_ids"] == ((8, 3),) * 3


def test_a_clip_s_frames_are_those_of_its_latents_and_numbers_are_fixed() -> None:
    pipe = SimpleNamespace(vae_spatial_compression_ratio=32, vae_temporal_compression_ratio=8)
    inputs = entry_of(
        TensorInfo("hidden_states", "float32", ("batch", "height_by_width_by_frames", 16)),
        TensorInfo("num_frames", "int64", ()),
        TensorInfo("height", "int64", ()),
        TensorInfo("width", "int64", ()),
    )
    request = Request((Size(256, 192, 17), Size(192, 256, 17)), 1, 9)
    ltx = next(each for each in families() if each.name == "LTX").build()
    first, second = profiles_of("transformer", ltx, inputs, pipe, request)
    assert first.shapes["hidden_states"][2][:2] == (2, 3 * 6 * 8)
    assert first.values == {"num_frames": 3, "height": 6, "width": 8}
    assert second.values == {"num_frames": 3, "height": 8, "width": 6}
    call = {"hidden_states": torch.zeros(1, 144, 16), "height": torch.tensor(8)}
    assert first.refusal(call) == "'height' is 8, not 6"
    assert second.refusal(call) is None


def test_what_does_not_fit_is_named_with_what_would() -> None:
    (found,) = unet_profiles(Request((Size(64, 32),), 1, 10))
    assert found.refusal({"sample": torch.zeros(2, 4, 4, 8)}) is None
    refusal = found.refusal({"sample": torch.zeros(3, 4, 4, 8)})
    assert refusal == "'sample' is 3x4x4x8, not 1x4x4x8 to 2x4x4x8"
    long = found.refusal({"encoder_hidden_states": torch.zeros(2, 11, 32)})
    assert long == "'encoder_hidden_states' is 2x11x32, not 1x1x32 to 2x10x32"


def test_without_names_it_is_the_pipe_s_own_size_and_length() -> None:
    pipe = tiny.stable_diffusion()
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    own = Request.of(pipe, None)
    assert own == Request((Size(side, side),), 1, pipe.tokenizer.model_max_length)
    asked = Request.of(pipe, ["64x32", "64X32"], batch=2, tokens=5)
    assert asked == Request((Size(64, 32),), 2, 5)


def test_a_pipe_s_call_says_how_large_its_clips_are() -> None:
    class Pipe:
        tokenizer = SimpleNamespace(model_max_length=10**30)

        def __call__(
            self,
            height: int = 480,
            width: int = 832,
            num_frames: int = 81,
            max_sequence_length: int = 512,
        ) -> None: ...

    assert Request.of(Pipe(), None) == Request((Size(832, 480, 81),), 1, 512)


def test_two_text_encoders_behind_each_other_are_both_counted() -> None:
    class Pipe:
        text_encoder_3 = object()
        default_sample_size = 128

        def __call__(self, max_sequence_length: int = 256) -> None: ...

    assert Request.of(Pipe(), None).tokens == 77 + 256


def test_sizes_that_can_not_be_drawn_or_found_are_refused() -> None:
    with pytest.raises(ExportError, match="no pictures of 60x32: width and height are multiples"):
        unet_profiles(Request((Size(60, 32),), 1, 10))
    with pytest.raises(ExportError, match="has no size of its own: name sizes"):
        Request.of(SimpleNamespace(), None)
    with pytest.raises(ExportError, match=r"No engine can be built of unet \(Linear\)"):
        profiles_of("unet", torch.nn.Linear(1, 1), entry_of(), PIPE, Request((Size(8, 8),), 1, 1))
    flat = entry_of(TensorInfo("sample", "float32", ("batch", 4)))
    with pytest.raises(ExportError, match="'sample' has 2 dimensions, and a call gives it 4"):
        profiles_of("unet", tiny.unet(), flat, PIPE, Request((Size(8, 8),), 1, 1))
