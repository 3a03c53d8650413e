"""Correct first, then the fastest: what wins a trial, and what is dropped and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import racing
import torch

from sdaccel.passes.attention_choices import STOCK, Verdict
from sdaccel.passes.attention_operator import stock
from sdaccel.passes.attention_trial import Trial, distance, seconds_a_call


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> racing.Race:
    return racing.Race(monkeypatch)


def tensors(dtype: torch.dtype = torch.float32, **sizes: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    key_heads = sizes.get("key_heads", 2)
    query = torch.randn(2, 2, sizes.get("queries", 70), 8)
    key, value = (torch.randn(2, key_heads, sizes.get("keys", 90), 8) for _ in range(2))
    return query.to(dtype), key.to(dtype), value.to(dtype)


def verdict(race: racing.Race, *arguments: Any) -> Verdict:
    q, k, v, mask, causal = (*arguments, *(*tensors(), None, False)[len(arguments) :])
    entered = {each.name: each for each in race.candidates}
    found = Trial(stock, q, k, v, mask, causal, None).verdict(entered, race.seconds_a_call)
    assert found is not None
    return found


def test_the_fastest_wins(race: racing.Race) -> None:
    race.enter("quick", 0.5)
    race.enter("quickest", 0.25)
    found = verdict(race)
    assert (found.winner, found.speedup) == ("quickest", 4.0)
    assert found.dropped == {}


@pytest.mark.parametrize("seconds", [1.0, 0.98, 1.2, 30.0])
def test_what_is_not_clearly_faster_never_wins(race: racing.Race, seconds: float) -> None:
    race.enter("other", seconds)
    assert verdict(race) == Verdict(STOCK, 1.0, {}, {STOCK: pytest.approx(0, abs=1e-6)})


def test_a_long_call_is_timed_less_often(race: racing.Race) -> None:
    race.enter("quick", 0.5)
    verdict(race)
    assert race.calls["quick"] == 1 + 3, "stock takes a second"


def test_what_is_slower_once_never_wins(race: racing.Race) -> None:
    race.enter("moody", 0.1, 0.1, 1.1, 0.1)
    assert verdict(race).winner == STOCK


def test_what_is_far_behind_is_not_timed_again(race: racing.Race) -> None:
    race.enter("slow", 10.0)
    verdict(race)
    assert race.calls["slow"] == 2, "once to see whether it is right, once for the time"


def wrong_by(share: float) -> Callable[..., torch.Tensor]:
    def compute(*arguments: Any) -> torch.Tensor:
        return stock(*arguments) * (1 + share)

    return compute


@pytest.mark.parametrize("share", [1e-2, 1e-5, float("nan")])
def test_what_is_wrong_is_dropped_and_said_so(race: racing.Race, share: float) -> None:
    race.enter("wrong", 0.01, compute=wrong_by(share))
    found = verdict(race)
    assert found.winner == STOCK
    assert found.dropped["wrong"].startswith("error ")


def test_in_16_bit_a_candidate_may_be_as_far_from_the_truth_as_stock(race: racing.Race) -> None:
    def in_fp32(query: Any, key: Any, value: Any, *rest: Any) -> torch.Tensor:
        return stock(query.float(), key.float(), value.float(), *rest).to(query.dtype)

    race.enter("finer", 0.5, compute=in_fp32)
    race.enter("coarser", 0.1, compute=wrong_by(2e-2))
    found = verdict(race, *tensors(torch.bfloat16))
    assert found.winner == "finer"
    assert found.errors["finer"] <= 1.25 * found.errors[STOCK]
    assert "coarser" in found.dropped


def test_an_error_in_a_few_rows_alone_is_found(race: racing.Race) -> None:
    def wrong_in_a_row(*arguments: Any) -> torch.Tensor:
        found = stock(*arguments).clone()
        found[1, 1, 601] += 0.01
        return found

    race.enter("wrong", 0.01, compute=wrong_in_a_row)
    assert "wrong" in verdict(race, *tensors(queries=1000)).dropped


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda query, *_: query[:, :, 1:], "gave torch.float32 [2, 69, 2, 8]"),
        (lambda *arguments: stock(*arguments).double(), "gave torch.float64 [2, 70, 2, 8]"),
    ],
)
def test_what_refuses_is_dropped_with_its_reason(
    race: racing.Race, compute: Callable[..., Any], reason: str
) -> None:
    race.enter("other", 0.01, compute=compute)
    assert verdict(race).dropped == {"other": reason}


def test_an_op_that_fell_back_is_no_candidate(race: racing.Race) -> None:
    fallbacks = iter(range(9))
    race.enter("kernel", 0.01, fallbacks=lambda: next(fallbacks))
    assert verdict(race).dropped == {"kernel": "its kernel did not run"}


def test_lower_precision_has_a_bound_of_its_own(race: racing.Race) -> None:
    race.enter("coarse", 0.5, compute=wrong_by(0.02), lower_precision=True)
    race.enter("useless", 0.1, compute=wrong_by(0.2), lower_precision=True)
    found = verdict(race)
    assert found.winner == "coarse"
    assert found.errors["coarse"] == pytest.approx(0.02, rel=1e-3)
    assert "useless" in found.dropped


def kept(dtype: torch.dtype) -> torch.Tensor:
    mask = torch.ones(2, 1, 1, 90, dtype=torch.bool)
    mask[1, ..., 50:] = False
    return mask if dtype == torch.bool else torch.zeros(mask.shape).masked_fill_(~mask, -1e4)


@pytest.mark.parametrize("mask", [torch.bool, torch.float32])
def test_a_mask_counts(race: racing.Race, mask: torch.dtype) -> None:
    race.enter("right", 0.5)
    race.enter("deaf", 0.1, compute=lambda q, k, v, _, *rest: stock(q, k, v, None, *rest))
    found = verdict(race, *tensors(), kept(mask))
    assert found.winner == "right"
    assert "deaf" in found.dropped


def test_causality_counts(race: racing.Race) -> None:
    race.enter("right", 0.5)
    race.enter(
        "deaf", 0.1, compute=lambda q, k, v, mask, _, scale: stock(q, k, v, mask, False, scale)
    )
    found = verdict(race, *tensors(), None, True)
    assert found.winner == "right"
    assert "deaf" in found.dropped


def test_heads_may_share_a_key(race: racing.Race) -> None:
    race.enter("right", 0.5)
    assert verdict(race, *tensors(key_heads=1)).winner == "right"


def test_a_result_that_is_not_finite_says_nothing(race: racing.Race) -> None:
    race.enter("quick", 0.5)
    query, key, value = tensors()
    query[0, 0, 0, 0] = float("inf")
    trial = Trial(stock, query, key, value, None, False, None)
    assert trial.verdict({}, race.seconds_a_call) is None


def test_the_distance_is_relative_and_over_all_tokens() -> None:
    truth = torch.ones(1, 3000, 1, 2)
    assert distance(truth * 1.5, truth) == pytest.approx(0.5)
    found = truth.clone()
    found[0, 2500, 0, 0] += 1
    assert distance(found, truth) == pytest.approx((1 / 6000) ** 0.5)


def test_the_clock_gives_the_mean_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 16.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    ran: list[int] = []
    seconds = seconds_a_call(lambda: ran.append(1), 3, torch.device("cpu"))  # type: ignore[arg-type]
    assert (seconds, len(ran)) == (2.0, 3)
