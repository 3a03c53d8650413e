"""Every kernel compiled ahead of time for every chip, and what its binary needs; takes no GPU.

    python -m sdaccel.kernels.ahead                  # one configuration a kernel, as a table
    python -m sdaccel.kernels.ahead --kernel attention --chip sm_90

Registers and spills are read from the binary: with Triton's own `cuobjdump` for NVIDIA, from the
assembly's notes for AMD. A spill, more shared memory than the chip has, or a kernel of matrix
products without the chip's own instruction for them is a failure.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .language import triton
from .operator import Config, Launch, UnsupportedError, recorded

FILES = (
    "norm_modulate",
    "gated_residual_norm",
    "qk_norm_rope",
    "gated_activation",
    "group_norm_silu",
    "attention_int8",
    "gated_residual",
    "timestep_embedding",
    "linear",
    "attention",
    "attention_sparse",
    "linear_step",
)
"""The kernel files."""

MATRIX_FILES = ("attention", "attention_sparse", "linear")
"""Those that multiply matrices: each binary has to show its chip's own instruction for it."""


@dataclass(frozen=True)
class Chip:
    """A chip by its architecture, and the shared memory that one program may have, in bytes.

    `matrix` is what multiplies matrices there, by its name in `Binary.instructions`.
    """

    name: str
    backend: str
    architecture: int | str
    warp: int
    shared_memory: int
    matrix: str = "mma"


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 80, 32, 163 << 10),
        Chip("sm_86", "cuda", 86, 32, 99 << 10),
        Chip("sm_89", "cuda", 89, 32, 99 << 10),
        Chip("sm_90", "cuda", 90, 32, 227 << 10, "wgmma"),
        Chip("sm_100", "cuda", 100, 32, 227 << 10, "tcgen05"),
        Chip("sm_120", "cuda", 120, 32, 99 << 10),
        Chip("gfx942", "hip", "gfx942", 64, 64 << 10),
    )
}
"""CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; AMD CDNA3 ISA."""


@dataclass(frozen=True)
class Binary:
    """What one compiled kernel needs: registers a thread, bytes of spills a thread, shared bytes.

    `instructions` counts those that show how it works: matrix products by the unit that takes them
    ("tcgen05", "wgmma", "mma"), which of these are 8-bit, and wide loads.
    """

    registers: int
    spills: int
    shared: int
    instructions: Mapping[str, int]


def specimens(file: str) -> list[tuple[str, Launch]]:
    """The launches that a kernel file asks to be compiled, by the name of what they serve."""
    module = import_module(f"{__package__}.{file}")
    found: list[tuple[str, Launch]] = []
    with recorded() as launches:
        for name in module.ahead_of_time():
            found += [(name, each) for each in launches]
            launches.clear()
    return found


def is_fit(launch: Launch, chip: Chip) -> bool:
    """Whether a chip takes a launch and has its types.

    Of fp8, e4m3 begins with sm_89, and AMD has its own.
    """
    try:
        launch.config_for(chip.name)
    except UnsupportedError:
        return False
    types = {each.dtype for each in launch.arguments.values() if isinstance(each, torch.Tensor)}
    return torch.float8_e4m3fn not in types or (
        isinstance(chip.architecture, int) and chip.architecture >= 89
    )


def build(launch: Launch, chip: Chip) -> Binary:
    """Compile one launch for one chip; raises what Triton raises."""
    from triton.backends.compiler import GPUTarget

    target = GPUTarget(chip.backend, chip.architecture, chip.warp)
    config = launch.config_for(chip.name)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    kernel = triton.compile(_source(launch, config), target=target, options=options)
    shared = int(kernel.metadata.shared)
    if chip.backend == "hip":
        return _amd(kernel.asm["amdgcn"], shared)
    return _nvidia(kernel.asm["cubin"], shared)


def _source(launch: Launch, config: Config) -> Any:
    """The kernel with the types and constants of a launch, specialised as Triton itself would."""
    from triton.compiler import ASTSource

    values = {**launch.arguments, **launch.constants, **config.blocks}
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(launch.kernel.arg_names):
        value = values[name]
        if name in config.boxes:
            signature[name] = f"tensordesc<{_TYPES[value.dtype]}{list(config.boxes[name])}>"
            continue
        kind = None if name not in launch.arguments else _kind(value)
        signature[name] = kind or "constexpr"
        if kind is None:
            constants[name] = value
        elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}


def _kind(value: Any) -> str | None:
    """Triton's type of an argument; None for what it compiles in: None, and the integer 1."""
    if isinstance(value, torch.Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    if value is None or value == 1:
        return None
    return "i64" if value >= 1 << 31 else "i32"


def _nvidia(cubin: bytes, shared: int) -> Binary:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _cuobjdump("-res-usage", file.name)
        code = _cuobjdump("-sass", file.name)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z0-9.]+)", code, re.MULTILINE)
    return Binary(
        registers=found["REG"],
        spills=max(found.get("LOCAL", 0), sum(name.startswith(("STL", "LDL")) for name in names)),
        shared=shared,
        instructions={
            "tcgen05": sum(name.startswith("UTC") and "MMA" in name for name in names),
            "wgmma": sum(name.startswith(("HGMMA", "QGMMA", "IGMMA")) for name in names),
            "mma": sum(name.startswith(("HMMA", "QMMA", "IMMA")) for name in names),
            "int8": sum(name.startswith(("IGMMA", "IMMA", "UTCIMMA")) for name in names),
            "fp8": sum(name.startswith(("QGMMA", "QMMA", "UTCQMMA")) for name in names),
            "TMA loads": sum(name.startswith("UTMALDG") for name in names),
            "16-byte loads": sum(name.startswith("LDG") and ".128" in name for name in names),
        },
    )


def _cuobjdump(option: str, path: str) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    done = subprocess.run([tool, option, path], capture_output=True, text=True, check=True)
    return done.stdout


def _amd(assembly: str, shared: int) -> Binary:
    def note(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", assembly)
        return int(found.group(1)) if found else 0

    return Binary(
        registers=note("vgpr_count"),
        spills=note("vgpr_spill_count") + note("sgpr_spill_count"),
        shared=shared,
        instructions={
            "mma": len(re.findall(r"\bv_mfma_", assembly)),
            "int8": len(re.findall(r"\bv_mfma_i32_", assembly)),
            "16-byte loads": len(re.findall(r"\b(?:global|buffer)_load_dwordx4\b", assembly)),
        },
    )


@dataclass(frozen=True)
class Line:
    """One kernel on one chip: its binary, or why it failed."""

    file: str
    case: str
    kernel: str
    chip: str
    binary: Binary | None
    problem: str = ""


def lines(files: Sequence[str], chips: Sequence[str]) -> Iterator[Line]:
    """Compile what these files ask for, on these chips."""
    for file in files:
        for case, launch in specimens(file):
            for chip in (CHIPS[name] for name in chips):
                if is_fit(launch, chip):
                    yield _line(file, case, launch, chip)


def _line(file: str, case: str, launch: Launch, chip: Chip) -> Line:
    place = (file, case, launch.kernel.__name__, chip.name)
    try:
        binary = build(launch, chip)
    except Exception as error:
        return Line(*place, None, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    if binary.spills:
        return Line(*place, binary, f"spills {binary.spills}")
    if binary.shared > chip.shared_memory:
        return Line(*place, binary, f"shared memory {binary.shared} above {chip.shared_memory}")
    if file in MATRIX_FILES and not binary.instructions[chip.matrix]:
        return Line(*place, binary, f"no {chip.matrix}")
    return Line(*place, binary)


def markdown(found: Sequence[Line]) -> str:
    """The lines as a table: a kernel and case a row, a chip a column: registers / shared KiB."""
    chips = [name for name in CHIPS if any(each.chip == name for each in found)]
    rows = dict.fromkeys((each.file, each.case, each.kernel) for each in found)
    cells = {(each.file, each.case, each.kernel, each.chip): _cell(each) for each in found}
    table = [f"| op | case | kernel | {' | '.join(chips)} |", "|---" * (3 + len(chips)) + "|"]
    for file, case, kernel in rows:
        figures = [cells.get((file, case, kernel, chip), "") for chip in chips]
        table.append(f"| {file} | {case} | `{kernel}` | {' | '.join(figures)} |")
    return "\n".join(table)


def _cell(line: Line) -> str:
    if line.binary is None or line.problem:
        return f"**{line.problem}**"
    binary = line.binary
    marks = [f"{count} {name}" for name, count in binary.instructions.items() if count]
    figures = f"{binary.registers} / {binary.shared / 1024:.0f}"
    return f"{figures} ({', '.join(marks)})" if marks else figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all compiled, within the chips' limits and without spills; 1: not so."""
    parser = argparse.ArgumentParser(prog="python -m sdaccel.kernels.ahead")
    parser.add_argument("--kernel", nargs="+", default=list(FILES), choices=FILES)
    parser.add_argument("--chip", nargs="+", default=list(CHIPS), choices=list(CHIPS))
    parser.add_argument("--output", type=Path, help="write the table there too")
    options = parser.parse_args(arguments)
    found = list(lines(options.kernel, options.chip))
    table = f"Triton {triton.__version__}; registers a thread / shared memory in KiB\n\n"
    table += markdown(found) + "\n"
    print(table, end="")
    if options.output:
        options.output.write_text(table, encoding="utf-8")
    problems = [each for each in found if each.problem]
    for each in problems:
        print(f"{each.kernel} ({each.case}) on {each.chip}: {each.problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
