"""Drop-in classes: change the import line, and diffusers' pipelines load accelerated.

    from sdaccel.pipelines import StableDiffusionXLPipeline  # instead of: from diffusers import ...

    pipe = StableDiffusionXLPipeline.from_pretrained("...", plan="lossless")

Every pipeline class of the installed diffusers is here under its own name, made when it is first
asked for. See `sdaccel.pipelines.drop_in` for what differs from stock.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers.pipelines import *  # noqa: F403  (what editors and type checkers complete from)


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if not name[0].isupper():
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from .drop_in import drop_in

    try:
        return drop_in(name)
    except AttributeError as error:
        # `from sdaccel.pipelines import X` would replace this sentence with Python's own.
        if sys._getframe(1).f_code.co_name == "_handle_fromlist":
            raise ImportError(str(error)) from None
        raise


def __dir__() -> list[str]:
    from .names import pipeline_names

    return list(pipeline_names())
