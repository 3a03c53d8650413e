"""sdaccel doctor: tell what this machine can do, what is missing, and which passes would apply."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from . import inventory, models

if TYPE_CHECKING:
    from ..device import Device
    from ..report import PassRecord
    from .terminal import Terminal


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached just now: TFLOP/s of a matmul by dtype, GB/s of a copy.

    `load` is the number of processes that wanted a core over the last minute before, None where
    the system doesn't say.
    """

    matmul: dict[str, float]
    copy: float
    threads: int
    load: float | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel doctor` takes."""
    parser.add_argument(
        "--model",
        default=models.DEFAULT,
        metavar="M",
        help="which passes to ask about (shapes-unet)",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Look, measure, ask every pass, and print what was found."""
    from .. import device as devices
    from .passes_asked import ask_every_pass

    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = models.load(options.model)
    machine = devices.describe(None)
    with terminal.step("measuring this machine", spinner=False):
        ceilings = _measure()
    with terminal.step("asking every pass"):
        records = ask_every_pass(pipe)
    _print(terminal, machine, ceilings, f"{options.model}, a {type(pipe).__name__}", records)
    return {
        "machine": machine.to_dict(),
        "data_sheet": _data_sheet(machine),
        "measured": asdict(ceilings),
        "versions": inventory.versions(),
        "compiler": inventory.compiler(),
        "extras": [each.to_dict() for each in inventory.extras()],
        "model": options.model,
        "pipeline": type(pipe).__name__,
        "passes": [record.to_dict() for record in records],
    }


def _measure() -> Ceilings:
    import torch
    from tqdm import tqdm

    from .. import device as devices

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tqdm(total=len(models.DTYPES) + 1, desc="measuring", leave=False) as bar:
        matmul = {}
        for name in models.DTYPES:
            matmul[name] = devices.matmul_ceiling(None, getattr(torch, name)) / 1e12
            bar.update()
        copy = devices.copy_ceiling(None) / 1e9
    return Ceilings(matmul, copy, torch.get_num_threads(), load)


def _data_sheet(machine: Device) -> dict[str, Any] | None:
    """The vendor's figures for the GPU at hand, where the table has them."""
    from ..known_gpus import known_gpu

    sheet = known_gpu(machine.name) if machine.kind in ("cuda", "rocm") else None
    return asdict(sheet) if sheet else None


def _print(
    terminal: Terminal,
    machine: Device,
    ceilings: Ceilings,
    model: str,
    records: list[PassRecord],
) -> None:
    from rich.table import Table

    facts = Table(show_header=False, title="this machine", title_justify="left")
    for name, value in (*_machine_facts(machine, ceilings), *_installation_facts()):
        facts.add_row(name, value)
    terminal.say(facts)
    passes = Table(title=f"passes on {model}", title_justify="left")
    for column in ("pass", "would apply", "effect", "why not, or what it changes"):
        passes.add_column(column)
    for record in records:
        passes.add_row(
            record.name, "yes" if record.applied else "no", record.effect, _reason(record)
        )
    terminal.say(passes)


def _machine_facts(machine: Device, ceilings: Ceilings) -> list[tuple[str, str]]:
    gigabyte = 1e9
    matmul = ", ".join(f"{name} {rate:.2g}" for name, rate in ceilings.matmul.items())
    sheet = _data_sheet(machine)
    facts = [
        ("device", f"{machine.kind}: {machine.name} {machine.architecture}".strip()),
        ("instruction sets", ", ".join(machine.instruction_sets) or "none of interest"),
        ("cores", f"{machine.cores}, torch uses {ceilings.threads}"),
        (
            "memory",
            f"{machine.memory_total / gigabyte:.1f} GB, "
            f"{machine.memory_available / gigabyte:.1f} GB available",
        ),
        ("fast dtypes", ", ".join(machine.fast_dtypes)),
        ("matmul, measured", f"{matmul} TFLOP/s"),
        ("copy, measured", f"{ceilings.copy:.3g} GB/s read and written"),
    ]
    if ceilings.load is not None and ceilings.load > machine.cores:
        busy = (
            f"{ceilings.load:.0f} processes wanted {machine.cores} cores: measured figures are low"
        )
        facts.append(("busy", busy))
    if sheet:
        facts.append(("data sheet", f"{sheet['bf16']} TFLOP/s bf16, {sheet['bandwidth']} GB/s"))
    return facts


def _installation_facts() -> list[tuple[str, str]]:
    versions = (f"{name} {version or 'missing'}" for name, version in inventory.versions().items())
    compiler = inventory.compiler() or (
        "none: torch.compile on a CPU needs one, such as g++ (apt install g++)"
    )
    extras = [
        f"{each.name}: "
        + (f"{each.advice}, for {', '.join(each.missing)}" if each.advice else "here")
        for each in inventory.extras()
    ]
    return [
        ("versions", ", ".join(versions)),
        ("C++ compiler", compiler),
        (
            "extras",
            "\n".join(extras) or "unknown: this checkout is not installed (pip install -e .)",
        ),
    ]


def _reason(record: PassRecord) -> str:
    changed = ", ".join(f"{count:,} {what}" for what, count in record.changed.items())
    lines = [changed] if changed else []
    lines += [
        reason if name == "pipe" else f"{name}: {reason}" for name, reason in record.refused.items()
    ]
    return "\n".join(lines) or "nothing to do in this model"
