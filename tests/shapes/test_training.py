from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sdaccel.shapes.grammar import is_held_out
from sdaccel.shapes.models import (
    TEXT_WIDTH,
    build_autoencoder,
    build_scheduler,
    build_text_encoder,
)
from sdaccel.shapes.tokens import build_tokenizer
from sdaccel.shapes.training.autoencoder import refine_decoder, to_tensor, train_autoencoder
from sdaccel.shapes.training.data import render_pictures, reword, sample_sized
from sdaccel.shapes.training.denoiser import Task, train_denoiser
from sdaccel.shapes.training.dit import transformer_task
from sdaccel.shapes.training.latents import encode_dataset, load_dataset, standardise
from sdaccel.shapes.training.loop import Loop, Recipe, make_optimizers, rate_at
from sdaccel.shapes.training.text import token_ids, train_text
from sdaccel.shapes.training.unet import diffuse, unet_task

SMALL_UNET = {"block_out_channels": (16, 32, 32), "attention_head_dim": 2}
SMALL_TRANSFORMER = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "axes_dims_rope": (2, 2, 4),
}


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / f"{name}.pt", weights_only=True)


def first_and_last_loss(folder: Path, name: str, run: Any, steps: int) -> tuple[float, float]:
    """The loss of the first step, and of one more step resumed after all others."""
    run(folder / "one", 1)
    run(folder / "all", steps)
    run(folder / "all", steps + 1)
    curves = [folder / part / f"{name}.jsonl" for part in ("one", "all")]
    first, last = (json.loads(curve.read_text().splitlines()[-1])["loss"] for curve in curves)
    return first, last


def fitting(folder: Path, steps: int, seed: int = 0) -> Loop:
    """A loop that fits a small layer to noise."""
    torch.manual_seed(seed)
    modules = nn.ModuleDict({"layer": nn.Linear(4, 4)})
    return Loop("fit", modules, Recipe(steps=steps, warm_up=2, decay_share=0.0), folder)


def fit_losses(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, torch.Tensor]:
    batch = torch.randn(8, 4, generator=generator)
    return {"loss": (modules["layer"](batch) - batch).square().mean()}


def test_a_resumed_run_ends_bit_for_bit_like_one_that_never_stopped(tmp_path: Path) -> None:
    fitting(tmp_path / "through", 12).run(fit_losses)
    fitting(tmp_path / "resumed", 5).run(fit_losses)
    fitting(tmp_path / "resumed", 12, seed=9).run(fit_losses)
    through, resumed = (
        checkpoint(tmp_path / "through", "fit"),
        checkpoint(tmp_path / "resumed", "fit"),
    )
    assert through["step"] == resumed["step"] == 12
    for part in ("modules", "average"):
        for name, value in through[part].items():
            assert torch.equal(value, resumed[part][name])


def test_a_run_without_its_optimizer_goes_on_and_warms_up_again(tmp_path: Path) -> None:
    fitting(tmp_path, 5).run(fit_losses)
    state = checkpoint(tmp_path, "fit")
    del state["optimizers"]
    torch.save(state, tmp_path / "fit.pt")
    loop = fitting(tmp_path, 12)
    assert (loop.step, loop.warm_from) == (5, 5)
    loop.run(fit_losses)
    assert checkpoint(tmp_path, "fit")["step"] == 12


def test_an_interrupted_run_ends_after_its_step_with_a_checkpoint(tmp_path: Path) -> None:
    def interrupted(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if loop.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return fit_losses(modules, generator)

    before = signal.getsignal(signal.SIGTERM)
    loop = fitting(tmp_path, 12)
    loop.run(interrupted)
    assert checkpoint(tmp_path, "fit")["step"] == 4
    assert signal.getsignal(signal.SIGTERM) is before
    fitting(tmp_path, 12).run(fit_losses)
    assert checkpoint(tmp_path, "fit")["step"] == 12


def test_the_time_that_a_run_was_paused_does_not_count(tmp_path: Path) -> None:
    def paused(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if loop.step == 1:
            time.sleep(1)
        return fit_losses(modules, generator)

    loop = fitting(tmp_path, 3)
    loop.run(paused)
    assert 0 < loop.seconds < 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_module_learns_what_it_learns_otherwise(tmp_path: Path) -> None:
    learned = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        recipe = Recipe(steps=6, warm_up=2, compiled=compiled)
        loop = Loop(
            "layer", nn.ModuleDict({"layer": nn.Linear(4, 4)}), recipe, tmp_path / str(compiled)
        )
        loop.run(fit_losses)
        learned[compiled] = loop
    assert learned[True].modules["layer"]._compiled_call_impl is not None
    assert learned[True].average["layer"]._compiled_call_impl is None
    torch.testing.assert_close(
        learned[True].modules.state_dict(), learned[False].modules.state_dict()
    )


def test_only_the_matrices_inside_blocks_are_trained_by_muon(tmp_path: Path) -> None:
    task = small_transformer()
    recipe = Recipe(steps=1, orthogonal=True)
    adam, muon = make_optimizers(task.denoiser, recipe)
    names = {id(weight): name for name, weight in task.denoiser.named_parameters()}
    chosen = {names[id(weight)] for group in muon.param_groups for weight in group["params"]}
    kept = {names[id(weight)] for group in adam.param_groups for weight in group["params"]}
    assert chosen | kept == set(names.values())
    assert not chosen & kept
    assert "transformer_blocks.0.attn.to_q.weight" in chosen
    assert {
        "proj_out.weight",
        "x_embedder.weight",
        "transformer_blocks.0.norm1.linear.weight",
    } <= kept
    assert len(make_optimizers(task.denoiser, Recipe(steps=1))) == 1


def test_a_stage_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give it steps or minutes"):
        Loop("fit", nn.ModuleDict(), Recipe(), tmp_path)


def test_the_rate_warms_up_stays_and_decays() -> None:
    recipe = Recipe(steps=100, warm_up=10, decay_share=0.2)
    assert rate_at(recipe, 0, 0.0) == pytest.approx(0.1)
    assert rate_at(recipe, 50, 0.5) == rate_at(recipe, 79, 0.79) == pytest.approx(1.0)
    assert rate_at(recipe, 90, 0.9) == pytest.approx(0.505)
    assert rate_at(recipe, 100, 1.0) == 0.01


def test_training_the_text_encoder_lowers_its_loss(tmp_path: Path) -> None:
    def run(folder: Path, steps: int) -> None:
        train_text(
            folder, Recipe(steps=steps, warm_up=2), "text", build_tokenizer, build_text_encoder
        )

    first, last = first_and_last_loss(tmp_path, "text", run, 20)
    assert last < 0.8 * first


def test_training_the_autoencoder_lowers_its_loss_and_the_decoder_alone_keeps_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdaccel.shapes.training.autoencoder.held_out_psnr", lambda _: 0.0)

    def run(folder: Path, steps: int) -> None:
        recipe = Recipe(2, learning_rate=3e-3, steps=steps, warm_up=2, decay_share=0.0)
        train_autoencoder(folder, recipe, 8, block_out_channels=(8, 8, 16))

    first, last = first_and_last_loss(tmp_path, "autoencoder", run, 25)
    assert last < 0.8 * first
    folder = tmp_path / "all"
    untrained = build_autoencoder(block_out_channels=(8, 8, 16))
    untrained.save_pretrained(folder / "vae")
    refine_decoder(folder, Recipe(2, steps=3, warm_up=1), 8)
    after = checkpoint(folder, "decoder")["modules"]
    for name, value in untrained.state_dict().items():
        kept = torch.equal(value, after[f"autoencoder.{name}"])
        assert kept == name.startswith(("encoder.", "quant_conv.")), name


def small_unet() -> Task:
    text = nn.Embedding(len(build_tokenizer()), TEXT_WIDTH).requires_grad_(False)
    return unet_task(lambda prompts: text(token_ids(build_tokenizer(), prompts)), **SMALL_UNET)


def small_transformer() -> Task:
    def embed(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(prompts), 5, TEXT_WIDTH), torch.ones(len(prompts), TEXT_WIDTH)

    return transformer_task(embed, **SMALL_TRANSFORMER)


@pytest.mark.parametrize("small_task", [small_unet, small_transformer])
def test_training_a_denoiser_lowers_its_loss(tmp_path: Path, small_task: Any) -> None:
    torch.manual_seed(0)
    encode_dataset(tmp_path / "latents", build_autoencoder().eval(), 12, seed=0)
    data = load_dataset(tmp_path / "latents")

    def run(folder: Path, steps: int) -> None:
        torch.manual_seed(0)
        recipe = Recipe(4, steps=steps, warm_up=2, decay_share=0.0)
        train_denoiser(folder, recipe, small_task(), data, lambda _: {"fidelity": 0.0})

    name = small_task().name
    first, last = first_and_last_loss(tmp_path, name, run, 15)
    assert last < 0.9 * first
    assert '"fidelity": 0.0' in (tmp_path / "all" / f"{name}.jsonl").read_text()


def test_the_data_set_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    autoencoder = build_autoencoder().eval()
    for folder in ("once", "again"):
        encode_dataset(tmp_path / folder, autoencoder, 6, seed=1)
    once, again = (load_dataset(tmp_path / folder) for folder in ("once", "again"))
    for name, values in once.items():
        assert np.array_equal(values, again[name])
    assert once["latents"].shape == (6, 4, 16, 16)
    assert once["prompts"].shape == (6, 4)
    assert not any(is_held_out(prompt) for prompt in once["prompts"].flat)


def test_standardising_changes_the_latents_and_not_the_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder().eval()
    pictures = to_tensor(np.array(render_pictures(tmp_path / "pictures.npy", 8, 0)), "cpu")
    with torch.no_grad():
        before = autoencoder.decode(autoencoder.encode(pictures).latent_dist.mode()).sample
        standardise(autoencoder, pictures)
        latents = autoencoder.encode(pictures).latent_dist.mode()
        after = autoencoder.decode(latents).sample
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-4
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_noise_covers_every_timestep_and_ends_in_pure_noise() -> None:
    alphas = build_scheduler().alphas_cumprod
    latents = torch.full((1000, 4, 1, 1), 3.0)
    noisy, timesteps, velocity = diffuse(latents, alphas, torch.Generator().manual_seed(0))
    assert torch.equal(timesteps.sort().values, torch.arange(1000))
    assert alphas[-1] < 1e-6
    assert noisy[-1].abs().mean() < 3
    signal = alphas[timesteps].sqrt()[:, None, None, None]
    strength = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
    torch.testing.assert_close(signal * noisy - strength * velocity, latents, atol=1e-4, rtol=1e-4)


def test_training_prompts_are_never_held_out_however_they_are_worded() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = sample_sized(rng)
        assert all(thing.size for thing in scene.things)
        told = reword(scene, rng)
        assert not is_held_out(scene.prompt)
        assert not is_held_out(told.prompt)
        same = replace(told.canonical, things=scene.canonical.things)
        assert same == scene.canonical
