"""Errors, limits, FLOPs, and who runs when."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from sdaccel.benchmarks import measure
from sdaccel.benchmarks.canary import Canary
from sdaccel.benchmarks.memory import out_of_memory


@pytest.fixture(autouse=True)
def a_host_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host takes nothing from these tests' samples, unless one says so."""
    monkeypatch.setattr(measure, "stolen_seconds", lambda: 0.0)


def test_relative_error_is_the_distance_over_the_truths_length() -> None:
    truth = torch.tensor([3.0, 4.0])
    assert measure.relative_error(truth + torch.tensor([0.3, 0.4]), truth) == pytest.approx(0.1)
    assert measure.relative_error(truth, truth) == 0.0


@pytest.mark.parametrize("output", [torch.tensor([3.0, math.nan]), torch.ones(1), torch.ones(2, 1)])
def test_nan_or_another_shape_is_infinitely_wrong(output: torch.Tensor) -> None:
    assert measure.relative_error(output, torch.tensor([3.0, 4.0])) == math.inf


def test_limits_of_exact_rungs_follow_the_contract() -> None:
    assert measure.error_limit("exact", "float32", 1, None) == pytest.approx(1e-5)
    assert measure.error_limit("exact", "float32", 25, None) == pytest.approx(25e-5)
    assert measure.error_limit("exact", "bfloat16", 25, 4e-3) == pytest.approx(5e-3)
    assert measure.error_limit("exact", "bfloat16", 1, None) is None
    assert measure.error_limit("lower precision", "bfloat16", 1, 4e-3) is None


def test_flops_of_linear_layers_and_attention_are_counted() -> None:
    query = torch.randn(1, 2, 8, 4)
    linear = torch.nn.Linear(4, 16)

    def call() -> torch.Tensor:
        attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        result: torch.Tensor = linear(attended)
        return result

    products = 2 * 2 * (8 * 4 * 8 + 8 * 8 * 4)
    assert measure.count_flops(call) == products + 2 * 2 * 8 * 4 * 16


def test_samples_alternate_and_each_trial_runs_within_its_own_surroundings() -> None:
    log: list[str] = []

    def trial(name: str, surrounded: bool) -> measure.Trial:
        def call() -> torch.Tensor:
            log.append(name)
            return torch.zeros(1)

        @contextmanager
        def around() -> Iterator[None]:
            log.append("(")
            yield
            log.append(")")

        def enter() -> AbstractContextManager[None]:
            return around()

        return measure.Trial(call, enter if surrounded else None)

    taken = measure.interleave({"A": trial("A", False), "B": trial("B", True)}, rounds=3)
    assert "".join(log) == "A(BBB)AA(BB)", "an untimed call settles B whenever it is entered"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"A": 3, "B": 3}


def _host(monkeypatch: pytest.MonkeyPatch, thefts: list[float]) -> None:
    """A host that takes these shares of all processors from the samples to come."""
    now = iter(range(1000))
    stolen = iter([total for theft in thefts for total in (0.0, theft * (os.cpu_count() or 1))])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(now)))
    monkeypatch.setattr(measure, "stolen_seconds", lambda: next(stolen))


def test_a_sample_that_the_host_disturbed_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _host(monkeypatch, [0.5, 0.3, 0.01])
    seconds = iter([9.0, 8.0, 1.0, 2.0])
    taken = measure.undisturbed(lambda: next(seconds))
    assert taken.seconds == 1.0
    assert taken.stolen == pytest.approx(0.01)


def test_the_least_disturbed_stands_where_the_host_never_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _host(monkeypatch, [0.5, 0.3, 0.4, 0.6])
    seconds = iter([9.0, 8.0, 7.0, 6.0])
    taken = measure.undisturbed(lambda: next(seconds))
    assert taken.seconds == 8.0
    assert taken.stolen == pytest.approx(0.3)


def test_each_output_is_shown_to_the_check() -> None:
    seen: list[torch.Tensor] = []
    output = torch.ones(1)
    measure.interleave({"A": measure.Trial(lambda: output, check=seen.append)}, rounds=2)
    assert seen == [output, output]


def test_the_canary_sings_whenever_another_turn_comes() -> None:
    readings = iter([0.1, 0.2, 0.3, 0.4])
    trial = measure.Trial(lambda: torch.zeros(1))
    taken = measure.interleave({"A": trial, "B": trial}, 3, canary=lambda: next(readings))
    assert [each.canary for each in taken["A"]] == [0.1, 0.3, 0.3]
    assert [each.canary for each in taken["B"]] == [0.2, 0.2, 0.4]


def test_a_canary_times_the_same_product_each_time() -> None:
    canary = Canary(torch.device("cpu"))
    assert canary() > 0
    first = canary._product.clone()
    canary()
    assert torch.equal(canary._product, first)


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error: Exception, lacking: bool) -> None:
    assert out_of_memory(error) is lacking
