"""linear_step: the kernel and its reference against the sums in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, DTYPES, assert_near, assert_traceable, kernel_runs, noise

from sdaccel.errors import ArgumentError
from sdaccel.kernels.linear_step import (
    BOUNDS,
    CLIP,
    COLUMNS,
    FIRST_SLOT,
    ROW,
    TARGETS,
    WIDTH,
    linear_step,
    linear_step_cost,
    linear_step_reference,
)

SHAPE = (2, 3, 5, 7)


def table_of(*rows: dict[str, Any]) -> torch.Tensor:
    """Rows by name: "y", "first", "second" and "clipped" weigh the columns, as a list or a dict."""
    table = torch.zeros(len(rows), ROW)
    table[:, TARGETS:BOUNDS] = -1
    places = {"y": 0, "first": WIDTH, "second": 2 * WIDTH, "clipped": CLIP}
    for row, given in zip(table, rows, strict=True):
        for name, place in places.items():
            for column, weight in given.get(name, {}).items():
                row[place + COLUMNS.index(column)] = weight
        row[TARGETS:BOUNDS] = torch.tensor(given.get("targets", (-1, -1)))
        row[BOUNDS:] = torch.tensor(given.get("bounds", (0, 0)))
    return table.to(DEVICE)


def counter_at(step: int) -> torch.Tensor:
    return torch.tensor([step, 0], dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("computed", [linear_step, linear_step_reference])
def test_it_adds_up_what_the_row_says(computed: Any, dtype: torch.dtype) -> None:
    sample, prediction = noise(*SHAPE, dtype=dtype), noise(*SHAPE, dtype=dtype, seed=1)
    table = table_of({"y": {"sample": 9.0}}, {"y": {"sample": 0.75, "prediction": -1.5}})
    counter = counter_at(1)
    found = computed(sample, prediction, None, None, table, counter, dtype, False)
    assert found.dtype == dtype
    assert_near(found, 0.75 * sample.double() - 1.5 * prediction.double())
    assert counter.tolist() == [2, 0]


@pytest.mark.parametrize("numel", [1, 1023, 1024, 1025, 5000])
def test_every_element_is_reached_and_the_counter_moves_once(numel: int) -> None:
    sample, prediction = noise(numel), noise(numel, seed=1)
    table, counter = table_of({"y": {"sample": 1.0, "prediction": 2.0}}), counter_at(0)
    with kernel_runs("linear_step"):
        found = linear_step(sample, prediction, None, None, table, counter, torch.float32)
    assert_near(found, sample.double() + 2 * prediction.double())
    assert counter.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("computed", [linear_step, linear_step_reference])
def test_what_later_steps_need_is_kept_in_place(computed: Any, dtype: torch.dtype) -> None:
    sample, prediction = noise(*SHAPE), noise(*SHAPE, dtype=dtype, seed=1)
    history = torch.stack([noise(*SHAPE, seed=seed) for seed in (2, 3, 4)]).to(dtype)
    before = history.clone()
    row = {
        "y": {"sample": 0.5, "h0": 2.0, "h1": -1.0},
        "first": {"sample": 1.0, "prediction": -3.0, "h1": 0.25},
        "second": {"h0": 4.0},
        "targets": (0, 1),
    }
    counter = counter_at(0)
    found = computed(
        sample, prediction, None, history, table_of(row), counter, torch.float32, False
    )
    old = before.double()
    assert_near(found, 0.5 * sample.double() + 2 * old[0] - old[1])
    assert_near(history[0], sample.double() - 3 * prediction.double() + 0.25 * old[1])
    assert_near(history[1], 4 * old[0])
    assert torch.equal(history[2], before[2])


@pytest.mark.parametrize("computed", [linear_step, linear_step_reference])
def test_a_slot_without_a_weight_is_not_read(computed: Any) -> None:
    history = torch.full((4, *SHAPE), torch.nan, device=DEVICE)
    row = {"y": {"sample": 1.0}, "first": {"prediction": 1.0}, "targets": (2, -1)}
    sample, prediction = noise(*SHAPE), noise(*SHAPE, seed=1)
    found = computed(
        sample, prediction, None, history, table_of(row), counter_at(0), torch.float32, False
    )
    assert torch.equal(found, sample)
    assert torch.equal(history[2], prediction)
    assert history[[0, 1, 3]].isnan().all()


@pytest.mark.parametrize("computed", [linear_step, linear_step_reference])
def test_noise_and_a_clipped_sum_are_columns_too(computed: Any) -> None:
    sample, prediction, drawn = (noise(*SHAPE, seed=seed) for seed in range(3))
    row = {
        "clipped": {"sample": 2.0, "prediction": -1.0},
        "bounds": (-0.5, 0.75),
        "y": {"sample": 0.25, "clipped": 3.0, "noise": 0.5},
    }
    found = computed(
        sample, prediction, drawn, None, table_of(row), counter_at(0), torch.float32, True
    )
    clipped = (2 * sample.double() - prediction.double()).clamp(-0.5, 0.75)
    assert_near(found, 0.25 * sample.double() + 3 * clipped + 0.5 * drawn.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("computed", [linear_step, linear_step_reference])
def test_guidance_is_combined_on_the_way(computed: Any, dtype: torch.dtype) -> None:
    sample, conditional = noise(*SHAPE), noise(*SHAPE, dtype=dtype, seed=1)
    unguided = noise(*SHAPE, dtype=dtype, seed=2)
    row = {"y": {"sample": 0.75, "prediction": -1.5}, "first": {"prediction": 2.0}}
    table, history = table_of({**row, "targets": (0, -1)}), noise(1, *SHAPE, seed=3)
    rest = (table, counter_at(0), torch.float32, False, unguided, 7.5)
    found = computed(sample, conditional, None, history, *rest)
    guided = unguided.double() + 7.5 * (conditional.double() - unguided.double())
    assert_near(found, 0.75 * sample.double() - 1.5 * guided)
    assert_near(history[0], 2 * guided)


def test_nan_is_not_clipped_away() -> None:
    sample = torch.tensor([torch.nan, 3.0, -3.0, 0.5], device=DEVICE)
    row = {"clipped": {"sample": 1.0}, "bounds": (-1, 1), "y": {"clipped": 1.0}}
    found = linear_step(
        sample, sample * 0, None, None, table_of(row), counter_at(0), torch.float32, True
    )
    assert found[0].isnan()
    assert found[1:].tolist() == [1.0, -1.0, 0.5]


def test_launches_follow_each_other_through_the_table() -> None:
    sample, prediction, counter = noise(*SHAPE), noise(*SHAPE, seed=1), counter_at(0)
    table = table_of(*({"y": {"sample": 1.0, "prediction": weight}} for weight in (1.0, 2.0, 4.0)))
    expected = sample.double()
    for weight in (1, 2, 4):
        sample = linear_step(sample, prediction, None, None, table, counter, torch.float32)
        expected = expected + weight * prediction.double()
        assert_near(sample, expected)
    assert counter.tolist() == [3, 0]


@pytest.mark.parametrize("how", ["channels last", "one of each", "sliced"])
def test_memory_in_every_order(how: str) -> None:
    sample, prediction = noise(*SHAPE), noise(*SHAPE, seed=1)
    if how == "sliced":
        sample = noise(2, 3, 5, 9)[..., 1:8]
    else:
        prediction = prediction.to(memory_format=torch.channels_last)
    if how == "channels last":
        sample = sample.to(memory_format=torch.channels_last)
    table = table_of({"y": {"sample": 1.0, "prediction": 2.0}})
    with kernel_runs("linear_step"):
        found = linear_step(sample, prediction, None, None, table, counter_at(0), torch.float32)
    assert_near(found, sample.double() + 2 * prediction.double())


def test_nothing_in_nothing_out() -> None:
    empty = torch.zeros(0, 4, device=DEVICE)
    found = linear_step(empty, empty, None, None, table_of({}), counter_at(0), torch.float32)
    assert found.shape == (0, 4)


def test_it_compiles_into_one_graph() -> None:
    def from_the_first_step(sample: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        counter = torch.zeros(2, dtype=torch.int32, device=sample.device)
        return linear_step(sample, prediction, None, None, table, counter, torch.float32)

    table = table_of({"y": {"sample": 1.0, "prediction": 2.0}})
    assert_traceable(from_the_first_step, noise(*SHAPE), noise(*SHAPE, seed=1))


def test_the_cost_counts_what_is_read_and_written() -> None:
    sample = noise(*SHAPE)
    history = noise(3, *SHAPE)
    assert linear_step_cost(sample, sample).bytes == 3 * 4 * sample.numel()
    guided = linear_step_cost(sample, sample, unguided=sample)
    assert guided.bytes == 4 * 4 * sample.numel()
    unipc = linear_step_cost(sample, sample, None, history, reads=3, writes=2)
    assert unipc.bytes == 8 * 4 * sample.numel()


SAMPLE, TABLE = noise(2, 3), table_of({})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction": noise(2, 4)}, "prediction has shape"),
        ({"noise": noise(3, 2)}, "noise has shape"),
        ({"unguided": noise(3, 2)}, "unguided has shape"),
        ({"sample": SAMPLE.double()}, "sample is fp16, bf16 or fp32"),
        ({"table": TABLE[:, :5]}, "table has shape"),
        ({"table": TABLE.double()}, "the table is fp32"),
        ({"counter": torch.zeros(3, dtype=torch.int32, device=DEVICE)}, "counter has shape"),
        ({"history": noise(5, 2, 3)}, "the history's length"),
        ({"history": noise(3, 2).T[None]}, "history is contiguous"),
        ({"prediction": torch.zeros(2, 3, device="meta")}, "prediction is on meta"),
        ({"dtype": torch.float64}, "dtype is one of"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], words: str) -> None:
    arguments = {
        "sample": SAMPLE,
        "prediction": SAMPLE,
        "noise": None,
        "history": None,
        "table": TABLE,
        "counter": counter_at(0),
        "dtype": torch.float32,
    }
    with pytest.raises(ArgumentError, match=words):
        linear_step(**{**arguments, **changes})


def test_the_columns_are_those_that_the_kernel_reads() -> None:
    assert (FIRST_SLOT, WIDTH, CLIP, TARGETS, BOUNDS, ROW) == (4, 8, 24, 32, 34, 36)
