"""save and load: what was compiled, measured and chosen for a pipe, for the next process.

A saved folder serves one set of versions and one chip, and the pipe it was made with; anywhere else
`load` refuses before it touches anything. What was compiled is torch's own cache: it holds code
that torch runs, so load only folders that you would run a program from.

What that spares depends on what torch keeps. For a GPU it is generated code and compiled kernels;
Dynamo's tracing remains. For a CPU it is generated code alone: the C++ compiler runs again where
torch's cache folder is a new one. A UNet of three small blocks took 18.3 s of CPU time at its first
call, and 15.6 s after `load` into an empty cache folder (one core of a busy AMD EPYC, torch 2.13).
Weights that are frozen into code, as `compile` does it on a CPU unless it is told `freeze=False`,
are never kept: there a second start spares the measuring of attention alone.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .accelerate import accelerate, plan_of, report
from .compiled_artefacts import compiled_here, restore_compiled
from .device import describe
from .errors import PlanError, SavedError, SdaccelWarning
from .plan import Plan
from .saved_folder import read_folder, write_folder
from .target import Target

Pipe = TypeVar("Pipe")
_COMPILED, _CHOICES, _CALIBRATIONS = "compiled.bin", "attention", "step_cache"
_PACKAGES = ("sdaccel", "torch", "triton", "diffusers")


@dataclass(frozen=True)
class Saved:
    """What `save` has put into a folder: a line for each kind of thing."""

    folder: Path
    contents: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"saved in {self.folder}:", *(f"  {line}" for line in self.contents)])


def save(pipe: object, folder: str | Path) -> Saved:
    """Keep what an accelerated pipe has compiled and measured so far in a folder.

    Draw a picture of each size before: what was never called is not compiled yet. A folder saved
    before is replaced as a whole. Raises `SavedError` for a pipe that is not accelerated, a plan
    that can't be written down, and a folder that can't be written; nothing is left there then.
    """
    plan = plan_of(pipe)
    if plan is None:
        raise SavedError("This pipe is not accelerated: call accelerate(pipe), and draw, before.")
    target = Target.of(pipe)
    files = {**_compiled(), **_measured(target, plan)}
    about = {"identity": _identity(target), "plan": plan.to_dict()}
    try:
        json.dumps(about)
    except TypeError as error:
        raise SavedError(f"The plan {plan} can't be saved: {error}.") from error
    path = Path(folder)
    write_folder(path, about, files)
    return Saved(path, tuple(_told(files)))


def load(
    pipe: Pipe,
    folder: str | Path,
    *,
    strict: bool = False,
    **overrides: bool | Mapping[str, Any],
) -> Pipe:
    """Accelerate a pipe by the plan that was saved in a folder, with what is there at hand.

    `strict` and the overrides are those of `accelerate`. Raises `SavedError` where the folder is
    damaged, or was saved with other versions, on another chip or for another pipe; then nothing has
    changed. What was measured here meanwhile counts for more than what was saved.
    """
    path = Path(folder)
    about, files = read_folder(path)
    try:
        identity, plan = dict(about["identity"]), Plan.from_dict(about["plan"])
    except (KeyError, TypeError, ValueError, PlanError) as error:
        raise SavedError(f"{path} is damaged: save it anew.") from error
    target = Target.of(pipe)
    _check_same(path, identity, _identity(target))
    plan = plan.override(**overrides)
    artefacts = _restore_compiled(path, files)
    _restore_measured(target, plan, files)
    accelerate(pipe, plan, strict=strict)
    if artefacts and "compile" in plan:
        report(pipe)["compile"].note(f"{artefacts} compiled artefacts were loaded from {path}")
    return pipe


def _identity(target: Target) -> dict[str, str]:
    """What saved things depend on, in words that a refusal can use."""
    import torch

    from .passes.attention import version_of_package
    from .passes.calibration import named

    versions = {f"{name}'s version": str(version_of_package(name)) for name in _PACKAGES}
    models = [f"{each.name}: {named(each.module)}" for each in target.denoisers]
    return {
        **versions,
        "Python's version": "{}.{}".format(*sys.version_info),
        "CUDA's version": str(torch.version.cuda or torch.version.hip),
        "chip": f"{describe(target.device).name}, {torch.backends.cpu.get_cpu_capability()}",
        "pipe": ", ".join([type(target.pipe).__name__, *models]),
    }


def _check_same(folder: Path, saved: Mapping[str, Any], here: Mapping[str, str]) -> None:
    for name, value in here.items():
        if saved.get(name) != value:
            raise SavedError(
                f"{folder} was saved for another {name} ({saved.get(name)}, and here it is "
                f"{value}): accelerate the pipe and save it anew."
            )


def _compiled() -> dict[str, bytes]:
    found = compiled_here()
    return {} if found is None else {_COMPILED: found}


def _measured(target: Target, plan: Plan) -> dict[str, bytes]:
    """The files with attention's verdicts and the calibrations for this pipe."""
    from .passes.attention import Attention

    paths: list[tuple[str, Path]] = []
    for each in plan.passes:
        if isinstance(each, Attention):
            paths.append((_CHOICES, each.choices(target.device, str).path))
        paths += [(_CALIBRATIONS, path) for path, _ in each.calibrations(target)]
    return {f"{kind}/{path.name}": path.read_bytes() for kind, path in paths if path.is_file()}


def _restore_compiled(folder: Path, files: Mapping[str, bytes]) -> int:
    """Hand torch its artefacts; returns how many."""
    if _COMPILED not in files:
        return 0
    found = restore_compiled(files[_COMPILED])
    if found is None:
        raise SavedError(f"torch can't read {folder / _COMPILED}: save it anew.")
    return found


def _restore_measured(target: Target, plan: Plan, files: Mapping[str, bytes]) -> None:
    """Add what was saved to what was measured here."""
    from .passes.attention import Attention

    for each in plan.passes:
        if isinstance(each, Attention):
            choices = each.choices(target.device, _warn)
            saved = files.get(f"{_CHOICES}/{choices.path.name}")
            if saved is not None:
                choices.adopt(saved)
            elif any(name.startswith(_CHOICES) for name in files):
                _warn(
                    "attention's choices were measured with other threads or candidates: they are "
                    "measured anew"
                )
        for path, identity in each.calibrations(target):
            measured = files.get(f"{_CALIBRATIONS}/{path.name}")
            if measured is not None:
                _adopt_calibration(path, identity, measured)


def _adopt_calibration(path: Path, identity: Mapping[str, Any], saved: bytes) -> None:
    """Add a saved calibration to the one that is here, whose own tables stay."""
    from .passes.calibration import Calibration

    try:
        found = Calibration.parsed(saved.decode(), path, identity)
    except ValueError as error:
        _warn(str(error))
        return
    with suppress(ValueError):  # where there is none here, or none of use
        found = found.under(Calibration.read(path, identity))
    try:
        found.write(path)
    except OSError as error:
        _warn(f"the calibration {path} can't be written ({error.strerror})")


def _told(files: Mapping[str, bytes]) -> list[str]:
    lines = [f"{name}: {len(content):,} bytes" for name, content in files.items()]
    if _COMPILED not in files:
        lines.insert(0, "nothing compiled: torch keeps no code that weights are frozen into")
    return lines


def _warn(sentence: str) -> None:
    warnings.warn(f"{sentence[0].upper()}{sentence[1:]}.", SdaccelWarning, stacklevel=4)
