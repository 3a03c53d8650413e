"""What is timed: a pipeline, and one deterministic call of it or of one of its networks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdaccel.target import dtype_of, kind_of

from . import architectures
from .architectures import HOST, Place
from .errors import BenchmarkError

if TYPE_CHECKING:
    import torch

    from .judging import Judge

Call = Callable[[], "torch.Tensor"]


@dataclass(frozen=True)
class Clip:
    """How long a clip is: its frames, and how many of them are shown a second."""

    num_frames: int
    fps: float


@dataclass(frozen=True)
class Workload:
    """One thing to time.

    `make` makes the stock pipe with its weights at a place, or on the host where they come from a
    file. `prepare` gives the call that is timed, for that pipe or any accelerated twin of it: the
    same inputs each time, the output as an fp32 tensor. `networks` are the pipe's attributes that
    do the work, its denoisers and VAE unless given. A picture takes `calls_per_picture` such calls,
    and a call runs a network up to `forwards` times, over which errors add up.

    A whole generation takes `steps`; `with_steps` gives the same in another number of them, and
    `judge` draws more pictures, to say how good they are. `denoiser` is the pipe's attribute that
    runs at each step, "unet" or "transformer", where it's known before anything is loaded. `source`
    is what it was asked for by, where that is not its name.
    """

    name: str
    summary: str
    unit: str
    make: Callable[[Place], Any]
    prepare: Callable[[Any], Call]
    networks: tuple[str, ...] = ()
    quick: bool = False
    calls_per_picture: int = 1
    forwards: int = 1
    steps: int | None = None
    with_steps: Callable[[int], Workload] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    judge: Judge | None = None
    denoiser: str | None = None
    source: str = ""

    def build(self, place: Place = HOST) -> Any:
        """The stock pipe there, its random weights made there; those of a file come by the host."""
        pipe = self.make(place)
        return pipe if place.device == "cpu" else pipe.to(place.device)

    def built(self) -> Any:
        """The stock pipe, on the GPU where there is one."""
        import torch

        return self.build(Place("cuda") if torch.cuda.is_available() else HOST)

    def networks_of(self, pipe: Any) -> tuple[str, ...]:
        """The names of the pipe's attributes that do the work."""
        if self.networks:
            return self.networks
        kinds = {name: kind_of(name, type(part)) for name, part in pipe.components.items()}
        return tuple(name for name, kind in kinds.items() if kind in ("denoiser", "vae"))

    @property
    def label(self) -> str:
        """The name, with the word "quick" where it is the scaled-down one."""
        return f"{self.name} (quick)" if self.quick else self.name


def workload(name: str, quick: bool = False) -> Workload:
    """The workload `name`, or one of the model in a folder, in a file, or on the hub.

    Raises `BenchmarkError`, with the nearest name, where there is none.
    """
    from . import autoencoders, denoisers, generations, text_encoders

    if name in _MAKERS:
        return _MAKERS[name](quick)
    if name in generations.names():
        return generations.generation(name, quick)
    if name in denoisers.DENOISERS:
        return denoisers.workload(name, quick)
    if name in autoencoders.AUTOENCODERS:
        return autoencoders.workload(name, quick)
    if name in text_encoders.TEXT_ENCODERS:
        return text_encoders.workload(name, quick)
    if "/" in name or Path(name).exists():
        return generations.any_model(name, quick)
    known = (*known_names(), *text_encoders.TEXT_ENCODERS)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}."
    raise BenchmarkError(f"There is no workload '{name}': {hint}")


def known_names() -> tuple[str, ...]:
    """The names of all workloads, but for the text encoders, which are asked for by themselves."""
    from . import autoencoders, denoisers, generations

    groups = (_MAKERS, generations.names(), denoisers.DENOISERS, autoencoders.AUTOENCODERS)
    return tuple(name for group in groups for name in group)


def _sd15_unet(quick: bool) -> Workload:
    size = 32 if quick else 64
    unet = architectures.SD15_UNET_QUICK if quick else architectures.SD15_UNET
    return Workload(
        name="sd15-unet",
        summary="Stable Diffusion 1.5's UNet, guidance batch of 2, one forward",
        unit="forward",
        make=lambda place: architectures.stable_diffusion(unet, architectures.SD15_VAE, place),
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
        make=lambda place: architectures.stable_diffusion(
            architectures.TINY_UNET, architectures.SD15_VAE, place
        ),
        prepare=lambda pipe: vae_decode(pipe, size),
        networks=("vae",),
        quick=quick,
        settings={"latents": [1, 4, size, size], "picture": [8 * size, 8 * size]},
    )


_MAKERS: Mapping[str, Callable[[bool], Workload]] = {
    "sd15-unet": _sd15_unet,
    "sd15-vae": _sd15_vae,
}
DEFAULT = ("sd15-unet", "sd15-vae", "shapes-unet")


def unet_forward(pipe: Any, size: int) -> Call:
    """One forward of the UNet on (2, 4, size, size) latents and 77 text embeddings, as fp32."""
    import torch

    config = pipe.unet.config
    like = {"device": pipe.unet.device, "dtype": dtype_of(pipe.unet)}
    latents = noise(0, 2, config.in_channels, size, size).to(**like)
    prompt = noise(1, 2, 77, config.cross_attention_dim).to(**like)
    timestep = torch.tensor(500, device=pipe.unet.device)

    def call() -> torch.Tensor:
        with torch.no_grad():
            output = pipe.unet(latents, timestep, encoder_hidden_states=prompt, return_dict=False)
            noise: torch.Tensor = output[0].float()
        return noise

    return call


def vae_decode(pipe: Any, size: int) -> Call:
    """One picture decoded from (1, 4, size, size) latents, as fp32."""
    import torch

    latents = noise(0, 1, pipe.vae.config.latent_channels, size, size)
    latents = latents.to(pipe.vae.device, dtype_of(pipe.vae))

    def call() -> torch.Tensor:
        with torch.no_grad():
            picture: torch.Tensor = pipe.vae.decode(latents, return_dict=False)[0].float()
        return picture

    return call


def noise(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers in fp32 on the CPU, the same for a seed."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
