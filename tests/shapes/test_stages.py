from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import nn

from sdaccel import shapes
from sdaccel.shapes.models import build_autoencoder, build_unet
from sdaccel.shapes.training import stages
from sdaccel.shapes.training.autoencoder import train_autoencoder
from sdaccel.shapes.training.card import BEGIN, END
from sdaccel.shapes.training.latents import load_dataset
from sdaccel.shapes.training.loop import Loop, Recipe
from sdaccel.shapes.training.stage import MODELS, Job, stages_of
from sdaccel.shapes.training.unet import adopt as adopt_unet


def fitting(folder: Path, steps: int) -> Loop:
    """A loop over a layer, which can be adopted, and a head, which is thrown away."""
    modules = nn.ModuleDict({"layer": nn.Linear(4, 4), "head": nn.Linear(4, 4)})
    return Loop("fit", modules, Recipe(steps=steps, warm_up=2, decay_share=0.0), folder)


def losses(modules: nn.ModuleDict, generator: torch.Generator) -> dict[str, torch.Tensor]:
    batch = torch.randn(8, 4, generator=generator)
    return {"loss": (modules["head"](modules["layer"](batch)) - batch).square().mean()}


def test_every_model_has_its_stages_and_ends_with_an_export() -> None:
    for model in MODELS:
        usual = [name for name, stage in stages_of(model).items() if stage.always]
        assert usual[-1] == "export"
        assert {"encode", "latents"} & set(usual), "what the denoiser is trained on"


def test_an_adopted_module_is_trained_on_with_a_new_head(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4).half()
    stages.adopt(tmp_path, "fit", "layer", layer)
    loop = fitting(tmp_path, 3)
    assert torch.equal(loop.modules["layer"].weight, layer.weight.float())
    assert torch.equal(loop.average["layer"].weight, layer.weight.float())
    loop.run(losses)
    found = stages.trained(tmp_path, "fit", "layer", nn.Linear(4, 4))
    assert not torch.equal(found.weight, layer.weight.float())
    stages.adopt(tmp_path, "fit", "layer", layer)
    assert torch.equal(
        stages.trained(tmp_path, "fit", "layer", nn.Linear(4, 4)).weight, found.weight
    )


def test_what_the_embedded_unet_was_is_what_training_starts_from(tmp_path: Path) -> None:
    adopt_unet(Job(tmp_path, Recipe()))
    pipe = shapes.load("unet")
    unet = stages.trained(tmp_path, "unet", "unet", build_unet())
    for name, value in pipe.unet.state_dict().items():
        assert torch.equal(unet.state_dict()[name], value), name
    autoencoder = AutoencoderKL.from_pretrained(tmp_path / "vae")
    for name, value in pipe.vae.state_dict().items():
        assert torch.equal(autoencoder.state_dict()[name], value), name


def test_an_autoencoder_that_was_trained_further_encodes_everything_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "STANDARD_PICTURES", 8)
    adopt_unet(Job(tmp_path, Recipe()))
    job = Job(tmp_path, Recipe(), scenes=4)
    stages.encode(job)
    first = load_dataset(tmp_path / "latents")["latents"]
    given = shapes.load("unet").vae.state_dict()
    adopted = AutoencoderKL.from_pretrained(tmp_path / "vae").state_dict()
    assert all(torch.equal(adopted[name], value) for name, value in given.items())
    train_autoencoder(tmp_path, Recipe(2, learning_rate=0.01, steps=2, warm_up=1), 2)
    stages.encode(job)
    second = load_dataset(tmp_path / "latents")["latents"]
    assert not np.array_equal(first, second)
    stages.encode(job)
    assert np.array_equal(load_dataset(tmp_path / "latents")["latents"], second)


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage 'unet' first"):
        stages.trained(tmp_path, "unet", "unet", nn.Linear(1, 1))


def test_an_export_is_half_as_wide_and_keeps_the_card_with_a_new_table(tmp_path: Path) -> None:
    pipe = shapes.load("unet")
    pipe.unet = build_unet(block_out_channels=(16, 32, 32), attention_head_dim=2)
    build_autoencoder().save_pretrained(tmp_path / "vae")
    pipe.vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    target = tmp_path / "exported"
    target.mkdir()
    (target / "README.md").write_text(f"# card\n{BEGIN}\n{END}\n")
    (target / "stale.txt").write_text("old")
    (tmp_path / "unet.jsonl").write_text(
        json.dumps({"step": 7, "pictures": 14, "minutes": 0.5, "loss": 0.5}) + "\n"
    )
    stages.export(Job(tmp_path, Recipe(), target=target), pipe, {"guidance_scale": 2.0})
    assert json.loads((target / "defaults.json").read_text()) == {"guidance_scale": 2.0}
    assert "| unet | 7 | 14 |" in (target / "README.md").read_text()
    assert not (target / "stale.txt").exists()
    assert all("_name_or_path" not in path.read_text() for path in target.rglob("config.json"))
    written = load_file(target / "vae" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float16}
