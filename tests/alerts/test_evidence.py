"""What is normal by the evidence so far, and what is asked of it before it is worked out."""

import math
from statistics import median

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvstream.alerts.evidence import EvidenceLog, baseline_of
from tests.alerts.windows import window


def log_of(ratios, normal):
    """Evidence with a piece for each hit ratio, of which some count as normal."""
    log = EvidenceLog()
    for i, (ratio, is_normal) in enumerate(zip(ratios, normal, strict=True)):
        for second in range(10 * i, 10 * i + 10):
            log.add(second, second + 1, window(second, hit_ratio=ratio).measurements, 100.0)
        if is_normal:
            log.mark_normal()
    return log


@given(st.data())
def test_a_baseline_that_is_high_enough_is_found_whatever_level_is_asked_for(data):
    warming = [0.1] * data.draw(st.integers(0, 20))
    ratios = warming + data.draw(st.lists(st.integers(1, 19).map(lambda n: n / 20), min_size=8, max_size=40))
    normal = data.draw(st.lists(st.sampled_from([True] * 9 + [False]), min_size=60, max_size=60))
    log, before = log_of(ratios, normal[: len(ratios)]), data.draw(st.integers(0, 6))
    plain = baseline_of(log, "hit_logit", before)
    series = log.normal("hit_logit", before).tolist()
    assert (plain is None) == (len(series) < 10)
    if plain is None:
        return
    assert plain.level == median(plain.series.tolist())
    for least in {*series, plain.level, math.nextafter(plain.level, math.inf), -math.inf, math.inf}:
        found = baseline_of(log, "hit_logit", before, least)
        if found is None:
            assert plain.level < least
        else:
            assert (found.level, found.lookups) == (plain.level, plain.lookups)
            assert np.array_equal(found.series, plain.series)
