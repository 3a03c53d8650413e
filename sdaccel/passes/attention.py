"""Every attention by the fastest way there is on this machine, found by measuring.

A model's attention is a call of torch or of diffusers' dispatcher; each such call, in denoisers and
VAEs, goes through a router (`attention_seam` says how). For each shape it meets, the router tries
once what there is: this package's kernel, torch's flash, cuDNN, efficient and math backends, plain
products, FlexAttention, FlashAttention 2 and 3 where they are installed. What is further from the
truth than exactness allows is dropped; what then isn't at least 3% faster than what stock runs, or
slower in one round, doesn't win. Verdicts stay on disk.

Compiled graphs hold one operator, which is routed when it runs: no break, no new graph for a new
size. Inside a CUDA graph what was known at its capture is replayed.

On two cores of an AMD EPYC (Zen 5; torch 2.13), SD1.5's attentions at batch 2 and 8 heads, ms:

    tokens      width   bf16: stock   native   math    fp32: stock   native   products   math
    4096x4096      40           288       66                   265      107
    4096x77        40           9.0      3.7   19.5            9.0      3.8       11.2   17.5
    1024x1024      80          29.8      8.5                  28.8     14.2
    1024x77        80           3.3      1.6    5.4            3.4      1.5        4.0    4.9
    256x256       160           3.8      1.5    5.8            3.8      2.2        4.5    5.3
    64x64         160          0.31     0.21   0.47           0.30     0.21       0.33   0.43

The UNet's forward in bf16 takes 3.75 s by stock and 2.56 s routed; measuring took 3.8 s, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..device import describe
from ..kernels.native import fingerprint
from .base import Effect, Pass

if TYPE_CHECKING:
    import torch

    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Target
    from .attention_candidates import Candidate
    from .attention_choices import Choices
    from .attention_router import Router


@dataclass(frozen=True)
class Attention(Pass):
    """Route every attention of denoisers and VAEs to the fastest way to compute it.

    What matters:
        lower_precision: also try SageAttention, which multiplies in 8 bit; the pass's effect is
            then lower precision, and the report has the error.
    For tinkering:
        candidates: the names of the ways to choose from besides stock's; None for all.
        measure: False takes known choices alone, and measures nothing.
        folder: where choices are kept; None is `attention` in SDACCEL_CACHE or the user's cache.
    """

    lower_precision: bool = False
    candidates: tuple[str, ...] | None = None
    measure: bool = True
    folder: str | None = None

    name: ClassVar[str] = "attention"
    summary: ClassVar[str] = "every attention by the fastest way measured here"
    effect: ClassVar[Effect] = Effect.EXACT
    # before compile: a class that changes after its first call would be compiled again
    order: ClassVar[int] = 75

    def __post_init__(self) -> None:
        if self.lower_precision:
            object.__setattr__(self, "effect", Effect.LOWER_PRECISION)
        if self.candidates is not None:
            object.__setattr__(self, "candidates", _checked(self.candidates))

    def refusal(self, target: Target) -> str | None:
        if target.device.type not in ("cpu", "cuda"):
            return f"there is nothing to choose from on a device of type {target.device.type}"
        return None

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        from .attention_coverage import Coverage
        from .attention_seam import Seam
        from .attention_stand_ins import stand_ins

        coverage = Coverage(Seam(stand_ins(self._router(target, record))), record)
        for component, model in target.each(record, "denoiser", "vae", weights=False):
            with patch.scope(component.module):
                coverage.add(component.name, model, patch)
        listeners = target.clock.listeners
        patch.on_undo(lambda: listeners.remove(coverage.renew))
        listeners.append(coverage.renew)

    def _router(self, target: Target, record: PassRecord) -> Router:
        from .attention_router import Router

        here = {each.name: each for each in self._offered()}
        return Router(here, self.choices(target.device, record.note), record, self.measure)

    def choices(self, device: torch.device, note: Callable[[str], object]) -> Choices:
        """The verdicts that are kept on disk for this machine and these candidates."""
        from .attention_choices import Choices

        folder = Path(self.folder) if self.folder else None
        return Choices(folder, _identity(device, (each.name for each in self._offered())), note)

    def _offered(self) -> list[Candidate]:
        from .attention_candidates import candidates

        return [
            each
            for each in candidates()
            if each.here
            and (self.lower_precision or not each.lower_precision)
            and (self.candidates is None or each.name in self.candidates)
        ]


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    from .attention_candidates import NAMES

    chosen = (names,) if isinstance(names, str) else tuple(names)
    for name in chosen:
        if name not in NAMES:
            raise ValueError(f"there is no way '{name}' to compute attention: {', '.join(NAMES)}")
    return chosen


def _identity(device: torch.device, here: Iterable[str]) -> dict[str, Any]:
    """What verdicts depend on besides the shape."""
    import torch

    packages = ("torch", "triton", "diffusers", "sdaccel", "flash_attn", "sageattention")
    threads = {"threads": torch.get_num_threads()} if device.type == "cpu" else {}
    versions = {name: version_of_package(name) for name in packages}
    return {
        "device": describe(device).name,
        **threads,
        "candidates": sorted(here),
        "code": fingerprint("attention"),
        **versions,
    }


def version_of_package(package: str) -> str | None:
    """The version that is installed, None where none is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
