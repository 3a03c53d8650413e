"""`python -m sdaccel.benchmarks.kernels`: every kernel at real sizes, against all who do the same.

    python -m sdaccel.benchmarks.kernels --op attention --model SD1.5 FLUX
    python -m sdaccel.benchmarks.kernels --quick --variant     # tiny; our kernels and stock alone
    python -m sdaccel.benchmarks.kernels --show FILE [--markdown]

Each variant is held against the truth in fp32 first, and a wrong one is not timed; those that are
right are timed in turns, in one process, over copies of their inputs that no cache holds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdaccel.errors import SdaccelError

from . import provenance
from .kernel_rows import KERNEL, NAME, KernelResults

if TYPE_CHECKING:
    import torch

    from .kernel_bench import Options

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
DTYPES = ("float16", "bfloat16", "float32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: our kernels are right where they ran; 1: one is not, or failed; 2: bad input."""
    options = _parser().parse_args(arguments)
    try:
        if options.show:
            show(options.show, options.markdown)
            return 0
        return _run(options)
    except SdaccelError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("Interrupted; the rows so far are kept.", file=sys.stderr)
        return INTERRUPTED


def _run(asked: argparse.Namespace) -> int:
    from rich.console import Console

    from .kernel_bench import Bench
    from .kernel_cases import chosen
    from .kernel_tables import table

    cases = list(chosen(asked.op, asked.model))
    options = _options(asked)
    path, results = _empty(asked.output, asked.quick, options.device)
    console = Console()
    with console.status("kernels") as status:
        for number, (family, case) in enumerate(cases, 1):
            label = f"{number}/{len(cases)} {family.op}, {case.model}: {case.what}"

            def tell(text: str, label: str = label) -> None:
                status.update(f"{label}: {text}")

            results.rows.extend(Bench(family, case, options, tell).run())
            results.write(path)
    console.print(table(results))
    console.print(str(path), style="dim", highlight=False, soft_wrap=True)
    ours = [row for row in results.rows if row.kind == KERNEL]
    return FAILED if any(row.status in ("wrong", "failed") for row in ours) else 0


def _options(asked: argparse.Namespace) -> Options:
    """Where and in what to measure: on the GPU where there is one, in the faster 16-bit type."""
    import torch

    from sdaccel import device

    from .kernel_bench import Options

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = getattr(torch, asked.dtype) if asked.dtype else device.faster_dtype(where).dtype
    variants = None if asked.variant is None else tuple(asked.variant)
    return Options(where, chosen, asked.repeats, variants, asked.quick)


def _empty(folder: Path, quick: bool, where: torch.device) -> tuple[Path, KernelResults]:
    """The results of a run that begins now, and the file for them."""
    now, machine = provenance.now(), provenance.machine(where)
    name = f"{now:%Y-%m-%d-%H%M%S}-{NAME}{'-quick' if quick else ''}.json"
    date, command = now.isoformat(timespec="seconds"), provenance.command(f"{__package__}.{NAME}")
    versions, commit = provenance.versions(), provenance.commit()
    results = KernelResults(NAME, date, command, machine, versions, commit)
    return folder / machine["slug"] / name, results


def show(files: Sequence[Path], as_markdown: bool) -> None:
    """Print what was measured before, for a terminal or as Markdown."""
    from rich.console import Console

    from .kernel_tables import markdown, table

    for path in files:
        results = KernelResults.read(path)
        shown: Any = markdown(results) if as_markdown else table(results)
        if as_markdown:
            print(shown, end="\n\n")
        else:
            Console().print(shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.{NAME}",
        description="Time every kernel at the sizes of real models, in turns with diffusers' own "
        "lines, with these compiled, and with the kernels of torch and others.",
    )
    add = parser.add_argument
    add("--op", nargs="+", metavar="NAME", help="these ops alone")
    add("--model", nargs="+", metavar="NAME", help="these models alone: SD1.5, SDXL, FLUX, ...")
    add("--dtype", choices=DTYPES, help="default: the 16-bit type that the machine has units for")
    add("--variant", nargs="*", metavar="NAME", help="these rivals alone: inductor, ...")
    add("--repeats", type=int, default=10, metavar="N", help="timed samples a variant (10)")
    add("--quick", action="store_true", help="tiny sizes, labelled as such")
    add("--output", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    add("--show", nargs="+", type=Path, metavar="FILE", help="print what was measured before")
    add("--markdown", action="store_true", help="as a table for a README")
    return parser


if __name__ == "__main__":
    sys.exit(main())
