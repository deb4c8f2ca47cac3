"""Incidents are found soon, covered to their end, and little else is; on a seed that no number was chosen on.

The whole table, at all rates and beside two baselines, is ``python -m tests.detection``.
"""

import math

import pytest

from tests.detection.judge import run
from tests.detection.markdown import page
from tests.detection.results import Result, tables
from tests.detection.streams import incidents, quiet_streams

SEED = 101


@pytest.mark.parametrize(
    ("fastest", "largest"), [(0.5, 700), pytest.param(1.0, math.inf, marks=pytest.mark.slow)]
)
def test_incidents_are_found_and_quiet_streams_wake_nobody(fastest, largest):
    streams = [
        each
        for each in [*incidents(SEED), *quiet_streams(SEED)]
        if each.rate <= fastest and each.capacity <= largest
    ]
    results = [Result.of(SEED, stream, run(stream)) for stream in streams]
    found, lines = tables(results), page(results)
    ours = found["kvstream"]
    assert f"| incidents found | {ours.found:.2f} |" in lines
    assert len(ours.incidents) >= 10
    assert ours.quiet_hours > 2
    assert ours.found >= 0.9, lines
    assert ours.delay_to_page <= 90, lines
    assert ours.covered >= 0.7, lines
    assert ours.false_resolves == 0, lines
    assert ours.notifications <= 3, lines
    assert ours.false_pages == 0, lines
    assert ours.false_alerts <= 1, lines
    for name in ("PromQL rules", "CUSUM"):
        assert ours.found >= found[name].found, lines
        assert ours.covered >= found[name].covered, lines
