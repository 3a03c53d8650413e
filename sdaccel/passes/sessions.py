"""What the passes have in common that let a runtime compute a component's forward."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import ExportError
from ..target import SESSION, home_of
from .base import Effect, Pass
from .frozen import Fingerprint
from .hoist_release import Released
from .parking import Parking

if TYPE_CHECKING:
    import torch

    from ..export.manifest import ComponentEntry, Manifest
    from ..export.sessions import Engine, Session
    from ..export.sessions_parts import Part
    from ..patch import Patch
    from ..report import PassRecord
    from ..target import Component, Target

_KINDS: dict[str, tuple[Any, ...]] = {
    "denoiser": ("denoiser",),
    "all": ("denoiser", "vae", "text_encoder"),
}


@dataclass(frozen=True)
class SessionPass(Pass):
    """Sessions of one runtime in the place of modules; see `export.sessions`.

    What matters:
        folder: an exported pipeline's; None takes the one that the pipe was loaded from, else
            exports into the user's cache, where the next pipe with these weights finds it.
        parts: "denoiser", or "all" that the export has.
        precision: the exported denoiser's.
        release: let the modules' own weights wait in a file (on a GPU: in host memory).
    For tinkering:
        verify: read every byte of the graphs and compare checksums.
    """

    folder: str | None = None
    parts: Literal["denoiser", "all"] = "denoiser"
    precision: str = "fp32"
    release: bool = False
    verify: bool = True

    costly: ClassVar[str] = "it exports the models first, which takes minutes"
    order: ClassVar[int] = 2  # the others then leave alone what a session computes

    def __post_init__(self) -> None:
        if self.parts not in _KINDS:
            raise ValueError(f"parts is 'denoiser' or 'all', not {self.parts!r}")
        if isinstance(self.folder, Path):
            object.__setattr__(self, "folder", str(self.folder))
        if self.precision != "fp32":
            object.__setattr__(self, "effect", Effect.LOWER_PRECISION)

    @abstractmethod
    def open(self, folder: Path, part: Part, target: Target, record: PassRecord) -> Engine:
        """Load one graph of an exported folder."""

    @abstractmethod
    def check(self, entry: ComponentEntry, target: Target) -> None:
        """Raise `ExportError` where a denoiser's precision is not the one that was asked for."""

    @property
    def export_precision(self) -> str | None:
        """In what the graphs are exported where no folder is named; None: as the weights are."""
        return self.precision

    def apply(self, target: Target, patch: Patch, record: PassRecord) -> None:
        from ..export.manifest import Manifest

        folder = self._folder(target, record)
        manifest = Manifest.read(folder)
        found = list(self._parts(target, manifest, record))
        if not found:
            raise ExportError(
                f"'{folder}' holds {', '.join(manifest.components)} of a {manifest.pipeline}, and "
                "nothing that takes the place of this pipe's parts: name another folder."
            )
        for component, part in found:
            if component.kind == "denoiser":
                self.check(part.entry, target)
        if self.verify:
            start = time.perf_counter()
            manifest.verify(folder, [part.name for _, part in found])
            record.seconds["verify"] = time.perf_counter() - start
        for component, part in found:
            with patch.scope(component.module):
                self._stand_in(folder, component, part, target, patch, record)

    def _folder(self, target: Target, record: PassRecord) -> Path:
        homes = (home_of(each.module) for each in target.components)
        folder = self.folder or next((each for each in homes if each is not None), None)
        return Path(folder).expanduser() if folder is not None else self._exported(target, record)

    def _exported(self, target: Target, record: PassRecord) -> Path:
        from ..export.sessions_cache import cached_export

        components = [each for each in target.components if each.kind in _KINDS[self.parts]]
        names = [each.name for each in components] if self.parts == "denoiser" else None
        start = time.perf_counter()
        folder = cached_export(target.pipe, components, names, self.export_precision)
        record.seconds["export"] = time.perf_counter() - start
        record.note(f"exported to {folder}")
        return folder

    def _parts(
        self, target: Target, manifest: Manifest, record: PassRecord
    ) -> list[tuple[Component, Part]]:
        from ..export.sessions_parts import keeps_frames, parts_of

        found = []
        for component, module in target.each(record, *_KINDS["all"], weights=False):
            if component.kind not in _KINDS[self.parts] and home_of(module) is None:
                continue
            if component.kind == "vae" and keeps_frames(module):
                record.refuse(component.name, "its halves keep frames between calls")
                continue
            found += [(component, part) for part in parts_of(component, manifest)]
        return found

    def _stand_in(
        self,
        folder: Path,
        component: Component,
        part: Part,
        target: Target,
        patch: Patch,
        record: PassRecord,
    ) -> None:
        from ..export.sessions import Session

        engine = self.open(folder, part, target, record)
        owned = home_of(component.module) is None
        session = Session(part.name, part.module, part.entry, engine, record, owned, part.by_torch)
        patch.set(part.module, "forward", session)
        patch.set(component.module, SESSION, self.name)
        if part.bypassed is not None:
            patch.set(part.bypassed, "forward", _pass_on)
        record.changed[f"{part.name} in {part.entry.precision}"] = 1
        if owned:
            parking = self._release(part, patch, record)
            _watch_weights(session, parking, target, patch)

    def _release(self, part: Part, patch: Patch, record: PassRecord) -> Parking:
        """Let the weights of a module wait elsewhere, where that is asked for."""
        parking = Parking(part.name, record, wanted=self.release)
        if self.release:
            patch.on_undo(parking.close)
            parking.settle(part.module, ())
            on_a_device = [each for each in part.module.parameters() if each.device.type != "cpu"]
            released = Released(part.module)
            patch.on_undo(lambda: _bring_back(released))
            released.release(on_a_device)
        return parking


def _pass_on(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states


def _bring_back(released: Released) -> None:
    released.bring_back()


def _watch_weights(session: Session, parking: Parking, target: Target, patch: Patch) -> None:
    """When a generation begins, let torch compute again if the weights have changed since."""
    exported = Fingerprint.of(session.module)
    listeners = target.clock.listeners

    def look() -> None:
        changed = Fingerprint.of(session.module) != exported
        session.stale = "its weights have changed since they were exported" if changed else None
        parking.leave_memory()

    patch.on_undo(lambda: listeners.remove(look))
    listeners.append(look)
