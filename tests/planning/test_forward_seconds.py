"""Full and shallow forwards are told apart, and their times compared by medians."""

from __future__ import annotations

import tiny
from caching import cached, draw, ran

from sdaccel.passes.step_cache_paths import CACHE
from sdaccel.planning.forward_seconds import ForwardSeconds


def test_the_share_of_a_shallow_forward_is_that_of_the_medians() -> None:
    pipe, seconds = cached(tiny.stable_diffusion(), interval=3), ForwardSeconds()
    assert seconds.shallow == 1.0
    hooks = len(pipe.unet._forward_hooks), len(pipe.unet._forward_pre_hooks)
    with seconds.watching(pipe.unet, pipe.unet.__dict__[CACHE]):
        draw(pipe)
    assert (len(pipe.unet._forward_hooks), len(pipe.unet._forward_pre_hooks)) == hooks
    assert 0 < seconds.shallow <= 1
    assert len(seconds.found[True]) == ran(pipe)["unet shallow"]
    assert len(seconds.found[False]) == ran(pipe)["unet full"]
