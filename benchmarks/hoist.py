"""How much of a published denoiser's memory `hoist(release=True)` frees, counted without weights.

The model is built at its real size on the meta device, in bf16, and one forward is looked at there
as the pass looks at it. Counted are the weights that tables alone are computed from, and what the
tables that stand in for them take.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import provenance
from .denoisers import DENOISERS
from .errors import BenchmarkError
from .families import Family, Size, cast
from .markdown_table import markdown_table

if TYPE_CHECKING:
    import torch

    from sdaccel.passes.hoist_plan import HoistPlan

STEPS = 50
HEADS = (
    "denoiser",
    "weights, GB",
    "on the device, GB",
    "released",
    f"tables at {STEPS} steps, MB",
    "of them on the device, MB",
    "at once without release, MB",
    "samples",
    "modules from tables",
    "modules computed once",
    "a forward is spared, GFLOP",
)


@dataclass(frozen=True)
class Counted:
    """What hoisting does to one denoiser, in bytes.

    `weights` are all of its weights, `released` those that leave the device, `tables` what replaces
    them at `STEPS` timesteps for so many `samples`, the row of NaN included, `resident` what the
    device has of that: a large table waits in host memory, but for one row. `timed` and `constant`
    count modules, `flops` what a forward is spared.
    """

    name: str
    weights: int
    released: int
    tables: int
    resident: int
    at_once: int
    samples: int
    timed: int
    constant: int
    flops: int


def count(name: str) -> Counted:
    """Count one of `DENOISERS` at its published size."""
    if name not in DENOISERS:
        raise BenchmarkError(f"There is no denoiser '{name}': choose from {', '.join(DENOISERS)}.")
    family, size = DENOISERS[name].chosen(quick=False)
    return counted(name, family, size)


def counted(name: str, family: Family, size: Size) -> Counted:
    """Count a family's model for inputs of a size, in bf16 on the meta device."""
    from sdaccel.passes.hoist_holdings import tables_for
    from sdaccel.passes.hoist_release import RESIDENT

    model = on_meta(family)
    plan = plan_on_meta(model, family, size)
    tables, row = plan.table_bytes(STEPS + 1), plan.table_bytes(1)
    return Counted(
        name,
        sum(each.nbytes for each in model.parameters()),
        sum(each.nbytes for each in plan.weights),
        tables,
        tables if tables <= RESIDENT else row,
        plan.table_bytes(-(-STEPS // tables_for(STEPS, row)) + 1),
        size.batch,
        len({each.module for each in plan.timed}),
        len({each.module for each in plan.hoisted if not each.tables}),
        sum(each.flops for each in plan.hoisted),
    )


def on_meta(family: Family) -> torch.nn.Module:
    """The model of a family without memory for its weights, in bf16."""
    import diffusers
    import torch

    with torch.device("meta"):
        model: torch.nn.Module = getattr(diffusers, family.model)(**family.config)
    cast(model, torch.bfloat16)
    return model.eval()


def plan_on_meta(model: torch.nn.Module, family: Family, size: Size) -> HoistPlan:
    """What the pass would hoist of a forward with these inputs."""
    import torch

    from sdaccel.passes.hoist_choice import plan_of
    from sdaccel.passes.hoist_inputs import Inputs, parameters_of
    from sdaccel.passes.hoist_probe import Probe

    arguments = _on_meta(family.draw(size, 0, torch.bfloat16))
    inputs = Inputs.of(parameters_of(model), (), arguments)
    probe = Probe(model, inputs.tensors, sum(1 << place for place in inputs.sample))
    with torch.no_grad(), torch.device("meta"), probe.watching():
        model(**arguments, return_dict=False)
    return plan_of(probe, inputs, inputs.sample)


def _on_meta(arguments: Any) -> Any:
    import torch
    from torch.utils import _pytree

    return _pytree.tree_map(
        lambda each: each.to("meta") if isinstance(each, torch.Tensor) else each, arguments
    )


def markdown(rows: Iterable[Counted]) -> str:
    """The table, below the versions it was made with."""
    versions = provenance.versions()
    told = ", ".join(f"{name} {versions[name]}" for name in ("diffusers", "torch"))
    made = f"{told}; counted on the meta device, weights and tables in bf16"
    return markdown_table(made, HEADS, map(_cells, rows))


def _cells(row: Counted) -> list[str]:
    return [
        row.name,
        f"{row.weights / 1e9:.2f}",
        f"{(row.weights - row.released) / 1e9:.2f}",
        f"{row.released / row.weights:.1%}",
        f"{row.tables / 1e6:.1f}",
        f"{row.resident / 1e6:.1f}",
        f"{row.at_once / 1e6:.1f}",
        str(row.samples),
        str(row.timed),
        str(row.constant),
        f"{row.flops / 1e9:.3g}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the table is made; raises `BenchmarkError` for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m sdaccel.benchmarks hoist")
    parser.add_argument("denoisers", nargs="*", metavar="DENOISER", help="all, where none is named")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args(arguments)
    table = markdown(map(count, options.denoisers or DENOISERS))
    print(table, end="")
    if options.output:
        options.output.write_text(table, encoding="utf-8")
    return 0
