"""How figures are said."""

from __future__ import annotations

import pytest
from bench_files import a_row, stock

from sdaccel.benchmarks.reporting import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (3.4, "3.40 s"),
        (27.04, "27.0 s"),
        (317.7, "318 s"),
        (1234.5, "1234 s"),
        (0.9999, "1.00 s"),
        (0.3177, "318 ms"),
        (0.0022, "2.20 ms"),
        (4.2e-5, "42.0 µs"),
        (4.2e-8, "0.0420 µs"),
    ],
)
def test_durations_have_three_digits(value: float | None, text: str) -> None:
    assert wording.seconds(value) == text


@pytest.mark.parametrize(
    ("rate", "flops", "copy"),
    [(2.3e11, "0.23 TFLOP/s", "230 GB/s"), (9.89e14, "989.00 TFLOP/s", "989.00 TB/s")],
)
def test_rates_have_the_unit_that_suits_them(rate: float, flops: str, copy: str) -> None:
    assert wording.flops_rate(rate) == flops
    assert wording.copy_rate(rate) == copy


def test_a_rung_is_stock_ours_or_somebody_elses_and_may_lose() -> None:
    assert wording.role(stock()) == wording.STOCK
    assert wording.role(a_row()) == wording.PLAN
    assert wording.role(a_row(times=0.9)) == wording.LOSES
    assert wording.role(a_row(times=0.9, kind="peer")) == wording.PEER
    once = a_row(times=0.9, seconds=[3.0], baseline_seconds=[2.0])
    assert wording.role(once) == wording.PLAN, "one round tells nothing beyond noise"


@pytest.mark.parametrize(
    ("rung", "words"),
    [
        ("eager+step_cache[interval=2]", "interval 2"),
        ("eager+step_cache[interval=2,forecast=0]", "interval 2,forecast 0"),
        ("fewer-steps-12", "12 steps"),
        ("fewer-steps-12-dpm++", "12 DPM++"),
        ("fewer-steps-12-unipc", "12 UniPC"),
        ("fewer-steps-12-unipc-fp32", "12 UniPC fp32"),
        ("fewer-steps-12-fp32", "12 steps fp32"),
        ("eager+precision", "eager+precision"),
    ],
)
def test_where_there_is_little_room_a_rung_has_a_short_name(rung: str, words: str) -> None:
    assert wording.short(a_row(rung)) == words


def test_quality_and_trouble_are_said_in_words() -> None:
    assert wording.quality(a_row(quality={"psnr": 51.9, "fidelity": 0.75, "prompts": 16})) == (
        "52 dB, fidelity 75% of 16"
    )
    assert wording.trouble(a_row(status="skipped", reason="Not here.")) == "skipped: Not here."
    assert wording.trouble(a_row()) == ""


@pytest.mark.parametrize(
    ("rung", "family"),
    [
        ("deepcache-5", "deepcache"),
        ("first-block-cache-0.05", "first-block-cache"),
        ("first-block-cache", "first-block-cache"),
        ("fewer-steps-12", "fewer steps"),
        ("fewer-steps-7-dpm++", "DPM++"),
        ("fewer-steps-12-unipc", "UniPC"),
        ("fewer-steps-12-unipc-fp32", "UniPC fp32"),
        ("deepcache-5-fp32", "deepcache fp32"),
        ("stock-fp32", "stock-fp32"),
    ],
)
def test_a_rung_at_a_setting_is_of_a_family(rung: str, family: str) -> None:
    assert wording.family(a_row(rung)) == family
