"""sdaccel calibrate: measure which steps of a model may be skipped, for a budget in dB."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from . import models, prompts
from .limits import frames_argument
from .paired_drawing import Task
from .request import Request, parse_size

if TYPE_CHECKING:
    from ..passes.calibration import Calibration
    from ..passes.calibration_tables import KeptRow, KeptTable, Row, Table
    from ..passes.step_cache import StepCache
    from ..planning.calibrate_steps import Draw
    from .terminal import Terminal

_COUNT = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel calibrate` takes."""
    models.add_model_options(parser)
    add = parser.add_argument
    add("--prompts", type=Path, metavar="FILE", help="one a line (an embedded model has its own)")
    add("-n", dest="count", type=int, default=_COUNT, metavar="N", help=f"prompts ({_COUNT})")
    add("--steps", type=int, metavar="N", help="denoising steps (the model's own number, or 25)")
    add("--seed", type=int, default=0, metavar="N", help="of the first picture (0)")
    add("--guidance-scale", type=float, metavar="X", help="the model's own default")
    add("--size", type=parse_size, metavar="WxH", help="in pixels: 512 or 768x512")
    add("--num-frames", type=int, metavar="N", help="of a clip (the model's own number)")
    add("--batch", type=int, metavar="N", help="prompts at once (4; for videos 1)")
    add("--depth", type=int, default=1, metavar="N", help="step_cache's depth (1)")
    add("--first", type=int, default=0, metavar="N", help="step_cache's first (0)")
    add("--last", type=int, default=1, metavar="N", help="step_cache's last (1)")
    add("--guidance-only", action="store_true", help="add what guidance's budget needs to a file")
    add("--sparse-attention", action="store_true", help="what its budget needs, of a video model")
    add("-o", "--output", type=Path, metavar="FILE", help="where to keep it (the user's cache)")


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Draw in full and with schedules of full steps, and keep how far apart they are."""
    from ..passes.calibration import default_path

    if options.batch is not None and options.batch < 1:
        raise InputError(f"batch must be a whole number of at least 1, not {options.batch}.")
    if options.guidance_only and options.sparse_attention:
        raise InputError("Give either --guidance-only or --sparse-attention.")
    settings = _settings(options)
    chosen = prompts.choose(options.model, options.prompts, False, options.count)
    request = _request(options, chosen)
    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = models.load(options.model, options.dtype)
    request = replace(request, defaults=models.call_defaults(options.model))
    task = Task(tuple(chosen), request, options.batch)
    task.check(pipe)
    if options.guidance_only:
        _check_there(pipe, settings, options.output)
    with terminal.step(f"calibrating with {len(chosen)} prompts", spinner=False):
        measured = _measured(pipe, lambda name: task.draw(pipe, name), settings, options)
    path = options.output or default_path(measured.identity)
    kept = _keep(measured, path)
    unit = "clips" if frames_argument(pipe) else "pictures"
    terminal.say(*_sentences(measured, unit), str(path))
    return {"model": options.model, "file": str(path), **_plain(kept)}


def _measured(
    pipe: Any, draw: Draw, settings: StepCache, options: argparse.Namespace
) -> Calibration:
    from ..planning.calibrate_sparse import calibrate_sparse
    from ..planning.calibrate_steps import calibrate

    if options.sparse_attention:
        return calibrate_sparse(pipe, draw)
    return calibrate(pipe, draw, settings, guidance_alone=options.guidance_only)


def _settings(options: argparse.Namespace) -> StepCache:
    """The pass with the options given; raises `InputError` for what it does not take."""
    from ..passes.step_cache import StepCache

    try:
        return StepCache(depth=options.depth, first=options.first, last=options.last)
    except ValueError as error:
        raise InputError(f"{error}.") from error


def _request(options: argparse.Namespace, chosen: list[str]) -> Request:
    return Request(
        prompt=chosen[0],
        steps=options.steps,
        seed=options.seed,
        num_images=len(chosen),
        guidance_scale=options.guidance_scale,
        size=options.size,
        num_frames=options.num_frames,
    )


def _check_there(pipe: Any, settings: StepCache, output: Path | None) -> None:
    """Raise `InputError` where there is no file that what is on guidance can be added to."""
    from ..passes.budget import calibration_files
    from ..passes.calibration import Calibration
    from ..target import Target

    file = None if output is None else str(output)
    for path, identity in calibration_files(Target.of(pipe), settings.cut, file):
        try:
            Calibration.read(path, identity)
        except ValueError as error:
            raise InputError(f"{error}, and without --guidance-only.") from error


def _keep(measured: Calibration, path: Path) -> Calibration:
    """Write what was measured beside what the file has of the same model for other steps."""
    from ..passes.calibration import Calibration

    try:
        before = Calibration.read(path, measured.identity)
    except ValueError:
        before = measured
    merged = before.under(measured)
    try:
        merged.write(path)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror}): choose another -o."
        ) from error
    return merged


def _sentences(measured: Calibration, unit: str) -> list[str]:
    from ..passes.calibration_tables import said

    lines = []
    for table in (*measured.tables, *measured.guidance):
        lines += [f"{said(table.key)}, {table.prompts} {unit}:", *_of_rows(table)]
    for clips in measured.sparse_attention:
        lines += [f"{said(clips.key)}, {clips.prompts} {unit}:", *_of_shares(clips)]
    return lines


def _of_rows(table: Table) -> list[str]:
    return [
        f"  {len(row.full):3} full, skip {row.skip}, forecast {row.forecast} in {row.variable}: "
        f"{_distance(row)}"
        for row in table.rows
    ]


def _of_shares(table: KeptTable) -> list[str]:
    return [
        f"  keep {row.keep:g}, {row.density:.1%} of all blocks: {_distance(row)}"
        for row in table.rows
    ]


def _distance(row: Row | KeptRow) -> str:
    latents = "" if row.latents is None else f", latents {row.latents:.4f} apart"
    return f"PSNR {row.psnr:.1f} dB{latents}"


def _plain(calibration: Calibration) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(calibration)
