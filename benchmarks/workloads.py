"""What is timed: a pipeline, and one deterministic call of it or of one of its networks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from . import architectures
from .errors import BenchmarkError

if TYPE_CHECKING:
    import torch

Call = Callable[[], "torch.Tensor"]


@dataclass(frozen=True)
class Workload:
    """One thing to time.

    `build` makes the stock pipe in fp32, `prepare` gives the call that is timed, for that pipe or
    any accelerated twin of it: the same inputs each time, the output as an fp32 tensor. `networks`
    are the pipe's attributes that do the work. A picture takes `calls_per_picture` such calls, and
    a call runs a network up to `forwards` times, over which errors add up.
    """

    name: str
    summary: str
    unit: str
    build: Callable[[], Any]
    prepare: Callable[[Any], Call]
    networks: tuple[str, ...]
    quick: bool = False
    calls_per_picture: int = 1
    forwards: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    fidelity: Callable[[Any, int], dict[str, float]] | None = None

    def built(self) -> Any:
        """The stock pipe, on the GPU where there is one."""
        import torch

        pipe = self.build()
        return pipe.to("cuda") if torch.cuda.is_available() else pipe

    @property
    def label(self) -> str:
        """The name, with the word "quick" where it is the scaled-down one."""
        return f"{self.name} (quick)" if self.quick else self.name


def workload(name: str, quick: bool = False) -> Workload:
    """The workload `name`; raises `BenchmarkError`, with the nearest name, where there is none."""
    from . import denoisers

    known = [*_MAKERS, *denoisers.DENOISERS]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}."
        raise BenchmarkError(f"There is no workload '{name}': {hint}")
    return _MAKERS[name](quick) if name in _MAKERS else denoisers.workload(name, quick)


def _sd15_unet(quick: bool) -> Workload:
    size = 32 if quick else 64
    unet = architectures.SD15_UNET_QUICK if quick else architectures.SD15_UNET
    return Workload(
        name="sd15-unet",
        summary="Stable Diffusion 1.5's UNet, guidance batch of 2, one forward",
        unit="forward",
        build=lambda: architectures.stable_diffusion(unet, architectures.SD15_VAE),
        prepare=lambda pipe: unet_forward(pipe, size),
        networks=("unet",),
        quick=quick,
        calls_per_picture=25,
        settings={"latents": [2, 4, size, size], "widths": list(unet["block_out_channels"])},
    )


def _sd15_vae(quick: bool) -> Workload:
    size = 16 if quick else 64
    return Workload(
        name="sd15-vae",
        summary="Stable Diffusion 1.5's VAE, one picture decoded",
        unit="decode",
        build=lambda: architectures.stable_diffusion(
            architectures.TINY_UNET, architectures.SD15_VAE
        ),
        prepare=lambda pipe: vae_decode(pipe, size),
        networks=("vae",),
        quick=quick,
        settings={"latents": [1, 4, size, size], "picture": [8 * size, 8 * size]},
    )


def _shapes(name: str, denoiser: str, quick: bool) -> Workload:
    steps = 4 if quick else 25
    return Workload(
        name=f"shapes-{name}",
        summary=f"the embedded pipeline around a {denoiser}, prompt to picture",
        unit="picture",
        build=lambda: _load_shapes(name),
        prepare=lambda pipe: shapes_picture(pipe, name, steps),
        networks=(denoiser, "vae"),
        quick=quick,
        forwards=steps,
        settings={"steps": steps, "prompt": _PROMPT},
        fidelity=lambda pipe, prompts: shapes_fidelity(pipe, name, prompts),
    )


def _tiny(quick: bool) -> Workload:
    steps = 2
    return Workload(
        name="tiny",
        summary="a pipeline that draws in milliseconds, to try the harness itself",
        unit="picture",
        build=lambda: architectures.stable_diffusion(
            architectures.TINY_UNET, architectures.TINY_VAE
        ),
        prepare=lambda pipe: tiny_picture(pipe, steps),
        networks=("unet", "vae"),
        quick=quick,
        forwards=steps,
        settings={"steps": steps},
    )


_MAKERS: Mapping[str, Callable[[bool], Workload]] = {
    "sd15-unet": _sd15_unet,
    "sd15-vae": _sd15_vae,
    "shapes-unet": partial(_shapes, "unet", "unet"),
    "shapes-dit": partial(_shapes, "dit", "transformer"),
    "tiny": _tiny,
}
DEFAULT = ("sd15-unet", "sd15-vae", "shapes-unet")
_PROMPT = "a large red circle above a small blue square on a green background"


def unet_forward(pipe: Any, size: int) -> Call:
    """One forward of the UNet on (2, 4, size, size) latents and 77 text embeddings, as fp32."""
    import torch

    config, first = pipe.unet.config, next(pipe.unet.parameters())
    like = {"device": first.device, "dtype": first.dtype}
    latents = _noise(0, 2, config.in_channels, size, size).to(**like)
    prompt = _noise(1, 2, 77, config.cross_attention_dim).to(**like)
    timestep = torch.tensor(500, device=first.device)

    def call() -> torch.Tensor:
        with torch.no_grad():
            output = pipe.unet(latents, timestep, encoder_hidden_states=prompt, return_dict=False)
            noise: torch.Tensor = output[0].float()
        return noise

    return call


def vae_decode(pipe: Any, size: int) -> Call:
    """One picture decoded from (1, 4, size, size) latents, as fp32."""
    import torch

    first = next(pipe.vae.parameters())
    latents = _noise(0, 1, pipe.vae.config.latent_channels, size, size).to(
        first.device, first.dtype
    )

    def call() -> torch.Tensor:
        with torch.no_grad():
            picture: torch.Tensor = pipe.vae.decode(latents, return_dict=False)[0].float()
        return picture

    return call


def shapes_picture(pipe: Any, name: str, steps: int) -> Call:
    """One picture of an embedded pipeline, called as it is made for: (1, 3, H, W) in 0..1."""
    from sdaccel import shapes

    settings = {**shapes.call_defaults(name), "num_inference_steps": steps}
    return _picture(pipe, prompt=_PROMPT, **settings)


def tiny_picture(pipe: Any, steps: int) -> Call:
    """One picture of the tiny pipeline, guidance batch of 2: (1, 3, 16, 16) in 0..1."""
    width = pipe.unet.config.cross_attention_dim
    first = next(pipe.unet.parameters())
    embeddings = [_noise(seed, 1, 16, width).to(first.device, first.dtype) for seed in (1, 2)]
    return _picture(
        pipe,
        prompt_embeds=embeddings[0],
        negative_prompt_embeds=embeddings[1],
        num_inference_steps=steps,
    )


def shapes_fidelity(pipe: Any, name: str, prompts: int) -> dict[str, float]:
    """Prompt fidelity over the first held-out prompts: the share, its 95% interval, the number."""
    from sdaccel import shapes

    settings = shapes.call_defaults(name)
    found = shapes.prompt_fidelity(pipe, count=prompts, progress=False, **settings)
    return {
        "fidelity": found.share,
        "fidelity_low": found.low,
        "fidelity_high": found.high,
        "prompts": found.total,
    }


def _load_shapes(name: str) -> Any:
    from sdaccel import shapes

    pipe = shapes.load(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _picture(pipe: Any, **arguments: Any) -> Call:
    import torch

    def call() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images: torch.Tensor = pipe(**arguments, generator=generator, output_type="pt").images
        return images.float()

    return call


def _noise(seed: int, *shape: int) -> torch.Tensor:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
