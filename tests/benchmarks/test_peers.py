"""Peers behind the ladder's interface: put on, taken off, or skipped with the reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdaccel import Plan
from sdaccel.benchmarks import rungs
from sdaccel.benchmarks.errors import Skip
from sdaccel.benchmarks.peer_rungs import PEERS
from sdaccel.benchmarks.workloads import Workload, workload


@pytest.fixture
def tiny() -> Workload:
    return workload("tiny")


def test_every_peer_is_a_rung_under_its_own_name() -> None:
    assert len({each.name for each in PEERS}) == len(PEERS)
    assert all(rungs.rung(each.name) is each and each.kind == "peer" for each in PEERS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("first-block-cache", "UNet2DConditionModel takes none of diffusers' caches"),
        ("attention-cudnn", "needs a GPU"),
        ("sage-attention", "needs a GPU"),
        ("torchao-float8", "needs a GPU of compute capability 8.9"),
        ("attention-flex", "asks for a backend such as flex"),
        ("xdit", "started by torchrun"),
    ],
)
def test_what_a_model_or_a_machine_has_not_is_the_reason(
    tiny: Workload, name: str, reason: str
) -> None:
    with pytest.raises(Skip, match=reason), rungs.rung(name).open(tiny.build(), tiny):
        pass


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("deepcache", "DeepCache"),
        ("tomesd", "tomesd"),
        ("cache-dit", "cache_dit"),
        ("para-attention", "para_attn.first_block_cache.diffusers_adapters"),
        ("torchao-int8", "torchao.quantization"),
        ("onnxruntime", "onnxruntime"),
    ],
)
def test_a_missing_package_is_skipped_with_a_way_to_get_it(
    tiny: Workload, name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(Skip, match=r"not installed: .*requirements/peers\.txt"),
        rungs.rung(name).open(tiny.build(), tiny),
    ):
        pass


def test_what_reuses_steps_has_no_place_where_there_is_one_forward() -> None:
    forward = replace(workload("tiny"), steps=None)
    with (
        pytest.raises(Skip, match="one forward has none"),
        rungs.rung("deepcache").open(forward.build(), forward),
    ):
        pass


def test_a_peer_is_put_on_and_taken_off(tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, object]] = []
    peer = SimpleNamespace(
        enable_cache=lambda pipe: done.append(("on", type(pipe))),
        disable_cache=lambda pipe: done.append(("off", type(pipe))),
    )
    monkeypatch.setitem(sys.modules, "cache_dit", peer)
    pipe = tiny.build()
    kind = type(pipe)
    with rungs.rung("cache-dit").open(pipe, tiny):
        assert [word for word, _ in done] == ["on"]
        assert type(pipe) is not kind, "what a peer changes in the class, stock must not see"
        assert isinstance(pipe, kind)
    assert [word for word, _ in done] == ["on", "off"]
    assert type(pipe) is kind


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ValueError("no such blocks"), Skip),
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError),
    ],
)
def test_a_peer_that_refuses_is_skipped_but_a_lack_of_memory_is_none(
    tiny: Workload,
    error: Exception,
    raised: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pipe: Any, **_: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "tomesd", SimpleNamespace(apply_patch=refuse))
    with (
        pytest.raises(raised, match=str(error).strip(".")),
        rungs.rung("tomesd").open(tiny.build(), tiny),
    ):
        pass


def test_the_passes_of_a_plan_are_added_one_at_a_time() -> None:
    added = rungs.each_pass("eager")
    assert added[0].name == "none+allocator"
    names = [set(each.name.split("+")) for each in added]
    assert all(len(after - before) == 1 for before, after in pairwise(names))
    assert names[-1] == {"none", *(each.name for each in Plan.of("eager").passes)}
    assert added[1].summary == "adds memory_format"
