"""Reports: exact, complete, and harmless whatever the names in a recording are."""

import re

import msgspec
import numpy as np
import pytest
from playwright.async_api import expect

from kvstream import EventFrame, MetricsConfig
from kvstream.events.types import Op
from kvstream.reports.html import to_html
from kvstream.reports.markdown import to_markdown
from kvstream.reports.report import Report, ReportBuilder
from kvstream.sources.synthetic import generate
from tests.serving import DEADLINE

ODD = "</script><img src=x onerror=alert(1)>|`*_"


def report_of(frames, **config):
    builder = ReportBuilder(MetricsConfig(**config))
    for frame in frames:
        builder.process(frame)
    return builder.finish(["a|b.kvlog"], malformed=2)


@pytest.fixture(scope="module")
def report():
    frames = [*generate("scan", 60_000, blocks=64, rate=100, source=ODD)]
    return report_of([*frames, *generate("chat", 20_000, blocks=512, rate=3_000)], capacity=512)


@pytest.mark.parametrize("windows", [60, 1500])
def test_the_history_accounts_for_every_event_however_long_it_is(windows):
    """More windows than a stream keeps, and more than a chart shows."""
    n = 20_000
    rng = np.random.default_rng(1)
    ts = np.sort(rng.integers(0, windows * 10**9, n)) + 10**18
    ops = np.where(rng.random(n) < 0.3, Op.ALLOC, Op.ACCESS).astype(np.uint8)
    frame = EventFrame(ops, rng.integers(0, 50, n), ts)
    history = report_of(frame.cut(100), windows=60).caches[0].history
    assert len(history.ts) <= 1200
    seconds = history.window_seconds
    assert sum(history.allocation_rate) * seconds == pytest.approx((ops == Op.ALLOC).sum())
    found = report_of([frame.take(slice(0, 1))]).caches[0].history
    assert found.window_seconds == 1.0


def test_what_is_said_of_all_sources_stands_before_each(report):
    said = report.overall.verdict
    assert any(sentence.startswith("Causes of misses") for sentence in said)
    assert report.overall.summary.accounts.processed == report.events
    markdown = to_markdown(report)
    assert markdown.index("## All sources") < markdown.index("## synthetic / gpu")
    assert re.search(r"<h2>All sources</h2></div>\s*<ul[^>]*><li>", to_html(report))
    alone = report_of(generate("chat", 2_000, blocks=64))
    assert alone.overall is None
    assert "All sources" not in to_markdown(alone) + to_html(alone)


def test_a_report_as_json_is_the_whole_of_it(report):
    again = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert again.events == 80_000
    assert again.malformed == 2
    assert [cache.analysis.source for cache in again.caches] == [ODD, "synthetic"]
    summary = again.caches[0].analysis.summary
    assert sum(again.caches[0].distributions["lifetime"].counts) == summary.lifetime.count
    assert sum(map(sum, again.caches[0].map.blocks)) == summary.blocks_live
    assert {alert.rule for alert in again.caches[0].alerts} >= {"hit_ratio_drop"}


def test_markdown_has_tables_that_names_cannot_break(report):
    text = to_markdown(report)
    assert "a\\|b.kvlog" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) > 8
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "hit\\_ratio\\_drop" in text


def test_html_needs_nothing_from_elsewhere(report):
    page = to_html(report)
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert ODD not in page
    assert "2 malformed pieces left out" in page


@pytest.mark.asyncio(loop_scope="session")  # that of the browser
async def test_html_draws_its_charts_in_a_browser(report, browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(to_html(report), encoding="utf-8")
    async with browser() as (page, complaints):
        await page.goto(path.as_uri())
        plots = page.locator("figure .plot")
        await expect(plots).to_have_count(10, timeout=DEADLINE * 1000)
        await expect(page.locator("figure canvas")).to_have_count(10)
        await expect(page.locator("h2").nth(2)).to_have_text(f"{ODD} / gpu")
        await expect(plots.first).to_have_attribute("aria-label", re.compile("^Hit ratio"))
        await expect(page.locator(".heat td").first).to_be_visible()
        assert complaints == []


def test_a_recording_of_nothing_makes_a_report_of_nothing():
    empty = report_of([])
    assert empty.caches == []
    assert "0 events" in to_markdown(empty)
    assert "<html" in to_html(empty)
