"""Arguments to trace a model with, from its config: which it takes, and which dimensions change.

Each function makes the arguments of a forward as the pipelines of that model pass them. Timesteps,
positions and sizes are in fp32 whatever the model computes in: they hold more than 16 bits do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.utils import _pytree

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Extent:
    """How large an input is: samples, height and width of latents, frames, tokens of text."""

    batch: int = 2
    height: int = 8
    width: int = 12
    frames: int = 3
    tokens: int = 7

    @property
    def patches(self) -> int:
        """2x2 latents are a token."""
        return (self.height // 2) * (self.width // 2)


_STEPS = Extent(1, 2, 2, 2, 4)
"""How much larger each dimension is made, to see where it counts: a patch, a step of a VAE."""


@dataclass
class Draw:
    """Random arguments of a model, the same for a seed, in the dtype that it computes in."""

    dtype: torch.dtype
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return self.exact(*shape).to(self.dtype)

    def exact(self, *shape: int) -> torch.Tensor:
        """The same in fp32."""
        return torch.randn(*shape, generator=self.random)

    def steps(self, size: Extent, largest: float = 1000.0) -> torch.Tensor:
        """A timestep for each sample, no two alike."""
        return torch.linspace(0.731, 0.204, size.batch) * largest

    def mask(self, size: Extent) -> torch.Tensor:
        """Which tokens of text count, as numbers: the last sample has two fewer."""
        counts = torch.ones(size.batch, size.tokens)
        counts[-1, -2:] = 0
        return counts.to(self.dtype)

    def ids(self, size: Extent, vocabulary: int) -> torch.Tensor:
        """Tokens of text."""
        return torch.randint(vocabulary, (size.batch, size.tokens), generator=self.random)


Maker = Callable[[Any, Draw, Extent], Arguments]


def _text(config: Any, draw: Draw, size: Extent, width: str) -> torch.Tensor:
    return draw(size.batch, size.tokens, config[width])


def _grid(height: int, width: int) -> torch.Tensor:
    rows, columns = torch.arange(height), torch.arange(width)
    first = torch.zeros(height, width)
    return torch.stack([first, first + rows[:, None], first + columns], -1).flatten(0, 1)


def _unet(config: Any, draw: Draw, size: Extent) -> Arguments:
    arguments: Arguments = {
        "sample": draw(size.batch, config["in_channels"], size.height, size.width),
        "timestep": draw.steps(size),
        "encoder_hidden_states": _text(config, draw, size, "cross_attention_dim"),
    }
    if config["time_cond_proj_dim"] is not None:
        arguments["timestep_cond"] = draw(size.batch, config["time_cond_proj_dim"])
    if config["addition_embed_type"] == "text_time":
        ids = 6
        numbers = ids * config["addition_time_embed_dim"]
        pooled = draw(size.batch, config["projection_class_embeddings_input_dim"] - numbers)
        sizes = 64 * draw.exact(size.batch, ids).abs()
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
    return arguments


def _motion(config: Any, draw: Draw, size: Extent) -> Arguments:
    shape = (size.batch, config["in_channels"], size.frames, size.height, size.width)
    texts = (size.batch * size.frames, size.tokens, config["cross_attention_dim"])
    return {
        "sample": draw(*shape),
        "timestep": draw.steps(size),
        "encoder_hidden_states": draw(*texts),
    }


def _picture(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {
        "hidden_states": draw(size.batch, config["in_channels"], size.height, size.width),
        "timestep": draw.steps(size),
    }


def _video(config: Any, draw: Draw, size: Extent) -> Arguments:
    shape = (size.batch, config["in_channels"], size.frames, size.height, size.width)
    return {"hidden_states": draw(*shape), "timestep": draw.steps(size)}


def _sd3(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {
        **_picture(config, draw, size),
        "encoder_hidden_states": _text(config, draw, size, "joint_attention_dim"),
        "pooled_projections": draw(size.batch, config["pooled_projection_dim"]),
    }


def _flux(config: Any, draw: Draw, size: Extent) -> Arguments:
    arguments = {
        "hidden_states": draw(size.batch, size.patches, config["in_channels"]),
        "encoder_hidden_states": _text(config, draw, size, "joint_attention_dim"),
        "pooled_projections": draw(size.batch, config["pooled_projection_dim"]),
        "timestep": draw.steps(size, 1.0),
        "img_ids": _grid(size.height // 2, size.width // 2),
        "txt_ids": torch.zeros(size.tokens, 3),
    }
    if config["guidance_embeds"]:
        arguments["guidance"] = draw.steps(size, 5.0)
    return arguments


def _masked(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {
        **_picture(config, draw, size),
        "encoder_hidden_states": _text(config, draw, size, "caption_channels"),
        "encoder_attention_mask": draw.mask(size),
    }


def _pixart(config: Any, draw: Draw, size: Extent) -> Arguments:
    arguments = _masked(config, draw, size)
    extra = config["use_additional_conditions"]
    if config["sample_size"] == 128 if extra is None else extra:
        sizes = 512 * draw.exact(size.batch, 2).abs()
        ratio = draw.exact(size.batch, 1).abs()
        arguments["added_cond_kwargs"] = {"resolution": sizes, "aspect_ratio": ratio}
    return arguments


def _sana(config: Any, draw: Draw, size: Extent) -> Arguments:
    arguments = _masked(config, draw, size)
    if config["guidance_embeds"]:
        arguments["guidance"] = draw.steps(size, 0.5)
    return arguments


def _qwen_image(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {
        "hidden_states": draw(size.batch, size.patches, config["in_channels"]),
        "encoder_hidden_states": _text(config, draw, size, "joint_attention_dim"),
        "encoder_hidden_states_mask": draw.mask(size).bool(),
        "timestep": draw.steps(size, 1.0),
        "img_shapes": [[(1, size.height // 2, size.width // 2)]],
    }


def _z_image(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {
        "x": draw(size.batch, config["in_channels"], 1, size.height, size.width),
        "t": draw.steps(size, 1.0),
        "cap_feats": _text(config, draw, size, "cap_feat_dim"),
    }


def _ernie_image(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {
        **_picture(config, draw, size),
        "text_bth": _text(config, draw, size, "text_in_dim"),
        "text_lens": draw.mask(size).sum(1).long(),
    }


def _cog_video(config: Any, draw: Draw, size: Extent) -> Arguments:
    shape = (size.batch, size.frames, config["in_channels"], size.height, size.width)
    arguments: Arguments = {
        "hidden_states": draw(*shape),
        "encoder_hidden_states": _text(config, draw, size, "text_embed_dim"),
        "timestep": draw.steps(size),
    }
    if config["use_rotary_positional_embeddings"]:
        angles = draw.exact(size.frames * size.patches, config["attention_head_dim"])
        arguments["image_rotary_emb"] = (angles.cos(), angles.sin())
    return arguments


def _ltx(config: Any, draw: Draw, size: Extent) -> Arguments:
    tokens = size.frames * size.patches
    return {
        "hidden_states": draw(size.batch, tokens, config["in_channels"]),
        "encoder_hidden_states": _text(config, draw, size, "caption_channels"),
        "encoder_attention_mask": draw.mask(size),
        "timestep": draw.steps(size),
        "num_frames": size.frames,
        "height": size.height // 2,
        "width": size.width // 2,
        "rope_interpolation_scale": tuple(torch.tensor(each) for each in (8 / 25, 32.0, 32.0)),
    }


def _wan(config: Any, draw: Draw, size: Extent) -> Arguments:
    arguments = _video(config, draw, size)
    pictures = config["image_dim"] is not None
    text = replace(size, tokens=512) if pictures else size
    arguments["encoder_hidden_states"] = _text(config, draw, text, "text_dim")
    if pictures:
        seen = draw(size.batch, size.tokens, config["image_dim"])
        arguments["encoder_hidden_states_image"] = seen
    return arguments


def _hunyuan_video(config: Any, draw: Draw, size: Extent) -> Arguments:
    arguments = {
        **_video(config, draw, size),
        "encoder_hidden_states": _text(config, draw, size, "text_embed_dim"),
        "encoder_attention_mask": draw.mask(size),
        "pooled_projections": draw(size.batch, config["pooled_projection_dim"]),
    }
    if config["guidance_embeds"]:
        arguments["guidance"] = draw.steps(size, 6000.0)
    return arguments


def _pixels(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {"x": draw(size.batch, config["in_channels"], size.height, size.width)}


def _latents(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {"z": draw(size.batch, config["latent_channels"], size.height, size.width)}


def _clips(config: Any, draw: Draw, size: Extent) -> Arguments:
    """The first frame, and four for each latent frame more."""
    frames = 4 * (size.frames - 1) + 1
    return {"x": draw(size.batch, config["in_channels"], frames, size.height, size.width)}


def _clip_latents(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {"z": draw(size.batch, config["z_dim"], size.frames, size.height, size.width)}


def _clip(config: Any, draw: Draw, size: Extent) -> Arguments:
    return {"input_ids": draw.ids(size, config["vocab_size"])}


def _language(config: Any, draw: Draw, size: Extent) -> Arguments:
    ids = draw.ids(size, config["vocab_size"])
    return {"input_ids": ids, "attention_mask": draw.mask(size).long()}


@dataclass(frozen=True)
class Example:
    """How to make a model's arguments, and the size to trace it at.

    UNets are traced at a size that no level of theirs halves evenly: the graph then takes any.
    """

    make: Maker
    size: Extent = Extent()


_ODD = Extent(height=21, width=27)
_EXAMPLES: Mapping[str, Example] = {
    "UNet2DConditionModel": Example(_unet, _ODD),
    "UNetMotionModel": Example(_motion, _ODD),
    "SD3Transformer2DModel": Example(_sd3),
    "FluxTransformer2DModel": Example(_flux),
    "PixArtTransformer2DModel": Example(_pixart),
    "SanaTransformer2DModel": Example(_sana),
    "QwenImageTransformer2DModel": Example(_qwen_image),
    "ZImageTransformer2DModel": Example(_z_image),
    "ErnieImageTransformer2DModel": Example(_ernie_image),
    "CogVideoXTransformer3DModel": Example(_cog_video),
    "LTXVideoTransformer3DModel": Example(_ltx),
    "WanTransformer3DModel": Example(_wan),
    "HunyuanVideoTransformer3DModel": Example(_hunyuan_video),
    "AutoencoderKL vae_encoder": Example(_pixels, Extent(height=32, width=48)),
    "AutoencoderKL vae_decoder": Example(_latents),
    "AutoencoderKLWan vae_encoder": Example(_clips, Extent(height=32, width=48)),
    "AutoencoderKLWan vae_decoder": Example(_clip_latents, Extent(height=4, width=6)),
    "CLIPTextModel": Example(_clip),
    "CLIPTextModelWithProjection": Example(_clip),
    "T5EncoderModel": Example(_language),
    "UMT5EncoderModel": Example(_language),
}
"""By the class of a model, and for a VAE by its half."""


def example_of(name: str, module: torch.nn.Module) -> Example | None:
    """The example of a component of this name, or None where its class has none."""
    kind = type(module).__name__
    return _EXAMPLES.get(f"{kind} {name}") or _EXAMPLES.get(kind)


def known_classes() -> tuple[str, ...]:
    """The classes that can be exported."""
    return tuple(dict.fromkeys(key.split()[0] for key in _EXAMPLES))


def settings_of(module: Any) -> Any:
    """A model's config as a mapping, whether it is diffusers' or transformers'."""
    config = module.config
    return config if isinstance(config, Mapping) else config.to_dict()


def symbols(make: Callable[[Extent], Arguments], size: Extent) -> Any:
    """Of each tensor, by dimension, and of each number the name of what makes it change.

    A structure like the arguments': {0: "batch", 2: "height"} for a tensor, "height" or None for
    another value. A dimension that several sizes make up is named after them: "height_by_width".
    """
    found: dict[tuple[int, int], list[str]] = {}
    base, spec = _pytree.tree_flatten(make(size))
    for field in fields(Extent):
        grown = getattr(size, field.name) + getattr(_STEPS, field.name)
        others = _pytree.tree_leaves(make(replace(size, **{field.name: grown})))
        for index, (one, other) in enumerate(zip(base, others, strict=True)):
            for axis, (small, large) in enumerate(zip(_sizes(one), _sizes(other), strict=True)):
                if small != large:
                    found.setdefault((index, axis), []).append(field.name)
    names = {place: "_by_".join(changing) for place, changing in found.items()}
    leaves = [_named_axes(index, leaf, names) for index, leaf in enumerate(base)]
    return _pytree.tree_unflatten(leaves, spec)


def _sizes(value: Any) -> tuple[Any, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else (value,)


def _named_axes(index: int, value: Any, names: Mapping[tuple[int, int], str]) -> Any:
    if not isinstance(value, torch.Tensor):
        return names.get((index, 0))
    return {axis: names[index, axis] for axis in range(value.dim()) if (index, axis) in names}
