"""Every model family, fused: stock's output, fused code that really ran, and stock back again."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import sdaccel
from sdaccel.benchmarks.coverage import Covered, cover, markdown
from sdaccel.benchmarks.families import SIZES, families
from sdaccel.benchmarks.family_pipeline import pipeline_of
from sdaccel.benchmarks.measure import EXACT_ERROR, EXACT_RATIO, relative_error

pytestmark = [
    # diffusers, of its own FluxPosEmbed in Chroma and of autocast in Mochi
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),
    # torch, of the norms of Kandinsky 5
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]
NAMES = [family.name for family in families()]
SLOW = {"SDXL refiner", "AnimateDiff", "SVD", "AutoencoderKLTemporalDecoder"}
"""Seconds to minutes in Triton's interpreter, for norms that others have too."""

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "fuse-coverage.md"


@functools.cache
def covered(name: str) -> Covered:
    (family,) = families([name])
    return cover(family)


@pytest.mark.usefixtures("plain_torch")
@pytest.mark.parametrize("name", NAMES)
def test_a_fused_family_is_exact_and_comes_back_to_the_bit(name: str) -> None:
    row = covered(name)
    assert row.error <= EXACT_ERROR
    assert row.ratio <= EXACT_RATIO
    assert row.restored


@pytest.mark.usefixtures("plain_torch")
@pytest.mark.parametrize("name", NAMES)
def test_the_committed_table_tells_what_was_fused_and_ran(name: str) -> None:
    """Up to the errors, which depend on the machine and on who computes the ops."""
    versions, _, *lines = TABLE.read_text(encoding="utf-8").splitlines()
    own_versions, _, *own = markdown([covered(name)]).splitlines()
    if versions.split(";")[0] != own_versions.split(";")[0]:
        pytest.skip(f"the table was made with {versions}, here are {own_versions}")
    (told,) = (line for line in lines if line.startswith(f"| {name} |"))
    cells, own_cells = told.split(" | "), own[-1].split(" | ")
    assert (cells[:6], cells[-1]) == (own_cells[:6], own_cells[-1])


@pytest.mark.usefixtures("plain_torch")
def test_what_is_fused_runs_and_what_is_not_says_why() -> None:
    rows = [covered(name) for name in NAMES]
    for row in rows:
        assert bool(row.fused) == bool(row.matched) == bool(row.ran) == (not row.reason)
        assert (row.spared > 0) == (not row.reason)
    assert sum(not row.reason for row in rows) > len(rows) / 2


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SLOW])
def test_the_kernels_themselves_are_exact(name: str) -> None:
    """Through Triton's interpreter."""
    (family,) = families([name])
    pipe = pipeline_of(family)
    inputs = family.draw(SIZES[0], 0, torch.float32)
    truth = pipe(**inputs)
    sdaccel.accelerate(pipe, "none+fuse")
    assert relative_error(pipe(**inputs), truth) <= EXACT_ERROR
    record = sdaccel.report(pipe)["fuse"]
    assert record.applied == (sum(record.ran.values()) > 0)
    assert not [key for key in record.ran if key.endswith(" by plain torch")]
