"""Hoist, schedulers and graphs in one plan: pictures are stock's, whatever callbacks change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import caching
import diffusers
import pytest
import tiny
import torch
from features import lora
from hoisting import SHOWS
from taping import taped

import sdaccel
from sdaccel import shapes
from sdaccel.benchmarks.architectures import draw_weights
from sdaccel.benchmarks.measure import EXACT_ERROR, relative_error
from sdaccel.errors import SdaccelWarning

pytestmark = pytest.mark.usefixtures("plain_torch", "no_choices")

STEPS = 7
PLAN: dict[str, Any] = {
    "no_ops": True,
    "fuse": True,
    "attention": {"measure": False},
    "hoist": True,
    "schedulers": True,
    "cuda_graph": True,
}
WHOLE = 3 * EXACT_ERROR
"""Seven steps add up what single forwards differ by."""

Given = dict[str, Any]
Change = Callable[[Any, int, Given], Given]


def replace_text(_: Any, step: int, given: Given) -> Given:
    embeds = given["prompt_embeds"]
    return {**given, "prompt_embeds": embeds.flip(1) * 3.0} if step == 3 else given


def edit_text(_: Any, step: int, given: Given) -> Given:
    if step == 3:
        given["prompt_embeds"].mul_(3.0)
    return given


def shorten_text(_: Any, step: int, given: Given) -> Given:
    embeds = given["prompt_embeds"]
    return {**given, "prompt_embeds": embeds[:, :9]} if step == 3 else given


def guide_less(pipe: Any, step: int, given: Given) -> Given:
    if step == 3:
        pipe._guidance_scale = 2.0
    return given


def stop_guiding(pipe: Any, step: int, given: Given) -> Given:
    """As diffusers' documentation does it."""
    if step != 3:
        return given
    pipe._guidance_scale = 0.0
    return {**given, "prompt_embeds": given["prompt_embeds"].chunk(2)[-1]}


def scale_adapter(pipe: Any, step: int, given: Given) -> Given:
    if step == 3:
        pipe.unet.set_adapters("default", -1.0)
    return given


def scale_adapter_of_a_call(pipe: Any, step: int, given: Given) -> Given:
    if step == 3:
        pipe._cross_attention_kwargs = {"scale": -1.0}
    return given


def merge_adapter(pipe: Any, step: int, given: Given) -> Given:
    if step == 3:
        pipe.unet.fuse_lora(lora_scale=0.5)
    return given


def load_adapter(pipe: Any, step: int, given: Given) -> Given:
    if step == 3:
        lora(pipe.unet)
    return given


def move_timesteps(pipe: Any, step: int, given: Given) -> Given:
    if step == 3:
        pipe.scheduler.timesteps.sub_(25)
    return given


def enlarge_latents(_: Any, step: int, given: Given) -> Given:
    latents = given["latents"]
    if step == 3:
        latents = torch.nn.functional.interpolate(latents, scale_factor=2)
    return {**given, "latents": latents}


FOR_ONE_CALL: list[Change] = [
    *(replace_text, edit_text, shorten_text, guide_less, stop_guiding, enlarge_latents)
]
OF_ADAPTERS: list[Change] = [load_adapter, scale_adapter, scale_adapter_of_a_call, merge_adapter]


def name_of(change: Change) -> str:
    return change.__name__


def draw(pipe: Any, change: Change | None = None, **options: Any) -> torch.Tensor:
    """Latents; `change` is called after each step, as a user's callback is."""
    if change is not None:
        options["callback_on_step_end"] = change_by(change)
        options["callback_on_step_end_tensor_inputs"] = ["latents", "prompt_embeds"]
    given = {"num_inference_steps": STEPS, "output_type": "latent", **options}
    found: torch.Tensor = caching.draw(pipe, **given)
    return found


def change_by(change: Change) -> Callable[..., Given]:
    return lambda pipe, step, _, given: change(pipe, step, given)


def with_adapter() -> Any:
    pipe = plain()
    lora(pipe.unet)
    return pipe


def plain() -> Any:
    pipe = tiny.stable_diffusion()
    draw_weights(pipe.unet, 0, 3**0.5)  # text shows more than with torch's own
    return pipe


@dataclass
class Both:
    """A stock pipe and an accelerated one, and what the stock one draws."""

    stock: Any
    pipe: Any
    unchanged: torch.Tensor

    @classmethod
    def of(cls, make: Callable[[], Any]) -> Both:
        stock = make()
        with taped():
            pipe = sdaccel.accelerate(make(), "none", **PLAN)
        return cls(stock, pipe, draw(stock))

    def check(self, change: Change | None = None, **options: Any) -> None:
        """The accelerated pipe draws what the stock one does, with a change and then without."""
        wanted, found = draw(self.stock, change, **options), draw(self.pipe, change, **options)
        shows = wanted.shape != self.unchanged.shape
        assert shows or relative_error(wanted, self.unchanged) > SHOWS
        assert relative_error(found, wanted) <= WHOLE


@pytest.fixture
def plain_pipes(no_choices: None) -> Both:
    return Both.of(plain)


@pytest.mark.parametrize("change", FOR_ONE_CALL, ids=name_of)
def test_what_a_callback_changes_in_mid_loop_is_noticed(change: Change, plain_pipes: Both) -> None:
    plain_pipes.check(change)
    assert relative_error(draw(plain_pipes.pipe), plain_pipes.unchanged) <= WHOLE


@pytest.mark.parametrize("change", OF_ADAPTERS, ids=name_of)
def test_an_adapter_changed_in_mid_loop_is_noticed(change: Change) -> None:
    pipes = Both.of(plain if change is load_adapter else with_adapter)
    pipes.check(change)
    assert relative_error(draw(pipes.pipe), draw(pipes.stock)) <= WHOLE


def test_timesteps_changed_in_mid_loop_are_noticed(plain_pipes: Both) -> None:
    with pytest.warns(SdaccelWarning, match="its schedule was changed since set_timesteps"):
        plain_pipes.check(move_timesteps)


def image_to_image() -> Any:
    return other_task("StableDiffusionImg2ImgPipeline")


def inpainting() -> Any:
    return other_task("StableDiffusionInpaintPipeline")


def other_task(name: str) -> Any:
    pipe = getattr(diffusers, name)(**plain().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def given_to(make: Callable[[], Any]) -> dict[str, Any]:
    """The picture, and the mask, that a task asks for."""
    if make in (caching.flux, caching.controlnet):
        return {}
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    if make is image_to_image:
        return {"image": image}
    mask = (torch.arange(16) < 8).float().expand(1, 1, 16, 16)
    return {"image": image, "mask_image": mask, "height": 16, "width": 16}


@pytest.mark.parametrize(
    "make", [caching.flux, caching.controlnet, image_to_image, inpainting], ids=name_of
)
def test_every_task_s_picture_is_stock_s(make: Callable[[], Any]) -> None:
    stock, pipe = make(), make()
    given = given_to(make)
    with taped():
        sdaccel.accelerate(pipe, "none", **PLAN)
    for steps in (STEPS, STEPS + 2, STEPS):
        wanted = draw(stock, num_inference_steps=steps, **given)
        assert relative_error(draw(pipe, num_inference_steps=steps, **given), wanted) <= WHOLE
    report = sdaccel.report(pipe)
    assert report["hoist"].ran["rows read"] > STEPS
    assert "steps made by stock" not in report["schedulers"].ran
    assert any("replays" in each for each in report["cuda_graph"].ran)


@pytest.mark.parametrize("name", shapes.names())
def test_the_embedded_models_pictures_are_stock_s(name: str) -> None:
    pipe = shapes.load(name)
    pipe.set_progress_bar_config(disable=True)
    prompt = "a large red circle above a small blue square on a green background"

    def drawn() -> torch.Tensor:
        seed = torch.Generator().manual_seed(0)
        options = {**shapes.call_defaults(name), "num_inference_steps": 5, "generator": seed}
        found: torch.Tensor = pipe(prompt, **options, output_type="latent", return_dict=False)[0]
        return found

    wanted = drawn()
    with taped():
        sdaccel.accelerate(pipe, "eager", **{**PLAN, "allocator": False})
    assert max(relative_error(drawn(), wanted) for _ in range(2)) <= EXACT_ERROR
    report = sdaccel.report(pipe)
    assert report["hoist"].ran["rows read"] > 5
    assert report["schedulers"].ran == dict.fromkeys(
        ("steps from the table", "guided predictions combined"), 2 * 5
    )
    assert any("replays" in each for each in report["cuda_graph"].ran)
    sdaccel.restore(pipe)
    assert torch.equal(drawn(), wanted)
