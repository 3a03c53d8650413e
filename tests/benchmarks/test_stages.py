"""Where a generation's time goes, and that nothing of the watching is left."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from sdaccel.benchmarks import stages
from sdaccel.benchmarks.workloads import workload

PAUSE = 0.05


@pytest.fixture(scope="module")
def pipe() -> Any:
    return workload("tiny").build()


def delay(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str) -> None:
    before = getattr(owner, method)

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(PAUSE)
        return before(*args, **kwargs)

    monkeypatch.setattr(owner, method, slow)


@pytest.mark.parametrize(
    ("part", "method", "stage", "calls"),
    [
        ("unet", "forward", stages.DENOISER, 2),
        ("scheduler", "step", stages.SCHEDULER, 2),
        ("vae", "decode", stages.VAE, 1),
        ("image_processor", "postprocess", stages.OTHER, 1),
    ],
)
def test_a_delay_counts_where_it_belongs(
    pipe: Any, part: str, method: str, stage: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(monkeypatch, getattr(pipe, part), method)
    found = stages.stage_seconds(pipe, workload("tiny").prepare(pipe))
    assert list(found) == list(stages.STAGES)
    assert found[stage] >= calls * PAUSE
    assert found[stages.TEXT] == 0.0


def test_the_pipe_is_as_it_was_and_draws_the_same(pipe: Any) -> None:
    call = workload("tiny").prepare(pipe)
    wanted = call()
    before = attributes(pipe)
    stages.stage_seconds(pipe, call)
    assert attributes(pipe) == before
    assert torch.equal(call(), wanted)


def attributes(pipe: Any) -> dict[str, list[str]]:
    return {name: sorted(vars(getattr(pipe, name))) for name in ("unet", "vae", "scheduler")}


def test_a_compiled_module_is_watched_from_outside(pipe: Any) -> None:
    compilations: list[object] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    try:
        pipe.vae.decoder.compile(backend=backend)
        pipe.unet.time_embedding.compile(backend=backend)
        call = workload("tiny").prepare(pipe)
        call()
        already = len(compilations)
        stages.stage_seconds(pipe, call)
        assert already > 0
        assert len(compilations) == already
    finally:
        pipe.vae.decoder._compiled_call_impl = None
        pipe.unet.time_embedding._compiled_call_impl = None
        torch._dynamo.reset()
