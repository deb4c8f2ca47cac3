"""The parts of the screen, as text."""

import pytest

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.alerts.types import AlertLevel
from kvstream.cli.top_view import COLUMNS, duration, graph, in_order, severity, status
from kvstream.metrics.history import HistoryBuilder
from kvstream.reports.overview import CacheNow, Selection, state_of
from tests.metrics.test_history import rows, window
from tests.web.fleets import fall_silent, send_drop, send_hits


def cache(source, **known):
    return CacheNow(source=source, tier="gpu", blocks=10, **known)


CACHES = [
    cache("steady", hit_ratio=0.9, premature_ratio=0.1),
    cache("poor", hit_ratio=0.4, premature_ratio=0.6, concern="60% of evictions are premature"),
    cache("unknown", age_seconds=30.0),
    cache("bad", hit_ratio=0.2, level=AlertLevel.CRITICAL, rule="hit_ratio_drop"),
    cache("full", hit_ratio=0.8, level=AlertLevel.INFO, rule="occupancy_high"),
]


def names(column=0, is_reversed=False, words=""):
    return [each.source for each in in_order(CACHES, column, is_reversed, words)]


def column_of(title):
    return [column.title for column in COLUMNS].index(title)


def test_the_worst_stand_first():
    assert names() == ["bad", "poor", "unknown", "full", "steady"]
    kinds = [severity(each) for each in in_order(CACHES, 0, False, "")]
    assert kinds == ["critical", "info", "silent", "steady", "steady"]


def test_any_column_sorts_both_ways_and_what_is_unknown_stands_last():
    assert names(column_of("hit ratio")) == ["bad", "poor", "full", "steady", "unknown"]
    premature = column_of("premature")
    assert names(premature)[:2] == ["poor", "steady"]
    assert names(premature, is_reversed=True)[-1] == "poor"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("hit<0.5", ["bad", "poor"]),
        ("premature>50%", ["poor"]),
        ("age>10s", ["unknown"]),
        ("critical", ["bad"]),
        ("hit ratio", ["bad"]),
        ("gpu hit>=0.8", ["full", "steady"]),
        ("hit<", []),
    ],
)
def test_a_filter_takes_words_and_comparisons(words, found):
    assert names(words=words) == found


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (17.2, "17 s"), (184, "3 min 4 s"), (33_120, "9 h 12 min"), (172_800, "2 d")],
)
def test_times_have_two_units_at_most(seconds, words):
    assert duration(seconds) == words


def test_a_graph_runs_to_now_on_a_fixed_scale_and_leaves_gaps():
    builder = HistoryBuilder(10.0)
    builder.add(rows(*(window(n, 5) for n in (0, 1, 2, 3, 20))), True)
    history = builder.history()
    drawn = graph("hit ratio", history, history.hit_ratio, 250.0, 300, 1.0).plain.splitlines()
    assert drawn[0].startswith("hit ratio  now 0.75  min 0.75  max 0.75  scale 0 to 1.00")
    assert all(len(row) == 300 for row in drawn[1:])
    assert drawn[3].rstrip().endswith("████                █"), "a gap, and then the newest window"
    assert len(drawn[3]) - len(drawn[3].rstrip()) == 5, "and nothing since"
    assert "–" in graph("hit ratio", history, [None] * 5, 250.0, 30, 1.0).plain


async def first_lines(fill, silent=0.0):
    async with KVStream(StreamConfig(metrics=MetricsConfig(capacity=512))) as stream:
        if fill is not None:
            await fill(stream)
        await fall_silent(stream, silent)
        return status("test", await state_of(stream, Selection(None, None)), 0.0, utc=True).plain


@pytest.mark.parametrize(
    ("fill", "silent", "words"),
    [
        (None, 0.0, "waiting for the first events"),
        (send_hits, 0.0, "STEADY  no incident"),
        (send_hits, 75.0, "SILENT  no events for 1 min "),
        (send_drop, 0.0, "CRITICAL  hit ratio fell to 0.00 from 0.75: prefixes are no longer found\n"),
    ],
)
async def test_the_first_line_says_the_worst_that_is_so(fill, silent, words):
    lines = await first_lines(fill, silent)
    assert words in lines
    assert "figures as of" in lines
