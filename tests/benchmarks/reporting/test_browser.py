"""The page in a real browser: charts draw, tables sort, pictures compare, nothing complains."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_files import COMMITTED, a_row, stock, written
from PIL import Image

from sdaccel.benchmarks.quality_rows import QualityRow
from sdaccel.benchmarks.reader import read_all
from sdaccel.benchmarks.reporting.page import render

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt install chromium"),
]

DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One machine's committed rows, and a comparison with a red strip beside a blue one."""
    folder = tmp_path_factory.mktemp("report")
    own = folder / "rows" / "a-cpu-2-cores"
    own.mkdir(parents=True)
    for name, colour in (("first", "#f00"), ("second", "#00f")):
        Image.new("RGB", (64, 32), colour).save(own / f"{name}.webp", lossless=True)
    pictures = {"first": "first.webp", "second": "second.webp", "width": 32, "height": 32}
    row = QualityRow(
        workload="compare-tiny-fast",
        rung="fast",
        kind="quality",
        effect="exact",
        unit="picture",
        pictures={**pictures, "captions": ["one", "two"]},
    )
    written(folder / "rows", row, date="2026-03-01")
    written(folder / "rows", stock(), a_row(), date="2026-03-02")
    path = folder / "report.html"
    path.write_text(
        render(read_all([COMMITTED / "amd-epyc-2-cores", folder / "rows"])), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Chromium refuses its sandbox to root, who runs the tests in a container.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


class Opened:
    """A tab with the page, and what it complained of."""

    def __init__(self, browser: Any, path: Path, size: tuple[int, int], scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True
        )
        self.tab = self.context.new_page()
        self.complaints: list[str] = []
        self.fetched: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.fetched.append(request.url))
        self.tab.goto(path.as_uri())

    def draw_all(self) -> int:
        """Scroll to every chart until it is drawn; returns how many there are."""
        places = self.tab.locator(".chart")
        for index in range(places.count()):
            places.nth(index).scroll_into_view_if_needed()
            places.nth(index).locator("svg").wait_for(timeout=20_000)
        return int(places.count())


@pytest.fixture(
    scope="module", params=[(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"]
)
def opened(browser: Any, page_file: Path, request: Any) -> Iterator[Opened]:
    each = Opened(browser, page_file, *request.param)
    yield each
    each.context.close()


def test_every_chart_is_drawn_and_nothing_complains(opened: Opened) -> None:
    assert opened.draw_all() > 10
    empty = "charts => charts.filter(each => !each.querySelector('svg path')).map(each => each.id)"
    assert opened.tab.locator(".chart").evaluate_all(empty) == []
    assert opened.complaints == []
    assert [url for url in opened.fetched if not url.startswith(("file:", "data:"))] == []


def test_nothing_is_wider_than_the_screen(opened: Opened) -> None:
    opened.draw_all()
    wide = opened.tab.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide
    cut = """charts => charts.filter(each =>
        each.querySelector('svg').getBoundingClientRect().right
        > each.getBoundingClientRect().right + 1).map(each => each.id)"""
    assert opened.tab.locator(".chart").evaluate_all(cut) == []


def test_the_colours_follow_the_readers_choice(opened: Opened) -> None:
    lightness = opened.tab.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    )
    dark = opened.tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert lightness < 60 if dark else lightness > 200


def test_a_bar_tells_its_figures_where_the_pointer_is(opened: Opened) -> None:
    chart = opened.tab.locator("#m0-ladder-0")
    chart.scroll_into_view_if_needed()
    chart.locator(".mark-rect path").first.hover()
    told = opened.tab.locator("#vg-tooltip-element.visible")
    told.wait_for(timeout=20_000)
    assert re.search(r"vs stock\s+\d+\.\d\dx", told.inner_text())


def test_a_click_on_a_heading_sorts_by_its_figures(opened: Opened) -> None:
    table = opened.tab.locator("#m0-rungs")
    heading = table.locator("th", has_text="vs stock")
    for direction in ("ascending", "descending"):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == direction
        column = heading.evaluate("each => each.cellIndex")
        cells = table.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()
        figures = [float(cell.removesuffix("x")) for cell in cells if cell]
        assert figures == sorted(figures, reverse=direction == "descending")
        assert all(cells[: len(figures)])
        assert not any(cells[len(figures) :])


def test_words_in_the_filter_leave_their_rows_alone(opened: Opened) -> None:
    field = opened.tab.locator("input[data-filters]").first
    identity = field.get_attribute("data-filters")
    everything = opened.tab.locator(f"#{identity} tbody tr:not([hidden])").count()
    field.fill("sd15-unet openvino")
    shown = opened.tab.locator(f"#{identity} tbody tr:not([hidden])").all_inner_texts()
    assert shown
    assert all("sd15-unet" in text and "openvino" in text for text in shown)
    counted = opened.tab.locator(f"[data-counts={identity}]").inner_text()
    assert counted == f"{len(shown)} rows"
    field.fill("")
    assert opened.tab.locator(f"#{identity} tbody tr:not([hidden])").count() == everything


def test_the_slider_uncovers_one_plan_and_then_the_other(opened: Opened) -> None:
    comparison = opened.tab.locator(".comparison", has_text="compare-tiny-fast")
    slider = comparison.locator("input[type=range]").first
    pair = comparison.locator(".pair").first
    pair.scroll_into_view_if_needed()
    for value, colour in (("100", (255, 0, 0)), ("0", (0, 0, 255))):
        slider.fill(value)
        assert _colour(pair) == colour


def test_moving_over_a_picture_moves_the_line(opened: Opened) -> None:
    comparison = opened.tab.locator(".comparison", has_text="compare-tiny-fast")
    pair = comparison.locator(".pair").first
    pair.scroll_into_view_if_needed()
    box = pair.bounding_box()
    opened.tab.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert comparison.locator("input[type=range]").first.input_value() in ("24", "25", "26")


def _colour(pair: Any) -> tuple[int, ...]:
    """The colour in the middle of a picture on the screen."""
    import io

    with Image.open(io.BytesIO(pair.screenshot())) as shot:
        found = shot.convert("RGB").getpixel((shot.width // 2, shot.height // 2))
    assert isinstance(found, tuple)
    return tuple(255 if each > 200 else 0 if each < 60 else each for each in found)
