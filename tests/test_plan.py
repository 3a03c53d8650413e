"""Plans are frozen, ordered, serialisable, and refuse what can't be."""

from __future__ import annotations

import dataclasses

import pytest

from sdaccel import Plan
from sdaccel.errors import PlanError
from sdaccel.passes import NAMES, Effect, pass_class
from sdaccel.passes.precision import Precision
from sdaccel.plan import NAMED


def names(plan: Plan) -> list[str]:
    return [each.name for each in plan.passes]


@pytest.mark.parametrize("name", NAMED)
def test_a_named_plan_holds_its_passes_in_order(name: str) -> None:
    plan = Plan.of(name)
    assert sorted(names(plan)) == sorted(NAMED[name])
    assert [each.order for each in plan.passes] == sorted(each.order for each in plan.passes)


def test_only_exact_passes_are_in_the_lossless_plans() -> None:
    assert Plan.of("lossless").effect is Effect.EXACT
    assert Plan.of("eager").effect is Effect.EXACT
    assert Plan.of("lossless+precision").effect is Effect.LOWER_PRECISION
    for name in ("balanced", "fast"):
        assert Plan.of(name).effect is Effect.APPROXIMATE


def test_fast_keeps_less_of_the_picture_than_balanced() -> None:
    caches = [each for name in ("balanced", "fast") for each in Plan.of(name).passes[-1:]]
    balanced, fast = (each.options for each in caches)
    assert balanced["budget"] >= 40
    assert balanced["budget"] > fast["budget"] >= 30
    assert balanced["interval"] < fast["interval"]
    assert Plan.of("fast").override(step_cache=False) == Plan.of("fast-step_cache")
    assert Plan.of("fast-step_cache").passes == Plan.of("lossless+precision").passes


def test_an_expression_adds_and_removes() -> None:
    plan = Plan.of("lossless + precision - compile")
    assert "precision" in plan
    assert "compile" not in plan
    assert plan.name == "lossless+precision-compile"


def test_overrides_add_remove_and_set_options() -> None:
    plan = Plan.of("eager").override(vae={"tiling": "never"}, no_ops=False, precision=True)
    assert plan.name == "eager+precision-no_ops"
    assert {each.name: each.options for each in plan.passes}["vae"] == {"tiling": "never"}
    assert plan.override(vae=True) == plan


def test_removing_what_is_not_there_changes_nothing() -> None:
    assert Plan.of("eager").override(precision=False) == Plan.of("eager")


def test_json_brings_the_same_plan_back(tmp_path) -> None:
    plan = Plan.of("fast").override(precision={"dtype": "bfloat16"})
    assert Plan.from_json(plan.to_json()) == plan
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert Plan.of(path) == plan
    assert Plan.of(str(path)) == plan


def test_a_plan_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plan.of("eager").name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("losless", "did you mean 'lossless'"),
        ("eager+precison", "did you mean 'precision'"),
        ("eager+nonsense", "choose from allocator"),
        (3, "not int"),
        ("missing.json", "can't be read"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(value: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.of(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"vae": {"tilling": "never"}}, "no option 'tilling': it has tiling"),
        ({"vae": {"tiling": "sometimes"}}, "tiling is 'auto'"),
        ({"vae": "never"}, "takes True, False or a mapping"),
        ({"allocator": {"size": 1}}, "it has none"),
        ({"vea": True}, "did you mean 'vae'"),
    ],
)
def test_a_wrong_override_is_refused_by_name(overrides: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.of("eager").override(**overrides)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '{"name": "x", "passes": [{}]}'])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="no plan"):
        Plan.from_json(text)


@dataclasses.dataclass(frozen=True)
class Rival(Precision):
    name = "rival"
    conflicts = frozenset({"precision"})


@dataclasses.dataclass(frozen=True)
class Dependent(Precision):
    name = "dependent"
    needs = frozenset({"precision"})


def test_passes_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(PlanError, match="rival and precision exclude each other"):
        Plan("mine", (Rival(), Precision()))


def test_a_missing_need_is_refused() -> None:
    with pytest.raises(PlanError, match="dependent needs precision"):
        Plan("mine", (Dependent(),))
    assert "dependent" in Plan("mine", (Dependent(), Precision()))


def test_a_pass_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="precision is in this plan twice"):
        Plan("mine", (Precision(), Precision()))


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_says_what_it_is(name: str) -> None:
    kind = pass_class(name)
    assert kind.name == name
    assert kind.summary
    assert isinstance(kind.effect, Effect)
