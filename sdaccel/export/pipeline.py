"""export: a pipeline's models as ONNX graphs in a folder, with all it takes to use them."""

from __future__ import annotations

import copy
import gc
import importlib.util
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ExportError
from ..patch import Patch
from .manifest import ComponentEntry, Manifest, Precision, checksums

if TYPE_CHECKING:
    import torch

    from .examples import Example

Attention = Literal["decomposed", "operator"]
Told = Callable[[str, int, int], None]
_DTYPES: Mapping[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

_NEVER_CALLED = ("MotionAdapter",)
"""What has been built into a denoiser, and only stands beside it."""


@dataclass(frozen=True)
class Job:
    """One component to export: its name in the manifest, its module, and how it is traced."""

    name: str
    module: torch.nn.Module
    example: Example
    dtype: torch.dtype


def export(
    pipe: Any,
    folder: str | Path,
    *,
    components: Collection[str] | None = None,
    precision: Precision | None = None,
    attention: Attention = "decomposed",
    check: bool = True,
    rest: bool = True,
    tell: Told | None = None,
) -> Manifest:
    """Export a pipeline's denoisers, VAE and text encoders as ONNX graphs into a new folder.

    Args:
        pipe: a stock diffusers pipeline; it is not changed.
        folder: a folder that is not there yet, or is empty. It appears when all is done.
        components: "unet", "vae_decoder" and so on; None: all that a call of the pipe runs.
        precision: "fp32", "fp16" or "bf16"; None: as the weights are.
        attention: as one operator (opset 23), or "decomposed" into matrix products and a softmax
            (opset 20), which every runtime has.
        check: compare each graph in fp32 with its module on ONNX Runtime's CPU provider, at two
            sizes and two batches.
        rest: save the weights of what is not exported as well, so that the folder loads by itself.
            A pipe that its graphs only compute for has them already.
        tell: is told which component begins, how many are done, and how many there are.

    Batch, height, width, frames and the length of the text may change from call to call. The
    pipeline's configs, tokenizers and scheduler are saved beside the graphs. Memory is needed for
    the weights of the pipe and, where the precision is another, once more for those of its
    largest component.

    Raises `ExportError` or `TargetError` and leaves no folder behind.
    """
    _require_packages()
    jobs = list(jobs_of(pipe, components, precision, attention))
    path = Path(folder)
    from .space import check_room, new_folder

    saved = left_by(pipe, jobs) if rest else []
    check_room(path, room_of(jobs, saved))
    with new_folder(path) as made:
        _save(pipe, made, saved)
        manifest = Manifest(_own_version(), _versions(attention), type(pipe).__name__, {})
        for index, job in enumerate(jobs):
            if tell is not None:
                tell(job.name, index, len(jobs))
            entry = export_component(job, made, attention, check)
            manifest = manifest.with_component(job.name, entry)
            gc.collect()
        manifest.write(made)
    return manifest


def export_component(
    job: Job, folder: Path, attention: Attention = "decomposed", check: bool = True
) -> ComponentEntry:
    """Export one module into `folder/name`; returns its entry of the manifest."""
    from . import graph, parity
    from .capture import capture
    from .forms import form_of

    form = form_of(job.name, _cast(job.module, job.dtype))
    captured = capture(job.name, form, job.example)
    opset = graph.OPERATOR if attention == "operator" else graph.DECOMPOSED
    model = graph.translate(job.name, form, captured, opset)
    graph.write(model, folder / job.name)
    inputs = graph.described(model.graph.inputs)
    outputs = graph.described(model.graph.outputs)
    del model, captured
    file = f"{job.name}/{graph.FILE}"
    if check and str(job.dtype) == "torch.float32":
        parity.check(job.name, form, job.example, folder / file, inputs)
    return ComponentEntry(
        class_name=type(job.module).__name__,
        file=file,
        precision=next(each for each, name in _DTYPES.items() if f"torch.{name}" == str(job.dtype)),
        inputs=inputs,
        outputs=outputs,
        arguments={each.name: each.name for each in inputs},
        checksums=checksums(folder, job.name),
    )


def jobs_of(
    pipe: Any, components: Collection[str] | None, precision: Precision | None, attention: str
) -> Iterator[Job]:
    """What `export` would write; raises `ExportError` for everything that can be refused before."""
    import torch

    from ..target import Target, dtype_of

    if precision is not None and precision not in _DTYPES:
        raise ExportError(
            f"There is no precision '{precision}' to export in: {', '.join(_DTYPES)}."
        )
    if attention not in ("decomposed", "operator"):
        raise ExportError(f"There is no attention '{attention}': 'decomposed' or 'operator'.")
    target = Target.of(pipe)
    refuse_accelerated(target)
    found = list(_parts(target))
    names = [name for name, _ in found]
    unknown = [each for each in components or () if each not in names]
    if unknown:
        raise ExportError(f"This pipe has no '{unknown[0]}' to export, only {', '.join(names)}.")
    chosen = [each for each in found if components is None or each[0] in components]
    for name, component in chosen:
        dtype = dtype_of(component.module)
        if precision is not None:
            dtype = getattr(torch, _DTYPES[precision])
        yield Job(name, component.module, _example(name, component), dtype)


def left_by(pipe: Any, jobs: Collection[Job]) -> list[torch.nn.Module]:
    """The pipe's modules that are not exported, and a VAE that is in one of its halves."""
    import torch

    halves = sum(job.name.startswith("vae_") for job in jobs)
    exported = {id(job.module) for job in jobs if not job.name.startswith("vae_") or halves == 2}
    modules = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]
    return [each for each in modules if id(each) not in exported]


def room_of(jobs: Collection[Job], saved: Collection[torch.nn.Module]) -> int:
    """The bytes that the graphs take, and the weights that are saved as they are."""
    from ..target import dtype_of
    from .space import bytes_of, room_for

    weights = sum(bytes_of(each, dtype_of(each)) for each in saved)
    return room_for((job.module, job.dtype) for job in jobs) + weights


def _parts(target: Any) -> Iterator[tuple[str, Any]]:
    """The components as they are exported: a VAE is two."""
    for component in target.components:
        if component.kind == "vae":
            yield "vae_encoder", component
            yield "vae_decoder", component
        elif component.kind != "other" and type(component.module).__name__ not in _NEVER_CALLED:
            yield component.name, component


def _example(name: str, component: Any) -> Example:
    from .examples import example_of, known_classes

    kind = type(component.module).__name__
    if component.obstacle is not None:
        raise ExportError(
            f"{name} ({kind}) can't be exported, for it is {component.obstacle}: load it whole and "
            "unquantized."
        )
    example = example_of(name, component.module)
    if example is None:
        raise ExportError(
            f"{name} ({kind}) can't be exported: what its forward takes is known of "
            f"{', '.join(known_classes())} alone. Leave it out with components=..."
        )
    return example


def refuse_accelerated(target: Any) -> None:
    """Raise `ExportError` where a plan has changed one of the pipe's components."""
    from ..sharing import shared_by

    for component in target.components:
        plan = shared_by(component.module, None)
        if plan is not None:
            raise ExportError(
                f"{component.name} is accelerated ({plan}), and only stock modules are exported: "
                "call sdaccel.restore(pipe) before, and accelerate it again afterwards."
            )


def _cast(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The module itself, or a copy in another dtype; what `from_pretrained` keeps stays in fp32."""
    from ..target import dtype_of

    if dtype_of(module) == dtype:
        return module
    memo: dict[int, Any] = {}
    kept = getattr(module, "_keep_in_fp32_modules", None) or ()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not any(part in kept for part in name.split(".")):
            other = tensor.detach().to(dtype)
            is_parameter = type(tensor).__name__ == "Parameter"
            memo[id(tensor)] = type(tensor)(other, False) if is_parameter else other
    return copy.deepcopy(module, memo)


def _save(pipe: Any, folder: Path, whole: Collection[torch.nn.Module]) -> None:
    """The pipe's configs, tokenizers and scheduler; with its weights what is to be whole."""
    import torch

    parts = list(pipe.components.values())
    bare = {id(each) for each in parts if isinstance(each, torch.nn.Module)} - set(map(id, whole))
    patch = Patch()
    try:
        for part in (pipe, *parts):
            if "_internal_dict" in getattr(part, "__dict__", ()):
                # diffusers adds its version to the config that it saves
                config = part._internal_dict
                patch.set(part, "_internal_dict", type(config)(config))
        pipe.save_config(folder)
        for name, part in pipe.components.items():
            if id(part) in bare:
                save = getattr(part, "save_config", None) or part.config.save_pretrained
                save(folder / name)
            elif hasattr(part, "save_pretrained"):
                part.save_pretrained(folder / name)
    finally:
        patch.undo()


def _versions(attention: Attention) -> dict[str, str]:
    from importlib.metadata import version

    from .graph import DECOMPOSED, OPERATOR

    packages = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime")
    opset = OPERATOR if attention == "operator" else DECOMPOSED
    return {**{each: version(each) for each in packages}, "opset": str(opset)}


def _own_version() -> str:
    from importlib.metadata import version

    return version("sdaccel")


def _require_packages() -> None:
    missing = [each for each in _PACKAGES if importlib.util.find_spec(each) is None]
    if missing:
        raise ExportError(
            f"Exporting needs {', '.join(missing)}: install them with `pip install sdaccel[onnx]`."
        )
