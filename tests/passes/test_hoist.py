"""The hoist pass: what it leaves out, and that it notices whatever changes between and in calls."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from denoising import loop
from features import ip_adapter, lora, picture

import sdaccel
from sdaccel.benchmarks.families import SIZES, families, forward
from sdaccel.benchmarks.family_pipeline import FamilyPipeline, model_of, pipeline_of
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error
from sdaccel.errors import PlanError, SdaccelWarning
from sdaccel.passes.hoist_table import Table

pytestmark = pytest.mark.usefixtures("plain_torch")
SHOWS = 1e-3
"""A change of the inputs or the weights changes the output by at least this much."""
Change = Callable[[Any, int, list[dict[str, Any]]], None]


def hoisted(pipe: Any, **options: Any) -> Any:
    return sdaccel.accelerate(pipe, "none", hoist=options or True)


def ran(pipe: Any) -> Any:
    return sdaccel.report(pipe)["hoist"].ran


def pipe_of(name: str) -> FamilyPipeline:
    (family,) = families([name])
    return pipeline_of(family)


def run(pipe: FamilyPipeline, name: str, change: Change | None = None, **how: Any) -> Any:
    """One generation; `change` is called with the model before each step."""
    (family,) = families([name])

    def callback(step: int, inputs: list[dict[str, Any]]) -> None:
        if change is not None:
            change(model_of(pipe), step, inputs)

    return loop(pipe, family, callback=callback, **{"steps": 6, **how})


def errors(found: Any, wanted: Any) -> float:
    return max(map(relative_error, found, wanted))


def test_text_is_projected_once_a_generation_and_modulations_come_from_a_table() -> None:
    pipe = pipe_of("FLUX.1")
    model = model_of(pipe)
    hoisted(pipe)
    run(pipe, "FLUX.1")
    calls = dict.fromkeys(("text", "modulation"), 0)

    class Counting(torch.nn.Linear):
        pass

    def count(name: str) -> Any:
        def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
            calls[name] += 1
            return torch.nn.functional.linear(hidden_states, self.weight, self.bias)

        return type("Linear", (Counting,), {"forward": forward})

    model.context_embedder.__class__ = count("text")
    model.transformer_blocks[1].norm1.linear.__class__ = count("modulation")
    run(pipe, "FLUX.1")
    assert calls == {"text": 1, "modulation": 0}


def test_the_report_names_what_is_hoisted_and_what_it_spares() -> None:
    pipe = pipe_of("SD 1.5")
    hoisted(pipe)
    run(pipe, "SD 1.5")
    record = sdaccel.report(pipe)["hoist"]
    text = "\n".join(record.notes)
    assert "computed once: " in text
    assert "mid_block.attentions.*.transformer_blocks.*.attn2.to_k" in text
    assert "from tables: " in text
    assert "time_embedding" in text
    assert "GFLOP" in text
    assert record.changed["denoiser modules computed once"] == 8
    assert record.changed["denoiser modules from tables"] > 8
    assert record.ran["tables computed"] == 1
    assert record.ran["rows read"] == 4
    assert record.ran["constant calls answered"] == 8 * 3


def test_nothing_is_kept_between_generations() -> None:
    pipe = tiny.stable_diffusion()
    hoisted(pipe)
    embeddings = torch.randn(1, 16, 32)
    options: dict[str, Any] = {"prompt": None, "num_inference_steps": 4, "guidance_scale": 1.0}
    tiny.draw(pipe, prompt_embeds=embeddings, **options)
    assert ran(pipe)["rows read"] > 0
    alive = weakref.ref(embeddings)
    del embeddings
    gc.collect()
    assert alive() is None


def test_a_pipeline_draws_stock_s_picture_and_modules_are_untouched_in_between() -> None:
    pipe = tiny.stable_diffusion()
    wanted = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
    before = tiny.snapshot(pipe)
    hoisted(pipe)
    for _ in range(2):
        found = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
        assert relative_error(found, wanted) <= 6 * EXACT_ERROR, "five steps and a decoder"
        assert not [each for each in pipe.unet.modules() if "forward" in vars(each)]
    assert ran(pipe)["rows read"] == 3 + 5
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert torch.equal(torch.from_numpy(tiny.draw(pipe, num_inference_steps=5)), wanted)


def test_sequential_guidance_keeps_its_two_calls_apart() -> None:
    pipe = tiny.flux()
    wanted = torch.from_numpy(tiny.draw_flux(pipe, num_inference_steps=5))
    other = torch.from_numpy(tiny.draw_flux(pipe, num_inference_steps=5, true_cfg_scale=1.0))
    assert relative_error(other, wanted) > SHOWS
    hoisted(pipe)
    for _ in range(2):
        found = torch.from_numpy(tiny.draw_flux(pipe, num_inference_steps=5))
        assert relative_error(found, wanted) <= 6 * EXACT_ERROR
    assert ran(pipe)["rows read"] > 2 * 5
    assert not [each for each in ran(pipe) if each.startswith("computed anew")]


def replace_text(_: Any, step: int, inputs: list[dict[str, Any]]) -> None:
    if step == 3:
        inputs[0]["encoder_hidden_states"] = inputs[0]["encoder_hidden_states"] * 0.5


def edit_text(_: Any, step: int, inputs: list[dict[str, Any]]) -> None:
    if step == 3:
        inputs[0]["encoder_hidden_states"][0, :2] += 1.0


def shorten_text(_: Any, step: int, inputs: list[dict[str, Any]]) -> None:
    if step == 3:
        inputs[0]["encoder_hidden_states"] = inputs[0]["encoder_hidden_states"][:, :-2]
        if "txt_ids" in inputs[0]:
            inputs[0]["txt_ids"] = inputs[0]["txt_ids"][:-2]


def edit_text_each_time(_: Any, __: int, inputs: list[dict[str, Any]]) -> None:
    inputs[0]["encoder_hidden_states"].mul_(1.1)


def edit_weights(model: Any, step: int, _: Any) -> None:
    if step == 3:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "time" in name or "to_k" in name:
                    weight.mul_(1.2)


def move_weights(model: Any, step: int, _: Any) -> None:
    """As `load_adapter` with fusing, or `Module.to`, do it."""
    if step == 3:
        for name, weight in model.named_parameters():
            if "time" in name or "to_k" in name:
                weight.data = weight.data * 1.2


def load_adapter(model: Any, step: int, _: Any) -> None:
    if step == 3:
        lora(model)


def scale_adapter(model: Any, step: int, _: Any) -> None:
    if step == 0 and not hasattr(model, "peft_config"):
        lora(model)
    if step == 3:
        model.set_adapters("default", 0.3)


def merge_adapter(model: Any, step: int, _: Any) -> None:
    if step == 0 and not hasattr(model, "peft_config"):
        lora(model)
    if step == 3:
        model.fuse_lora(lora_scale=0.5)


def hook_a_module(model: Any, step: int, _: Any) -> None:
    if step == 3:
        module = next(each for name, each in model.named_modules() if name.endswith("to_k"))
        module.register_forward_hook(lambda _, __, output: output * 0.5)


CHANGES: dict[str, Change] = {
    each.__name__: each
    for each in (
        *(replace_text, edit_text, shorten_text, edit_text_each_time, edit_weights, move_weights),
        *(load_adapter, scale_adapter, merge_adapter, hook_a_module),
    )
}


@pytest.mark.parametrize("name", ["SD 1.5", "FLUX.1"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_mid_loop_is_noticed(change: str, name: str) -> None:
    if change == "hook_a_module" and name == "FLUX.1":
        pytest.skip("its attention has no module that depends on text alone")
    stock = pipe_of(name)
    unchanged = run(stock, name)
    wanted = run(pipe_of(name), name, CHANGES[change])
    assert relative_error(wanted[-1], unchanged[-1]) > SHOWS
    pipe = pipe_of(name)
    hoisted(pipe)
    found = run(pipe, name, CHANGES[change])
    assert errors(found, wanted) <= EXACT_ERROR
    if change not in ("load_adapter", "merge_adapter"):
        assert any(each.startswith(("computed anew", "rows read")) for each in ran(pipe))


@pytest.mark.parametrize("name", ["SD 1.5", "FLUX.1"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_calls_is_noticed(change: str, name: str) -> None:
    """The second generation has the same inputs, and is served from its first step on."""
    pipe, stock = pipe_of(name), pipe_of(name)
    hoisted(pipe)
    (family,) = families([name])
    draws = [family.draw(SIZES[0], 0, torch.float32)]
    for each in (pipe, stock):
        run(each, name)
        CHANGES[change](model_of(each), 0, draws)
        CHANGES[change](model_of(each), 3, draws)

    def give(_: Any, __: int, inputs: list[dict[str, Any]]) -> None:
        inputs[:] = draws

    assert errors(run(pipe, name, give), run(stock, name, give)) <= EXACT_ERROR


def test_other_guidance_size_and_steps_between_calls_are_noticed() -> None:
    pipe, stock = pipe_of("FLUX.1"), pipe_of("FLUX.1")
    hoisted(pipe)

    def guide(_: Any, __: int, inputs: list[dict[str, Any]]) -> None:
        inputs[0]["guidance"] = torch.full((2,), 1.5)

    for how in ({}, {"change": guide}, {"size": SIZES[1]}, {"steps": 9}, {"guided": True}, {}):
        assert errors(run(pipe, "FLUX.1", **how), run(stock, "FLUX.1", **how)) <= EXACT_ERROR
    assert ran(pipe)["tables computed"] >= 5


def test_a_schedule_that_changes_in_mid_loop_gets_new_tables() -> None:
    pipe, stock = pipe_of("SD 1.5"), pipe_of("SD 1.5")
    hoisted(pipe)

    def outputs(of: FamilyPipeline) -> Any:
        def change(_: Any, step: int, __: Any) -> None:
            if step == 3:
                of.scheduler.timesteps.sub_(7.0)

        return run(of, "SD 1.5", change)

    assert errors(outputs(pipe), outputs(stock)) <= EXACT_ERROR
    assert ran(pipe)["tables computed"] >= 2


def by_hand(pipe: FamilyPipeline, name: str, change: Callable[[int, Any], Any]) -> Any:
    """The outputs of a generation whose timesteps are what `change` makes of the scheduler's."""
    (family,) = families([name])
    inputs = family.draw(SIZES[0], 0, torch.float32)
    random = torch.Generator().manual_seed(0)
    pipe.scheduler.set_timesteps(5)
    found = []
    for step, t in enumerate(pipe.scheduler.timesteps):
        sample = torch.randn(inputs["sample"].shape, generator=random)
        moved = {"timestep": change(step, t).expand(2), "sample": sample}
        found.append(forward(model_of(pipe), {**inputs, **moved}))
        pipe.scheduler.step(torch.zeros(1, 1), t, torch.zeros(1, 1))
    return found


def test_timesteps_that_no_table_has_are_computed() -> None:
    pipe = pipe_of("SD 1.5")
    hoisted(pipe)

    def change(step: int, t: torch.Tensor) -> torch.Tensor:
        return t - 3.25 if step == 3 else t

    wanted = by_hand(pipe_of("SD 1.5"), "SD 1.5", change)
    assert errors(by_hand(pipe, "SD 1.5", change), wanted) <= EXACT_ERROR
    assert ran(pipe)["timesteps that no table has"] == 1
    assert ran(pipe)["rows read"] == 2


def test_timesteps_that_are_not_the_scheduler_s_are_left_alone() -> None:
    pipe = pipe_of("SD 1.5")
    hoisted(pipe)

    def change(_: int, t: torch.Tensor) -> torch.Tensor:
        return t**2 / 1000

    wanted = by_hand(pipe_of("SD 1.5"), "SD 1.5", change)
    assert errors(by_hand(pipe, "SD 1.5", change), wanted) <= EXACT_ERROR
    notes = sdaccel.report(pipe)["hoist"].notes
    assert any("are not the scheduler's" in each for each in notes)
    assert ran(pipe)["rows read"] == 0
    assert ran(pipe)["constant calls answered"] > 0


def test_a_row_that_is_missing_on_a_device_is_nan_and_the_pipe_runs_again_without_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = tiny.stable_diffusion()
    wanted = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
    hoisted(pipe)

    def read_nan(self: Any, timestep: torch.Tensor, place: int, read: Any = Table.read) -> Any:
        found = read(self, timestep, place)
        for rows in self.rows.values():
            assert rows[-1].isnan().all()
        return {number: torch.full_like(each, float("nan")) for number, each in found.items()}

    monkeypatch.setattr(Table, "read", read_nan)
    with pytest.warns(SdaccelWarning, match="NaN or Inf: it runs again without hoist"):
        found = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
    assert torch.equal(found, wanted)


def test_an_ip_adapter_s_keys_and_values_are_computed_once() -> None:
    pipe, stock = pipe_of("SD 1.5"), pipe_of("SD 1.5")
    for each in (pipe, stock):
        ip_adapter(model_of(each))
    hoisted(pipe)
    added = picture()

    def give(_: Any, __: int, inputs: list[dict[str, Any]]) -> None:
        inputs[0].update(added)

    for _ in range(2):
        wanted = run(stock, "SD 1.5", give)
        assert errors(run(pipe, "SD 1.5", give), wanted) <= EXACT_ERROR
    added["added_cond_kwargs"]["image_embeds"][0].mul_(2.0)
    other = run(stock, "SD 1.5", give)
    assert relative_error(other[-1], wanted[-1]) > SHOWS
    assert errors(run(pipe, "SD 1.5", give), other) <= EXACT_ERROR
    text = "\n".join(sdaccel.report(pipe)["hoist"].notes)
    assert "processor.to_k_ip" in text
    assert "encoder_hid_proj" in text


def test_kept_memory_stays_below_its_limit_and_the_rest_is_computed() -> None:
    pipe, stock = pipe_of("SD 1.5"), pipe_of("SD 1.5")
    hoisted(pipe, max_bytes=3000)
    for _ in range(2):
        assert errors(run(pipe, "SD 1.5"), run(stock, "SD 1.5")) <= EXACT_ERROR
    record = sdaccel.report(pipe)["hoist"]
    assert record.ran["rows read"] == 0
    assert 0 < record.ran["constant calls answered"] < 8 * 8
    assert any("more than max_bytes=3000 allows" in each for each in record.notes)
    assert any("max_bytes=3000 are full" in each for each in record.notes)


def test_gradients_inference_mode_and_loops_without_a_scheduler_are_left_alone() -> None:
    pipe = tiny.stable_diffusion()
    hoisted(pipe)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.randn(2, 16, 32)
    with torch.no_grad():
        for _ in range(4):
            pipe.unet(*inputs)
    pipe.scheduler.set_timesteps(4)
    for t in pipe.scheduler.timesteps:
        output = pipe.unet(inputs[0], t, inputs[2]).sample
        assert output.requires_grad
        pipe.scheduler.step(output.detach(), t, inputs[0])
    assert not ran(pipe)

    wanted = torch.from_numpy(tiny.draw(tiny.stable_diffusion(), num_inference_steps=5))
    with torch.inference_mode():
        found = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
    assert relative_error(found, wanted) <= 6 * EXACT_ERROR


def test_an_interrupted_generation_leaves_nothing_behind() -> None:
    pipe = tiny.stable_diffusion()
    wanted = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
    hoisted(pipe)
    for step in (0, 1, 2, 3):

        def stop(*_: Any, at: int = step) -> Any:
            if _[1] == at:
                raise KeyboardInterrupt
            return _[3]

        with pytest.raises(KeyboardInterrupt):
            tiny.draw(pipe, num_inference_steps=5, callback_on_step_end=stop)
        found = torch.from_numpy(tiny.draw(pipe, num_inference_steps=5))
        assert relative_error(found, wanted) <= 6 * EXACT_ERROR


@pytest.mark.parametrize("at", [2, 3])
def test_an_error_inside_a_forward_puts_the_modules_back(at: int) -> None:
    """In the second call the probe is open, in the third stand-ins are."""
    pipe = pipe_of("SD 1.5")
    hoisted(pipe)
    model = model_of(pipe)
    calls = 0

    class FailureError(Exception):
        pass

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise FailureError

    handle = model.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(FailureError):
        run(pipe, "SD 1.5")
    handle.remove()
    assert not [each for each in model.modules() if "forward" in vars(each)]
    assert errors(run(pipe, "SD 1.5"), run(pipe_of("SD 1.5"), "SD 1.5")) <= EXACT_ERROR


def test_a_compiled_denoiser_is_refused() -> None:
    pipe = tiny.stable_diffusion()
    sdaccel.accelerate(pipe, "none", hoist=True, compile={"backend": "eager"})
    record = sdaccel.report(pipe)["hoist"]
    assert not record.applied
    assert record.refused["unet"] == "compiled: leave compile out, or hoist"


def test_a_denoiser_compiled_later_runs_as_one_graph() -> None:
    pipe = pipe_of("PixArt")
    wanted = run(pipe, "PixArt", steps=4)
    hoisted(pipe)
    torch._dynamo.reset()
    model_of(pipe).compile(fullgraph=True, backend="eager")
    assert errors(run(pipe, "PixArt", steps=4), wanted) <= EXACT_ERROR
    assert not ran(pipe)


@pytest.mark.parametrize(
    "options", [{"max_bytes": -1}, {"max_bytes": 1.5}, {"release": "yes"}, {"least": 1}]
)
def test_bad_options_are_told_before_anything_is_touched(options: dict[str, Any]) -> None:
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    with pytest.raises(PlanError):
        sdaccel.accelerate(pipe, "none", hoist=options)
    assert tiny.snapshot(pipe) == before
