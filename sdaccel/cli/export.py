"""sdaccel export: write a model as ONNX graphs into a folder, for runtimes without PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .terminal import Terminal


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel export` takes."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="shapes-unet, shapes-dit, a hub id, a folder or a file")
    add("--to", choices=("onnx",), default="onnx", help="what to write (onnx)")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    add("--precision", choices=("fp32", "fp16", "bf16"), help="of the graphs (as the weights are)")
    add("--components", nargs="+", metavar="NAME", help="unet, vae_decoder, ... (all)")
    add(
        "--attention",
        choices=("decomposed", "operator"),
        default="decomposed",
        help="matrix products and a softmax, or ONNX's Attention of opset 23 (decomposed)",
    )
    add("--no-check", action="store_true", help="don't compare fp32 graphs with their modules")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Load on the CPU, export, and say what is there."""
    from rich.console import Console
    from rich.progress import Progress

    from ..export import export
    from ..pipelines.loading import load_pipeline

    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = load_pipeline(options.model)
    title = f"exporting {options.model}"
    with (
        terminal.step(title, spinner=False),
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task(title)
        manifest = export(
            pipe,
            options.output,
            components=options.components,
            precision=options.precision,
            attention=options.attention,
            check=not options.no_check,
            tell=lambda what, done, total: progress.update(
                task, description=what, completed=done, total=total
            ),
        )
    sizes = {name: _megabytes(options.output, entry) for name, entry in manifest.components.items()}
    for name, entry in manifest.components.items():
        told = f"{entry.class_name}, {entry.precision}, {sizes[name]:.1f} MB"
        terminal.say(f"{options.output / entry.file}: {told}")
    return {
        "model": options.model,
        "folder": str(options.output.resolve()),
        "components": {name: each.to_json() for name, each in manifest.components.items()},
    }


def _megabytes(folder: Path, entry: Any) -> float:
    return float(sum((folder / file).stat().st_size for file in entry.checksums)) / 1e6
