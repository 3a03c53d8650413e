"""Hoisted models with what else diffusers does to a model, switched on before or after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from denoising import loop
from features import FEATURES, Feature

import sdaccel
from sdaccel.benchmarks.families import families
from sdaccel.benchmarks.family_pipeline import FamilyPipeline, model_of, pipeline_of
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error

pytestmark = pytest.mark.usefixtures("plain_torch")
PLANS: dict[str, dict[str, Any]] = {
    "feature first": {"hoist": True},
    "hoist first": {"hoist": True, "fuse": True, "no_ops": True, "attention": {"measure": False}},
}
STEPS = 4


@contextmanager
def cache_context(pipe: FamilyPipeline, feature: Feature) -> Iterator[None]:
    """Where a feature keeps something from step to step."""
    model = model_of(pipe)
    if feature.steps == 1:
        yield
        return
    model._reset_stateful_cache()
    with model.cache_context("cond"):
        yield


def outputs(pipe: FamilyPipeline, feature: Feature) -> list[torch.Tensor]:
    """Of two generations."""
    (family,) = families([feature.family])
    added = feature.inputs()
    found = []
    for seed in (0, 1):
        with cache_context(pipe, feature):
            found += loop(
                pipe, family, STEPS, seed=seed, callback=lambda _, inputs: inputs[0].update(added)
            )
    return found


@pytest.mark.parametrize("first", PLANS)
@pytest.mark.parametrize("name", FEATURES)
def test_every_step_is_stock_s_with_the_same_feature(name: str, first: str) -> None:
    feature = FEATURES[name]
    (family,) = families([feature.family])
    stock = pipeline_of(family)
    feature.enable(model_of(stock))
    wanted = outputs(stock, feature)
    pipe = pipeline_of(family)
    if first == "feature first":
        feature.enable(model_of(pipe))
    sdaccel.accelerate(pipe, "none", **PLANS[first])
    if first == "hoist first":
        feature.enable(model_of(pipe))
    assert max(map(relative_error, outputs(pipe, feature), wanted)) <= EXACT_ERROR
    assert feature.works(model_of(pipe))
    record = sdaccel.report(pipe)["hoist"]
    assert bool(record.refused) == ("offload" in name and first == "feature first")
    assert record.refused or record.ran.total() > 0 or "offload" in name
    sdaccel.restore(pipe)
    assert feature.works(model_of(pipe))
