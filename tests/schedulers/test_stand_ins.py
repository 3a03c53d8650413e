"""A stand-in is a drop-in: same interface, same state, and stock's own step where it must be."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from trajectories import PUBLISHED, SHAPE, Run, denoise, distance, follow

import sdaccel.schedulers
from sdaccel.errors import SdaccelError, SdaccelWarning
from sdaccel.schedulers.counterparts import KINDS, counterpart_of

NAMES = sorted(KINDS)
STEP_BY_STEP = Run("DPMSolverMultistepScheduler", PUBLISHED, {"num_inference_steps": 8})
REMEMBERING = [
    STEP_BY_STEP,
    Run("UniPCMultistepScheduler", {**PUBLISHED, "solver_order": 3}, {"num_inference_steps": 8}),
    Run("HeunDiscreteScheduler", PUBLISHED, {"num_inference_steps": 5}),
    Run("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, {"num_inference_steps": 5}),
]


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_interface_and_configuration_are_stocks(name: str, tmp_path: Any) -> None:
    stock, ours = getattr(diffusers, name), getattr(sdaccel.schedulers, name)
    assert (ours.__name__, ours.__module__) == (stock.__name__, stock.__module__)
    for method in ("__init__", "step", "set_timesteps"):
        assert inspect.signature(getattr(ours, method)) == inspect.signature(getattr(stock, method))
    public = {each for each in dir(stock) if not each.startswith("_")}
    assert {each for each in dir(ours) if not each.startswith("_")} == public
    scheduler = ours.from_config(stock(num_train_timesteps=500).config)
    assert isinstance(scheduler, stock)
    assert scheduler.config == stock(num_train_timesteps=500).config
    assert (scheduler.order, len(scheduler)) == (stock.order, 500)
    scheduler.save_pretrained(tmp_path)
    assert type(stock.from_pretrained(tmp_path)) is stock
    assert ours.from_pretrained(tmp_path).config.num_train_timesteps == 500


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'PNDMScheduler'"):
        _ = sdaccel.schedulers.PNDMScheduler
    assert counterpart_of(diffusers.PNDMScheduler) is None
    assert sorted(dir(sdaccel.schedulers)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_state_follows_stocks_at_every_step(name: str) -> None:
    stock, ours = getattr(diffusers, name)(), getattr(sdaccel.schedulers, name)()
    for scheduler in (stock, ours):
        scheduler.set_timesteps(4)
        scheduler.is_scale_input_called = True
    assert torch.equal(ours.timesteps, stock.timesteps)
    samples = {id(stock): noise(), id(ours): noise()}
    for timestep in stock.timesteps:
        for scheduler in (stock, ours):
            sample = samples[id(scheduler)]
            samples[id(scheduler)] = scheduler.step(noise(1), timestep, sample)[0]
        for own in ("step_index", "begin_index", "lower_order_nums", "state_in_first_order"):
            assert getattr(ours, own, None) == getattr(stock, own, None)


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_added_as_in_stock(name: str) -> None:
    stock, ours = getattr(diffusers, name)(), getattr(sdaccel.schedulers, name)()
    for scheduler in (stock, ours):
        scheduler.set_timesteps(6)
    method = "add_noise" if hasattr(stock, "add_noise") else "scale_noise"
    timestep = stock.timesteps[2:3]
    arguments: tuple[Any, ...] = (noise(), noise(1), timestep)
    if method == "scale_noise":
        arguments = (noise(), timestep, noise(1))
    expected = getattr(stock, method)(*arguments)
    assert torch.equal(getattr(ours, method)(*arguments), expected)


@pytest.mark.parametrize("name", ["DDIMScheduler", "LCMScheduler", "EulerDiscreteScheduler"])
def test_a_tuple_holds_what_stocks_does(name: str) -> None:
    stock, ours = getattr(diffusers, name)(), getattr(sdaccel.schedulers, name)()
    results = []
    for scheduler in (stock, ours):
        scheduler.set_timesteps(4)
        scheduler.is_scale_input_called = True
        generator = torch.Generator().manual_seed(3)
        options = {"generator": generator, "return_dict": False}
        results.append(scheduler.step(noise(1), scheduler.timesteps[0], noise(), **options))
    expected, found = results
    assert isinstance(found, tuple)
    assert len(found) == len(expected) == 2
    first, second = found
    assert first is found[0]
    assert second is found[-1]
    assert distance([first, second], list(expected)) <= 1e-6
    assert [*tuple(found)] == [first, second]
    assert repr(second) in repr(found)


def test_a_second_result_is_never_computed_from_changed_inputs() -> None:
    scheduler = sdaccel.schedulers.DDIMScheduler()
    scheduler.set_timesteps(4)
    sample = noise()
    found = scheduler.step(noise(1), scheduler.timesteps[0], sample, return_dict=False)
    sample.mul_(2)
    assert torch.isfinite(found[0]).all()
    with pytest.raises(SdaccelError, match="changed in place"):
        _ = found[1]


def test_positional_arguments_are_stocks() -> None:
    results = []
    for scheduler in (diffusers.DDIMScheduler(), sdaccel.schedulers.DDIMScheduler()):
        scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(3)
        step = (noise(1), scheduler.timesteps[0], noise(), 0.5, False, generator)
        results.append(scheduler.step(*step).prev_sample)
    assert distance(results[1:], results[:1]) <= 1e-6


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler"])
def test_generations_follow_each_other(name: str) -> None:
    run = Run(name, PUBLISHED)
    stock, ours = run.stock(), run.ours()
    for count in (4, 6, 4):
        run = Run(name, PUBLISHED, {"num_inference_steps": count})
        found, expected = follow(run, ours), follow(run, stock)
        assert distance([found[-1][0]], [expected[-1][0]]) <= 1e-6
    assert ours._sdaccel_tables.ran == {"steps from the table": 14}


def test_weights_are_found_once_for_a_schedule_and_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed = []
    stock_probe = sdaccel.schedulers.tables.probe

    def probe(*arguments: Any) -> Any:
        probed.append(arguments)
        return stock_probe(*arguments)

    monkeypatch.setattr("sdaccel.schedulers.tables.probe", probe)
    ours = STEP_BY_STEP.ours()
    for count in (4, 5, 4, 4, 5):
        follow(Run(STEP_BY_STEP.name, schedule={"num_inference_steps": count}), ours)
    assert len(probed) == 2
    for count in range(3, 13):
        ours.set_timesteps(count)
    assert len(ours._sdaccel_tables._library) == 8
    euler = Run("EulerDiscreteScheduler")
    scheduler = euler.ours()
    for churn in range(40):
        follow(
            Run(euler.name, schedule={"num_inference_steps": 1}, options={"s_churn": churn}),
            scheduler,
        )
    assert len(scheduler._sdaccel_tables.schedule.programs) == 32


def test_a_schedule_that_was_interrupted_leaves_nothing_behind() -> None:
    stock, ours = STEP_BY_STEP.stock(), STEP_BY_STEP.ours()
    ours.set_timesteps(8)
    for timestep in ours.timesteps[:3]:
        ours.step(noise(1), timestep, noise())
    found, expected = follow(STEP_BY_STEP, ours), follow(STEP_BY_STEP, stock)
    assert distance([found[-1][0]], [expected[-1][0]]) <= 1e-6


@pytest.mark.parametrize("run", REMEMBERING, ids=str)
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_copy_goes_on_from_where_it_was_made(run: Run, after: int) -> None:
    def go_on(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(**run.schedule)
        sample = noise()
        for index, timestep in enumerate(scheduler.timesteps):
            if index == after:
                original, scheduler = scheduler, copy.deepcopy(scheduler)
                original.step(noise(7), timestep, noise(8))
            sample = scheduler.step(denoise(sample), timestep, sample).prev_sample
        return sample

    assert distance([go_on(run.ours())], [go_on(run.stock())]) <= 1e-6


def half_way(run: Run, scheduler: Any, after: int, change: Callable[..., Any]) -> torch.Tensor:
    """A trajectory whose step `after` gets what `change` makes of sample, timestep, scheduler."""
    scheduler.set_timesteps(**run.schedule)
    sample = noise()
    for index, timestep in enumerate(scheduler.timesteps):
        if index == after:
            sample = change(scheduler, sample)
        sample = scheduler.step(denoise(sample), timestep, sample).prev_sample
    return sample


@pytest.mark.parametrize("run", REMEMBERING, ids=str)
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_stock_goes_on_where_the_table_ends(run: Run, after: int) -> None:
    def ask_for_a_gradient(scheduler: Any, sample: torch.Tensor) -> torch.Tensor:
        return sample.clone().requires_grad_()

    ours = run.ours()
    with pytest.warns(SdaccelWarning, match="a gradient is asked for"):
        found = half_way(run, ours, after, ask_for_a_gradient)
    assert distance([found], [half_way(run, run.stock(), after, ask_for_a_gradient)]) <= 1e-6
    assert ours._sdaccel_tables.ran["steps from the table"] == after
    assert ours._sdaccel_tables.ran["steps made by stock"] == len(ours.timesteps) - after


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_latents_of_another_shape_in_the_middle_are_served(name: str) -> None:
    def halve(scheduler: Any, sample: torch.Tensor) -> torch.Tensor:
        return sample[:1, :, 1:].clone()

    run = Run(name, PUBLISHED)
    ours, stock = run.ours(), run.stock()
    stock.is_scale_input_called = True
    found = half_way(run, ours, 2, halve)
    assert found.shape == (1, 4, 2, 5)
    assert distance([found], [half_way(run, stock, 2, halve)]) <= 1e-6


def test_latents_of_another_shape_fail_as_in_stock_where_it_remembers_the_old_ones() -> None:
    def cut(scheduler: Any, sample: torch.Tensor) -> torch.Tensor:
        return sample[..., :2].clone()

    with pytest.raises(RuntimeError, match="must match") as expected:
        half_way(STEP_BY_STEP, STEP_BY_STEP.stock(), 3, cut)
    with (
        pytest.warns(SdaccelWarning, match="changed in the middle"),
        pytest.raises(RuntimeError, match="must match") as found,
    ):
        half_way(STEP_BY_STEP, STEP_BY_STEP.ours(), 3, cut)
    assert str(found.value) == str(expected.value)


BAD: list[tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]], str]] = [
    ("DDIMScheduler", {}, lambda _: {"timestep": 123}, "its timestep is none of the schedule's"),
    ("DDPMScheduler", {"thresholding": True}, lambda _: {}, "isn't a weighted sum"),
    ("DDIMScheduler", {}, lambda _: {"variance_noise": noise(5), "eta": 1.0}, "its variance_noise"),
    (
        "TCDScheduler",
        {},
        lambda s: {"timestep": s.timesteps[1], "eta": 0.0},
        "not the next of the schedule's",
    ),
    (
        "FlowMatchEulerDiscreteScheduler",
        {},
        lambda _: {"per_token_timesteps": torch.full((2, 3), 500.0)},
        "its per_token_timesteps is no plain number",
    ),
]


@pytest.mark.parametrize(("name", "config", "change", "words"), BAD)
def test_what_the_table_does_not_serve_stock_computes_and_says_so(
    name: str, config: dict[str, Any], change: Callable[[Any], dict[str, Any]], words: str
) -> None:
    run = Run(name, config)
    results = []
    for scheduler in (run.stock(), run.ours()):
        scheduler.set_timesteps(4)
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = 0
        sample = noise()[:, 0, :, :] if "per_token" in words else noise()
        arguments = {"timestep": scheduler.timesteps[0], **change(scheduler)}
        generator = torch.Generator().manual_seed(3)
        if "variance_noise" not in arguments:
            arguments["generator"] = generator
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(scheduler.step(sample * 2, sample=sample, **arguments).prev_sample)
    assert torch.equal(*results)
    sentences = [str(each.message) for each in caught if each.category is SdaccelWarning]
    assert len(sentences) == 1
    assert words in sentences[0]


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler"])
def test_a_step_that_somebody_has_wrapped_is_called_for_steps_alone(name: str) -> None:
    run = Run(name, PUBLISHED)
    ours, calls = run.ours(), []
    wrapped = ours.step

    def step(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return wrapped(*args, **kwargs)

    ours.step = step
    found, expected = follow(run, ours), follow(run, run.stock())
    assert distance([found[-1][0]], [expected[-1][0]]) <= 1e-6
    assert len(calls) == len(found)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "DDIMScheduler"])
def test_a_configuration_noted_anew_is_no_change(name: str) -> None:
    """`from_config` does so, after Heun's constructor has set a schedule."""
    ours = Run(name, PUBLISHED).ours()
    ours.set_timesteps(4)
    ours.register_to_config(unused=1)
    ours.is_scale_input_called = True
    ours.step(noise(1), ours.timesteps[0], noise())
    assert ours._sdaccel_tables.ran == {"steps from the table": 1}


def halve_a_sigma(scheduler: Any) -> None:
    scheduler.sigmas[1] *= 0.5


def halve_an_alpha(scheduler: Any) -> None:
    scheduler.alphas_cumprod[500] *= 0.5


def predict_velocity(scheduler: Any) -> None:
    scheduler.register_to_config(prediction_type="v_prediction")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("EulerDiscreteScheduler", halve_a_sigma),
        ("DDIMScheduler", halve_an_alpha),
        ("DDIMScheduler", predict_velocity),
        ("UniPCMultistepScheduler", predict_velocity),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
def test_a_schedule_changed_by_hand_is_noticed(
    name: str, change: Callable[[Any], None], after: int
) -> None:
    def changed(scheduler: Any, sample: torch.Tensor) -> torch.Tensor:
        change(scheduler)
        return sample

    run = Run(name, PUBLISHED)
    stock, ours = run.stock(), run.ours()
    stock.is_scale_input_called = ours.is_scale_input_called = True
    wanted = half_way(run, stock, after, changed)
    with pytest.warns(SdaccelWarning, match="its schedule was changed since set_timesteps"):
        found = half_way(run, ours, after, changed)
    assert distance([found], [wanted]) <= 1e-6
    assert ours._sdaccel_tables.ran["steps from the table"] == after


def test_the_reason_is_told_once() -> None:
    ours = sdaccel.schedulers.DDIMScheduler(thresholding=True)
    with pytest.warns(SdaccelWarning) as caught:
        follow(Run("DDIMScheduler"), ours)
    assert len(caught) == 1
    assert ours._sdaccel_tables.ran == {"steps made by stock": 6}


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_errors_are_stocks(name: str) -> None:
    ours = getattr(sdaccel.schedulers, name)()
    ours.set_timesteps(4)
    with pytest.raises(ValueError, match="Passing integer indices"):
        ours.step(noise(1), 0, noise())
    with pytest.warns(SdaccelWarning), pytest.raises(TypeError, match="unknown"):
        ours.step(noise(1), ours.timesteps[0], noise(), unknown=1)


def test_a_gradient_is_stocks() -> None:
    ours = sdaccel.schedulers.DDIMScheduler(clip_sample=False)
    ours.set_timesteps(4)
    prediction = noise(1).requires_grad_()
    with pytest.warns(SdaccelWarning, match="a gradient is asked for"):
        result = ours.step(prediction, ours.timesteps[0], noise()).prev_sample
    result.sum().backward()
    assert prediction.grad is not None


@pytest.mark.parametrize("run", REMEMBERING[:2], ids=str)
def test_nothing_is_allocated_anew_for_what_is_remembered(run: Run) -> None:
    ours = run.ours()
    ours.set_timesteps(**run.schedule)
    sample, places = noise(), set()
    for timestep in ours.timesteps:
        sample = ours.step(denoise(sample), timestep, sample).prev_sample
        places.add(frozenset(each.data_ptr() for each in ours._sdaccel_tables.trajectory._slots))
    assert len(places) == 1
