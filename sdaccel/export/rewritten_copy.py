"""A copy of an exported folder in which one component is another graph, in fewer bits."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ExportError
from .manifest import ComponentEntry, Manifest, checksums

if TYPE_CHECKING:
    import onnx_ir

_BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True)
class RewrittenCopy:
    """Of a folder `source`, whose component `name` is rewritten; `move` takes the other files from
    the source, which is not whole afterwards."""

    source: Path
    folder: Path
    name: str
    move: bool = False

    def check(self, allowed: Collection[str], bits: int) -> None:
        """Raise `ExportError` where the component is in another precision than those allowed, or
        the disk has no room for it in so many bits."""
        from .space import check_new

        check_new(self.folder)
        if self._entry.precision not in allowed:
            raise ExportError(
                f"{self._entry.file} is in {self._entry.precision}: quantize an export in "
                f"{' or '.join(allowed)}."
            )
        files = [self.source / file for file in self._entry.checksums]
        whole = sum(each.stat().st_size for each in files if each.exists())
        self._check_room(whole * bits // _BITS[self._entry.precision])

    def rewritten(
        self,
        precision: Literal["int8", "int4"],
        rewrite: Callable[[onnx_ir.Model], dict[str, int]],
    ) -> tuple[dict[str, int], Manifest]:
        """Write the copy; nothing is there unless all went well. Returns what `rewrite` does."""
        import onnx_ir

        from . import graph
        from .space import new_folder

        manifest, entry = self._manifest, self._entry
        manifest.verify(self.source, [self.name])
        model = onnx_ir.load(self.source / entry.file)
        done = rewrite(model)
        if not done:
            raise ExportError(
                f"{self.source / entry.file} has no layer to quantize: export it again."
            )
        self._check_room(_drop_unused(model))
        with new_folder(self.folder) as made:
            copy = os.replace if self.move else shutil.copy2
            shutil.copytree(
                self.source, made, dirs_exist_ok=True, ignore=self._replaced, copy_function=copy
            )
            graph.write(model, made / self.name)
            new = replace(entry, precision=precision, checksums=checksums(made, self.name))
            manifest = manifest.with_component(self.name, new)
            manifest.write(made)
        return done, manifest

    @functools.cached_property
    def _manifest(self) -> Manifest:
        return Manifest.read(self.source)

    @property
    def _entry(self) -> ComponentEntry:
        return self._manifest.component(self.name)

    def _check_room(self, weights: int) -> None:
        """On the disk, for the component's weights of so many bytes and for what is copied."""
        from .space import GRAPH, check_room

        copied = 0
        if not self.move:
            files = {each for each in self.source.rglob("*") if each.is_file()}
            files -= {self.source / each for each in self._entry.checksums}
            copied = sum(each.stat().st_size for each in files)
        check_room(self.folder, copied + weights + GRAPH, otherwise="or choose another folder")

    def _replaced(self, folder: str, names: list[str]) -> list[str]:
        """What of a folder is not copied."""
        files = {self.source / file for file in self._entry.checksums}
        return [each for each in names if Path(folder) / each in files]


def _drop_unused(model: onnx_ir.Model) -> int:
    """Take out the weights that others have replaced; returns the bytes of those that stay."""
    left = 0
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
        elif value.const_value is not None:
            left += value.const_value.nbytes
    return left
