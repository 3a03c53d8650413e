"""sdaccel generate: draw a picture or a clip, accelerated, beside stock if you like."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..accelerate import accelerate
from ..accelerate import report as report_on
from ..pipelines.loading import with_sessions
from ..plan import Plan
from . import comparison, models, pictures
from .drawing import draw
from .limits import frames_argument
from .request import Request, parse_size
from .terminal import Terminal

if TYPE_CHECKING:
    from ..report import Report
    from .drawing import Drawing


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel generate` takes."""
    models.add_options(parser, plan="lossless")
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what to stay away from")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps (an embedded model's own, else 25)"
    )
    parser.add_argument("--guidance-scale", type=float, metavar="X", help="the model's own default")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which noise (0)")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="in pixels: 512 or 768x512")
    parser.add_argument(
        "--num-frames", type=int, metavar="N", help="of a clip; the model's own default"
    )
    parser.add_argument(
        "--fps", type=float, metavar="N", help="a clip's frames a second (the model's own, else 16)"
    )
    parser.add_argument(
        "--num-images", type=int, default=1, metavar="N", help="or clips, with seeds counting up"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write (sdaccel.png, sdaccel.mp4); a clip may be a .gif",
    )
    parser.add_argument(
        "--compare", action="store_true", help="draw with stock diffusers too, side by side"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="how often --compare draws (3, or fewer in 30 s)"
    )


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Draw, save, and say where the drawings are and what was done."""
    request = _request(options)
    pictures.check_output(_output(options, None))
    plan = with_sessions(Plan.of(options.plan), options.model)
    comparison.check_rounds(options.rounds)
    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = models.load(options.model, options.dtype)
    request = replace(request, defaults=models.call_defaults(options.model))
    fps = request.frame_rate(pipe) if frames_argument(pipe) else None
    output = _output(options, fps)
    pictures.check_kind(output, fps, options.model)
    request.arguments(pipe)
    drawn = _compare if options.compare else _draw
    drawings, report, words, found = drawn(pipe, request, plan, options, terminal)
    paths = [str(path) for path in pictures.save(drawings, output, fps)]
    terminal.say(report, *words, *paths)
    return {
        "model": options.model,
        "request": request.to_dict(),
        **({"pictures": paths} if fps is None else {"clips": paths, "fps": fps}),
        **found,
        "report": report.to_dict(),
    }


Drawn: TypeAlias = "tuple[list[Drawing], Report, list[str], dict[str, Any]]"
"""What is to be saved, the report, sentences for a reader, and plain values for JSON."""


def _draw(
    pipe: Any, request: Request, plan: Plan, options: argparse.Namespace, terminal: Terminal
) -> Drawn:
    with terminal.step(f"accelerating with plan {plan}"):
        accelerate(pipe, plan, strict=options.strict)
    drawings, seconds = draw(pipe, request, "drawing")
    words = [f"drawn in {seconds:.2f} s, compiling included"]
    return drawings, report_on(pipe), words, {"seconds": round(seconds, 4)}


def _compare(
    pipe: Any, request: Request, plan: Plan, options: argparse.Namespace, terminal: Terminal
) -> Drawn:
    from . import clips, sheet

    with terminal.step(f"loading {options.model} again, to stay stock", spinner=False):
        stock = models.load(options.model, options.dtype)
    result = comparison.compare(
        stock, pipe, request, plan, options.rounds, options.strict, terminal
    )
    heading = (
        f'"{request.prompt}"\n{options.model}, {request.step_count} steps, seed {request.seed}'
    )
    compose = clips.compose if frames_argument(pipe) else sheet.compose
    both = compose(result.rows(), heading)
    return [both], result.report, result.sentences(), result.to_dict()


def _request(options: argparse.Namespace) -> Request:
    return Request(
        prompt=options.prompt,
        steps=options.steps,
        seed=options.seed,
        num_images=options.num_images,
        guidance_scale=options.guidance_scale,
        negative_prompt=options.negative_prompt,
        size=options.size,
        num_frames=options.num_frames,
        fps=options.fps,
    )


def _output(options: argparse.Namespace, fps: float | None) -> Path:
    """The path asked for, or a name that follows what the model makes."""
    name = "sdaccel-compare" if options.compare else "sdaccel"
    path: Path | None = options.output
    return path or Path(f"{name}{'.png' if fps is None else '.mp4'}")
