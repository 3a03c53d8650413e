from __future__ import annotations

import numpy
import pytest

from sdaccel.errors import MetricError
from sdaccel.quality.clips import added_flicker, motion_error, motion_kept


@pytest.fixture
def moving() -> numpy.ndarray:
    """A bright column that moves a pixel a frame: (8, 16, 16, 3)."""
    clip = numpy.full((8, 16, 16, 3), 0.2)
    for index, frame in enumerate(clip):
        frame[:, index + 2] = 0.8
    return clip


def test_a_clip_beside_itself_moves_alike(moving: numpy.ndarray) -> None:
    assert motion_error(moving, moving) == 0
    assert motion_kept(moving, moving) == 1
    assert added_flicker(moving, moving) == 0


def test_a_still_difference_is_no_difference_in_motion(moving: numpy.ndarray) -> None:
    darker = moving - 0.1
    assert motion_error(moving, darker) == pytest.approx(0, abs=1e-12)
    assert motion_kept(moving, darker) == pytest.approx(1)
    assert added_flicker(moving, darker) == pytest.approx(0, abs=1e-12)


def test_a_frozen_clip_keeps_no_motion(moving: numpy.ndarray) -> None:
    frozen = numpy.repeat(moving[:1], len(moving), 0)
    assert motion_kept(moving, frozen) == 0
    # In every frame two of 16 columns change, by 0.6.
    assert motion_error(moving, frozen) == pytest.approx(0.6 * (2 / 16) ** 0.5)
    assert motion_kept(frozen, frozen) == 1


def test_twice_the_motion_is_as_wrong_as_half_of_it() -> None:
    slow = numpy.linspace(0, 0.4, 5)[:, None, None, None] + numpy.zeros((5, 4, 4, 3))
    assert motion_kept(slow, 2 * slow) == pytest.approx(0.5)
    assert motion_kept(2 * slow, slow) == pytest.approx(0.5)


def test_flicker_is_what_goes_up_and_down_again_and_a_steady_change_is_none() -> None:
    still = numpy.full((6, 4, 4, 3), 0.5)
    steady = still + numpy.linspace(0, 0.3, 6)[:, None, None, None]
    flickering = still + 0.1 * (numpy.arange(6) % 2)[:, None, None, None]
    assert added_flicker(still, steady) == pytest.approx(0, abs=1e-12)
    assert added_flicker(still, flickering) == pytest.approx(0.05)
    assert added_flicker(flickering, still) == pytest.approx(-0.05)


def test_too_few_frames_and_pictures_are_refused(moving: numpy.ndarray) -> None:
    for measure, frames in ((motion_error, 1), (motion_kept, 1), (added_flicker, 2)):
        with pytest.raises(MetricError, match=f"at least {frames + 1} frames"):
            measure(moving[:frames], moving[:frames])
