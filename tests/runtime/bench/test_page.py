"""The page in a real browser: it shows the report's figures, and a report can add nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import reports
from browsers import Browser, chromium

from mmedge.bench.report.page import render

HOSTILE = "</script><script>document.title='owned'</script><!--<script><img src=x onerror=alert(1)>"
DESKTOP, PHONE = (1280, 900), (360, 740)
#: Plots of each kind of report.
PLOTS = {
    "sample": {"histogram", "series", "waterfall", "state-0"},
    "stream": {"histogram", "series", "waterfall", "state-0", "ages"},
    "generated": {"histogram", "series", "waterfall", "state-0", "steps", "first"},
    "compared": {"histogram", "series", "waterfall", "state-0", "scatter"},
}
INK = "path, rect, circle"


class ReportBrowser(Browser):
    """Headless Chromium with one report open."""

    def open(self, report, size=DESKTOP, *, dark=False):
        path = self.folder / "page.html"
        render(report, path)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.resize(size)
        self.driver.get(path.as_uri())

    def figure(self, key):
        return self.text(f'[data-figure="{key}"]')


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory) as driver:
        yield ReportBrowser(driver, tmp_path_factory.mktemp("page"))


def shown(value):
    """A number as the page writes it: four significant digits or so."""
    if value >= 1000:
        return f"{round(value):,}"
    digits = 1 if value >= 100 else 2 if value >= 10 else 3 if value >= 1 else 4
    return f"{value:.{digits}f}"


def boxes(browser):
    """Of every plot: id, box on the page, and size of the box around each of its marks."""
    return browser.js(
        """return [...document.querySelectorAll(".drawing svg")].map(svg => {
          const at = svg.getBoundingClientRect();
          return {id: svg.id, box: [at.left + scrollX, at.top + scrollY, at.width, at.height],
            label: svg.getAttribute("aria-label"), role: svg.getAttribute("role"),
            texts: svg.querySelectorAll("text").length,
            marks: [...svg.querySelectorAll(arguments[0])].map(one => {
              const box = one.getBBox(); return [box.width, box.height]; })};
        })""",
        INK,
    )


# Without a browser


def test_the_page_refers_to_nothing_outside():
    page = render(reports.compared()).replace("http://www.w3.org/2000/svg", "")
    calls = ("url(", "@import", "fetch(", "XMLHttp", "innerHTML", "insertAdjacent", "eval(")
    for word in ("http:", "https:", '"//', " src=", "href", *calls):
        assert word not in page, word


def test_the_policy_admits_the_script_and_the_style_alone():
    page = render(reports.sample())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_data_survives_the_page_and_no_text_closes_its_block():
    report = reports.sample(
        bundle={"name": HOSTILE + "\u2028{{policy}}", "manifest_sha256": "a" * 64}
    )
    page = render(report)
    assert page.count("<script") == page.count("</script>") == 2
    block = re.search(r'id="report">(.*?)</script>', page, re.DOTALL).group(1)
    assert json.loads(block) == json.loads(report.to_json())
    assert not set("<>&") & set(block)


def test_the_page_is_written_where_asked(tmp_path):
    path = tmp_path / "page.html"
    assert render(reports.sample(), path) == path.read_text("utf-8")


# In a browser


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", PLOTS)
def test_every_plot_is_drawn_and_nothing_overflows(browser, kind, size, tmp_path):
    browser.open(getattr(reports, kind)(), size)
    assert browser.complaints() == []
    assert browser.js("return performance.getEntriesByType('resource').length") == 0
    assert browser.js("return document.documentElement.scrollWidth") <= size[0]
    found = boxes(browser)
    assert {plot["id"] for plot in found} >= PLOTS[kind]
    picture = browser.screenshot(tmp_path / "page.png")
    assert len(np.unique(picture[::2, ::2].astype(int) @ [65536, 256, 1])) > 50
    for plot in found:
        assert plot["role"] == "img"
        assert len(plot["label"]) > 10
        assert plot["texts"] >= 3
        assert sum(width > 0 or height > 0 for width, height in plot["marks"]) >= 2, plot["id"]
        assert any(width > 20 or height > 20 for width, height in plot["marks"]), plot["id"]
        left, top, width, height = (round(value) for value in plot["box"])
        assert left >= 0
        assert left + width <= size[0]
        region = picture[top : top + height, left : left + width].reshape(-1, 3).astype(int)
        ink = np.abs(region - [255, 255, 255]).max(axis=1) > 40
        assert ink.mean() > 0.005, plot["id"]


@pytest.mark.parametrize("kind", ["compared", "generated"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_text_is_small_or_outside(browser, size, kind):
    browser.open(getattr(reports, kind)(), size)
    sizes = browser.js(
        """const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        const found = [];
        while (walker.nextNode()) {
          const holder = walker.currentNode.parentElement;
          if (!walker.currentNode.data.trim() || holder.closest("script, noscript, option, title"))
            continue;
          found.push(parseFloat(getComputedStyle(holder).fontSize));
        }
        return found"""
    )
    assert len(sizes) > 200
    assert min(sizes) >= 14
    outside = browser.js(
        """return [...document.querySelectorAll(".drawing svg text")].filter(one => {
          const text = one.getBoundingClientRect();
          const plot = one.ownerSVGElement.getBoundingClientRect();
          return text.left < plot.left - 1 || text.right > plot.right + 1 ||
            text.top < plot.top - 2 || text.bottom > plot.bottom + 2;
        }).map(one => one.textContent)"""
    )
    assert outside == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(browser, dark):
    browser.open(reports.sample(), dark=dark)
    colours = browser.js(
        """const style = getComputedStyle(document.documentElement);
        return Object.fromEntries(arguments[0].map(
          one => [one, style.getPropertyValue("--" + one)]))""",
        ["ground", "surface", "ink", "muted", "limit", "bad", "good"],
    )

    def luminance(name):
        word = colours[name].strip().lstrip("#")
        rgb = np.array([int(word[at : at + 2], 16) / 255 for at in (0, 2, 4)])
        rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(rgb @ [0.2126, 0.7152, 0.0722])

    assert (luminance("ground") < 0.1) is dark
    for text in ("ink", "muted", "limit", "bad", "good"):
        for ground in ("ground", "surface"):
            low, high = sorted((luminance(text), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)  # WCAG 2.2, 1.4.3


def test_the_summary_is_the_reports(browser):
    report = reports.stream(calls=1500)
    browser.open(report)
    for key in ("p50", "p90", "p99", "p99_9", "max"):
        assert browser.figure(f"latency_ms.{key}") == f"{shown(report.latency_ms[key])} ms"
    low, high = report.confidence_ms["p99"]
    assert f"95 %: {shown(low)} \u2013 {shown(high)}" in browser.text("#summary")
    assert browser.figure("cold_start_ms") == f"{shown(report.cold_start_ms)} ms"
    assert browser.figure("throughput_hz") == f"{shown(report.throughput_hz)} Hz"
    assert browser.figure("peak_memory_bytes") == f"{report.peak_memory_bytes / 2**20:.1f} MiB"
    assert browser.figure("metric.value") == shown(report.metric["value"])
    assert browser.figure("energy.joules_per_result") == "0.1180 J"
    assert browser.figure("results.stale") == "28"
    assert "robot-vqa" in browser.text("h1")
    missed, run = report.deadline["missed"], report.deadline["longest_run"]
    assert missed > 0
    verdict = browser.text("#verdict")
    assert verdict.startswith(f"Deadline missed. {missed} of 1,500 results")
    assert f"20 ms, were stale or were empty; the longest run of misses was {run}." in verdict
    assert "ort-int8-cpu" in browser.js("return document.title")


def test_verdicts_without_misses_and_without_a_deadline(browser):
    browser.open(reports.sample(deadline={"ms": 50, "missed": 0, "rate": 0, "longest_run": 0}))
    assert "None of 1,000 calls took longer than 50 ms" in browser.text("#verdict")
    assert "0.3 % at best" in browser.text("#verdict")
    browser.open(reports.sample(deadline=None))
    assert "no verdict" in browser.text("#verdict")


def test_parts_of_a_call_end_where_the_call_ends(browser):
    browser.open(reports.sample())
    bars = browser.js(
        """return [...document.querySelectorAll("#waterfall .bar")].map(one =>
          [Number(one.getAttribute("x")), Number(one.getAttribute("width"))])"""
    )
    assert len(bars) == 7
    for (left, width), (after, _) in pairwise(bars[:-1]):
        assert left + width == pytest.approx(after, abs=1.6)
    assert bars[-2][0] + bars[-2][1] == pytest.approx(bars[-1][0] + bars[-1][1], abs=1.6)


def test_a_stall_stands_out_of_the_steps(browser):
    report = reports.generated()
    browser.open(report)
    dots = browser.js(
        """return [...document.querySelectorAll("#steps .slowest")].map(one =>
          Number(one.getAttribute("cy")))"""
    )
    assert len(dots) == 47
    assert int(np.argmin(dots)) == 16  # step 17 of the call
    others = sorted(dots)[1:]
    assert min(dots) < others[0] - 60
    assert browser.js("return document.querySelector('#log-steps').checked") is True
    browser.click("#log-steps")
    words = browser.js("return document.querySelector('#steps').textContent")
    assert "logarithmic" not in words
    assert browser.figure("loop.first_ms.p50") == f"{shown(report.loop['first_ms']['p50'])} ms"
    assert browser.figure("loop.step_ms.p99") == f"{shown(report.loop['step_ms']['p99'])} ms"
    assert browser.figure("loop.state_bytes") == "6.0 MiB"
    assert "Real-time factor" in browser.text("#loop")


def test_first_token_bars_split_what_is_not_cached(browser):
    report = reports.generated()
    browser.open(report)
    bars = browser.js(
        """return [...document.querySelectorAll("#first .bar")].map(one => [
          Number(one.getAttribute("x")), Number(one.getAttribute("width")), one.textContent])"""
    )
    assert [words.split(":")[0] for _, _, words in bars] == [
        "nothing cached, up to the loop", "nothing cached, prefill", "all cached",
        "camera cached", "mic cached",
    ]  # fmt: skip
    assert bars[0][0] + bars[0][1] == pytest.approx(bars[1][0], abs=0.1)
    scale = bars[0][1] / report.loop["encoders_ms"]["mean"]
    assert bars[1][1] == pytest.approx(scale * report.loop["prefill_ms"]["mean"], rel=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"step_ms": None, "steps_per_s": None},
        {"kind": "denoise", "prefill_ms": None, "rows": None},
        {"first_cached_ms": None, "first_cached_by_modality_ms": {}, "not_measured": [HOSTILE]},
        {"first_cached_by_modality_ms": {HOSTILE: reports.summary([1.0, 2.0])}},
    ],
)
def test_a_loop_without_a_figure_is_shown(browser, change):
    report = reports.generated()
    loop = report.loop | change
    if loop["step_ms"] is None:
        loop["by_step"] = {key: [] for key in loop["by_step"]}
    if loop["kind"] == "denoise":  # and too few calls for a p99, and one step
        loop["by_step"] = {key: values[:1] for key, values in loop["by_step"].items()}
        loop["by_step"]["p99_ms"] = [None]
    browser.open(replace(report, loop=loop))
    assert browser.complaints() == []
    plots = {plot["id"] for plot in boxes(browser)}
    assert "first" in plots
    assert ("steps" in plots) is (loop["step_ms"] is not None)
    assert browser.js("return document.querySelectorAll('img').length") == 0
    assert browser.js("return document.documentElement.scrollWidth") <= DESKTOP[0]


def test_warnings_say_what_to_doubt(browser):
    device = reports.sample().device
    busy = {**device["before"], "load_average": [5.5, 4.0, 3.0]}
    share = {"cpu_share": {"busy": 0.9, "own": 0.6, "others": 0.3, "steal": 0.2}}
    report = reports.sample(
        calls=50,
        warmup={"calls": 5, "settled": False, "rule": "two blocks agree"},
        device={**device, "before": busy, "after": {**device["after"], **share}},
    )
    load = {**report.load, "interference": "two busy processes"}
    load["inputs"] = "2 golden samples in turn; OVERLOADED: 40 arrivals still waited"
    browser.open(replace(report, load=load))
    text = browser.text("#warnings")
    for words in (
        "p99 is not given: 50 calls cannot carry it, 100 are needed",
        "p99.9 is not given",
        "not settled",
        "throttled: the processor's frequency fell",
        "two busy processes",
        "Calls came faster than they were served: 2 golden samples in turn; OVERLOADED: 40",
        "load average 5.500 on 6 cores",
        "30.0 % of the processor's time",
        "20.0 % of the processor's time to other machines",
    ):
        assert words in text
    assert browser.figure("latency_ms.p99") == "\u2013"
    assert browser.js("return document.querySelectorAll('#series .slow').length") == 1


def test_an_unknown_state_is_no_throttling_and_a_good_run_has_no_warnings(browser):
    device = reports.sample().device
    steady = [row for row in device["during"] if not row["cooling"]]
    calm = {**device, "during": steady, "throttled": None}
    browser.open(reports.sample(device=calm))
    assert browser.texts("#warnings") == []
    assert browser.js("return document.querySelectorAll('.slow').length") == 0
    browser.open(reports.sample(device={**calm, "throttled": "unknown: no counter"}))
    assert "Whether the device was throttled is unknown: no counter" in browser.text("#warnings")


def test_a_hostile_name_is_text(browser):
    stages = dict(reports.sample().stages)
    stages = {HOSTILE: stages.pop("camera"), **stages}
    rows = [{**row, "module": HOSTILE} for row in reports.sample().operators]
    device = {**reports.sample().device, "name": HOSTILE}
    browser.open(
        reports.stream(
            bundle={"name": HOSTILE, "manifest_sha256": "a" * 64},
            variant=HOSTILE,
            stages=stages,
            operators=rows,
            device=device,
            drops={HOSTILE: {HOSTILE: 3}},
        )
    )
    assert browser.complaints() == []
    assert browser.text("h1") == HOSTILE
    assert browser.js("return document.querySelectorAll('img').length") == 0
    assert browser.js("return document.querySelectorAll('script').length") == 2
    assert browser.js("return document.title").startswith(HOSTILE)
    assert HOSTILE in browser.texts("#operator-table td")
    assert browser.js("return document.documentElement.scrollWidth") <= DESKTOP[0]


def test_an_injected_script_does_not_run(browser):
    browser.open(reports.sample())
    browser.js(
        """const made = document.createElement("script");
        made.textContent = "document.title = 'owned'";
        document.body.append(made);"""
    )
    assert browser.js("return document.title") != "owned"
    refused = browser.complaints()
    assert refused
    assert all("Content Security Policy" in one["message"] for one in refused)


def test_operators_are_sorted_and_filtered(browser):
    report = reports.sample()
    browser.open(report)

    def column(index):
        return browser.texts(f"#operator-table tbody td:nth-child({index})")

    assert column(5) == [shown(row["ms"]) for row in report.operators]
    browser.click('[data-sort="ms"]')
    assert column(5) == [shown(row["ms"]) for row in reversed(report.operators)]
    browser.click('[data-sort="module"]')
    assert column(2) == sorted(row["module"] for row in report.operators)
    browser.click('[data-sort="calls"]')
    calls = [int(word) for word in column(4)]
    assert calls == sorted(calls, reverse=True)
    sort = "return document.querySelector('[data-sort=calls]').parentNode.getAttribute('aria-sort')"
    assert browser.js(sort) == "descending"
    browser.js(
        """const select = document.querySelector("#stage-filter");
        select.selectedIndex = [...select.options].findIndex(one => one.text === "mic");
        select.dispatchEvent(new Event("change"));"""
    )
    assert column(1) == ["mic", "mic"]


def test_many_operators_are_shown_on_demand(browser):
    row = reports.sample().operators[0]
    browser.open(reports.sample(operators=[{**row, "module": f"m{i}"} for i in range(60)]))
    assert len(browser.texts("#operator-table tbody tr")) == 25
    browser.click("#operators .more")
    assert len(browser.texts("#operator-table tbody tr")) == 60


def test_logarithmic_counts_lift_the_rare(browser):
    browser.open(reports.sample())

    def heights():
        return browser.js(
            """return [...document.querySelectorAll("#histogram .bar")].map(one =>
              Number(one.getAttribute("height")))"""
        )

    plain = heights()
    browser.click("#log")
    raised = heights()
    assert len(raised) == len(plain)
    assert min(raised) > 5 * min(plain)
    assert max(raised) == pytest.approx(max(plain), rel=0.1)


def test_many_calls_are_drawn_by_pixel_columns(browser):
    report = reports.sample(calls=25_000)
    browser.open(report)
    assert "Plots show 20,000 of 25,000 calls" in browser.text("#warnings")
    strokes = browser.js("return document.querySelector('#series .calls').getAttribute('d')")
    assert 300 < strokes.count("M") <= DESKTOP[0]
    width = browser.js("return document.querySelector('#series').getBoundingClientRect().width")
    browser.resize(PHONE)
    wait = "return document.querySelector('#series').getBoundingClientRect().width"
    for _ in range(50):
        if browser.js(wait) < width:
            break
    assert browser.js("return document.querySelector('#series').getAttribute('width')") == "328"


def test_a_tail_far_out_does_not_squeeze_the_rest(browser):
    report = reports.sample()
    series = {**report.series, "latency_ms": [*report.series["latency_ms"][:-1], 4000.0]}
    browser.open(replace(report, series=series))
    drawn = browser.js("return document.querySelector('#histogram').textContent")
    assert "latency in ms (logarithmic)" in drawn
    assert browser.js("return document.querySelectorAll('#histogram .bar').length") > 5
    assert browser.js("return document.querySelector('#log-time').checked")
    browser.click("#log-time")
    assert browser.complaints() == []
    assert "(logarithmic)" not in browser.js("return document.querySelector('#series').textContent")


def test_variants_without_a_metric_are_placed_by_size(browser):
    rows = [{**row, "metric": None} for row in reports.compared().variants]
    browser.open(reports.compared(variants=rows, metric=None))
    assert browser.complaints() == []
    assert "Latency against size" in browser.text("#variants")
    assert browser.js("return document.querySelectorAll('#scatter .variant').length") == 6
    assert browser.text("#recommended").startswith("ort-int8-cpu, 4 threads is recommended")


@pytest.mark.parametrize("calls", [1, 2, 11])
def test_few_calls_and_little_knowledge_make_a_page(browser, calls):
    empty = {"start_s": [], "latency_ms": [], "kept": 0, "of": calls}
    bare = {
        "device": {"name": "x", "cpu": "x", "before": {}, "during": [], "after": {},
                   "throttled": None},
        "operators": [], "copies": [], "metric": None, "deadline": None, "stages": {},
        "energy": {"joules_per_result": None, "watts": None, "source": None, "missing": "none"},
    }  # fmt: skip
    for changes in ({}, bare, bare | {"series": empty}):
        browser.open(reports.sample(calls=calls, **changes))
        assert browser.complaints() == []
        assert "NaN" not in browser.js("return document.querySelector('main').outerHTML")
        assert "How it was measured" in browser.text("main")
