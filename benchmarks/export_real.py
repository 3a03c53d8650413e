"""Stable Diffusion 1.5's UNet and VAE exported at their real size: seconds, memory, and parity.

Weights are random. Each component has a process of its own, whose memory is then the component's
alone: what is resident at most from when the module is there until its graph is written and
checked, and until ONNX Runtime, which holds the weights once more, has been compared with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import provenance
from .architectures import SD15_UNET, SD15_VAE, Configuration, build
from .errors import BenchmarkError
from .export_coverage import versions, worst
from .markdown_table import markdown_table
from .memory import host_peak, reset_host_peak

if TYPE_CHECKING:
    from sdaccel.export.parity import Distance

COMPONENTS: Mapping[str, Configuration] = {
    "unet": SD15_UNET,
    "vae_encoder": SD15_VAE,
    "vae_decoder": SD15_VAE,
}
SECONDS, MEMORY = 300.0, 12e9
"""What an export and its comparison may take together by the clock, and bytes of the host's memory
at most."""
HEADS = (
    "component",
    "weights",
    "written",
    "nodes",
    "export: CPU s",
    "wall s",
    "most memory",
    "comparison: CPU s",
    "wall s",
    "most memory",
    "worst relative L2, smaller size",
    "larger size",
    "load before",
    f"within {SECONDS:.0f} s and {MEMORY / 1e9:.0f} GB",
)


@dataclass(frozen=True)
class Cost:
    """What a piece of work took: seconds of all CPUs, of the clock, and bytes resident at most."""

    cpu: float
    wall: float
    peak: int


@dataclass(frozen=True)
class Measured:
    """One component's export; sizes in bytes, `load` the machine's load average before it."""

    name: str
    kind: str
    weights: int
    written: int
    nodes: int
    export: Cost
    comparison: Cost
    distances: Sequence[Distance]
    load: float

    @property
    def passed(self) -> bool:
        """Whether it kept to seconds, memory and the tolerance, the comparison included."""
        from sdaccel.export.parity import TOLERANCE

        both = (self.export, self.comparison)
        return (
            sum(each.wall for each in both) <= SECONDS
            and max(each.peak for each in both) <= MEMORY
            and all(each.error <= TOLERANCE for each in self.distances)
        )


def measure(name: str, threads: int) -> Measured:
    """Export one of `COMPONENTS` into a temporary folder, compare it, and note what it took."""
    import onnx
    import torch

    from sdaccel.export.examples import example_of
    from sdaccel.export.forms import form_of
    from sdaccel.export.parity import distances
    from sdaccel.export.pipeline import Job, export_component

    torch.set_num_threads(threads)
    load, model = os.getloadavg()[0], build(COMPONENTS[name])
    example = example_of(name, model)
    assert example is not None
    job = Job(name, model, example, torch.float32)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        entry, export = _costing(partial(export_component, job, folder, check=False))
        path, form = folder / entry.file, form_of(name, model)
        found, comparison = _costing(partial(distances, form, example, path, entry.inputs))
        return Measured(
            name,
            type(model).__name__,
            sum(each.nbytes for each in model.parameters()),
            sum((folder / each).stat().st_size for each in entry.checksums),
            len(onnx.load(path, load_external_data=False).graph.node),
            export,
            comparison,
            found,
            load,
        )


def _costing(work: Callable[[], Any]) -> tuple[Any, Cost]:
    reset_host_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    done = work()
    return done, Cost(time.process_time() - cpu, time.perf_counter() - wall, host_peak() or 0)


def markdown(rows: Iterable[Measured], threads: int) -> str:
    """The table, one row a component, below the versions and the machine it was made with."""
    from sdaccel.device import describe

    made = (
        f"{versions()}; fp32, random weights, {threads} of {describe().cores} cores of "
        f"{describe().name}, commit {provenance.commit()}"
    )
    return markdown_table(made, HEADS, map(_cells, rows))


def _cells(row: Measured) -> list[str]:
    return [
        f"{row.name} (`{row.kind}`)",
        f"{row.weights / 1e9:.2f} GB",
        f"{row.written / 1e9:.2f} GB",
        str(row.nodes),
        *_cost(row.export),
        *_cost(row.comparison),
        *(worst(row.distances[at : at + 2]) for at in (0, 2)),
        f"{row.load:.1f}",
        "yes" if row.passed else "no",
    ]


def _cost(cost: Cost) -> list[str]:
    return [f"{cost.cpu:.0f}", f"{cost.wall:.0f}", f"{cost.peak / 1e9:.1f} GB"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: every component kept to time, memory and tolerance; 1: one did not."""
    parser = argparse.ArgumentParser(prog="python -m sdaccel.benchmarks export-real-size")
    choices = tuple(COMPONENTS)
    parser.add_argument("components", nargs="*", metavar="NAME", help=f"{', '.join(choices)} (all)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the CPU (1)")
    options = parser.parse_args(arguments)
    for name in options.components:
        if name not in choices:
            raise BenchmarkError(
                f"There is no component '{name}': choose from {', '.join(choices)}."
            )
    rows = [_alone(name, options.threads) for name in options.components or choices]
    table = markdown(rows, options.threads)
    print(table, end="")
    if options.output:
        options.output.write_text(table, encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


def _alone(name: str, threads: int) -> Measured:
    """In a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, threads))
