"""Which prompts a comparison draws: a file's, or an embedded model's own."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from . import embedded
from .models import is_embedded

DEFAULT_COUNT = 32
EVALUATION_SEED = 1_000_000
"""The first noise for evaluation prompts, far from 0, where all else starts."""


def choose(model: str, file: Path | None, evaluation: bool, count: int | None) -> list[str]:
    """The first `count` prompts of the file, or of the model's held-out or evaluation ones.

    Without a count, 32, or as many as the file has. Raises `InputError` for a count below 1, a file
    that can't be read or has too few, and where a model without prompts of its own gets none.
    """
    if count is not None and count < 1:
        raise InputError(f"-n must be a whole number of at least 1, not {count}.")
    if file is not None:
        if evaluation:
            raise InputError("--evaluation has prompts of its own: leave it or --prompts out.")
        return _first(read(file), count, file)
    if not is_embedded(model):
        raise InputError(f"{model} has no prompts of its own: give --prompts FILE, one a line.")
    return embedded.prompts(model, count or DEFAULT_COUNT, evaluation)


def read(file: Path) -> list[str]:
    """The prompts of a text file, one a line, empty lines left out.

    Raises `InputError` for a file that can't be read, is no UTF-8 text or has no prompt.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"The prompts in {file} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: write one prompt a line.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{file} has no prompt in it: write one a line.")
    return prompts


def _first(prompts: list[str], count: int | None, file: Path) -> list[str]:
    if count is not None and count > len(prompts):
        raise InputError(f"{file} has {len(prompts)} prompts, fewer than {count}: ask for those.")
    return prompts[: count or DEFAULT_COUNT]
