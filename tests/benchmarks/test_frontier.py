"""A frontier's rungs: plans with options in their names, and stock in fewer steps beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from sdaccel import shapes
from sdaccel.benchmarks import controls, rungs
from sdaccel.benchmarks.__main__ import BAD_INPUT, main
from sdaccel.benchmarks.errors import BenchmarkError, Skip
from sdaccel.benchmarks.frontier import frontier
from sdaccel.benchmarks.plan_options import plan_of
from sdaccel.benchmarks.workloads import workload
from sdaccel.errors import PlanError


def test_a_rungs_name_may_hold_options_of_its_passes() -> None:
    plan = plan_of("eager+step_cache[interval=4, forecast=0]+precision[dtype=bfloat16]")
    assert plan.name == "eager+step_cache[interval=4, forecast=0]+precision[dtype=bfloat16]"
    options = {each.name: each.options for each in plan.passes}
    assert options["step_cache"]["interval"] == 4
    assert options["step_cache"]["forecast"] == 0
    assert options["precision"]["dtype"] == "bfloat16"
    assert plan_of("eager") == rungs.sdaccel.Plan.of("eager")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("eager+step_cache[interval]", "'interval' is no option"),
        ("eager+step_cache[intervall=2]", "has no option 'intervall'"),
        ("eager+step_cache[interval=0]", "can't take these options"),
        ("eager+step_cach[interval=2]", "step_cach"),
    ],
)
def test_options_that_a_pass_does_not_take_are_refused(name: str, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        plan_of(name)
    with pytest.raises(BenchmarkError, match="There is no rung"):
        rungs.rung(name)


def test_a_frontier_has_several_settings_and_controls_with_each_sampler() -> None:
    found = frontier(replace(workload("tiny"), steps=25))
    names = [each.name for each in found]
    assert names[:3] == ["stock-16bit", "eager", "eager+precision"]
    assert sum(name.startswith("eager+precision+step_cache[") for name in names) >= 4
    assert {"fewer-steps-19", "fewer-steps-14", "fewer-steps-10", "fewer-steps-7"} <= set(names)
    assert {"fewer-steps-19-dpm++", "fewer-steps-7-dpm++", "fewer-steps-7-unipc"} <= set(names)
    assert [each.kind for each in found if each.name.startswith("fewer")] == ["control"] * 12


def test_a_frontier_has_the_peers_of_its_denoiser_and_all_where_that_is_not_known(
    tmp_path: Path,
) -> None:
    (tmp_path / "model_index.json").write_text('{"unet": [null, null], "transformer": ["d", "F"]}')
    unet, transformer = ("deepcache", "tomesd"), ("first", "taylorseer", "mag", "cache-dit")
    expected = {
        "shapes-unet": unet,
        "shapes-dit": transformer,
        "shapes-video": (*transformer, "sea"),
        str(tmp_path): transformer,
        "owner/model": (*unet, *transformer, "sea"),
    }
    for name, families in expected.items():
        names = [each.name for each in frontier(workload(name)) if each.kind == "peer"]
        begun = {family for family in families for each in names if each.startswith(family)}
        assert begun == set(families)
        assert all(each.startswith(families) for each in names)
        assert len(frontier(workload(name))) <= 44


@pytest.mark.parametrize(
    ("name", "wanted"), [("dpm++", DPMSolverMultistepScheduler), ("unipc", UniPCMultistepScheduler)]
)
def test_a_better_sampler_takes_the_place_of_stocks_on_this_pipe_alone(
    name: str, wanted: type
) -> None:
    tiny = replace(workload("tiny"), steps=25)
    pipe = tiny.build()
    with rungs.rung(f"fewer-steps-1-{name}").open(rungs_twin(pipe), tiny) as opened:
        assert isinstance(opened.pipe.scheduler, wanted)
        assert opened.pipe.scheduler.config.beta_end == pipe.scheduler.config.beta_end
        assert opened.workload is not None
        assert opened.workload.prepare(opened.pipe)().isfinite().all()
    assert not isinstance(pipe.scheduler, wanted)


def test_unipc_follows_a_flow_to_where_many_steps_of_stocks_sampler_lead() -> None:
    pipe: Any = shapes.load("dit")
    pipe.set_progress_bar_config(disable=True)
    settings = {**shapes.call_defaults("dit"), "output_type": "latent"}

    def draw(steps: int) -> torch.Tensor:
        settings["num_inference_steps"] = steps
        generator = torch.Generator().manual_seed(0)
        return pipe("a red circle above a blue square", generator=generator, **settings).images

    far, near = draw(30), draw(8)
    pipe.scheduler = controls.better(pipe.scheduler, "UniPCMultistepScheduler")
    assert (draw(8) - far).norm() < 0.8 * (near - far).norm()


def rungs_twin(pipe: object) -> object:
    from sdaccel.benchmarks.twin import twin

    return twin(pipe)


def test_a_sampler_that_it_cannot_replace_is_skipped() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    tiny = replace(workload("tiny"), steps=25)
    pipe = tiny.build()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with (
        pytest.raises(Skip, match="FlowMatchEuler"),
        rungs.rung("fewer-steps-1-dpm++").open(pipe, tiny),
    ):
        pass


def test_the_frontier_of_a_forward_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--frontier", "--workload", "sd15-unet", "--output", str(tmp_path)]
    assert main(words) == BAD_INPUT
    assert "such as --workload shapes-unet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
