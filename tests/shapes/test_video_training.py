from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from sdaccel.shapes import weights
from sdaccel.shapes.grammar import COLOURS, SHAPES
from sdaccel.shapes.training import (
    parallel,
    video,
    video_autoencoder,
    video_denoiser,
    video_latents,
)
from sdaccel.shapes.training.loop import FlatMuon, Recipe, is_matrix
from sdaccel.shapes.training.stage import Job, stages_of
from sdaccel.shapes.training.video_data import draw_clips, sample_definite, to_tensor
from sdaccel.shapes.training.video_text import PLACES, answers, encode, tokenize, train_text
from sdaccel.shapes.video.grammar import MovingScene, parse, side_of
from sdaccel.shapes.video.models import (
    DEFAULTS,
    TEXT_WIDTH,
    build_autoencoder,
    build_pipeline,
    build_scheduler,
    build_text_encoder,
    build_transformer,
)
from sdaccel.shapes.video.renderer import draw_clip
from sdaccel.shapes.video.tokens import build_tokenizer, words

SMALL = {"base_dim": 16, "decoder_base_dim": 16}


def first_and_last_loss(folder: Path, name: str, run: Any, steps: int) -> tuple[float, float]:
    """The loss of the first step, and of one more step resumed after all others."""
    run(folder / "one", 1)
    run(folder / "all", steps)
    run(folder / "all", steps + 1)
    curves = [folder / part / f"{name}.jsonl" for part in ("one", "all")]
    first, last = (json.loads(curve.read_text().splitlines()[-1])["loss"] for curve in curves)
    return first, last


def recipe(batch_size: int, steps: int) -> Recipe:
    return Recipe(batch_size, learning_rate=3e-3, steps=steps, warm_up=2, decay_share=0.0)


def test_training_the_text_encoder_lowers_its_loss(tmp_path: Path) -> None:
    def run(folder: Path, steps: int) -> None:
        train_text(folder, recipe(16, steps))

    first, last = first_and_last_loss(tmp_path, "text", run, 20)
    assert last < 0.8 * first


def test_training_the_autoencoder_lowers_its_loss_and_the_decoder_alone_keeps_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    part = to_tensor(draw_clips(rng, 1)[:, 4:9, 24:72, 24:72].copy(), "cpu")
    monkeypatch.setattr(video_autoencoder, "measure", lambda _: {"held_out_psnr": 0.0})
    monkeypatch.setattr(video_autoencoder, "draw_batch", lambda *_: part)

    def run(folder: Path, steps: int) -> None:
        muon = replace(recipe(2, steps), orthogonal=True)
        video_autoencoder.train_autoencoder(folder, muon, **SMALL)

    first, last = first_and_last_loss(tmp_path, "autoencoder", run, 15)
    assert last < 0.8 * first
    untrained = build_autoencoder(**SMALL)
    untrained.save_pretrained(tmp_path / "vae")
    video_autoencoder.refine_decoder(tmp_path, recipe(2, 2))
    after = torch.load(tmp_path / "decoder.pt", weights_only=True)["modules"]
    for name, value in untrained.state_dict().items():
        kept = torch.equal(value, after[f"autoencoder.{name}"])
        assert kept == name.startswith(("encoder.", "quant_conv.")), name


def test_training_the_transformer_lowers_its_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(**SMALL).eval()
    video_latents.standardise(autoencoder, draw_clips(np.random.default_rng(0), 8))

    def run(folder: Path, steps: int) -> None:
        video_denoiser.train_transformer(
            folder,
            recipe(4, steps),
            autoencoder,
            lambda prompts: torch.ones(len(prompts), 32, TEXT_WIDTH),
            lambda _: {"fidelity": 0.0},
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=32,
            ffn_dim=64,
        )

    first, last = first_and_last_loss(tmp_path, "transformer", run, 15)
    assert last < 0.9 * first
    assert '"fidelity": 0.0' in (tmp_path / "all" / "transformer.jsonl").read_text()


def test_processes_that_average_have_a_gradient_for_every_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    autoencoder = build_autoencoder(**SMALL)
    frame = torch.zeros(1, 3, 1, 32, 32)
    for world in (1, 2):
        monkeypatch.setattr(parallel, "world", lambda world=world: world)
        autoencoder.zero_grad()
        made = autoencoder.decode(autoencoder.encode(frame).latent_dist.mode()).sample
        (made.mean() + video_autoencoder.touched(autoencoder)).backward()
        missing = [name for name, weight in autoencoder.named_parameters() if weight.grad is None]
        assert bool(missing) == (world == 1)


def test_muon_steps_a_convolution_as_the_matrix_from_all_its_inputs() -> None:
    torch.manual_seed(0)
    kernel, gradient = torch.randn(8, 4, 3, 3, 3), torch.randn(8, 4, 3, 3, 3)
    weights = nn.Parameter(kernel.clone()), nn.Parameter(kernel.flatten(1).clone())
    for weight in weights:
        muon = FlatMuon([weight], lr=0.1)
        for _ in range(3):
            weight.grad = gradient.reshape(weight.shape).clone()
            muon.step()
    assert (weights[0] - kernel).abs().mean() > 0.01
    torch.testing.assert_close(weights[0].flatten(1), weights[1])


def test_every_convolution_of_a_block_and_no_modulation_is_trained_by_muon() -> None:
    names = {
        name for name, weight in build_autoencoder().named_parameters() if is_matrix(name, weight)
    }
    assert "encoder.down_blocks.0.resnets.0.conv1.weight" in names
    assert "decoder.mid_block.attentions.0.to_qkv.weight" in names
    assert not any("gamma" in name or "conv_in" in name for name in names)
    blocks = build_transformer(num_layers=1).named_parameters()
    names = {name for name, weight in blocks if is_matrix(name, weight)}
    assert "blocks.0.attn2.to_q.weight" in names
    assert not any("table" in name or "embed" in name for name in names)


def test_batches_of_the_autoencoder_are_pictures_parts_and_whole_clips() -> None:
    kinds = set()
    for seed in range(40):
        batch = video_autoencoder.draw_batch(1, torch.Generator().manual_seed(seed))
        assert batch.abs().max() <= 1
        kinds.add((len(batch), *batch.shape[2:4]))
    assert kinds == {(2, 1, 96), (2, 5, 48), (1, 5, 48), (1, 17, 48), (1, 9, 96), (1, 17, 96)}
    again = video_autoencoder.draw_batch(1, torch.Generator().manual_seed(39))
    assert torch.equal(batch, again)


def test_standardised_latents_have_mean_0_and_deviation_1() -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(**SMALL).eval()
    clips = draw_clips(np.random.default_rng(0), 8)
    video_latents.standardise(autoencoder, clips)
    latents = video_latents.encode(autoencoder, clips)
    assert latents.shape == (8, 16, 9, 12, 12)
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3, 4)) - 1).abs().max() < 1e-3


def test_a_layout_says_what_covers_each_cell_at_both_ends_of_a_token() -> None:
    clip = draw_clip(parse("a large red square moves right on a blue background"), 1)
    colour, shape = video_latents.layout(clip)
    assert colour.shape == shape.shape == (324, 8)
    assert set(np.unique(colour)) == {0, 1 + COLOURS.index("red")}
    assert set(np.unique(shape)) == {0, 1 + SHAPES.index("square")}
    path = clip.paths[0]
    for frame, (latent_frame, end) in {0: (0, 0), 1: (1, 0), 4: (2, 1), 16: (8, 1)}.items():
        row, column = int(path.y[frame] * 12), int(path.x[frame] * 12)
        token = latent_frame * 36 + (row // 2) * 6 + column // 2
        assert colour[token, end * 4 + (row % 2) * 2 + column % 2] > 0
    by_frame = colour.reshape(9, 36, 8)
    assert not np.array_equal(by_frame[0], by_frame[8])


@pytest.mark.parametrize(("kind", "count"), [((1.0, 9), 8), ((3.2, 3), 25), ((9.0, 1), 72)])
def test_a_clip_is_encoded_once_and_comes_again_in_other_true_words(
    kind: tuple[float, int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kind in video_latents.KINDS
    monkeypatch.setattr(video_latents, "KINDS", (kind,))
    monkeypatch.setattr(video_latents, "DISTINCT", count)
    torch.manual_seed(0)
    autoencoder = build_autoencoder(**SMALL).eval()
    clips = video_latents.TrainingClips(autoencoder, 8)
    first, second = (clips.draw(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert len(clips.kept) == 1
    assert first.latents.shape == (count, 16, kind[1], 12, 12)
    assert first.layouts.shape == (count, 2, 36 * kind[1], 8)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.layouts, second.layouts)
    assert first.prompts != second.prompts
    for prompts in zip(first.prompts, second.prompts, first.backgrounds, strict=True):
        scenes = [parse(prompt) for prompt in prompts[:2]]
        motions = [sorted(actor.motion for actor in scene.actors) for scene in scenes]
        assert motions[0] == motions[1]
        assert all(scene.background in (None, COLOURS[prompts[2]]) for scene in scenes)


def test_a_training_that_goes_on_learns_from_the_same_clips() -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(**SMALL).eval()
    first, again = (
        video_latents.TrainingClips(autoencoder, 2).draw(torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(first.latents, again.latents)
    assert first.prompts == again.prompts


def test_the_latents_and_layouts_of_a_clips_beginning_are_the_beginning_of_the_clips() -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(**SMALL).eval()
    clip = draw_clip(parse("a large red square moves right on a blue background"), 1)
    whole = video_latents.encode(autoencoder, clip.pixels[None])
    for latent_frames in (1, 3):
        frames = video_latents.frames_of(latent_frames)
        beginning = video_latents.encode(autoencoder, clip.pixels[None, :frames])
        assert torch.equal(beginning, whole[:, :, :latent_frames])
        begun = video_latents.layout(clip, latent_frames)
        assert np.array_equal(begun, video_latents.layout(clip)[:, : 36 * latent_frames])


def test_training_prompts_are_never_held_out_however_they_are_worded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = sample_definite(rng)
        told = video_latents.reword(scene, rng)
        assert side_of(scene.prompt) == side_of(told.prompt) == "training"
        assert all(actor.thing.size for actor in scene.actors)
        assert unsized(told.canonical) in (unsized(scene), unsized(scene.inverse))


def unsized(scene: MovingScene) -> MovingScene:
    """The scene without what a wording may leave out."""
    actors = (replace(actor, thing=replace(actor.thing, size=None)) for actor in scene.actors)
    return replace(scene, actors=tuple(actors), background=None)


def test_noise_goes_straight_from_latents_to_noise_and_timesteps_are_its_level() -> None:
    latents = torch.full((1000, 32, 1, 1, 1), 3.0)
    noisy, sigmas, flow = video_denoiser.diffuse(latents, torch.Generator().manual_seed(0))
    noise = latents + flow
    torch.testing.assert_close(
        noisy, latents + sigmas.view(-1, 1, 1, 1, 1) * flow, atol=1e-5, rtol=1e-5
    )
    assert abs(noise.mean()) < 0.02
    scheduler = build_scheduler()
    scheduler.set_timesteps(1000)
    assert abs(scheduler.timesteps[0] - 1000 * scheduler.sigmas[0]) < 1.5


def test_noise_levels_are_higher_where_more_frames_tell_of_the_same_things() -> None:
    def odds(frames: int) -> torch.Tensor:
        latents = torch.zeros(1000, 1, frames, 1, 1)
        return video_denoiser.diffuse(latents, torch.Generator().manual_seed(0))[1].logit()

    still, clip = odds(1), odds(9)
    assert abs(still.mean() - 0.3) < 0.02
    assert abs(still.std() - 1) < 0.05
    torch.testing.assert_close(clip, still + np.log(3), atol=1e-3, rtol=0)


def test_answers_name_what_is_where_and_what_it_does() -> None:
    told = answers(parse("a still small red circle above a blue star turns on a black background"))
    other = answers(parse("a blue star turns below a still small red circle on a black background"))
    assert np.array_equal(told, other)
    assert [PLACES[index] for index in np.nonzero(told.sum(1))[0]] == [
        "top",
        "bottom",
        "background",
    ]
    ordered = answers(parse("a blue star turns, a still red circle"))
    assert [PLACES[index] for index in np.nonzero(ordered.sum(1))[0]] == ["first", "second"]


def test_the_text_is_encoded_as_the_pipeline_encodes_it() -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    text_encoder = build_text_encoder(tokenizer).eval()
    transformer = build_transformer(num_layers=1)
    pipe = build_pipeline(build_autoencoder(**SMALL), text_encoder, tokenizer, transformer)
    prompts = ["a red circle moves left above a still green square", ""]
    with torch.no_grad():
        wanted = pipe.encode_prompt(prompts, max_sequence_length=32)[0]
        torch.testing.assert_close(encode(text_encoder, *tokenize(tokenizer, prompts)), wanted)


def test_every_word_is_one_token_and_any_other_text_has_tokens() -> None:
    tokenizer = build_tokenizer()
    prompt = "a still large red circle on an yellow background"
    assert len(tokenizer(prompt).input_ids) == 1 + len(prompt.split())
    for word in words():
        assert len(tokenizer(word).input_ids) == 2, word
    strange = tokenizer("Zebras, 7 of them").input_ids
    assert tokenizer.unk_token_id not in strange


def test_clips_become_tensors_channel_first() -> None:
    clips = draw_clips(np.random.default_rng(0), 2)
    tensor: Tensor = to_tensor(clips, "cpu")
    assert tensor.shape == (2, 3, 17, 96, 96)
    np.testing.assert_allclose(tensor[1, 2, 3, 4, 5], clips[1, 3, 4, 5, 2] / 127.5 - 1, atol=1e-6)


def test_the_loss_of_a_single_frame_counts_no_change() -> None:
    decoded, clips = torch.zeros(2, 3, 1, 8, 8), torch.full((2, 3, 1, 8, 8), 0.5)
    found = video_autoencoder.compare(decoded, clips)
    assert found["change"] == 0
    assert found["loss"] == pytest.approx(0.5 + 0.25)
    two = video_autoencoder.compare(
        torch.cat([decoded, decoded], 2), torch.cat([clips, clips + 0.1], 2)
    )
    assert two["change"] == pytest.approx(0.1)


# Autocast leaves RMSNorm's weight in float32, which torch 2.13 says takes its unfused way.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_the_stages_lead_from_nothing_to_a_pipeline_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "STANDARD_CLIPS", 8)
    monkeypatch.setattr(video_autoencoder, "measure", lambda _: {})
    stages = stages_of("video")
    for name in ("text", "autoencoder", "latents", "transformer", "decoder", "export"):
        short = {"batch_size": 2, "minutes": None, "steps": 1, "compiled": False}
        job = Job(tmp_path, replace(stages[name].recipe, **short))
        stages[name].run(replace(job, evaluate_count=1))
    shutil.copytree(tmp_path / "pipeline", tmp_path / "embedded" / "video")
    monkeypatch.setattr(weights, "_FOLDER", tmp_path / "embedded")
    pipe: Any = weights.load("video")
    assert type(pipe).__name__ == "WanPipeline"
    assert weights.call_defaults("video") == DEFAULTS
    trained = torch.load(tmp_path / "transformer.pt", weights_only=True)["average"]
    name = "blocks.0.attn1.to_q.weight"
    half = trained[f"transformer.{name}"].half().float()
    assert torch.equal(pipe.transformer.state_dict()[name], half)
    refined = torch.load(tmp_path / "decoder.pt", weights_only=True)["average"]
    kernel = refined["autoencoder.decoder.conv_in.weight"].half().float()
    assert torch.equal(pipe.vae.decoder.conv_in.weight, kernel)
    assert pipe.vae.config.latents_std != [1.0] * 32
    assert '"fidelity": 0.0' in (tmp_path / "transformer.jsonl").read_text()
    adopted = Job(tmp_path / "again", job.recipe, start=tmp_path / "pipeline", evaluate_count=1)
    stages["adopt"].run(adopted)
    begun = torch.load(tmp_path / "again" / "transformer.pt", weights_only=True)["modules"]
    assert torch.equal(begun[f"transformer.{name}"], half)
    stages["transformer"].run(adopted)
    stages["export"].run(adopted)
    again = AutoencoderKLWan.from_pretrained(tmp_path / "again" / "pipeline" / "vae")
    assert torch.equal(again.decoder.conv_in.weight, pipe.vae.decoder.conv_in.weight)
