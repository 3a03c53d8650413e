"""sdaccel export: write a model as ONNX graphs into a folder, with TensorRT's engines if wanted."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from . import models, prompts
from .paired_drawing import Task
from .request import Request

if TYPE_CHECKING:
    from ..export.manifest import Manifest
    from .terminal import Terminal

Told = Callable[[str, int, int], None]
_PROMPTS, _BEHIND = 8, 1000
"""How many prompts int8 is calibrated on, and how many of an embedded model's own are before them:
comparisons begin at the first."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel export` takes."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="an embedded model, a hub id, a folder or a file")
    add("--to", choices=("onnx", "tensorrt"), default="onnx", help="graphs, or engines too (onnx)")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    add(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        help="of the graphs (as the weights are); int8: the denoiser's, calibrated on prompts",
    )
    add("--prompts", type=Path, metavar="FILE", help="for int8 (an embedded model has its own)")
    add("--steps", type=int, metavar="N", help="for int8: denoising steps (the model's own, or 25)")
    add("--float-outputs", action="store_true", help="int8 for OpenVINO: convolutions give floats")
    add("--components", nargs="+", metavar="NAME", help="unet, vae_decoder, ... (all)")
    add(
        "--attention",
        choices=("decomposed", "operator"),
        default="decomposed",
        help="matrix products and a softmax, or ONNX's Attention of opset 23 (decomposed)",
    )
    add("--sizes", nargs="+", metavar="WxH", help="for tensorrt: 768x512, 832x480x81 (its own)")
    add("--batch", type=int, metavar="N", help="for tensorrt: pictures at once, at most (1)")
    add("--tokens", type=int, metavar="N", help="for tensorrt: of text, at most (the model's own)")
    add("--no-check", action="store_true", help="don't compare fp32 graphs with their modules")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Load on the CPU, export, and say what is there."""
    from rich.console import Console
    from rich.progress import Progress

    from ..pipelines.loading import load_pipeline

    chosen = _calibration_prompts(options)
    _check_engines(options)
    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = load_pipeline(options.model)
    title = f"exporting {options.model}"
    with (
        terminal.step(title, spinner=False),
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task(title)

        def tell(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        if options.to == "tensorrt":
            manifest = _export_engines(pipe, options, tell, progress, terminal)
        elif chosen:
            manifest = _export_int8(pipe, options, _task(options, chosen), tell, terminal)
        else:
            manifest = _export(pipe, options, tell)
    sizes = {name: _megabytes(options.output, entry) for name, entry in manifest.components.items()}
    for name, entry in manifest.components.items():
        told = f"{entry.class_name}, {entry.precision}, {sizes[name]:.1f} MB"
        terminal.say(f"{options.output / entry.file}: {told}")
    return {
        "model": options.model,
        "folder": str(options.output.resolve()),
        "components": {name: each.to_json() for name, each in manifest.components.items()},
    }


def _export(pipe: Any, options: argparse.Namespace, tell: Told) -> Manifest:
    from ..export import export

    graphs = _graph_options(options)
    return export(pipe, options.output, precision=options.precision, tell=tell, **graphs)


def _graph_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "components": options.components,
        "attention": options.attention,
        "check": not options.no_check,
    }


def _check_engines(options: argparse.Namespace) -> None:
    """Refuse what engines can't be built of or for, and what is asked of engines that aren't."""
    given = [each for each in ("sizes", "batch", "tokens") if getattr(options, each) is not None]
    if options.to != "tensorrt":
        if given:
            raise InputError(f"--{given[0]} is for --to tensorrt.")
        return
    import torch

    from ..export.tensorrt_export import check_gpu
    from ..export.tensorrt_profiles import Size

    if options.precision == "int8":
        raise InputError("No engine is built in int8: leave --precision out, or take bf16.")
    counts = (options.batch, options.tokens)
    if any(each is not None and each < 1 for each in counts):
        raise InputError("--batch and --tokens are 1 at least.")
    try:
        for each in options.sizes or ():
            Size.parse(each)
    except ValueError as error:
        raise InputError(f"For --sizes {error}.") from error
    check_gpu(torch.device("cuda"))


def _export_engines(
    pipe: Any, options: argparse.Namespace, tell: Told, progress: Any, terminal: Terminal
) -> Manifest:
    import torch

    from ..export.tensorrt_export import export_engines

    found = export_engines(
        pipe,
        options.output,
        torch.device("cuda"),
        sizes=options.sizes,
        batch=options.batch or 1,
        tokens=options.tokens,
        tell=tell,
        bars=functools.partial(_Bar, progress),
        precision=options.precision,
        **_graph_options(options),
    )
    for name, each in found.engines.items():
        size = f"{each.plan_bytes / 1e6:.1f} MB"
        terminal.say(f"{name}: an engine of {size}, built in {each.seconds:.0f} s")
    return found.manifest


class _Bar:
    """A phase of a build in the terminal's own progress display."""

    def __init__(self, progress: Any, desc: str, total: int, **_: Any) -> None:
        self._progress, self._task = progress, progress.add_task(desc, total=total)

    def update(self, steps: int) -> None:
        """Go on."""
        self._progress.update(self._task, advance=steps)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.remove_task(self._task)


def _export_int8(
    pipe: Any, options: argparse.Namespace, task: Task, tell: Told, terminal: Terminal
) -> Manifest:
    from ..export.int8 import export_int8

    task.check(pipe)
    found = export_int8(
        pipe,
        options.output,
        lambda: task.draw(pipe, "calibrating"),
        tell=tell,
        outputs=not options.float_outputs,
        **_graph_options(options),
    )
    done = ", ".join(f"{count} {operator}" for operator, count in found.done.items())
    terminal.say(f"in int8: {done}; {len(found.left_out)} layers keep their precision")
    return found.manifest


def _calibration_prompts(options: argparse.Namespace) -> list[str]:
    """What int8 is calibrated on; nothing where it is not asked for."""
    if options.precision != "int8":
        for name in ("prompts", "steps", "float_outputs"):
            if getattr(options, name):
                raise InputError(f"--{name.replace('_', '-')} is for --precision int8.")
        return []
    if options.prompts is not None:
        return prompts.choose(options.model, options.prompts, False, None)
    return prompts.choose(options.model, None, False, _BEHIND + _PROMPTS)[_BEHIND:]


def _task(options: argparse.Namespace, chosen: list[str]) -> Task:
    defaults = models.call_defaults(options.model)
    request = Request(chosen[0], options.steps, num_images=len(chosen), defaults=defaults)
    return Task(tuple(chosen), request)


def _megabytes(folder: Path, entry: Any) -> float:
    return float(sum((folder / file).stat().st_size for file in entry.checksums)) / 1e6
