"""Which model families the fuse and attention passes reach, and that the results are stock's.

Each family is built tiny (`families`), put into a pipeline and accelerated by one pass. In fp32 its
output may differ from stock's by a relative L2 error of 1e-5, in bf16 it may be 1.25 times as far
from the fp32 truth as stock is; after `restore` it must be stock's to the bit. With
TRITON_INTERPRET=1 the ops are their Triton kernels, else plain torch on a CPU.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sdaccel
from sdaccel.passes import NAMES

from . import provenance
from .families import SIZES, Family, cast, families
from .markdown_table import markdown_table
from .measure import EXACT_ERROR, EXACT_RATIO, relative_error

if TYPE_CHECKING:
    import torch

    from .family_pipeline import FamilyPipeline

SEEDS = (0, 1)
HEADS = (
    "family",
    "class",
    "modules matched",
    "fused",
    "reads and writes spared",
    "ran",
    "fp32 error",
    "bf16 error over stock's",
    "attentions routed",
)


@dataclass(frozen=True)
class Covered:
    """What the fuse pass did to one family.

    `matched` counts modules whose class, or whose processor's, is another, of `modules`. `fused`
    has the report's labels, `spared` the reads and writes of a tensor that a forward is spared,
    `ran` what ran of it, `attentions` the calls of attention that the attention pass routed and all
    of stock's, for one forward. `by` names who computed the ops.
    `error` is the largest relative L2 error in fp32, `ratio` the largest distance from the truth in
    bf16 over stock's own; `restored` tells whether stock's output came back to the bit. `reason`
    says why the model was left as it is, and is "" where it was not.
    """

    family: Family
    modules: int
    matched: int
    fused: Counter[str]
    spared: int
    ran: dict[str, float]
    by: set[str]
    error: float
    ratio: float
    restored: bool
    attentions: tuple[float, float] | None
    reason: str

    @property
    def exact(self) -> bool:
        """Whether the pass kept what `EXACT` promises."""
        return self.error <= EXACT_ERROR and self.ratio <= EXACT_RATIO and self.restored


def cover(family: Family) -> Covered:
    """Fuse a family in fp32 and in bf16, and compare its outputs with stock's."""
    import torch

    from .family_pipeline import model_of, pipeline_of

    pipe = pipeline_of(family)
    model = model_of(pipe)
    truth, before = _outputs(pipe, family, torch.float32), _classes(model)
    sdaccel.accelerate(pipe, "none", fuse=True)
    found, after = _outputs(pipe, family, torch.float32), _classes(model)
    record = sdaccel.report(pipe)["fuse"]
    sdaccel.restore(pipe)
    back = _outputs(pipe, family, torch.float32)
    attentions = _attentions(pipe, family) if "attention" in NAMES else None
    spared = (re.search(r"spares (\d+)", note) for note in record.notes)
    return Covered(
        family=family,
        modules=len(before),
        matched=sum(one != other for one, other in zip(before, after, strict=True)),
        fused=record.changed,
        spared=sum(int(each[1]) for each in spared if each),
        ran=_ran(record.ran, len(truth)),
        by={by for _, by in map(_op_and_by, record.ran) if by},
        error=max(map(relative_error, found, truth)),
        ratio=_ratio(pipe, family, truth),
        restored=all(map(torch.equal, back, truth)),
        attentions=attentions,
        reason="" if record.applied else record.refused[family.part],
    )


def _outputs(pipe: FamilyPipeline, family: Family, dtype: torch.dtype) -> list[torch.Tensor]:
    return [pipe(**family.draw(size, seed, dtype)) for size in SIZES for seed in SEEDS]


def _classes(model: torch.nn.Module) -> list[tuple[type, type]]:
    return [(type(each), type(getattr(each, "processor", None))) for each in model.modules()]


def _ran(ran: Counter[str], forwards: int) -> dict[str, float]:
    """How often each op ran in a forward, whoever computed it; where none did, what else ran."""
    counts = Counter[str]()
    for key, count in ran.items():
        op, by = _op_and_by(key)
        if by:
            counts[op] += count
    return {key: count / forwards for key, count in sorted((counts or ran).items())}


def _op_and_by(label: str) -> tuple[str, str]:
    """A label of the report as an op and who computed it; ("", "") where it tells of no op."""
    from sdaccel.kernels.operator import operators

    op, _, by = label.partition(" by ")
    return (op, by) if op in operators() else ("", "")


def _ratio(pipe: FamilyPipeline, family: Family, truth: Sequence[torch.Tensor]) -> float:
    """How much further from the truth than stock fused bf16 is, in the worst case."""
    import torch

    from .family_pipeline import model_of

    cast(model_of(pipe), torch.bfloat16)
    stock = _outputs(pipe, family, torch.bfloat16)
    sdaccel.accelerate(pipe, "none", fuse=True)
    found = _outputs(pipe, family, torch.bfloat16)
    sdaccel.restore(pipe)
    return max(
        relative_error(one, real) / relative_error(other, real)
        for one, other, real in zip(found, stock, truth, strict=True)
    )


def _attentions(pipe: FamilyPipeline, family: Family) -> tuple[float, float]:
    """Calls of attention in a forward: those that the attention pass routed, and stock's."""
    import torch

    from .attention_calls import AttentionCalls

    with AttentionCalls() as stock:
        forwards = len(_outputs(pipe, family, torch.float32))
    sdaccel.accelerate(pipe, "none", attention={"measure": False})
    _outputs(pipe, family, torch.float32)
    ran = sdaccel.report(pipe)["attention"].ran
    sdaccel.restore(pipe)
    return sum(ran.values()) / forwards, stock.count / forwards


def markdown(rows: Iterable[Covered]) -> str:
    """The table, one row a family, below the versions it was made with and who computed the ops."""
    rows = list(rows)
    versions = provenance.versions()
    told = ", ".join(f"{name} {versions[name]}" for name in ("diffusers", "torch"))
    by = ", ".join(sorted(set().union(*(row.by for row in rows))))
    return markdown_table(f"{told}; ops by {by or 'nobody'}", HEADS, map(_cells, rows))


def _cells(row: Covered) -> list[str]:
    wrong = "" if row.restored else ", not restored"
    judged = [
        f"{row.error:.0e}{wrong if row.error <= EXACT_ERROR else ': not exact'}",
        f"{row.ratio:.2f}{'' if row.ratio <= EXACT_RATIO else ': not exact'}",
    ]
    return [
        row.family.name,
        f"`{row.family.model}`",
        f"{row.matched} of {row.modules}",
        f"left as it is: {row.reason}" if row.reason else _counts(row.fused),
        str(row.spared),
        _counts(row.ran) or "none",
        *judged,
        "{:g} of {:g}".format(*row.attentions) if row.attentions else "",
    ]


def _counts(counts: Any) -> str:
    return ", ".join(f"{count:g} {what}" for what, count in sorted(counts.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: every family is exact; 1: one is not."""
    import torch
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m sdaccel.benchmarks coverage")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="all, where none is named")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args(arguments)
    # threads that wait for each other cost more than tensors so small
    torch.set_num_threads(1)
    rows = []
    with Console(stderr=True).status("") as status:
        for family in families(options.families):
            status.update(family.name)
            rows.append(cover(family))
    table = markdown(rows)
    print(table, end="")
    if options.output:
        options.output.write_text(table, encoding="utf-8")
    return 0 if all(row.exact for row in rows) else 1
