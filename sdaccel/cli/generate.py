"""sdaccel generate: draw a picture from a prompt, accelerated, beside stock if you like."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..accelerate import accelerate
from ..accelerate import report as report_on
from ..plan import Plan
from . import comparison, models, pictures
from .drawing import draw
from .request import Request, parse_size
from .terminal import Terminal

if TYPE_CHECKING:
    from PIL.Image import Image

    from .comparison import Comparison


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `sdaccel generate` takes."""
    models.add_options(parser, plan="lossless")
    parser.add_argument("prompt", metavar="PROMPT", help="what to draw")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what to stay away from")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (25)")
    parser.add_argument("--guidance-scale", type=float, metavar="X", help="the model's own default")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which noise (0)")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="in pixels: 512 or 768x512")
    parser.add_argument(
        "--num-images", type=int, default=1, metavar="N", help="with seeds counting up"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to write (sdaccel.png)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="draw with stock diffusers too, side by side"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="how often --compare draws (3, or fewer in 30 s)"
    )


def run(options: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Draw, save, and say where the pictures are and what was done."""
    request = _request(options)
    output = options.output or Path("sdaccel-compare.png" if options.compare else "sdaccel.png")
    pictures.check_output(output)
    plan = Plan.of(options.plan)
    rounds = comparison.check_rounds(options.rounds)
    with terminal.step(f"loading {options.model}", spinner=False):
        pipe = models.load(options.model, options.dtype)
    request = replace(request, defaults=models.call_defaults(options.model))
    request.arguments(pipe)
    if options.compare:
        with terminal.step(f"loading {options.model} again, to stay stock", spinner=False):
            stock = models.load(options.model, options.dtype)
        result = comparison.compare(stock, pipe, request, plan, rounds, options.strict, terminal)
        return _show_comparison(result, output, options.model, request, terminal)
    with terminal.step(f"accelerating with plan {plan}"):
        accelerate(pipe, plan, strict=options.strict)
    images, seconds = draw(pipe, request, "drawing")
    return _show(pipe, images, seconds, output, options.model, request, terminal)


def _request(options: argparse.Namespace) -> Request:
    return Request(
        prompt=options.prompt,
        steps=options.steps,
        seed=options.seed,
        num_images=options.num_images,
        guidance_scale=options.guidance_scale,
        negative_prompt=options.negative_prompt,
        size=options.size,
    )


def _show(
    pipe: Any,
    images: list[Image],
    seconds: float,
    output: Path,
    model: str,
    request: Request,
    terminal: Terminal,
) -> dict[str, Any]:
    paths = pictures.save(images, output)
    report = report_on(pipe)
    terminal.say(report, f"drawn in {seconds:.2f} s, compiling included", *map(str, paths))
    return {
        "model": model,
        "request": request.to_dict(),
        "pictures": [str(path) for path in paths],
        "seconds": round(seconds, 4),
        "report": report.to_dict(),
    }


def _show_comparison(
    result: Comparison, output: Path, model: str, request: Request, terminal: Terminal
) -> dict[str, Any]:
    from .sheet import compose

    heading = f'"{request.prompt}"\n{model}, {request.step_count} steps, seed {request.seed}'
    compose(result.rows(), heading).save(output)
    terminal.say(result.report, *result.sentences(), str(output.resolve()))
    return {
        "model": model,
        "request": request.to_dict(),
        "pictures": [str(output.resolve())],
        **result.to_dict(),
        "report": result.report.to_dict(),
    }
