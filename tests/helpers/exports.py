"""An exported folder of the tiny Stable Diffusion pipeline, made by torch's own exporter alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def by_hand(pipe: Any, folder: Path, precision: str = "fp32", only: str | None = None) -> Path:
    """UNet, text encoder and the VAE's decoder, or `only` one, of any batch, size and length."""
    from sdaccel.export.manifest import Manifest

    pipe.save_config(folder)
    for name in ("scheduler", "tokenizer"):
        getattr(pipe, name).save_pretrained(folder / name)
    for name in ("unet", "text_encoder", "vae"):
        part = getattr(pipe, name)
        save = part.save_config if hasattr(part, "save_config") else part.config.save_pretrained
        save(folder / name)
    manifest = Manifest("0", {}, type(pipe).__name__, {})
    for name, (function, inputs, outputs, class_name) in _graphs(pipe).items():
        if only not in (None, name):
            continue
        entry = _export(folder, name, function, inputs, outputs, class_name, precision)
        manifest = manifest.with_component(name, entry)
    manifest.write(folder)
    return folder


def _graphs(pipe: Any) -> dict[str, tuple[Any, Any, Any, str]]:
    import torch

    random = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=random)
    text = torch.randn(2, 7, pipe.unet.config.cross_attention_dim, generator=random)

    class UNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = pipe.unet

        def forward(self, sample: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
            return self.network(sample, timestep, encoder_hidden_states, return_dict=False)[0]

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = pipe.text_encoder

        def forward(self, input_ids: Any) -> Any:
            found = self.network(input_ids)
            return found.last_hidden_state, found.pooler_output

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = pipe.vae

        def forward(self, z: Any) -> Any:
            return self.network.decode(z, return_dict=False)[0]

    unet = {
        "sample": (latents, ("batch", 4, "2*height", "2*width")),
        "timestep": (torch.tensor([3, 3]), ("batch",)),
        "encoder_hidden_states": (text, ("batch", "length", text.shape[-1])),
    }
    ids = torch.randint(2, 20, (2, 16), generator=random)
    return {
        "unet": (
            UNet(),
            unet,
            {"out_sample": ("batch", 4, "2*height", "2*width")},
            "UNet2DConditionModel",
        ),
        "text_encoder": (
            Text(),
            {"input_ids": (ids, ("batch", 16))},
            {"last_hidden_state": ("batch", 16, 32), "pooler_output": ("batch", 32)},
            "CLIPTextModel",
        ),
        "vae_decoder": (
            Decoder(),
            {"z": (latents, ("batch", 4, "height", "width"))},
            {"sample": ("batch", 3, "grown height", "grown width")},
            "AutoencoderKL",
        ),
    }


def _export(
    folder: Path, name: str, function: Any, inputs: Any, outputs: Any, kind: str, precision: str
) -> Any:
    import torch

    from sdaccel.export.manifest import ComponentEntry, TensorInfo, checksums

    file = folder / name / "model.onnx"
    file.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            function.eval(),
            tuple(tensor for tensor, _ in inputs.values()),
            file,
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(_dynamic(shape) for _, shape in inputs.values()),
        )
    taken = tuple(
        TensorInfo(key, str(tensor.dtype).removeprefix("torch."), shape)
        for key, (tensor, shape) in inputs.items()
    )
    given = tuple(TensorInfo(key, "float32", shape) for key, shape in outputs.items())
    arguments = {each.name: each.name for each in taken}
    sums = checksums(folder, name)
    return ComponentEntry(kind, f"{name}/model.onnx", precision, taken, given, arguments, sums)  # type: ignore[arg-type]


def _dynamic(shape: Any) -> dict[int, Any]:
    import torch

    dimensions = {}
    for place, size in enumerate(shape):
        if isinstance(size, str):
            symbol = torch.export.Dim(size.removeprefix("2*"))
            dimensions[place] = 2 * symbol if size.startswith("2*") else symbol
    return dimensions
