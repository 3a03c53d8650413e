"""The training loop that every stage shares: schedule, averages, checkpoints, curve.

All randomness of a step comes from (seed, step, process), so a resumed run goes on bit for bit.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sdaccel.shapes.training import parallel

Losses = dict[str, Tensor]
LossFunction = Callable[[nn.ModuleDict, torch.Generator], Losses]


@dataclass(frozen=True)
class Recipe:
    """How to train one stage; it ends after `steps` steps or `minutes`, whichever is first.

    Minutes are a core's on a CPU, so that neither other work nor a pause shortens a training;
    `save_minutes`, between two checkpoints, are the clock's.
    `batch_size` counts the pictures (or prompts) of a step over all processes. `half` computes the
    matrix products of a step in bf16 on a CPU too, as a GPU always does; `orthogonal` trains the
    matrices of a transformer's blocks with Muon; `compiled` compiles the module that has the
    stage's name, once for each shape of its inputs.
    """

    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 100
    decay_share: float = 0.2
    average: float = 0.999
    clip: float = 1.0
    steps: int | None = None
    minutes: float | None = None
    save_minutes: float = 3.0
    seed: int = 0
    device: str = "cpu"
    half: bool = False
    orthogonal: bool = False
    compiled: bool = False

    @property
    def batch_share(self) -> int:
        """How many pictures of a step this process computes."""
        return max(1, self.batch_size // parallel.world())


class Loop:
    """Trains the modules of a stage; `average` holds their exponential moving average.

    The loss function returns named losses, of which "loss" is minimised.
    """

    def __init__(self, name: str, modules: nn.ModuleDict, recipe: Recipe, folder: Path) -> None:
        if recipe.steps is None and recipe.minutes is None:
            raise ValueError(f"stage {name!r} would never end: give it steps or minutes")
        self.name, self.recipe = name, recipe
        self.checkpoint, self.curve = folder / f"{name}.pt", folder / f"{name}.jsonl"
        self.modules = modules.to(recipe.device)
        if all(weight.ndim < 5 for weight in modules.parameters()):
            self.modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.modules).requires_grad_(False).eval()
        if recipe.compiled:
            self.modules[name].compile(dynamic=False)
        self.optimizers = make_optimizers(self.modules, recipe)
        self.step, self.seconds, self.warm_from = 0, 0.0, 0
        if self.checkpoint.exists():
            self._resume()

    def run(
        self,
        losses: LossFunction,
        evaluate: Callable[[], dict[str, Any]] | None = None,
        evaluate_minutes: float = 1e9,
    ) -> None:
        """Train until the recipe's end; save, and evaluate the average, every so many minutes.

        SIGTERM and SIGINT end it after the step at hand, with a checkpoint.
        """
        saved, evaluated = time.monotonic(), self.seconds
        running: dict[str, float] = {}
        with asked_to_stop() as stop:
            for generator in self._steps(stop):
                found = self._update(losses, generator)
                for key, value in found.items():
                    running[key] = 0.98 * running.get(key, value) + 0.02 * value
                self._progress.set_postfix({key: f"{value:.4f}" for key, value in running.items()})
                if parallel.agree(self.seconds - evaluated > 60 * evaluate_minutes) and evaluate:
                    evaluated = self.seconds
                    self.log({**running, **evaluate()})
                if parallel.agree(time.monotonic() - saved > 60 * self.recipe.save_minutes):
                    saved = time.monotonic()
                    self.log(running)
                    self.save()
            self.save()
            done = not parallel.agree(stop.is_set())
        self.log({**running, **(evaluate() if evaluate and done else {})})

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if parallel.rank():
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "modules": self.modules.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "warm_from": self.warm_from,
        }
        torch.save(state, self.checkpoint.with_suffix(".part"))
        self.checkpoint.with_suffix(".part").replace(self.checkpoint)

    def log(self, numbers: dict[str, Any]) -> None:
        """Append a line to the curve."""
        if parallel.rank():
            return
        line = {
            "step": self.step,
            "pictures": self.step * self.recipe.batch_size,
            "minutes": round(self.seconds / 60, 2),
            **numbers,
        }
        self.curve.parent.mkdir(parents=True, exist_ok=True)
        with self.curve.open("a") as curve:
            curve.write(json.dumps(line) + "\n")

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.recipe.device, weights_only=True)
        # What was adopted from a pipeline has no heads: they are thrown away after training.
        adopted = not state["step"]
        self.modules.load_state_dict(state["modules"], strict=not adopted)
        self.average.load_state_dict(state["average"], strict=not adopted)
        self.step, self.seconds = state["step"], state["seconds"]
        if "optimizers" in state:
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            self.warm_from = state.get("warm_from", 0)
        else:
            self.warm_from = self.step

    def _share_done(self) -> float:
        by_step = self.step / self.recipe.steps if self.recipe.steps else 0.0
        by_time = self.seconds / 60 / self.recipe.minutes if self.recipe.minutes else 0.0
        return max(by_step, by_time)

    def _steps(self, stop: threading.Event) -> Iterator[torch.Generator]:
        self._progress = tqdm(
            total=self.recipe.steps,
            initial=self.step,
            desc=self.name,
            disable=bool(parallel.rank()),
            mininterval=5,
            smoothing=0.05,
        )
        with self._progress:
            while not parallel.agree(self._share_done() >= 1 or stop.is_set()):
                seed = (self.recipe.seed * 1_000_003 + self.step) * 64 + parallel.rank()
                yield torch.Generator(self.recipe.device).manual_seed(seed)
                self._progress.update()

    def _update(self, losses: LossFunction, generator: torch.Generator) -> dict[str, float]:
        started = self._clock()
        share = torch.tensor([self._share_done()])
        parallel.average([share])
        rate = self.recipe.learning_rate * rate_at(
            self.recipe, self.step - self.warm_from, float(share)
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        kind = torch.device(self.recipe.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.recipe.half or kind == "cuda"):
            found = losses(self.modules, generator)
        self.modules.zero_grad(set_to_none=True)
        found["loss"].backward()
        weights = [weight for weight in self.modules.parameters() if weight.grad is not None]
        parallel.average(weight.grad for weight in weights if weight.grad is not None)
        nn.utils.clip_grad_norm_(weights, self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self._update_average()
        numbers = {key: float(value.detach()) for key, value in found.items()}
        self.step += 1
        self.seconds += self._clock() - started
        return numbers

    def _clock(self) -> float:
        """Seconds of this process' cores, on a GPU of the wall; cores don't count a pause."""
        if torch.device(self.recipe.device).type == "cpu":
            return time.process_time() / torch.get_num_threads()
        return time.monotonic()

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.modules.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of what they did before, inside the block."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_optimizers(modules: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW; for the matrices of blocks Muon (Jordan et al. 2024), if wanted.

    Muon's steps are scaled to the size of AdamW's (Liu et al. 2025), so both share the rate.
    """
    named = [(name, weight) for name, weight in modules.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in named if recipe.orthogonal and is_matrix(name, weight)]
    chosen = {id(weight) for weight in matrices}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [weight for _, weight in named if id(weight) not in chosen],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
        )
    ]
    if matrices:
        optimizers.append(
            FlatMuon(
                matrices,
                lr=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


class FlatMuon(torch.optim.Muon):
    """Muon that takes a convolution for the matrix from all its inputs to its outputs."""

    def __init__(self, weights: list[nn.Parameter], **settings: Any) -> None:
        self.weights = weights
        flat = [w if w.ndim == 2 else nn.Parameter(w.data.flatten(1)) for w in weights]
        super().__init__(flat, **settings)

    def step(self, closure: Any = None) -> Any:
        """Step on the weights' own storage."""
        for flat, weight in zip(self.param_groups[0]["params"], self.weights, strict=True):
            if flat is not weight:
                flat.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether a weight is a layer's inside a block, modulation and norms excepted."""
    return "block" in name and ".norm" not in name and weight.ndim in (2, 4, 5)


def rate_at(recipe: Recipe, step: int, share_done: float) -> float:
    """Learning rate as a share of its peak: warm-up, plateau, cosine decay to a hundredth."""
    warm = min(1.0, (step + 1) / recipe.warm_up)
    into = max(0.0, (share_done - 1 + recipe.decay_share) / max(recipe.decay_share, 1e-9))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(into, 1.0))))
