"""What a pipeline is made of: denoisers, VAE, text encoders, schedulers, device and dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .clock import Clock
from .errors import TargetError
from .sharing import shared_by

if TYPE_CHECKING:
    import torch

    from .report import PassRecord

Kind = Literal["denoiser", "vae", "text_encoder", "other"]

SESSION = "_sdaccel_session"
"""Under this name a component has the pass whose runtime computes it instead of torch."""
ABSENT = "_sdaccel_export"
"""Under this name a module without weights has the exported folder that it stands for."""
_DENOISER_HOMES = (
    "diffusers.models.unets.",
    "diffusers.models.transformers.",
    "diffusers.models.controlnets.",
)
_VAE_HOMES = ("diffusers.models.autoencoders.", "diffusers.models.vq_model")
_DENOISER_NAMES = ("unet", "transformer", "prior", "decoder", "controlnet", "dit")


@dataclass(frozen=True)
class Component:
    """One model of a pipeline, under the name that the pipeline gives it.

    `obstacle` says what stands against touching its weights (quantized, offloaded, sharded), None
    where nothing does.
    """

    name: str
    module: torch.nn.Module
    kind: Kind
    obstacle: str | None

    @property
    def entry(self) -> torch.nn.Module:
        """The module whose calls are the component's: a VAE is entered at its decoder."""
        decoder = self.module._modules.get("decoder") if self.kind == "vae" else None
        return decoder if decoder is not None else self.module


@dataclass(frozen=True)
class Target:
    """A pipeline, seen through what can be accelerated in it.

    `compiled` collects the `id` of every module that a pass has handed to a compiler, `frozen` of
    those whose weights are constants of the compiled code.
    """

    pipe: Any
    components: tuple[Component, ...]
    schedulers: tuple[Any, ...]
    clock: Clock
    compiled: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, pipe: object) -> Target:
        """Read a pipeline, changing nothing.

        Raises `TargetError` for anything but a diffusers pipeline, and for one without a denoiser.
        """
        from diffusers import DiffusionPipeline, SchedulerMixin

        if not isinstance(pipe, DiffusionPipeline):
            raise TargetError(
                f"A {type(pipe).__name__} can't be accelerated: pass a diffusers pipeline, such as "
                "StableDiffusionPipeline.from_pretrained(...)."
            )
        parts = dict(pipe.components)
        components = tuple(
            component for name, part in parts.items() for component in _components(pipe, name, part)
        )
        if not any(each.kind == "denoiser" for each in components):
            raise TargetError(
                f"This {type(pipe).__name__} has no denoiser: load a UNet or a transformer into it "
                "before accelerating it."
            )
        schedulers = tuple(part for part in parts.values() if isinstance(part, SchedulerMixin))
        return cls(pipe, components, schedulers, Clock())

    @property
    def denoisers(self) -> tuple[Component, ...]:
        """UNets, transformers and ControlNets: what runs at every step."""
        return tuple(each for each in self.components if each.kind == "denoiser")

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes."""
        device: torch.device = self.pipe._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The first denoiser's floating point type."""
        return dtype_of(self.denoisers[0].module)

    def each(
        self, record: PassRecord, *kinds: Kind, weights: bool = True, sessions: bool = False
    ) -> Iterator[tuple[Component, Any]]:
        """The components of these kinds that a pass may change; the others are noted as refused.

        With `weights=False` the pass leaves weights alone, so quantized or offloaded ones pass too,
        with `sessions` all that lies within a denoiser, so one that a session computes does.
        """
        for component in self.components:
            if component.kind not in kinds:
                continue
            owner = shared_by(component.module, self.pipe)
            if owner is not None:
                record.refuse(component.name, f"shared with a pipe accelerated before ({owner})")
            elif SESSION in component.module.__dict__ and not sessions:
                runtime = component.module.__dict__[SESSION]
                record.refuse(component.name, f"a session computes it (pass {runtime})")
            elif weights and component.obstacle is not None:
                record.refuse(component.name, component.obstacle)
            else:
                yield component, component.module


def kind_of(name: str, module_class: type) -> Kind:
    """What a component is for, from the module that defines its class, else from its name."""
    for base in module_class.__mro__:
        home = f"{base.__module__}."
        if home.startswith(_DENOISER_HOMES):
            return "denoiser"
        if home.startswith(_VAE_HOMES):
            return "vae"
    if name.startswith("text_encoder"):
        return "text_encoder"
    own = module_class.__module__.startswith("diffusers.pipelines.")
    if own and name.startswith(_DENOISER_NAMES):
        return "denoiser"
    if own and name.startswith(("vae", "vqgan", "movq")):
        return "vae"
    return "other"


def dtype_of(module: torch.nn.Module) -> torch.dtype:
    """What a module computes in: the dtype of most of its weights; float32 where it has none.

    The first parameter does not tell: diffusers keeps Wan's, a table, in float32 among 16-bit
    weights. Types of one byte are for storage.
    """
    import torch

    weights: dict[torch.dtype, int] = {}
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.itemsize > 1:
            weights[parameter.dtype] = weights.get(parameter.dtype, 0) + parameter.numel()
    return max(weights, key=weights.__getitem__, default=torch.float32)


def home_of(module: torch.nn.Module) -> str | None:
    """The exported folder that a module without weights stands for; None for any other module."""
    found: str | None = module.__dict__.get(ABSENT)
    return found


def obstacle_of(pipe: Any, module: torch.nn.Module) -> str | None:
    """Why a module's weights can't be changed or compiled in place, in half a sentence, or None."""
    quantizer = getattr(module, "hf_quantizer", None)
    if quantizer is not None or getattr(module, "is_quantized", False):
        method = getattr(getattr(quantizer, "quantization_config", None), "quant_method", "unknown")
        return f"quantized ({getattr(method, 'value', method)})"
    if ABSENT in module.__dict__:
        return "without weights (loaded from an export)"
    if getattr(pipe, "hf_device_map", None) or getattr(module, "hf_device_map", None):
        return "spread over devices by a device_map"
    for each in module.modules():
        if hasattr(each, "_hf_hook"):
            return "offloaded by accelerate's hooks"
        registry = getattr(each, "_diffusers_hook", None)
        if registry is not None and registry.get_hook("group_offloading") is not None:
            return "offloaded in groups"
    if any(parameter.is_meta for parameter in module.parameters()):
        return "without weights (on the meta device)"
    return None


def _components(pipe: Any, name: str, part: object) -> Iterator[Component]:
    """One component, or, for a container such as a multi-ControlNet, each model inside."""
    import torch

    if isinstance(part, (list, tuple)):
        for index, each in enumerate(part):
            yield from _components(pipe, f"{name}.{index}", each)
    elif isinstance(part, torch.nn.Module):
        nets = getattr(part, "nets", None)
        if isinstance(nets, torch.nn.ModuleList):
            yield from _components(pipe, name, list(nets))
        else:
            kind = kind_of(name, type(part))
            yield Component(name, part, kind, obstacle_of(pipe, part))
