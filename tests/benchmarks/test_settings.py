"""Names of rungs with a number in them: taken apart, or refused in one sentence."""

from __future__ import annotations

import pytest

from sdaccel.benchmarks import rungs
from sdaccel.benchmarks.errors import BenchmarkError
from sdaccel.benchmarks.settings import Named, Setting, parse

FAMILIES = {
    "cache": Setting("interval", "3", above=1, whole=True),
    "cache-lite": Setting("ratio", "0.3", at_most=0.75),
    "fewer": Setting("number of steps", "12", whole=True, words=("dpm++", "unipc")),
}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("cache-5", Named("cache", 5)),
        ("cache-lite-0.75", Named("cache-lite", 0.75)),
        ("fewer-12", Named("fewer", 12)),
        ("fewer-12-dpm++", Named("fewer", 12, "dpm++")),
        ("cache", None),
        ("cached-5", None),
        ("eager+cache-5", None),
    ],
)
def test_a_name_is_a_family_a_number_and_perhaps_a_word(name: str, named: Named | None) -> None:
    assert parse(name, FAMILIES) == named


BAD = (
    "cache-1 cache-2.5 cache-x cache- cache--3 cache-3-unipc cache-lite-0 cache-lite-0.76 "
    "cache-lite-nan fewer-0 fewer-12- fewer-12-euler fewer-" + 400 * "9"
)


@pytest.mark.parametrize("name", BAD.split())
def test_what_a_family_does_not_take_is_refused_with_what_it_takes(name: str) -> None:
    family = "cache-lite" if "lite" in name else name.partition("-")[0]
    setting = FAMILIES[family]
    sentence = f"behind '{family}-' stands its {setting.meaning}, {setting}, such as "
    with pytest.raises(BenchmarkError) as refused:
        parse(name, FAMILIES)
    assert str(refused.value).startswith(f"There is no rung '{name}': {sentence}")
    assert str(refused.value).count(". ") == 0


def test_the_numbers_that_a_setting_takes_are_said() -> None:
    said = [str(each) for each in FAMILIES.values()]
    assert said[:2] == ["a whole number above 1", "a number above 0 and at most 0.75"]


@pytest.mark.parametrize("name", ["deepcache-1", "tomesd-0.9", "mag-cache-0", "fewer-steps-9-lcm"])
def test_peers_and_controls_share_the_parser(name: str) -> None:
    with pytest.raises(BenchmarkError, match=f"There is no rung '{name}': behind"):
        rungs.rung(name)
