"""Rules find what is wrong and keep still otherwise. Their numbers were chosen on seeds 1 to 6."""

import pytest

from kvstream.alerts.types import AlertLevel
from tests.detection.scenarios import EACH, incidents, quiet_day, quiet_streams
from tests.detection.scoring import Scores, alerts_of

SEED = 101


def scored(streams):
    scores = Scores()
    for stream in streams:
        scores.add(stream, alerts_of(stream.engine))
    return scores


def test_a_stream_of_each_kind_is_judged_rightly():
    clear = [stream for stream in incidents(SEED) if stream.intensity == "clear"]
    quiet = [stream for stream in quiet_streams(SEED) if stream.engine.seconds < 1000]
    scores = scored([*clear[::EACH], *quiet[:: 2 * EACH]])
    assert scores.total("clear").recall == 1.0, scores.table()
    assert not scores.wrong, scores.table()


@pytest.mark.slow
def test_incidents_are_found_soon_and_little_else():
    streams = [*incidents(SEED), *quiet_streams(SEED)]
    assert sum(s.intensity == "clear" for s in streams) >= 40
    assert sum(s.onset is None for s in streams) >= 40
    scores = scored(streams)
    clear, mild, every = scores.total("clear"), scores.total("mild"), scores.total()
    told = scores.table()
    assert clear.recall >= 0.95, told
    assert clear.delay <= 3, told
    assert mild.recall >= 0.85, told
    assert every.precision >= 0.95, told
    assert min(rule.precision for rule in scores.rules.values()) >= 0.9, told


@pytest.mark.slow
def test_a_quiet_day_wakes_nobody():
    fired = alerts_of(quiet_day(SEED))
    assert not [alert for alert in fired if alert.level is AlertLevel.CRITICAL]
    assert len(fired) < 12
