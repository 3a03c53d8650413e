"""Whole generations as workloads: the embedded models, and one from a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdaccel import device, shapes
from sdaccel.benchmarks import generations, measure, rungs
from sdaccel.benchmarks.controls import fewer_steps, missing
from sdaccel.benchmarks.errors import BenchmarkError, Skip
from sdaccel.benchmarks.rows import Row
from sdaccel.benchmarks.workloads import workload
from sdaccel.target import dtype_of


def test_every_embedded_model_is_a_workload_with_its_own_steps() -> None:
    for name in shapes.names():
        chosen = workload(f"shapes-{name}")
        assert chosen.steps == shapes.call_defaults(name)["num_inference_steps"]
        quick = workload(f"shapes-{name}", quick=True)
        assert quick.steps == 4
        assert quick.judge is not None
        assert quick.judge.steps == chosen.steps, "pictures are judged in all their steps"


def test_stable_diffusion_is_drawn_whole_at_the_size_it_is_made_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tiny networks stand in: the real ones take minutes."""
    tiny = generations.RANDOM["tiny"]
    drawn = replace(generations.RANDOM["sd15"], unet=tiny.unet, vae=tiny.vae)
    monkeypatch.setitem(generations.RANDOM, "sd15", drawn)
    whole = workload("sd15")
    pipe = whole.build()
    words: list[torch.Size] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, __, given: words.append(given["encoder_hidden_states"].shape), with_kwargs=True
    )
    picture = whole.prepare(pipe)()
    assert words == 25 * [(2, 77, pipe.unet.config.cross_attention_dim)]
    assert picture.shape[-1] == pipe.unet.config.sample_size * pipe.vae_scale_factor
    assert workload("sd15", quick=True).steps == 4


def test_fewer_steps_are_fewer_calls_of_the_denoiser() -> None:
    tiny = workload("tiny")
    pipe = tiny.build()
    calls: list[object] = []
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(None))
    control = fewer_steps("fewer-steps-1")
    assert control is not None
    with control.open(pipe, tiny) as opened:
        assert opened.workload is not None
        opened.workload.prepare(opened.pipe)()
    assert len(calls) == 1
    tiny.prepare(pipe)()
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("name", "chosen", "reason"),
    [("fewer-steps-2", "tiny", "no fewer steps than the 2"), ("fewer-steps-2", "sd15-unet", "One")],
)
def test_a_control_is_skipped_where_there_is_nothing_to_leave_out(
    name: str, chosen: str, reason: str
) -> None:
    control = fewer_steps(name)
    assert control is not None
    pipe = workload("tiny").build()
    with pytest.raises(Skip, match=reason), control.open(pipe, workload(chosen)):
        pass


def timed(name: str, effect: str, seconds: float, kind: str = "plan", dtype: str = "") -> Row:
    made = Row("shapes-unet", name, kind, effect, "picture", dtype=dtype or "float32")
    made.seconds, made.baseline_seconds = [seconds], [1.0]
    return made


def test_each_approximate_plan_gets_stock_in_the_steps_that_take_its_time() -> None:
    no_faster = timed("stock-16bit", "", 1.0, "stock")
    no_faster.status = "skipped"
    rows = [
        no_faster,
        timed("exact", "exact", 0.2),
        timed("half", "approximate", 0.5),
        timed("as-fast", "approximate", 0.51),
        timed("no-faster", "approximate", 0.99),
        timed("fewer-steps-20", "approximate", 0.8, "control"),
        timed("deepcache-5", "approximate", 0.3, "peer"),
    ]
    wanted = ["fewer-steps-12", "fewer-steps-13"]
    assert [each.name for each in missing(rows, workload("shapes-unet"))] == wanted
    assert missing(rows, workload("sd15-unet")) == []
    (first,) = missing(rows[1:], workload("shapes-unet"))
    assert first.name == "stock-16bit"
    assert missing(rows[1:2], workload("shapes-unet")) == []


def test_a_plan_s_control_takes_its_time_in_its_own_dtype() -> None:
    rows = [
        timed("stock-16bit", "lower precision", 0.5, "stock", "bfloat16"),
        timed("narrow", "approximate", 0.2, dtype="bfloat16"),
        timed("narrow-alone", "approximate", 0.49, dtype="bfloat16"),
        timed("wide", "approximate", 0.4),
    ]
    found = [each.name for each in missing(rows, workload("shapes-unet"))]
    assert found == ["fewer-steps-10", "fewer-steps-10-fp32"]


def test_a_model_in_a_folder_is_drawn_and_named_without_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    shapes.load("unet").save_pretrained(folder)
    chosen = workload(str(folder), quick=True)
    assert (chosen.name, chosen.source, chosen.steps) == ("my-model", str(folder), 4)
    pipe = chosen.build()
    assert chosen.networks_of(pipe) == ("vae", "unet")
    assert chosen.with_steps is not None
    drawn = chosen.with_steps(1).prepare(pipe)()
    assert drawn.shape[:2] == (1, 3)
    assert drawn.dtype == torch.float32


def test_a_folder_tells_whether_its_pipeline_draws_clips(tmp_path: Path) -> None:
    index = tmp_path / "model_index.json"
    for name, unit in (("WanPipeline", "clip"), ("FluxPipeline", "picture"), ("No", "picture")):
        index.write_text(f'{{"_class_name": "{name}", "transformer": ["diffusers", "T"]}}')
        assert workload(str(tmp_path)).unit == unit


def test_a_hub_id_is_a_workload_that_is_loaded_later() -> None:
    chosen = workload("owner/name")
    assert (chosen.name, chosen.source) == ("owner--name", "owner/name")
    with pytest.raises(BenchmarkError, match=r"There is no model '\./nowhere'"):
        workload("./nowhere")


@pytest.mark.parametrize("name", shapes.names())
def test_in_16_bit_an_embedded_model_draws_nearly_what_it_draws_in_fp32(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = device.DtypeChoice(torch.bfloat16, "it is fast here")
    monkeypatch.setattr(device, "faster_dtype", lambda _: choice)
    chosen = generations.embedded(f"shapes-{name}", quick=True, steps=2)
    pipe = chosen.build()
    truth = chosen.prepare(pipe)()
    with rungs.rung("stock-16bit").open(pipe, chosen) as opened:
        parts = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]
        assert {dtype_of(each) for each in parts} == {torch.bfloat16}
        drawn = chosen.prepare(opened.pipe)()
    assert drawn.shape == truth.shape
    assert 0 < measure.relative_error(drawn, truth) < 0.05
