"""The page as text: whole in itself, every row on it, machines apart, nothing hidden."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from bench_files import COMMITTED, a_row, run_of, stock

from sdaccel.benchmarks.errors import ResultsError
from sdaccel.benchmarks.reader import read_all
from sdaccel.benchmarks.reporting import drawing
from sdaccel.benchmarks.reporting.page import render
from sdaccel.benchmarks.rows import Results, Row
from sdaccel.errors import InputError

MEGABYTE = 10**6


@pytest.fixture(scope="module", autouse=True)
def small_library() -> Any:
    """The charts' library takes seconds to bundle: one test alone looks at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdaccel.benchmarks.reporting.page._library", lambda: "/* library */")
        yield


def charts(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.S)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values


def text_of(page: str) -> str:
    """What a reader sees, without scripts, styles and tags."""
    bare = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare))


def bars(page: str, chart: str) -> dict[str, dict[str, Any]]:
    """A ladder's bars by their rung."""
    drawn = charts(page)[chart]["layer"][0]["data"]["values"]
    return {bar["rung"]: bar for bar in drawn}


@pytest.fixture(scope="module")
def committed() -> str:
    return render(read_all([COMMITTED]))


def test_every_row_of_the_committed_files_is_in_a_table(committed: str) -> None:
    from sdaccel.benchmarks.selection import machines

    rows = re.findall(r"<tr class=", committed)
    compared = len(re.findall(r'<article class="comparison"', committed))
    shown = sum(len(each.entries) for each in machines(read_all([COMMITTED])))
    assert len(rows) + compared == shown


def test_nothing_is_fetched_from_anywhere(committed: str) -> None:
    loaded = re.findall(
        r'(?:src|href)="(?!data:|#)([^"]*)"|@import|<link(?! rel="icon")', committed
    )
    assert loaded == []
    styles = re.findall(r"url\((?!data:)", committed)
    assert styles == []


def test_the_page_with_its_library_stays_small(
    committed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    bundle = drawing.needed("vl_convert").javascript_bundle()
    assert "vegaEmbed" in bundle
    assert "</script" not in bundle
    assert len(bundle) + len(committed) < 3 * MEGABYTE


def test_machines_are_kept_apart_and_never_averaged(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path, stock(), a_row(times=2.0), slug="x-2-cores"),
        run_of(tmp_path, stock(), a_row(times=4.0), slug="y-2-cores"),
    ]
    page = render(runs)
    assert bars(page, "m0-ladder-0")["lossless · fp32"]["speedup"] == pytest.approx(2.0, rel=0.01)
    assert bars(page, "m1-ladder-0")["lossless · fp32"]["speedup"] == pytest.approx(4.0, rel=0.01)
    assert page.count('class="machine"') == 2
    assert 'href="#m1"' in page


def test_losing_noisy_failed_and_skipped_rungs_stay_with_their_reason(tmp_path: Path) -> None:
    untimed = {"seconds": [], "baseline_seconds": [], "error": None}
    run = run_of(
        tmp_path,
        stock(),
        a_row("eager", 0.8),
        a_row("wild", seconds=[1.0, 2.0, 1.0, 2.0], baseline_seconds=[3.0] * 4),
        a_row("fast", status="failed", reason="Out of <b>luck</b>.", **untimed),
        a_row("openvino", kind="peer", status="skipped", reason="Not installed.", **untimed),
    )
    page = render([run])
    found = bars(page, "m0-ladder-0")
    assert found["eager · fp32"]["role"] == "sdaccel, slower"
    assert found["wild · fp32"]["text"].endswith("!")
    assert found["fast · fp32"]["speedup"] is None
    assert found["fast · fp32"]["text"] == "failed"
    assert "failed: Out of &lt;b&gt;luck&lt;/b&gt;." in page
    assert "skipped: Not installed." in text_of(page)


def test_a_rung_within_noise_of_stock_is_not_called_slower(tmp_path: Path) -> None:
    page = render([run_of(tmp_path, stock(), a_row("eager", 0.999))])
    assert bars(page, "m0-ladder-0")["eager · fp32"]["role"] == "sdaccel"


def test_scaled_down_workloads_stand_under_a_heading_of_their_own(tmp_path: Path) -> None:
    page = render([run_of(tmp_path, stock(quick=True), a_row(quick=True))])
    assert list(charts(page)) == ["m0-ladder-quick-0", "m0-ceiling"]
    assert "The ladder, scaled down" in page
    assert 'class="highlight"' not in page


def test_rows_with_stages_get_bars_of_them(tmp_path: Path) -> None:
    path = run_of(tmp_path, stock(), a_row()).path
    values = json.loads(path.read_text())
    values["rows"][1]["stages"] = {"denoiser": 0.8, "VAE": 0.2}
    path.write_text(json.dumps(values))
    page = render(read_all([path]))
    parts = charts(page)["m0-stages-0"]["data"]["values"]
    assert [(part["stage"], part["of"]) for part in parts] == [("denoiser", "80%"), ("VAE", "20%")]


def test_quality_is_drawn_against_speed_and_the_unbeaten_are_joined(tmp_path: Path) -> None:
    run = run_of(
        tmp_path,
        stock(),
        a_row("good", 2.0, quality={"psnr": 60.0}),
        a_row("better", 3.0, quality={"psnr": 70.0}),
        a_row("fast", 4.0, quality={"psnr": 40.0}),
    )
    drawn = frontier(render([run]))
    assert {each["rung"] for each in drawn["marks"]} == {
        "good · fp32",
        "better · fp32",
        "fast · fp32",
    }
    assert [each["rung"] for each in drawn["ours"]] == ["better · fp32", "fast · fp32"]
    assert [each["value"] for each in drawn["marks"]] == [60.0, 60.0, 40.0], (
        "70 dB are out of sight"
    )


def test_a_headline_that_costs_quality_says_how_much(tmp_path: Path) -> None:
    quality = {"psnr": 27.3, "fidelity": 0.85, "prompts": 16}
    fast = a_row("fast", 2.6, effect="approximate", quality=quality)
    exact = a_row("lossless", 1.5, quality={"psnr": 132.0}, workload="other-unet")
    text = text_of(render([run_of(tmp_path, stock(), fast, exact)]))
    assert "fast · fp32, 769 ms a forward; 27 dB, fidelity 85% of 16" in text
    assert "lossless · fp32, 1.33 s a forward 132" not in text


def frontier(page: str, name: str = "psnr") -> dict[str, list[dict[str, Any]]]:
    """What the layers of the first workload's frontier hold."""
    drawn: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for layer in charts(page)[f"m0-frontier-{name}-0"]["layer"]:
        drawn[layer["name"]] = layer["data"]["values"]
    return drawn


def test_approximate_plans_are_drawn_beside_their_controls_with_intervals_and_names(
    tmp_path: Path,
) -> None:
    def judged(psnr: float, fidelity: float) -> dict[str, float]:
        return {
            "psnr": psnr,
            "psnr_low": psnr - 1,
            "psnr_high": psnr + 2,
            "prompts": 16,
            "fidelity": fidelity,
            "fidelity_low": fidelity - 0.1,
            "fidelity_high": 0.99,
        }

    more = {"workload": "shapes-unet", "unit": "picture", "effect": "approximate"}
    run = run_of(
        tmp_path,
        stock(workload="shapes-unet", unit="picture"),
        a_row("eager+step_cache[interval=2]", 1.6, quality=judged(34, 0.9), **more),
        a_row("eager+step_cache[interval=4]", 2.6, quality=judged(27, 0.85), **more),
        a_row("fewer-steps-16", 1.55, kind="control", quality=judged(28, 0.89), **more),
        a_row("fewer-steps-10", 2.5, kind="control", quality=judged(22, 0.8), **more),
        a_row("deepcache", 1.8, kind="peer", quality=judged(26, 0.8), **more),
    )
    page = render([run])
    drawn = frontier(page)
    lines = [(each["family"], each["label"]) for each in drawn["controls"]]
    fewer = [("fewer steps", "16 steps"), ("fewer steps", "10 steps")]
    assert lines == [*fewer, ("deepcache", "deepcache")]
    ours = ["interval 2", "interval 4"]
    assert [each["label"] for each in drawn["names"]] == [*ours, "fewer steps", "deepcache"]
    assert [(each["low"], each["high"]) for each in drawn["values"][:2]] == [(33, 36), (26, 29)]
    first = drawn["speeds"][0]
    assert first["slowest"] < first["speed"] < first["fastest"]
    assert {each["role"] for each in drawn["marks"]} == {"sdaccel", "fewer steps", "others"}
    assert len(frontier(page, "fidelity")["marks"]) == 5
    labels = re.findall(r'aria-label="Speed against quality: shapes-unet[^"]*"', page)
    assert len(labels) == 2
    assert "eager+step_cache[interval=4] · fp32 2.60x, 27 dB, fidelity 85% of 16" in labels[0]


def test_kernels_lie_under_the_measured_roof(committed: str) -> None:
    rooflines = [each for name, each in charts(committed).items() if name.endswith("-roofline")]
    found = {}
    for roof, points in (each["layer"] for each in rooflines):
        corners, values = (layer["data"]["values"] for layer in (roof, points))
        assert {corner["dtype"] for corner in corners} == {"bf16"}
        flat = max(corner["rate"] for corner in corners)
        assert all(point["rate"] <= flat for point in values)
        found[flat] = {point["op"] for point in values}
    assert {"attention", "group_norm_silu"} in [
        ops for flat, ops in found.items() if 9e11 < flat < 1.2e12
    ]
    assert {"group_norm_silu"} in [ops for flat, ops in found.items() if 2.5e12 < flat < 3.2e12]


def test_a_price_adds_what_a_thousand_pictures_cost(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, stock(), a_row(times=2.0))]
    assert "1,000 pictures" not in text_of(render(runs))
    assert "10 for 1,000 pictures, the denoiser alone" in text_of(render(runs, per_hour=3.6))


def test_text_of_a_row_cannot_end_the_script_it_stands_in(tmp_path: Path) -> None:
    page = render([run_of(tmp_path, stock(), a_row("</script><script>alert(1)"))])
    assert "<script>alert" not in page
    assert "</script><script>alert(1) · fp32" in bars(page, "m0-ladder-0")


def test_files_without_a_row_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="nothing to report on"):
        render([run_of(tmp_path)])


@pytest.mark.parametrize("missing", ["altair", "jinja2"])
def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(InputError, match=r'pip install "sdaccel\[report\]"'):
        render([run_of(tmp_path, stock(), a_row())])


def test_results_that_the_harness_writes_are_enough(tmp_path: Path) -> None:
    bare = Row("tiny", "stock-fp32", "stock", "exact", "call", seconds=[1.0] * 4)
    run = run_of(tmp_path, bare)
    assert isinstance(run.results, Results)
    assert "tiny" in render([run])
