"""How the report says a row's figures: short labels, durations, rates and what a row is."""

from __future__ import annotations

import re

from ..rows import Row

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int8": "int8"}

STOCK, CONTROL, PEER = "stock", "fewer steps", "others"
PLAN, LOSES = "sdaccel", "sdaccel, slower"
ROLES = (STOCK, CONTROL, PEER, PLAN, LOSES)
"""What a bar or a point stands for, in the legend's order."""

_OURS = ("plan", "kernel")


def dtype(row: Row) -> str:
    """The row's dtype in four letters."""
    return _DTYPES.get(row.dtype, row.dtype)


def label(row: Row) -> str:
    """A rung and its dtype: "fast · bf16"."""
    return f"{row.rung} · {dtype(row)}"


_CONTROL = re.compile(r"fewer-steps-(\d+)(?:-(dpm\+\+|unipc))?(-fp32)?")
_SAMPLERS = {None: "steps", "dpm++": "DPM++", "unipc": "UniPC"}


def short(row: Row) -> str:
    """A rung's name where there is little room: "interval 2", "12 steps", "12 DPM++ fp32"."""
    options = re.findall(r"\[([^\]]*)\]", row.rung)
    if options:
        return ", ".join(options).replace("=", " ")
    control = _CONTROL.fullmatch(row.rung)
    if control is None:
        return row.rung
    return f"{control[1]} {_SAMPLERS[control[2]]}{_in_fp32(control[3])}"


def family(row: Row) -> str:
    """What a rung is one setting of: "DPM++" of "fewer-steps-12-dpm++", "deepcache"."""
    control = _CONTROL.fullmatch(row.rung)
    if control is not None:
        name = "fewer steps" if control[2] is None else _SAMPLERS[control[2]]
        return name + _in_fp32(control[3])
    setting = re.fullmatch(r"(.*)-\d+(?:\.\d+)?(-fp32)?", row.rung)
    return row.rung if setting is None else setting[1] + _in_fp32(setting[2])


def _in_fp32(suffix: str | None) -> str:
    return " fp32" if suffix else ""


def role(row: Row) -> str:
    """Whose rung it is, and whether it is one of ours that is slower than stock beyond noise."""
    if row.kind in _OURS:
        surely_slower = row.speedup_high is not None and row.speedup_high < 1
        return LOSES if surely_slower else PLAN
    return {"stock": STOCK, "control": CONTROL}.get(row.kind, PEER)


def seconds(value: float | None) -> str:
    """A duration with three digits: "213 ms", "3.40 s"."""
    if value is None:
        return ""
    if value >= 999.5:
        return f"{value:.0f} s"
    unit, factor = next((each for each in _UNITS if value * each[1] >= 0.9995), _UNITS[-1])
    return f"{value * factor:#.3g}".removesuffix(".") + f" {unit}"


_UNITS = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))


def memory(value: float | None) -> str:
    """Bytes as GB (10^9), as the README has them."""
    return "" if value is None else f"{value / 1e9:.2f} GB"


def flops_rate(value: float | None) -> str:
    """FLOP/s in GFLOP/s or TFLOP/s."""
    if value is None:
        return ""
    return f"{value / 1e12:.2f} TFLOP/s" if value >= 1e11 else f"{value / 1e9:.3g} GFLOP/s"


def copy_rate(value: float | None) -> str:
    """Bytes a second in GB/s or TB/s."""
    if value is None:
        return ""
    return f"{value / 1e12:.2f} TB/s" if value >= 1e12 else f"{value / 1e9:.0f} GB/s"


def factor(value: float | None) -> str:
    """A speed-up: "3.31x"."""
    return "" if value is None else f"{value:.2f}x"


def quality(row: Row) -> str:
    """PSNR and prompt fidelity: "52 dB, fidelity 75%"."""
    found = []
    if row.quality.get("psnr") is not None:
        found.append(f"{row.quality['psnr']:.0f} dB")
    if row.quality.get("fidelity") is not None:
        prompts = row.quality.get("prompts")
        of = f" of {prompts:.0f}" if prompts else ""
        found.append(f"fidelity {row.quality['fidelity']:.0%}{of}")
    return ", ".join(found)


def trouble(row: Row) -> str:
    """Why there is no figure, in a sentence; empty where there is one."""
    if row.status == "ok":
        return ""
    return f"{row.status}: {row.reason}" if row.reason else row.status
