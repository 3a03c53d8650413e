from __future__ import annotations

import math

import pytest
import torch

from sdaccel.errors import MetricError
from sdaccel.quality.latents import latent_distance


def test_the_distance_is_relative_to_the_first_latents_whatever_their_shape() -> None:
    first = torch.full((4, 3, 2), 2.0)
    assert latent_distance(first, first) == 0
    assert latent_distance(first, first * 1.5) == pytest.approx(0.5)
    assert latent_distance(first * 1.5, first) == pytest.approx(1 / 3)


def test_unrelated_latents_are_the_root_of_two_apart() -> None:
    first, second = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert latent_distance(first, second) == pytest.approx(math.sqrt(2), abs=0.05)


def test_what_has_no_distance_is_refused() -> None:
    some = torch.ones(2, 2)
    for first, second, says in (
        (None, some, "doesn't hand out"),
        (some, torch.ones(2, 3), "differ in shape"),
        (torch.zeros(2, 2), some, "all 0"),
    ):
        with pytest.raises(MetricError, match=says):
            latent_distance(first, second)
