"""What pictures cost."""

from __future__ import annotations

import pytest
from bench_files import a_row

from sdaccel.benchmarks.prices import cost


def test_a_thousand_pictures_take_their_time_at_the_price() -> None:
    row = a_row(unit="picture", calls_per_picture=1, seconds=[3.6] * 4)
    assert cost(row, 2.0) == (pytest.approx(2.0), "1,000 pictures")


def test_forwards_count_for_a_picture_and_leave_out_the_rest() -> None:
    amount = cost(a_row(times=2.0, calls_per_picture=10), 3.6)
    assert amount == (pytest.approx(10.0, rel=0.01), "1,000 pictures, the denoiser alone")


def test_a_clip_is_paid_by_the_minute() -> None:
    settings = {"num_frames": 80, "fps": 16}
    row = a_row(unit="clip", calls_per_picture=1, seconds=[30.0] * 4, settings=settings)
    assert cost(row, 12.0) == (pytest.approx(30 * 12 * 12 / 3600), "a minute of video")


@pytest.mark.parametrize(
    "more",
    [{"quick": True}, {"seconds": []}, {"status": "wrong"}, {"unit": "call"}],
)
def test_what_nobody_would_pay_for_has_no_price(more: dict[str, object]) -> None:
    assert cost(a_row(**more), 2.0) is None
