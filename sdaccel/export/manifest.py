"""What an exported folder holds: `manifest.json`, its models, their inputs, outputs and checksums.

    FOLDER/manifest.json
    FOLDER/unet/model.onnx, FOLDER/unet/model.onnx.data
    FOLDER/model_index.json, FOLDER/scheduler/..., FOLDER/unet/config.json, ...

An input is named by its place in the arguments of the module's forward: `timestep`,
`added_cond_kwargs.text_embeds`, `image_rotary_emb.0`. An output is named by its place in what the
forward returns: `last_hidden_state`, `hidden_states.11`, `sample`, or `out_sample` where an input
has that name. A VAE is two components, `vae_encoder` (`x` of `encode` to `moments`, mean and
logarithm of the variance, where it is variational, else `latent`) and `vae_decoder` (`z` of
`decode` to `sample`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from ..errors import ExportError

FORMAT = 1
FILE = "manifest.json"
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_BLOCK = 1 << 22
_AGAIN = "export the pipeline again"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a graph: dtype as torch names it ("float32"), a number of each
    dimension, or the symbol of one that may change ("batch")."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> TensorInfo:
        """As `asdict` and JSON leave it."""
        shape = tuple(each if isinstance(each, int) else str(each) for each in found["shape"])
        return cls(str(found["name"]), str(found["dtype"]), shape)


@dataclass(frozen=True)
class ComponentEntry:
    """One exported model.

    `class_name` is the module's; `file` the graph, relative to the folder. `arguments` maps the
    name of each input to its place in the arguments of the module's forward, as keys and indices
    joined by dots; what is found there is a tensor, a number, which becomes a tensor without
    dimensions, or a list of tensors of one shape, which are stacked along a new first dimension.
    Arguments that are not named were left at their defaults. `checksums` has the SHA-256 sum of
    each of the component's files, weights included.
    """

    class_name: str
    file: str
    precision: Precision
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    arguments: Mapping[str, str]
    checksums: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The entry as it stands in `manifest.json`."""
        fields = asdict(self)
        return {"class": fields.pop("class_name"), **fields}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ComponentEntry:
        """Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        if found["precision"] not in PRECISIONS:
            raise ValueError(f"precision {found['precision']!r}")
        entry = cls(
            class_name=str(found["class"]),
            file=str(found["file"]),
            precision=found["precision"],
            inputs=tuple(TensorInfo.from_json(each) for each in found["inputs"]),
            outputs=tuple(TensorInfo.from_json(each) for each in found["outputs"]),
            arguments=dict(found["arguments"]),
            checksums={str(key): str(value) for key, value in dict(found["checksums"]).items()},
        )
        for name in (entry.file, *entry.checksums):
            _check_inside(name)
        if entry.file not in entry.checksums:
            raise ValueError(f"no checksum of {entry.file}")
        return entry


@dataclass(frozen=True)
class Manifest:
    """All of a folder: the version of sdaccel and of what else made it, the pipeline's class."""

    sdaccel: str
    versions: Mapping[str, str]
    pipeline: str
    components: Mapping[str, ComponentEntry]

    def with_component(self, name: str, entry: ComponentEntry) -> Manifest:
        """The same with one component more, or another in its place."""
        return replace(self, components={**self.components, name: entry})

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into the folder; the last act of an export."""
        content = {
            "format": FORMAT,
            "sdaccel": self.sdaccel,
            "versions": dict(self.versions),
            "pipeline": self.pipeline,
            "components": {name: each.to_json() for name, each in self.components.items()},
        }
        (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read a folder's manifest; no model is opened.

        Raises `ExportError` where there is none, where it is damaged, and where it is of a format
        that this version does not read.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise ExportError(
                f"'{folder}' is no exported pipeline, for it has no {FILE}: make one with "
                "`sdaccel export`."
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            form, version = found["format"], str(found["sdaccel"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{path} is damaged: {_AGAIN}.") from error
        if form != FORMAT:
            raise ExportError(
                f"'{folder}' was exported by sdaccel {version} in format {form}, and this version "
                f"reads format {FORMAT}: {_AGAIN}."
            )
        return cls._parsed(found, path)

    @classmethod
    def _parsed(cls, found: Mapping[str, Any], path: Path) -> Manifest:
        try:
            components = dict(found["components"])
            return cls(
                sdaccel=str(found["sdaccel"]),
                versions=dict(found["versions"]),
                pipeline=str(found["pipeline"]),
                components={
                    str(name): ComponentEntry.from_json(each) for name, each in components.items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ExportError(f"{path} is damaged ({error}): {_AGAIN}.") from error

    def component(self, name: str) -> ComponentEntry:
        """The entry of that name; an `ExportError` lists the names there are."""
        if name not in self.components:
            raise ExportError(
                f"No '{name}' was exported, only {', '.join(self.components)}: {_AGAIN} with it."
            )
        return self.components[name]

    def verify(self, folder: str | Path, names: Iterable[str] | None = None) -> None:
        """Raise `ExportError` unless each file of these components, or all, is the exported one.

        Every byte is read.
        """
        for name in self.components if names is None else names:
            for file, expected in self.component(name).checksums.items():
                path = Path(folder) / file
                if not path.is_file():
                    raise ExportError(f"{path} is missing: {_AGAIN}.")
                if sha256(path) != expected:
                    raise ExportError(
                        f"{path} is truncated or was changed since its export, for its checksum "
                        f"is another: {_AGAIN}."
                    )


def checksums(folder: Path, component: str) -> dict[str, str]:
    """The sums of a component's graph and weights, by their names relative to the folder."""
    files = sorted((folder / component).glob("*.onnx*"))
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, read in blocks of 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _check_inside(name: str) -> None:
    """A manifest may come from anywhere: its files lie in its own folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError(f"{name!r} is outside the folder")
