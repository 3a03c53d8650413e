"""A tiny workload up the whole ladder: right rungs are timed, wrong ones are not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from sdaccel import device
from sdaccel.benchmarks import ladder as ladder_module
from sdaccel.benchmarks import measure
from sdaccel.benchmarks.architectures import Place
from sdaccel.benchmarks.errors import BenchmarkError, Skip
from sdaccel.benchmarks.judging import Judge
from sdaccel.benchmarks.ladder import Ladder, Options
from sdaccel.benchmarks.rows import Row
from sdaccel.benchmarks.rungs import Opened, Rung, rung
from sdaccel.benchmarks.stages import STAGES
from sdaccel.benchmarks.workloads import Workload, workload
from sdaccel.quality.metrics import Drawing

QUICKLY = Options(rounds=2, memory=False, stages=False, controls=False)


def planted(
    name: str, change: Callable[[Any], object], effect: str = "exact", **details: Any
) -> Rung:
    """A rung that does `change` to its pipe."""

    @contextmanager
    def opened(pipe: Any) -> Iterator[Opened]:
        change(pipe)
        yield Opened(pipe, effect, **details)

    def open_it(pipe: Any, chosen: Workload) -> AbstractContextManager[Opened]:
        return opened(pipe)

    return Rung(name, "plan", "", open_it)


def scale_a_weight(pipe: Any, factor: float = 1.001) -> None:
    pipe.unet.conv_in.weight = torch.nn.Parameter(pipe.unet.conv_in.weight * factor)


def climb(*rungs: Rung, options: Options = QUICKLY) -> dict[str, Row]:
    return {row.rung: row for row in Ladder(workload("tiny"), options).climb(list(rungs))}


def test_what_earlier_rungs_have_set_up_for_a_rung_counts_as_its_own() -> None:
    rows = climb(planted("kept", lambda _: None, spent=5000.0))
    assert rows["kept"].setup_seconds == pytest.approx(5000, abs=999)


def test_a_right_rung_has_every_figure_and_stock_stands_beside_it() -> None:
    rows = climb(rung("none+memory_format"))
    stock, plan = rows["stock-fp32"], rows["none+memory_format"]
    assert list(rows) == ["stock-fp32", "none+memory_format"]
    assert plan.status == "ok", plan.reason
    assert plan.effect == "exact"
    assert plan.error is not None
    assert plan.error_limit == measure.EXACT_ERROR * workload("tiny").forwards
    assert plan.error <= plan.error_limit
    assert len(plan.seconds) == len(plan.baseline_seconds) == QUICKLY.rounds
    assert plan.speedup == pytest.approx(stock.median / plan.median)  # type: ignore[operator]
    assert plan.setup_seconds is not None
    assert plan.setup_seconds >= 0
    assert plan.passes == {"memory_format": "applied"}
    assert plan.flops == stock.flops
    assert plan.flops
    assert plan.flops > 1e6
    assert plan.matmul_share is not None
    assert 0 < plan.matmul_share < 1
    assert plan.copy_ceiling


def test_an_exact_rung_that_is_wrong_is_not_timed() -> None:
    row = climb(planted("wrong", scale_a_weight))["wrong"]
    assert row.status == "wrong"
    assert "above the" in row.reason
    assert row.error is not None
    assert row.error > 1e-5
    assert row.seconds == []


def test_a_peer_may_compute_in_another_dtype_than_its_weights() -> None:
    peer = planted("peer", lambda _: None, "lower precision", dtype="bfloat16")
    row = climb(peer)["peer"]
    assert row.dtype == "bfloat16"
    assert row.matmul_ceiling == device.matmul_ceiling("cpu", torch.bfloat16)


def test_the_same_error_is_only_reported_of_a_rung_that_promises_less() -> None:
    row = climb(planted("rough", scale_a_weight, "approximate"))["rough"]
    assert row.status == "ok"
    assert row.error_limit is None
    assert row.error is not None
    assert row.error > 1e-5
    assert 20 < row.quality["psnr"] < 100


def test_nan_is_wrong_whatever_the_rung_promises() -> None:
    rung_of_nan = planted("broken", lambda pipe: scale_a_weight(pipe, math.nan), "approximate")
    row = climb(rung_of_nan)["broken"]
    assert row.status == "wrong"
    assert row.error is None
    assert "NaN" in row.reason


def test_a_rung_that_fails_or_skips_leaves_a_row_and_the_rest_goes_on() -> None:
    def fail(pipe: Any) -> None:
        raise RuntimeError("out of memory\nand a long story")

    def skip(pipe: Any) -> None:
        raise Skip("Not on this machine.")

    rows = climb(planted("failing", fail), planted("skipping", skip), planted("fine", id))
    assert (rows["failing"].status, rows["failing"].reason) == (
        "failed",
        "RuntimeError: out of memory and a long story",
    )
    assert (rows["skipping"].status, rows["skipping"].reason) == ("skipped", "Not on this machine.")
    assert rows["fine"].status == "ok"
    assert rows["stock-fp32"].seconds


class Counting(Judge):
    """Draws nothing, and counts how often it was asked to."""

    asked: ClassVar[list[Any]] = []

    def draw(self, pipe: Any, count: int) -> list[Any]:
        self.asked.append(pipe)
        return [Drawing(torch.full((8, 8, 3), 0.1 * len(self.asked)).numpy())] * count


def test_pictures_are_judged_beside_stocks_but_not_at_fixed_shapes() -> None:
    Counting.asked.clear()
    judging = replace(workload("tiny"), judge=Counting("tiny", 2))
    ladder = Ladder(judging, replace(QUICKLY, prompts=2))
    fixed = planted("fixed", scale_a_weight, "approximate", fixed_shapes=True)
    rough = planted("rough", scale_a_weight, "approximate")
    rows = {row.rung: row for row in ladder.climb([fixed, rough])}
    assert len(Counting.asked) == 2, "stock's and the rough one's"
    assert any("not judged" in note for note in rows["fixed"].notes)
    assert rows["rough"].quality["psnr"] == pytest.approx(20, abs=0.1)
    assert rows["rough"].quality["prompts"] == 2


def test_a_plan_that_does_nothing_says_so() -> None:
    row = climb(rung("none"))["none"]
    assert row.status == "did nothing"
    assert row.seconds == []


def test_a_plan_that_does_what_another_did_is_not_measured_twice() -> None:
    rows = climb(rung("none+memory_format"), rung("eager-allocator-no_ops-vae-attention"))
    again = rows["eager-allocator-no_ops-vae-attention"]
    assert again.status == "skipped"
    assert "The same as none+memory_format" in again.reason


@pytest.mark.parametrize("moment", ["opening", "timing"])
def test_a_lack_of_memory_is_recorded_as_such_and_the_rest_goes_on(moment: str) -> None:
    def exhaust(pipe: Any) -> None:
        def forward(*args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        if moment == "opening":
            forward()
        calls = iter(range(4))
        before = pipe.unet.forward
        pipe.unet.forward = lambda *args, **kwargs: (
            before if next(calls, None) is not None else forward
        )(*args, **kwargs)

    rows = climb(planted("large", exhaust), planted("fine", id))
    assert rows["large"].status == "out of memory"
    assert "Tried to allocate 20.00 GiB" in rows["large"].reason
    assert rows["fine"].status == "ok"


def test_a_rung_that_fails_when_it_is_taken_off_does_not_stop_the_run() -> None:
    @contextmanager
    def opened(pipe: Any, chosen: Workload) -> Iterator[Opened]:
        yield Opened(pipe)
        raise RuntimeError("no way back")

    rows = climb(Rung("sticky", "peer", "", opened), planted("fine", id))
    assert (rows["sticky"].status, rows["sticky"].reason) == ("failed", "RuntimeError: no way back")
    assert rows["fine"].status == "ok"


def test_stock_without_room_is_one_row_and_no_error() -> None:
    def make(place: Place) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    ladder = Ladder(replace(workload("tiny"), make=make), QUICKLY)
    found = [(row.rung, row.status) for row in ladder.climb([rung("eager")])]
    assert found == [("stock-fp32", "out of memory"), ("stock-16bit", "skipped")]


def test_stock_in_16_bit_takes_the_place_of_stock_without_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(place: Place) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(
        ladder_module, "in_16_bit", lambda _: workload("tiny").build().to(torch.bfloat16)
    )
    ladder = Ladder(replace(workload("tiny"), make=make), QUICKLY)
    rows = {row.rung: row for row in ladder.climb([rung("stock-16bit"), planted("one", id)])}
    assert list(rows) == ["stock-fp32", "stock-16bit", "one"]
    assert rows["stock-fp32"].status == "out of memory"
    stock, one = rows["stock-16bit"], rows["one"]
    assert (stock.dtype, one.dtype) == ("bfloat16", "bfloat16")
    assert stock.error is None
    assert one.error == 0.0
    assert one.error_limit is None, "stock's own error is not known"
    assert len(one.baseline_seconds) == len(stock.seconds) == QUICKLY.rounds


def test_a_peer_that_draws_what_stock_draws_and_no_faster_did_nothing() -> None:
    idle = replace(planted("idle", id), kind="peer")

    def slow_down(pipe: Any) -> None:
        before = pipe.unet.forward
        pipe.unet.forward = lambda *args, **kwargs: (time.sleep(0.05), before(*args, **kwargs))[1]

    slower = replace(planted("slower", slow_down), kind="peer")
    rows = climb(idle, slower, options=replace(QUICKLY, rounds=6))
    assert rows["slower"].status == "did nothing"
    assert "to the bit" in rows["slower"].reason
    assert rows["idle"].speedup is not None


@pytest.mark.parametrize(
    ("dtype", "control"),
    [(torch.float32, "fewer-steps-1"), (torch.bfloat16, "fewer-steps-1-fp32")],
)
def test_stages_and_controls_stand_beside_what_is_approximate(
    dtype: torch.dtype, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skip_the_unet(pipe: Any) -> None:
        def forward(latents: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
            return (latents,)

        pipe.unet.forward = forward

    choice = device.DtypeChoice(dtype, "Measured.")
    monkeypatch.setattr(device, "faster_dtype", lambda _: choice)
    monkeypatch.setattr(Row, "speedup", property(lambda row: 2.0 if row.kind == "plan" else 1.0))
    options = replace(QUICKLY, stages=True, controls=True)
    rows = climb(planted("skipping", skip_the_unet, "approximate"), options=options)
    assert list(rows) == ["stock-fp32", "skipping", "stock-16bit", control]
    assert (rows["stock-16bit"].status == "ok") == (dtype == torch.bfloat16)
    assert rows[control].kind == "control"
    assert rows[control].dtype == "float32"
    assert rows[control].quality["psnr"] < 60
    for row in (each for each in rows.values() if each.status == "ok"):
        assert set(row.stages) == set(STAGES)
        assert row.stages["denoiser"] > 0
        assert row.canary_seconds


def test_a_generation_of_frames_is_of_a_clip_whatever_was_known_before() -> None:
    whole = workload("tiny")

    def clip(pipe: Any) -> Callable[[], torch.Tensor]:
        draw = whole.prepare(pipe)
        return lambda: draw().unsqueeze(1)

    seen: list[str] = []

    @contextmanager
    def opened(pipe: Any, chosen: Workload) -> Iterator[Opened]:
        seen.append(chosen.unit)
        yield Opened(pipe)

    rows = Ladder(replace(whole, prepare=clip), QUICKLY).climb([Rung("plain", "plan", "", opened)])
    assert [row.unit for row in rows] == ["clip", "clip"]
    assert seen == ["clip"]


def test_no_rung_begins_when_the_time_is_used_up() -> None:
    rows = climb(planted("late", id), options=replace(QUICKLY, deadline=0.0))
    assert rows["late"].status == "skipped"
    assert "used up" in rows["late"].reason


def test_a_rung_that_writes_into_stocks_weights_stops_the_run() -> None:
    def vandalise(pipe: Any) -> None:
        pipe.unet.conv_in.weight.data.mul_(1.1)

    with pytest.raises(BenchmarkError, match=r"Stock's output changed while .*vandal"):
        climb(planted("vandal", vandalise, "approximate"))


def test_rungs_measured_together_share_the_rounds_with_stock() -> None:
    options = replace(QUICKLY, together=True)
    rows = climb(planted("one", id), planted("two", id), options=options)
    assert rows["one"].baseline_seconds == rows["two"].baseline_seconds
    assert len(rows["stock-fp32"].seconds) == 2


def test_rows_are_kept_whenever_a_rung_is_done() -> None:
    kept: list[list[str]] = []
    ladder = Ladder(
        workload("tiny"), QUICKLY, keep=lambda rows: kept.append([row.rung for row in rows])
    )
    ladder.climb([planted("one", id), planted("two", id)])
    assert kept == [["stock-fp32", "one"], ["stock-fp32", "one", "two"]]
