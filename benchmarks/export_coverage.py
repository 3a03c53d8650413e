"""Which model families can be exported as ONNX graphs, and that the graphs compute what they did.

Each family is built tiny (`families`) in fp32, exported with everything that may change left free,
put through ONNX's checker and its shape inference, and compared with the module in torch on ONNX
Runtime's CPU provider, at two sizes and with one sample and three. A graph that was traced with two
samples at one size has to serve them all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architectures import SD15_UNET, SD15_VAE
from .families import Family, families
from .markdown_table import markdown_table

if TYPE_CHECKING:
    from sdaccel.export.parity import Distance

HEADS = (
    "family",
    "class",
    "component",
    "export",
    "checker, shape inference",
    "worst relative L2, smaller size",
    "worst relative L2, larger size",
    "free dimensions",
    "nodes",
    "CPU seconds",
    "real size: weights",
    "file in fp32",
    "host memory to export and compare it in fp32 (estimate)",
)
REAL: Mapping[str, str] = {
    "SD 1.5": "Stable Diffusion 1.5",
    "SDXL": "sdxl-unet",
    "SD 3": "sd3-medium",
    "FLUX.1": "flux-dev",
    "PixArt": "pixart-sigma",
    "Sana": "sana-1.6b",
    "Qwen-Image": "qwen-image",
    "Z-Image": "z-image",
    "ErnieImage": "ernie-image",
    "CogVideoX": "cogvideox-5b",
    "LTX": "ltx-video",
    "Wan 2.1": "wan2.1-14b",
    "AutoencoderKL": "Stable Diffusion 1.5's VAE",
    "AutoencoderKLWan": "wan2.1-vae",
    "AnimateDiff": "animatediff",
    "HunyuanVideo": "hunyuan-video",
}
"""The families of the table, those that take longest last, and the published models whose sizes
stand beside them."""

_ERNIE_IMAGE: Mapping[str, Any] = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_layers": 36,
    "ffn_hidden_size": 12288,
    "text_in_dim": 3072,
}
"""Where ERNIE-Image's published config differs from its class's; it is no workload."""

_BESIDE = 1.2e9
"""Bytes beside the weights: with SD 1.5's UNet at its real size 8.1 GB were resident at most, and
twice its weights are 6.9 (`export-real-size`)."""


@dataclass(frozen=True)
class Exported:
    """How the export of one component of a family went; `reason` is "" where it went well."""

    family: Family
    component: str
    reason: str
    distances: Sequence[Distance] = ()
    free: tuple[str, ...] = ()
    nodes: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it was exported and every graph is within the tolerance."""
        from sdaccel.export.parity import TOLERANCE

        return not self.reason and all(each.error <= TOLERANCE for each in self.distances)


def cover(family: Family, attention: str) -> list[Exported]:
    """Export a family's model, or both halves of its VAE, and compare."""
    names = ["transformer"] if family.part == "denoiser" else ["vae_encoder", "vae_decoder"]
    if family.part == "denoiser" and family.model.startswith("UNet"):
        names = ["unet"]
    return [_component(family, name, attention) for name in names]


def _component(family: Family, name: str, attention: Any) -> Exported:
    import onnx
    import torch

    from sdaccel.errors import ExportError
    from sdaccel.export.examples import example_of
    from sdaccel.export.forms import form_of
    from sdaccel.export.parity import distances
    from sdaccel.export.pipeline import Job, export_component

    model, start = family.build(), time.process_time()
    example = example_of(name, model)
    if example is None:
        return Exported(family, name, "what its forward takes is not known")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(name, model, example, torch.float32)
        try:
            entry = export_component(job, Path(folder), attention, check=False)
            seconds = time.process_time() - start
            path = Path(folder) / entry.file
            found = distances(form_of(name, model), example, path, entry.inputs)
        except ExportError as error:
            return Exported(family, name, str(error).replace(f"{folder}/", ""))
        nodes = len(onnx.load(path, load_external_data=False).graph.node)
    dims = {dim for each in entry.inputs for dim in each.shape if isinstance(dim, str)}
    return Exported(family, name, "", found, tuple(sorted(dims)), nodes, seconds)


def weights(family: Family) -> int:
    """How many weights the published model has; none of them is made."""
    import diffusers
    from accelerate import init_empty_weights

    config = _real_config(family)
    settings = {key: value for key, value in config.items() if key != "class"}
    with init_empty_weights():
        model = getattr(diffusers, family.model)(**settings)
    return sum(each.numel() for each in model.parameters())


def _real_config(family: Family) -> Mapping[str, Any]:
    from .autoencoders import AUTOENCODERS
    from .denoisers import DENOISERS

    real = REAL[family.name]
    if real in DENOISERS:
        return DENOISERS[real].config
    if real in AUTOENCODERS:
        return AUTOENCODERS[real].config
    if real == "ernie-image":
        return _ERNIE_IMAGE
    return SD15_UNET if family.part == "denoiser" else SD15_VAE


def markdown(rows: Iterable[Exported], attention: str) -> str:
    """The table, one row a component, below the versions and the machine it was made with."""
    from sdaccel.device import describe

    made = (
        f"{versions()}; attention {attention}; seconds of one CPU ({describe().name}) for the "
        "tiny instance"
    )
    return markdown_table(made, HEADS, map(_cells, rows))


def versions() -> str:
    """The packages that make a graph and compute it, with their versions."""
    from importlib.metadata import version

    names = ("torch", "diffusers", "onnx", "onnxscript", "onnxruntime")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _cells(row: Exported) -> list[str]:
    count = weights(row.family)
    real = [
        f"{REAL[row.family.name]}: {count / 1e9:.2f} G",
        f"{4 * count / 1e9:.1f} GB",
        f"about {_memory(count):.1f} GB",
    ]
    if row.reason:
        cells = [f"fails: {row.reason}", *["-"] * 6]
    else:
        cells = [
            "yes",
            "pass",
            *(worst(row.distances[at : at + 2]) for at in (0, 2)),
            ", ".join(row.free),
            str(row.nodes),
            f"{row.seconds:.0f}",
        ]
    return [row.family.name, f"`{row.family.model}`", row.component, *cells, *real]


def _memory(count: int) -> float:
    """GB in fp32: the module's weights, ONNX Runtime's own copy while the two are compared, and
    what the packages themselves take."""
    return (2 * 4 * count + _BESIDE) / 1e9


def worst(distances: Sequence[Distance]) -> str:
    """The largest distance, how many samples the inputs had, and whether it is too far."""
    from sdaccel.export.parity import TOLERANCE

    largest = max(each.error for each in distances)
    batches = " and ".join(str(each.size.batch) for each in distances)
    wrong = "" if largest <= TOLERANCE else ": too far"
    return f"{largest:.0e}{wrong} (batch {batches})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: every family passes; 1: one does not."""
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m sdaccel.benchmarks export-coverage")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="all, where none is named")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--attention", choices=("decomposed", "operator"), default="decomposed")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="families at once (1)")
    options = parser.parse_args(arguments)
    chosen = list(families(options.families or list(REAL)))
    rows: list[Exported] = []
    with Console(stderr=True).status("") as status, _workers(options.jobs) as workers:
        work = partial(cover, attention=options.attention)
        for done in workers.imap(work, chosen):
            rows += done
            status.update(f"{len({row.family.name for row in rows})} of {len(chosen)} families")
            if options.output:
                options.output.write_text(markdown(rows, options.attention), encoding="utf-8")
    print(markdown(rows, options.attention), end="")
    return 0 if all(row.passed for row in rows) else 1


def _workers(count: int) -> Any:
    """Processes of one thread: threads that wait for each other cost more than small models."""
    context = multiprocessing.get_context("spawn")
    return context.Pool(count, initializer=_one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
