"""What the autoencoders' losses look at: edges above all.

A small star covers a fortieth of a picture, and its arms are a few pixels wide: a plain mean over
pixels leaves them blurred, and what is blurred no checker takes for a star.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

EDGE_WEIGHT = 10.0
NEIGHBOURHOOD = 5


def edge_weights(pictures: Tensor) -> Tensor:
    """How much each pixel of (B, 3, H, W) in -1..1 counts, (B, 1, H, W): 1 where all is even.

    An edge adds ten times the pixel's distance from the mean of the 5 x 5 around it.
    """
    around = functional.avg_pool2d(
        pictures, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False
    )
    weights: Tensor = 1 + EDGE_WEIGHT * (pictures - around).abs().mean(1, keepdim=True)
    return weights


def frame_weights(clips: Tensor) -> Tensor:
    """`edge_weights` of each frame of (B, 3, F, H, W): (B, 1, F, H, W)."""
    weights = edge_weights(clips.transpose(1, 2).flatten(0, 1))
    unfolded: Tensor = weights.unflatten(0, (len(clips), -1)).transpose(1, 2)
    return unfolded
