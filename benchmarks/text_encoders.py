"""The text encoders of published models, as workloads that are measured when they are asked for.

Sizes are those of each model's published config.json; what is not named here is the default of the
class in transformers. The quick ones are as wide, and have few layers and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .architectures import Place, made
from .workloads import Call, Workload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TextEncoder:
    """A published text encoder: its classes in transformers, its sizes, and what is encoded.

    `tokens` are (batch, length), and `layers` what the configuration calls the number of layers.
    """

    model: str
    config_class: str
    summary: str
    config: Mapping[str, Any]
    tokens: tuple[int, int]
    layers: str = "num_hidden_layers"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def chosen(self, quick: bool) -> tuple[dict[str, Any], tuple[int, int]]:
        """The configuration and the tokens, at the published size or scaled down."""
        if not quick:
            return dict(self.config), self.tokens
        batch, length = self.tokens
        return {**self.config, self.layers: _QUICK_LAYERS}, (batch, min(length, _QUICK_TOKENS))

    def laid_out(self, config: Mapping[str, Any]) -> torch.nn.Module:
        """The model of a configuration, as its class makes it."""
        import transformers

        settings = getattr(transformers, self.config_class)(**config)
        model: torch.nn.Module = getattr(transformers, self.model)(settings)
        return model


_QUICK_LAYERS, _QUICK_TOKENS = 2, 77
_T5: Mapping[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_CAUSAL = {"use_cache": False}

TEXT_ENCODERS: Mapping[str, TextEncoder] = {
    "clip-l-text": TextEncoder(
        "CLIPTextModel",
        "CLIPTextConfig",
        "CLIP ViT-L/14 of SD1.5, SDXL, SD3 and FLUX.1, two prompts",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
        },
        (2, 77),
    ),
    "clip-g-text": TextEncoder(
        "CLIPTextModelWithProjection",
        "CLIPTextConfig",
        "OpenCLIP ViT-bigG/14 of SDXL and SD3, two prompts",
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "projection_dim": 1280,
            "hidden_act": "gelu",
        },
        (2, 77),
    ),
    "t5-xxl-text": TextEncoder(
        "T5EncoderModel",
        "T5Config",
        "T5 v1.1 XXL of SD3, FLUX.1, PixArt, CogVideoX and LTX-Video, 512 tokens",
        {**_T5, "vocab_size": 32128},
        (1, 512),
        layers="num_layers",
    ),
    "umt5-xxl-text": TextEncoder(
        "UMT5EncoderModel",
        "UMT5Config",
        "UMT5 XXL of Wan2.1, 512 tokens",
        {**_T5, "vocab_size": 256384},
        (1, 512),
        layers="num_layers",
    ),
    "gemma2-2b-text": TextEncoder(
        "Gemma2Model",
        "Gemma2Config",
        "Gemma 2 2B of Sana, two prompts of 300 tokens",
        {
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 256000,
        },
        (2, 300),
        arguments=_CAUSAL,
    ),
    "qwen2.5-7b-text": TextEncoder(
        "Qwen2Model",
        "Qwen2Config",
        "the language model of Qwen2.5-VL 7B in Qwen-Image, 162 tokens",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        (1, 162),
        arguments=_CAUSAL,
    ),
    "qwen3-4b-text": TextEncoder(
        "Qwen3Model",
        "Qwen3Config",
        "Qwen3 4B of Z-Image, 512 tokens",
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
        (1, 512),
        arguments=_CAUSAL,
    ),
    "llama3-8b-text": TextEncoder(
        "LlamaModel",
        "LlamaConfig",
        "Llama 3 8B of HunyuanVideo, 351 tokens",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128320,
        },
        (1, 351),
        arguments=_CAUSAL,
    ),
}


def workload(name: str, quick: bool) -> Workload:
    """One encoding by the text encoder `name` of `TEXT_ENCODERS`, with random weights, in fp32."""
    encoder = TEXT_ENCODERS[name]
    config, tokens = encoder.chosen(quick)
    return Workload(
        name=name,
        summary=f"{encoder.summary}, encoded once",
        unit="encoding",
        make=lambda place: _pipeline(encoder, config, place),
        prepare=lambda pipe: one_encoding(pipe, tokens, encoder.arguments),
        networks=("text_encoder",),
        quick=quick,
        settings={"tokens": list(tokens), **({"layers": _QUICK_LAYERS} if quick else {})},
    )


def one_encoding(pipe: Any, tokens: tuple[int, int], arguments: Mapping[str, Any]) -> Call:
    """The last hidden state (*tokens, width) of the pipe's text encoder for made-up words, fp32."""
    import torch

    encoder = pipe.text_encoder
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(encoder.config.vocab_size, tokens, generator=generator)
    words = words.to(encoder.device)

    def call() -> torch.Tensor:
        with torch.no_grad():
            state: torch.Tensor = encoder(input_ids=words, **arguments).last_hidden_state
        return state.float()

    return call


def _pipeline(encoder: TextEncoder, config: Mapping[str, Any], place: Place) -> Any:
    from .family_pipeline import encoder_pipeline

    return encoder_pipeline(made(lambda: encoder.laid_out(config), place=place))
