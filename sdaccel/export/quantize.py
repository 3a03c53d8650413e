"""An exported folder with its denoiser in int8, or with its weights in 8 or 4 bits.

    sdaccel.export.quantize.quantize("sd15", "sd15-int8", pipe, lambda: pipe(prompts))

Static int8 needs the PyTorch pipeline once: it draws while the ranges of all layers are noted, and
the layers whose rounding moves the denoiser's output most keep their precision.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ExportError
from ..target import Target
from .manifest import Manifest
from .pipeline import refuse_accelerated
from .rewritten_copy import RewrittenCopy

if TYPE_CHECKING:
    import onnx_ir

    from .quantize_calibration import LayerRanges

_ENDS = (
    *("conv_in", "x_embedder", "context_embedder", "patch_embed", "patch_embedding", "pos_embed"),
    *("time_embedding", "time_embed", "time_text_embed", "condition_embedder"),
    *("conv_out", "norm_out", "proj_out"),
)
"""Modules at a denoiser's ends; they are few, small and what everything passes through.

Of how far int8 moves shapes-dit's output, in squares and layer by layer, proj_out is 90%, and
x_embedder a quarter of the rest. Of shapes-unet's, conv_in and conv_out are 10%; the two shortcuts
of its last block are 50%, which the tolerance leaves out."""


@dataclass(frozen=True)
class Quantized:
    """What was made: the new folder's manifest, how many nodes of each operator are in fewer bits,
    the layers that were left out, and how far each alone moved the output (relative L2; empty where
    that was not measured)."""

    manifest: Manifest
    done: Mapping[str, int]
    left_out: tuple[str, ...]
    sensitivities: Mapping[str, float]


@dataclass(frozen=True)
class Calibration:
    """The ranges of the layers that will be in int8, those that are left out, and how far each
    layer alone moves the output."""

    ranges: Mapping[str, LayerRanges]
    left_out: tuple[str, ...]
    sensitivities: Mapping[str, float]


def quantize(
    source: str | Path,
    folder: str | Path,
    pipe: Any,
    draw: Callable[[], object],
    *,
    tolerance: float | None = 0.05,
    leave_out: Collection[str] = _ENDS,
    outputs: bool = True,
    probes: int = 4,
    move: bool = False,
) -> Quantized:
    """Write an export anew with its denoiser in static int8, per output channel and per tensor.

    Args:
        source: an exported folder of `pipe`, in fp32.
        folder: a folder that is not there yet; it appears when all is done.
        pipe: the PyTorch pipeline, not accelerated.
        draw: makes a few typical calls of the pipe, on prompts that nobody is judged by.
        tolerance: how far the output may move in all (relative L2, the layers taken as
            independent); the most sensitive layers are left out until it does. None measures
            nothing and leaves out `leave_out` alone: measuring takes `probes` forwards a layer.
        leave_out: modules that keep their precision in any case, by the first part of their names.
        outputs: quantize what convolutions give as well, without which ONNX Runtime computes them
            in fp32; OpenVINO needs it not, and is more exact without.
        probes: recorded calls on which sensitivity is measured, spread over all that were made.
        move: `source` is not needed any more, so that its other files are moved, not copied.

    Raises `ExportError` and leaves no folder behind; too little room on the disk is found before
    anything is drawn.
    """
    _require_package()
    name, _ = _denoiser(pipe, Manifest.read(source))
    copy = RewrittenCopy(Path(source), Path(folder), name, move)
    copy.check(("fp32",), bits=8)
    found = calibrate(source, pipe, draw, tolerance=tolerance, leave_out=leave_out, probes=probes)
    return _in_int8(copy, found, outputs)


def calibrate(
    source: str | Path,
    pipe: Any,
    draw: Callable[[], object],
    *,
    tolerance: float | None = 0.05,
    leave_out: Collection[str] = _ENDS,
    probes: int = 4,
) -> Calibration:
    """What `quantize` does first, for several folders; the arguments are its own."""
    _require_package()
    from .quantize_calibration import observe, sensitivities, to_leave_out

    manifest = Manifest.read(source)
    name, module = _denoiser(pipe, manifest)
    refuse_accelerated(Target.of(pipe))
    computed = _in_graph(Path(source) / manifest.component(name).file)
    observed, calls = observe(module, draw)
    ranges = {each: found for each, found in observed.items() if computed(each)}
    judged = {each: found for each, found in ranges.items() if not _begins_with(each, leave_out)}
    spread = calls[:: max(1, len(calls) // max(1, probes))][:probes]
    found = sensitivities(module, judged, spread) if tolerance is not None else {}
    out = to_leave_out(found, tolerance) if tolerance is not None else set()
    kept = {each: ranges for each, ranges in judged.items() if each not in out}
    return Calibration(kept, tuple(sorted(set(ranges) - set(kept))), found)


def apply_calibration(
    source: str | Path, folder: str | Path, calibration: Calibration, *, outputs: bool = True
) -> Quantized:
    """What `quantize` does then; raises `ExportError` and leaves no folder behind."""
    copy = RewrittenCopy(Path(source), Path(folder), _denoiser_name(Manifest.read(source)))
    copy.check(("fp32",), bits=8)
    return _in_int8(copy, calibration, outputs)


def _in_int8(copy: RewrittenCopy, calibration: Calibration, outputs: bool) -> Quantized:
    done, made = copy.rewritten("int8", lambda model: _static(model, calibration.ranges, outputs))
    return Quantized(made, done, calibration.left_out, calibration.sensitivities)


def quantize_weights(
    source: str | Path, folder: str | Path, *, bits: Literal[8, 4] = 8, block: int = 32
) -> Quantized:
    """Write an export anew with the weights of its denoiser's linear layers in 8 or 4 bits.

    They are held in blocks of `block` input channels, each with a scale of its own, and computed by
    ONNX Runtime's MatMulNBits; nothing needs calibrating. Raises `ExportError` and leaves no folder
    behind.
    """
    _require_package()
    if bits not in (8, 4) or block < 16 or block & (block - 1):
        raise ExportError(
            f"Weights are held in 8 or 4 bits and blocks of 16, 32, ..., not {block}."
        )
    copy = RewrittenCopy(Path(source), Path(folder), _denoiser_name(Manifest.read(source)))
    copy.check(("fp32", "fp16"), bits)
    precision: Literal["int8", "int4"] = "int8" if bits == 8 else "int4"
    done, made = copy.rewritten(precision, lambda model: _in_bits(model, bits, block))
    return Quantized(made, done, (), {})


def _static(
    model: onnx_ir.Model, ranges: Mapping[str, LayerRanges], outputs: bool
) -> dict[str, int]:
    from .quantize_graph import STATIC, StaticRewrite, layers_of

    rewrite = StaticRewrite(model, outputs)
    for layer in list(layers_of(model)):
        name = _known(layer.name, ranges)
        if name is not None and layer.node.op_type in STATIC:
            rewrite.quantize(layer, ranges[name])
    return rewrite.done


def _in_bits(model: onnx_ir.Model, bits: int, block: int) -> dict[str, int]:
    from .quantize_graph import hold_in_bits, layers_of

    linear = [each for each in layers_of(model) if each.node.op_type in ("MatMul", "Gemm")]
    for layer in linear:
        hold_in_bits(model, layer, bits, block)
    return {"MatMulNBits": len(linear)}


def _in_graph(file: Path) -> Callable[[str], bool]:
    import onnx_ir

    from .quantize_graph import STATIC, layers_of

    paths = [each.name for each in layers_of(onnx_ir.load(file)) if each.node.op_type in STATIC]
    return lambda name: any(f".{each}".endswith(f".{name}") for each in paths)


def _known(path: str, ranges: Mapping[str, Any]) -> str | None:
    """A module's name in the denoiser: the exporter's has the wrapping's own parts before it."""
    parts = path.split(".")
    names = (".".join(parts[start:]) for start in range(len(parts)))
    return next((each for each in names if each in ranges), None)


def _denoiser(pipe: Any, manifest: Manifest) -> tuple[str, Any]:
    for component in Target.of(pipe).denoisers:
        if component.name in manifest.components:
            return component.name, component.module
    raise ExportError(
        f"The folder has no denoiser of this {type(pipe).__name__}, only "
        f"{', '.join(manifest.components)}: name the one that was exported from it."
    )


def _denoiser_name(manifest: Manifest) -> str:
    for name in manifest.components:
        if not name.startswith(("vae_", "text_encoder")):
            return name
    raise ExportError("The folder holds no denoiser: export the pipeline again with it.")


def _begins_with(name: str, starts: Collection[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in starts)


def _require_package() -> None:
    for name in ("onnx", "onnx_ir"):
        if importlib.util.find_spec(name) is None:
            raise ExportError(f"{name} is not installed: pip install sdaccel[onnx].")
