"""The attention pass on pipes: what it routes, what it leaves, and how it goes with the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import racing
import tiny
import torch
from tiny_transformers import cogvideox, pixart, sd3

import sdaccel
from sdaccel.errors import PlanError
from sdaccel.passes import Effect, attention
from sdaccel.passes.attention import Attention
from sdaccel.passes.attention_choices import STOCK
from sdaccel.passes.attention_operator import stock
from sdaccel.plan import Plan


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SDACCEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> racing.Race:
    """A race that `quick` wins: it computes as stock does, in half the time."""
    race = racing.Race(monkeypatch)
    race.enter("quick", 0.5)
    return race


def routed(pipe: Any, **options: Any) -> Any:
    return sdaccel.accelerate(pipe, "none", attention=options or True)


def record_of(pipe: Any) -> Any:
    return sdaccel.report(pipe)["attention"]


SAMPLE, TEXT = torch.linspace(-1, 1, 256).view(1, 4, 8, 8), torch.linspace(-1, 1, 512)


@torch.no_grad()
def unet_output(unet: Any) -> torch.Tensor:
    output: torch.Tensor = unet(SAMPLE, 500, TEXT.view(1, 16, 32)).sample
    return output


def test_verdicts_of_other_sources_are_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = attention._identity(torch.device("cpu"), [])
    assert attention._identity(torch.device("cpu"), []) == before
    monkeypatch.setattr(attention, "fingerprint", lambda stem: f"another {stem}")
    assert attention._identity(torch.device("cpu"), []) != before


# What is covered ------------------------------------------------------------------------------


def test_every_attention_of_a_unet_and_a_vae_is_routed(race: racing.Race) -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    routed(pipe)
    assert (tiny.draw(pipe) == picture).all()
    record = record_of(pipe)
    parts = (pipe.unet, pipe.vae)
    attentions = sum(hasattr(each, "processor") for part in parts for each in part.modules())
    in_unet = sum(hasattr(each, "processor") for each in pipe.unet.modules())
    assert record.changed == {"AttnProcessor2_0": attentions}
    assert record.ran["quick"] == 2 * in_unet + 1, "two steps, and one attention in the decoder"
    assert record.refused == {}


def test_so_is_every_attention_of_a_transformer_that_asks_diffusers(race: racing.Race) -> None:
    pipe = tiny.flux()
    picture = tiny.draw_flux(pipe)
    routed(pipe)
    assert (tiny.draw_flux(pipe) == picture).all()
    assert record_of(pipe).changed["FluxAttnProcessor"] == 2
    assert record_of(pipe).ran["quick"] == 2 * 2 * 2 + 1


def qwen_image() -> tuple[Any, dict[str, Any]]:
    """Goes through diffusers' dispatcher, with a mask of keys."""
    from diffusers import QwenImageTransformer2DModel

    model = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    inputs = {
        "hidden_states": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, 7, 16),
        "encoder_hidden_states_mask": torch.tensor([[True] * 5 + [False] * 2]),
        "timestep": torch.tensor([1.0]),
        "img_shapes": [[(1, 4, 4)]],
    }
    return model, inputs


def wan_vae() -> tuple[Any, dict[str, Any]]:
    """Its blocks call attention in their own forward, without a processor."""
    from diffusers import AutoencoderKLWan

    model = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return model, {"sample": torch.randn(1, 3, 1, 16, 16)}


MODELS = {each.__name__: each for each in (sd3, pixart, cogvideox, qwen_image, wan_vae)}


def built(make: Callable[[], tuple[Any, dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
    """A pipe that holds the model, and the inputs of one call."""
    torch.manual_seed(0)
    model, inputs = make()
    place = "vae" if "Autoencoder" in type(model).__name__ else "transformer"
    pipe = tiny.flux()
    pipe.register_modules(**{place: model.eval()})
    return pipe, inputs


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_models_that_call_attention_in_other_ways_are_routed_too(
    make: Callable[[], tuple[Any, dict[str, Any]]], race: racing.Race
) -> None:
    pipe, inputs = built(make)
    model = pipe.vae if "sample" in inputs else pipe.transformer
    expected = model(**inputs).sample if hasattr(model, "encode") else model(**inputs)[0]
    before = tiny.snapshot(pipe)
    routed(pipe)
    ran = record_of(pipe).ran
    found = model(**inputs)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert ran["quick"] >= 2
    assert ran[STOCK] == 0
    assert record_of(pipe).refused == {}
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert torch.equal(model(**inputs)[0], expected)


def test_what_has_its_own_way_is_left_alone_and_told(race: racing.Race) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    pipe = tiny.stable_diffusion()
    pipe.unet.set_attn_processor(AttnProcessor())
    routed(pipe)
    record = record_of(pipe)
    assert record.changed == {"AttnProcessor2_0": 2}, "the VAE's"
    assert "no attention" in record.refused["unet"]
    assert any("AttnProcessor left alone" in note for note in record.notes)


def test_a_processor_that_several_share_is_changed_once(race: racing.Race) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    pipe = tiny.stable_diffusion()
    pipe.unet.set_attn_processor(AttnProcessor2_0())
    expected = unet_output(pipe.unet)
    routed(pipe)
    assert record_of(pipe).changed["AttnProcessor2_0"] == 3, "it, and the VAE's two"
    assert torch.equal(unet_output(pipe.unet), expected)
    assert record_of(pipe).ran["quick"] > 2


# Undone ---------------------------------------------------------------------------------------


def test_restore_puts_everything_back_bit_for_bit(race: racing.Race) -> None:
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    before = tiny.snapshot(pipe)
    routed(pipe)
    processor = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor
    assert type(processor).__name__ == "AttnProcessor2_0"
    assert type(processor) is not before_class(before)
    tiny.draw(pipe)
    sdaccel.restore(pipe)
    assert tiny.snapshot(pipe) == before
    assert (tiny.draw(pipe) == picture).all()
    assert race.calls["quick"] > 0


def before_class(before: dict[str, Any]) -> type:
    found: type = next(state[0] for name, state in before.items() if name.endswith(":processor"))
    return found


def test_no_module_or_class_of_anybody_changes(race: racing.Race) -> None:
    from diffusers.models import attention_dispatch, attention_processor

    places = (attention_processor, attention_dispatch, torch.nn.functional, torch.nn, torch)
    before = [dict(vars(place)) for place in (*places, attention_processor.AttnProcessor2_0)]
    pipe = routed(tiny.stable_diffusion())
    tiny.draw(pipe)
    after = [dict(vars(place)) for place in (*places, attention_processor.AttnProcessor2_0)]
    assert after == before
    assert race.calls["quick"] > 0


def test_the_routed_code_is_the_processor_s_own() -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    pipe = routed(tiny.stable_diffusion())
    processor = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor
    assert type(processor).__call__.__code__ == AttnProcessor2_0.__call__.__code__
    assert type(processor).__call__.__code__ is not AttnProcessor2_0.__call__.__code__


# Choices --------------------------------------------------------------------------------------


def test_a_choice_is_kept_on_disk_and_not_measured_again(cache: Path, race: racing.Race) -> None:
    first = routed(tiny.stable_diffusion())
    tiny.draw(first)
    shapes = record_of(first).ran["shapes measured"]
    timed = race.timed
    assert shapes > 2
    assert len(list((cache / "sdaccel" / "attention").glob("*.json"))) == 1
    second = routed(tiny.stable_diffusion())
    tiny.draw(second)
    assert race.timed == timed
    assert record_of(second).ran["shapes measured"] == 0
    assert record_of(second).ran["quick"] == record_of(first).ran["quick"]
    assert record_of(second).notes == record_of(first).notes
    assert "measuring" not in record_of(second).seconds


def test_a_shape_is_measured_once_and_the_time_is_told(race: racing.Race) -> None:
    pipe = routed(tiny.stable_diffusion())
    tiny.draw(pipe)
    timed = race.timed
    tiny.draw(pipe)
    assert race.timed == timed
    assert record_of(pipe).seconds["measuring"] > 0
    assert any("quick, 2.00 times stock" in note for note in record_of(pipe).notes)
    assert any("2 x 64x64 tokens, 8 heads of 4, fp32" in note for note in record_of(pipe).notes)


def test_a_folder_can_be_given(race: racing.Race, tmp_path: Path) -> None:
    pipe = routed(tiny.stable_diffusion(), folder=str(tmp_path / "mine"))
    unet_output(pipe.unet)
    assert len(list((tmp_path / "mine").glob("*.json"))) == 1


def test_without_measuring_what_is_unknown_is_stock_s(race: racing.Race) -> None:
    pipe = routed(tiny.stable_diffusion(), measure=False)
    unet_output(pipe.unet)
    assert race.calls["quick"] == 0
    assert record_of(pipe).ran[STOCK] > 0
    assert any("never measured" in note for note in record_of(pipe).notes)
    unet_output(routed(tiny.stable_diffusion()).unet)
    timed = race.timed
    knowing = routed(tiny.stable_diffusion(), measure=False)
    unet_output(knowing.unet)
    assert race.timed == timed
    assert record_of(knowing).ran["quick"] > 0


def test_a_wrong_and_a_slow_candidate_are_never_used(race: racing.Race) -> None:
    race.candidates.clear()
    race.enter("wrong", 0.1, compute=lambda *arguments: stock(*arguments) + 0.01)
    race.enter("slow", 3.0)
    pipe = tiny.stable_diffusion()
    picture = tiny.draw(pipe)
    routed(pipe)
    assert (tiny.draw(pipe) == picture).all()
    record = record_of(pipe)
    assert record.ran["wrong"] == record.ran["slow"] == 0
    assert record.ran[STOCK] > 0
    assert all("wrong dropped: error" in note for note in record.notes if "tokens" in note)


@pytest.mark.parametrize("candidates", [("kernle",), ["kernel", "nothing"], "nothing"])
def test_an_unknown_candidate_is_refused_with_the_choices(candidates: Any) -> None:
    pipe = tiny.stable_diffusion()
    before = tiny.snapshot(pipe)
    with pytest.raises(PlanError, match=r"no way '\w+' .*sdpa_flash"):
        routed(pipe, candidates=candidates)
    assert tiny.snapshot(pipe) == before


def test_the_candidates_can_be_chosen(race: racing.Race) -> None:
    race.candidates.clear()
    race.enter("kernel", 0.1)
    race.enter("sdpa_math", 0.5)
    pipe = routed(tiny.stable_diffusion(), candidates=("sdpa_math",))
    unet_output(pipe.unet)
    assert record_of(pipe).ran["sdpa_math"] > 0
    assert race.calls["kernel"] == 0


def test_lower_precision_is_offered_only_where_it_is_asked_for(race: racing.Race) -> None:
    race.enter("coarse", 0.1, compute=lambda *a: stock(*a) * 1.01, lower_precision=True)
    pipe = routed(tiny.stable_diffusion())
    unet_output(pipe.unet)
    assert race.calls["coarse"] == 0
    assert record_of(pipe).effect == Effect.EXACT.value
    pipe = routed(tiny.stable_diffusion(), lower_precision=True)
    unet_output(pipe.unet)
    assert record_of(pipe).ran["coarse"] > 0
    assert record_of(pipe).effect == Effect.LOWER_PRECISION.value
    assert any("coarse, 10.00 times stock, error 1.0e-02" in each for each in record_of(pipe).notes)


def test_its_effect_is_the_plan_s() -> None:
    assert Attention.effect is Attention().effect is Effect.EXACT
    plan = Plan.of("none").override(attention={"lower_precision": True})
    assert plan.effect is Effect.LOWER_PRECISION
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_with_candidates_survives_json() -> None:
    plan = Plan.of("none").override(attention={"candidates": ["kernel", "sdpa_flash"]})
    assert Plan.from_json(plan.to_json()) == plan
