"""How far two pictures are apart to a network that was taught by people's eyes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import MetricError
from .pixels import as_pair, as_tensor

_SIDE = 32
"""AlexNet's convolutions and pools leave nothing of a smaller picture."""


def load_lpips() -> Callable[[Any, Any], float]:
    """LPIPS of two pictures or clips: 0 for equal ones, more the further they seem apart.

    Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric" (2018), with AlexNet, as torchmetrics computes it; of a clip, the mean over
    its frames. Never downloads: raises `MetricError` where a package or AlexNet's weights are not
    here, and for pictures of different sizes or with a side below 32 pixels.
    """
    for package in ("torchmetrics", "torchvision"):
        if importlib.util.find_spec(package) is None:
            raise MetricError(f'LPIPS needs {package}: pip install "sdaccel[quality]".')
    weights = _weights()
    if not weights.is_file():
        raise MetricError(
            f"LPIPS needs AlexNet's weights, which are not in {weights}: fetch them once with "
            "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\"."
        )
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def lpips(first: Any, second: Any) -> float:
        import torch

        pair = as_pair(first, second)
        if min(pair[0].shape[1:3]) < _SIDE:
            raise MetricError(f"LPIPS needs pictures of at least {_SIDE}x{_SIDE} pixels.")
        with torch.no_grad():
            return float(network(*(as_tensor(each) for each in pair)))

    return lpips


def _weights() -> Path:
    """Where torchvision keeps AlexNet's weights; `MetricError` where it can't be imported."""
    import torch

    try:
        from torchvision.models import AlexNet_Weights
    except (ImportError, OSError, RuntimeError) as error:
        # A torchvision that was built for another torch raises any of these.
        raise MetricError(
            f"LPIPS needs a torchvision that fits this torch: installing both anew helps ({error})."
        ) from error
    name = str(AlexNet_Weights.DEFAULT.url).rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name
