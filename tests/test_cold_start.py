"""save and load: a second start has what the first one made, or refuses with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import sdaccel
from sdaccel.errors import SavedError, SdaccelWarning
from sdaccel.passes.attention import Attention
from sdaccel.passes.attention_choices import Verdict
from sdaccel.passes.calibration import Calibration
from sdaccel.passes.calibration_tables import Row, Table
from sdaccel.passes.step_cache import StepCache
from sdaccel.saved_folder import MANIFEST
from sdaccel.target import Target

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdicts or calibrations of other tests'."""
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "cache"))


def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDACCEL_CACHE", str(tmp_path / "another"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", no_ops=True)
    sdaccel.save(pipe, tmp_path / "saved")
    return tmp_path / "saved"


def test_the_plan_comes_back_and_may_be_changed(saved: Path) -> None:
    pipe = tiny.stable_diffusion()
    assert sdaccel.load(pipe, saved) is pipe
    assert [each.name for each in sdaccel.report(pipe).passes] == ["no_ops"]
    sdaccel.load(pipe, saved, memory_format=True)
    assert [each.name for each in sdaccel.report(pipe).passes] == ["memory_format", "no_ops"]


def smallest() -> Any:
    """A pipe whose UNet has one level and no attention, which is compiled in seconds."""
    return tiny.stable_diffusion(
        unet=tiny.unet(
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            mid_block_type=None,
        )
    )


def forward(pipe: Any) -> torch.Tensor:
    with torch.no_grad():
        return pipe.unet(torch.ones(1, 4, 8, 8), torch.tensor(5), torch.ones(1, 4, 32)).sample


def test_a_second_start_finds_what_was_compiled(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters
    from torch._inductor.utils import fresh_cache

    options = {"compile": {"scope": "whole", "freeze": False, "vae": False}}
    torch._dynamo.reset()
    with fresh_cache():
        first = sdaccel.accelerate(smallest(), "none", **options)
        wanted = forward(first)
        told = str(sdaccel.save(first, tmp_path / "saved"))
    assert "compiled.bin" in told
    sdaccel.restore(first)
    torch._dynamo.reset()
    with fresh_cache():
        pipe = sdaccel.load(smallest(), tmp_path / "saved")
        counters.clear()
        assert torch.equal(forward(pipe), wanted)
        found = {name: dict(counts) for name, counts in counters.items()}
    assert any("compiled artefacts were loaded" in n for n in sdaccel.report(pipe)["compile"].notes)
    hits = found.get("aot_autograd", {}).get("autograd_cache_hit", 0)
    assert hits + found.get("inductor", {}).get("fxgraph_cache_hit", 0) > 0
    assert found.get("inductor", {}).get("fxgraph_cache_miss", 0) == 0


def test_attention_s_choices_come_back_and_those_made_here_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", attention=True)
    made = Attention().choices(CPU, str)
    made.keep("one", Verdict("stock", 1.5))
    made.keep("two", Verdict("stock", 2.5))
    sdaccel.save(pipe, tmp_path / "saved")
    another_machine(tmp_path, monkeypatch)
    Attention().choices(CPU, str).keep("two", Verdict("stock", 9.0))
    sdaccel.load(tiny.stable_diffusion(), tmp_path / "saved")
    found = Attention().choices(CPU, str)
    assert [found.get(shape) for shape in ("one", "two")] == [
        Verdict("stock", 1.5),
        Verdict("stock", 9.0),
    ]


def test_choices_made_with_other_threads_are_left_out_with_a_warning(tmp_path: Path) -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", attention=True)
    Attention().choices(CPU, str).keep("one", Verdict("stock"))
    sdaccel.save(pipe, tmp_path / "saved")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with pytest.warns(SdaccelWarning, match="Attention's choices were measured with other"):
            sdaccel.load(tiny.stable_diffusion(), tmp_path / "saved")
        assert Attention().choices(CPU, str).get("one") is None
    finally:
        torch.set_num_threads(before)


def table(steps: int, psnr: float) -> Table:
    return Table(steps, 7.5, 4, (Row((0, 1), 1, psnr, None),))


@pytest.mark.parametrize(("name", "part"), [("step_cache", "tables"), ("guidance", "guidance")])
def test_calibrations_come_back_and_those_made_here_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    options = {name: {"budget": 30.0}}
    pipe = tiny.stable_diffusion()
    ((path, identity),) = StepCache().calibrations(Target.of(pipe))
    tables = table(20, 34.0), table(30, 35.0)
    Calibration(identity, tables, tables).write(path)
    sdaccel.accelerate(pipe, "none", **options)
    sdaccel.save(pipe, tmp_path / "saved")
    another_machine(tmp_path, monkeypatch)
    other = tiny.stable_diffusion()
    ((there, _),) = StepCache().calibrations(Target.of(other))
    assert there != path
    Calibration(identity, (table(30, 31.0),), (table(30, 31.0),)).write(there)
    sdaccel.load(other, tmp_path / "saved")
    assert sdaccel.report(other)[name].applied
    found = getattr(Calibration.read(there, identity), part)
    assert {each.steps: each.best for each in found} == {20: 34.0, 30: 31.0}


@pytest.mark.parametrize(
    "name", ["torch's version", "diffusers's version", "sdaccel's version", "chip", "pipe"]
)
def test_what_was_saved_elsewhere_is_refused_before_anything_is_touched(
    saved: Path, tmp_path: Path, name: str
) -> None:
    path = saved / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["about"]["identity"][name] = "another"
    path.write_text(json.dumps(manifest))
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    with pytest.raises(SavedError, match=f"for another {name} \\(another, and here it is"):
        sdaccel.load(pipe, saved)
    assert tiny.snapshot(pipe) == before
    assert not (tmp_path / "cache").exists()


def test_another_pipe_is_refused(saved: Path) -> None:
    with pytest.raises(SavedError, match="for another pipe"):
        sdaccel.load(tiny.flux(), saved)
    wider = tiny.stable_diffusion(unet=tiny.unet(block_out_channels=(32, 32)))
    with pytest.raises(SavedError, match="for another pipe"):
        sdaccel.load(wider, saved)


@pytest.mark.parametrize("about", [{}, {"identity": 1}, {"identity": {}, "plan": {"passes": 1}}])
def test_a_manifest_about_nothing_is_refused(saved: Path, about: Any) -> None:
    path = saved / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "about": about}))
    with pytest.raises(SavedError, match="damaged: save it anew"):
        sdaccel.load(tiny.stable_diffusion(), saved)


def test_artefacts_that_torch_can_t_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", no_ops=True)
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"nonsense", None))
    sdaccel.save(pipe, tmp_path / "saved")
    other = tiny.stable_diffusion()
    with pytest.raises(SavedError, match=r"torch can't read .*compiled\.bin"):
        sdaccel.load(other, tmp_path / "saved")
    assert not sdaccel.report(other).accelerated


def test_what_can_t_be_saved_leaves_nothing(tmp_path: Path) -> None:
    pipe = tiny.stable_diffusion()
    with pytest.raises(SavedError, match="not accelerated"):
        sdaccel.save(pipe, tmp_path / "saved")
    sdaccel.accelerate(pipe, "none", compile={"backend": lambda graph, _: graph})
    with pytest.raises(SavedError, match="can't be saved"):
        sdaccel.save(pipe, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_it_says_when_nothing_compiled_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: None)
    pipe = sdaccel.accelerate(tiny.stable_diffusion(), "none", no_ops=True)
    assert "nothing compiled" in str(sdaccel.save(pipe, tmp_path / "saved"))
