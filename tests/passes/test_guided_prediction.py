"""Guidance that waits for the step: stock's pictures, and nothing but the step touches latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy
import pytest
import tiny
import torch
from kernel_checks import on_a_cpu
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

import sdaccel
from sdaccel.benchmarks.measure import EXACT_RATIO, relative_error
from sdaccel.kernels.operator import operators
from sdaccel.passes.guided_prediction import Branch, Prediction

UNGUIDED, CONDITIONAL = (
    torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
)


def branches() -> tuple[Any, Any]:
    first, second = Branch(torch.cat([UNGUIDED, CONDITIONAL])).chunk(2)
    return first, second


def test_the_arithmetic_of_guidance_waits() -> None:
    unguided, conditional = branches()
    found = unguided + 7.5 * (conditional - unguided)
    assert type(found) is Prediction
    assert torch.equal(found.unguided, UNGUIDED)
    assert torch.equal(found.conditional, CONDITIONAL)
    assert found.scale == 7.5
    wanted = UNGUIDED + 7.5 * (CONDITIONAL - UNGUIDED)
    assert relative_error(found.value(), wanted) <= 1e-6
    assert relative_error(found.std(dim=(1, 2, 3)), wanted.std(dim=(1, 2, 3))) <= 1e-6


Arithmetic = Callable[[Any, Any], Any]
OTHERS: dict[str, Arithmetic] = {
    "the other way round": lambda u, c: c + 2.0 * (u - c),
    "added to the other branch": lambda u, c: c + 2.0 * (c - u),
    "a scale for each sample": lambda u, c: (
        u + torch.tensor([2.0, 3.0])[:, None, None, None] * (c - u)
    ),
    "a number of numpy's": lambda u, c: u + numpy.float32(2.0) * (c - u),
    "twice a scale": lambda u, c: u + 0.5 * (3.0 * (c - u)),
    "no scale": lambda u, c: u + (c - u),
    "a difference alone": lambda u, c: torch.cat([c - u, 2.0 * (c - u)]),
    "a product": lambda u, c: 2.0 * u - c / 3,
    "channels": lambda u, c: torch.cat([u[:, :2], c[:, 2:]], dim=1),
    "in place": lambda u, c: u.clone().add_(c),
    "a mean": lambda u, c: torch.stack([u, c]).mean(0),
    "joined again": lambda u, c: torch.cat([u, c]).chunk(2, dim=1)[0],
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_what_it_is_for_tensors(name: str) -> None:
    found, wanted = OTHERS[name](*branches()), OTHERS[name](UNGUIDED, CONDITIONAL)
    found = found.value() if isinstance(found, Prediction) else found
    assert type(found) is torch.Tensor
    assert relative_error(found, wanted) <= 1e-6


def test_branches_that_change_before_the_step_are_told_of() -> None:
    unguided, conditional = branches()
    found = unguided + 2.0 * (conditional - unguided)
    conditional.zero_()
    with pytest.raises(RuntimeError, match="changed in place before the step"):
        found.value()
    with pytest.raises(RuntimeError, match="changed in place before the step"):
        found.check_unchanged()


SCHEDULERS = ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler"]


def pipe_with(name: str) -> Any:
    config: dict[str, Any] = {"beta_schedule": "scaled_linear", "steps_offset": 1}
    if name == "DDIMScheduler":
        config["clip_sample"] = False
    return tiny.stable_diffusion(scheduler=getattr(diffusers, name)(**config))


def latents(pipe: Any, **options: Any) -> torch.Tensor:
    draw: Any = tiny.draw_flux if hasattr(pipe, "transformer") else tiny.draw
    found: torch.Tensor = draw(pipe, output_type="latent", **{"num_inference_steps": 4, **options})
    return found


@on_a_cpu
@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("name", [*SCHEDULERS, "flux"])
def test_a_step_on_a_device_combines_the_branches_by_itself(name: str) -> None:
    pipe = tiny.flux() if name == "flux" else pipe_with(name)
    wanted = latents(pipe)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    before = operators()["linear_step"].runs["kernel"]
    assert relative_error(latents(pipe), wanted) <= 1e-5
    assert operators()["linear_step"].runs["kernel"] - before == 4
    counts = sdaccel.report(pipe)["schedulers"].ran
    assert counts == {"steps from the table": 4, "guided predictions combined": 4}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    "options", [{}, {"guidance_rescale": 0.7}, {"guidance_scale": 1.0}], ids=lambda each: str(each)
)
def test_latents_are_stock_s_where_a_pipe_rescales_or_does_not_guide(
    name: str, options: dict[str, float]
) -> None:
    pipe = pipe_with(name)
    wanted = latents(pipe, **options)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    assert relative_error(latents(pipe, **options), wanted) <= 1e-5
    combined = sdaccel.report(pipe)["schedulers"].ran["guided predictions combined"]
    assert combined == (0 if options else 4)
    sdaccel.restore(pipe)
    assert torch.equal(latents(pipe, **options), wanted)


def test_in_16_bit_they_are_no_further_from_the_truth_than_stock_s() -> None:
    truth = latents(pipe_with("DDIMScheduler"))
    pipe = pipe_with("DDIMScheduler").to(torch.bfloat16)
    stocks = relative_error(latents(pipe), truth)
    sdaccel.accelerate(pipe, "none", schedulers=True)
    assert relative_error(latents(pipe), truth) <= EXACT_RATIO * stocks


def test_outside_of_the_pipe_s_own_calls_a_denoiser_puts_out_tensors() -> None:
    pipe = pipe_with("DDIMScheduler")
    sdaccel.accelerate(pipe, "none", schedulers=True)
    latents(pipe)
    pipe.scheduler.set_timesteps(2)
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(2, 16, 32)
    with torch.no_grad():
        output = pipe.unet(sample, pipe.scheduler.timesteps[0], text, return_dict=False)
    assert type(output[0]) is torch.Tensor


class Traffic(TorchDispatchMode):
    """Counts the bytes of latents that operations read and write while it `counts`."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes, self.counts = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_view = any(each.alias_info is not None for each in func._schema.returns)
        if self.counts and not is_view:
            leaves = _pytree.tree_leaves((args, kwargs, result))
            tensors = [each for each in leaves if isinstance(each, torch.Tensor)]
            self.nbytes += sum(each.nbytes for each in tensors if each.shape[-2:] == (8, 8))
        return result


def traffic_of_a_step(pipe: Any) -> float:
    """From a denoiser's output to the next sample, in bytes."""
    traffic, steps = Traffic(), pipe.scheduler.step
    pipe.unet.register_forward_hook(lambda *_: setattr(traffic, "counts", True))

    def step(*args: Any, **kwargs: Any) -> Any:
        result = steps(*args, **kwargs)
        traffic.counts = False
        return result

    pipe.scheduler.step = step
    with traffic:
        latents(pipe, num_inference_steps=5)
    return traffic.nbytes / 5


@on_a_cpu
@pytest.mark.usefixtures("as_on_a_device")
def test_a_guided_step_reads_and_writes_each_tensor_once() -> None:
    """Both branches and the sample in, the sample out; 1.2 times that would be allowed."""
    stock, pipe = pipe_with("DDIMScheduler"), pipe_with("DDIMScheduler")
    sdaccel.accelerate(pipe, "none", schedulers=True)
    latents(pipe, num_inference_steps=5)  # the steps are looked at
    ideal = 4 * (4 * 8 * 8) * 4
    assert traffic_of_a_step(stock) > 4 * ideal
    assert traffic_of_a_step(pipe) == ideal


@pytest.mark.parametrize("name", ["DDIMScheduler", "flux"])
def test_a_branch_that_the_guidance_pass_leaves_out_is_combined_as_well(name: str) -> None:
    """Its hooks lie inside: what they keep of a forward are tensors."""
    pipe = tiny.flux() if name == "flux" else pipe_with(name)
    reuse = {"stop": 0.4, "every": 3, "fewest_steps": 4}
    sdaccel.accelerate(pipe, "none", guidance=reuse)
    wanted = latents(pipe, num_inference_steps=6)
    sdaccel.accelerate(pipe, "none", guidance=reuse, schedulers=True)
    assert relative_error(latents(pipe, num_inference_steps=6), wanted) <= 1e-5
    assert sdaccel.report(pipe)["schedulers"].ran["guided predictions combined"] == 6
    left_out = sdaccel.report(pipe)["guidance"].ran
    assert any("one branch" in each for each in left_out)
