from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline

from sdaccel.shapes.dit import DEFAULTS, build_pipeline, build_t5_encoder, build_transformer
from sdaccel.shapes.models import build_autoencoder, build_text_encoder
from sdaccel.shapes.tokens import MAX_TOKENS, build_t5_tokenizer, build_tokenizer, words
from sdaccel.shapes.training.dit import mix, pack, positions, unpack


@pytest.fixture(scope="module")
def untrained() -> FluxPipeline:
    torch.manual_seed(0)
    tokenizer, t5_tokenizer = build_tokenizer(), build_t5_tokenizer()
    pipe = build_pipeline(
        build_autoencoder(),
        build_text_encoder(tokenizer),
        tokenizer,
        build_t5_encoder(t5_tokenizer),
        t5_tokenizer,
        build_transformer(num_layers=1, num_single_layers=1),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_every_word_of_the_grammar_is_one_token_of_t5_and_other_text_is_spelled() -> None:
    tokenizer = build_t5_tokenizer()
    for word in words():
        assert tokenizer.tokenize(word) == [f"▁{word}"]
    assert tokenizer.tokenize("Zoo") == ["▁", "Z", "o", "o"]
    ids = tokenizer("a red ring", padding="max_length").input_ids
    assert len(ids) == MAX_TOKENS
    assert ids[3:5] == [tokenizer.eos_token_id, tokenizer.pad_token_id]


def test_the_pipeline_draws_with_its_defaults_guided(untrained: FluxPipeline) -> None:
    settings = {**DEFAULTS, "num_inference_steps": 2, "output_type": "pt"}

    def draw(**changes: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return untrained(
            "a red ring on a blue background", generator=generator, **{**settings, **changes}
        ).images

    assert draw().shape == (1, 3, 64, 64)
    assert not torch.equal(draw(), draw(negative_prompt=None))


def test_latents_are_packed_and_numbered_as_the_pipeline_does() -> None:
    latents = torch.randn(2, 4, 16, 16)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 4, 16, 16))
    assert torch.equal(unpack(pack(latents)), latents)
    numbered = FluxPipeline._prepare_latent_image_ids(2, 8, 8, "cpu", torch.float32)
    assert torch.equal(positions(torch.device("cpu")), numbered)


def test_a_step_against_the_target_leads_from_the_noisy_latents_to_the_clean_ones() -> None:
    latents = torch.randn(64, 4, 2, 2)
    noisy, shares, target = mix(latents, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        noisy - shares[:, None, None, None] * target, latents, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(shares, shares.sort().values)
    assert shares[0] < 0.15
    assert shares[-1] > 0.9
