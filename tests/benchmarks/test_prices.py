"""What pictures cost."""

from __future__ import annotations

import pytest
from bench_files import a_row

from sdaccel.benchmarks.denoisers import DENOISERS
from sdaccel.benchmarks.prices import cost
from sdaccel.benchmarks.workloads import workload


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
    ("name", "amount", "bought"),
    [
        # 81 frames at 16 a second, 50 steps of two calls of 3.6 s
        ("wan2.1-1.3b", 50 * 2 / (81 / 16) * 60, "a minute of video, the denoiser alone"),
        ("cogvideox-2b", 50 / (49 / 8) * 60, "a minute of video, the denoiser alone"),
        ("ltx-vae", 1 / (121 / 24) * 60, "a minute of video, the VAE alone"),
        ("qwen-image", 50 * 2 * 1000, "1,000 pictures, the denoiser alone"),
    ],
)
def test_a_published_workload_has_the_price_of_what_it_makes(
    name: str, amount: float, bought: str
) -> None:
    chosen = workload(name)
    row = a_row(
        unit=chosen.unit,
        calls_per_picture=chosen.calls_per_picture,
        settings=dict(chosen.settings),
        seconds=[3.6] * 4,
    )
    assert cost(row, 1000.0) == (pytest.approx(amount), bought)


def test_every_video_model_says_how_long_its_clip_is() -> None:
    for name, denoiser in DENOISERS.items():
        length = workload(name).settings.get("num_frames")
        assert (length is not None) == (denoiser.size.frames > 1), name
        assert "num_frames" not in workload(name, quick=True).settings, (
            "it makes no clip to pay for"
        )


@pytest.mark.parametrize(
    "more",
    [{"quick": True}, {"seconds": []}, {"status": "wrong"}, {"unit": "call"}],
)
def test_what_nobody_would_pay_for_has_no_price(more: dict[str, object]) -> None:
    assert cost(a_row(**more), 2.0) is None
