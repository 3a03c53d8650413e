"""The hoist pass: what it leaves out, what it leaves alone, and its limits."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import tiny
import torch
from features import ip_adapter, picture
from hoisting import SHOWS, errors, hoisted, pipe_of, ran, run

import sdaccel
from sdaccel.benchmarks.family_pipeline import model_of
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error
from sdaccel.errors import PlanError

pytestmark = pytest.mark.usefixtures("plain_torch")


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
