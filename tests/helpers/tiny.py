"""Tiny pipelines of stock diffusers classes with random weights, built without a hub."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any


def unet(**changes: Any) -> Any:
    """A UNet2DConditionModel with one attention level and one plain level, about 0.4 M weights."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**config, **changes}).eval()


def vae() -> Any:
    """An AutoencoderKL that halves the size once."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(16, 32),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        shift_factor=0.0,
    ).eval()


def text_encoder() -> Any:
    """A CLIPTextModel of one layer and width 32."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config).eval()


def tokenizer() -> Any:
    """A CLIPTokenizer over single letters."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        (files / "vocab.json").write_text(json.dumps(_vocabulary()))
        (files / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer(
            str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=16
        )


def stable_diffusion(**changes: Any) -> Any:
    """A StableDiffusionPipeline that draws 16x16 pictures in milliseconds."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    parts = {
        "vae": vae(),
        "unet": unet(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipe = StableDiffusionPipeline(**{**parts, **changes})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(num_layers: int = 1, num_single_layers: int = 1, **changes: Any) -> Any:
    """A FluxPipeline without text encoders: it takes embeddings, and guides sequentially."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(3)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=num_layers,
        num_single_layers=num_single_layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        **changes,
    ).eval()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_flux(pipe: Any, **changes: Any) -> Any:
    """Two steps with true guidance, so two calls of the transformer a step; (N, H, W, 3)."""
    import torch

    random = torch.Generator().manual_seed(4)
    options = {
        "height": 16,
        "width": 16,
        "num_inference_steps": 2,
        "true_cfg_scale": 2.0,
        "prompt_embeds": torch.randn(1, 8, 32, generator=random),
        "pooled_prompt_embeds": torch.randn(1, 32, generator=random),
        "negative_prompt_embeds": torch.randn(1, 8, 32, generator=random),
        "negative_pooled_prompt_embeds": torch.randn(1, 32, generator=random),
        "output_type": "np",
        "generator": torch.Generator().manual_seed(0),
    }
    return pipe(**{**options, **changes}).images


def snapshot(pipe: Any) -> dict[str, Any]:
    """Class, `__dict__`, hooks and strides of everything in a pipe, to compare before and after.

    The dictionaries inside are copied, the objects in them are compared by identity or value.
    """
    import torch

    state: dict[str, Any] = {"pipe": (type(pipe), set(pipe.__dict__))}
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            for path, module in part.named_modules():
                own = {key: _copied(value) for key, value in module.__dict__.items()}
                state[f"{name}:{path}"] = (type(module), own)
                processor = getattr(module, "processor", None)
                if processor is not None:
                    state[f"{name}:{path}:processor"] = (type(processor), dict(vars(processor)))
            for path, tensor in part.state_dict().items():
                state[f"{name}:{path}:bits"] = (tensor.dtype, tensor.stride(), bits(tensor))
        elif part is not None:
            state[name] = (type(part), set(vars(part)))
    return state


def bits(tensor: Any) -> bytes:
    """The bytes of a tensor's values, in order."""
    import torch

    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def draw(pipe: Any, **changes: Any) -> Any:
    """Two steps from a fixed seed; returns a float array (N, H, W, 3)."""
    import torch

    options = {
        "prompt": "a cat",
        "num_inference_steps": 2,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(0),
    }
    return pipe(**{**options, **changes}).images


def _vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    return {word: index for index, word in enumerate(words)}
