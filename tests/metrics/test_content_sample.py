"""A sample of contents: exact of what it follows, and never larger than its size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.ids import are_below
from kvstream.metrics.content_sample import ALWAYS, REMEMBERED_NS, WHOLE, ContentSample
from kvstream.metrics.stays import NOT_ENDED, stays_of
from tests.reference import ReferenceStays
from tests.state.saved import through_a_snapshot
from tests.strategies import cuts

SECOND = 10**9


def turnover(seed, length, contents, step_ns, clears=0.0):
    """Contents that come into a cache and are evicted, and now and then a clear, as (content, ts, begins)."""
    rng, held, rows, ts = np.random.default_rng(seed), set(), [], 1_000
    for _ in range(length):
        ts += int(rng.integers(2 * step_ns + 1))
        content = 2**40 + int(rng.integers(contents))
        if rng.random() < clears:
            held.clear()
            rows.append((0, ts, None))
            continue
        rows.append((content, ts, content not in held))
        held ^= {content}
    return rows


def feed(sample, rows):
    """Give rows to a sample, as many at once as lie between two clears."""
    start = 0
    for end in [*(n for n, row in enumerate(rows) if row[2] is None), len(rows)]:
        if part := rows[start:end]:
            content, ts, begins = zip(*part, strict=True)
            sample.observe(np.array(content, np.int64), np.array(ts, np.int64), np.array(begins))
        if end < len(rows):
            sample.clear(rows[end][1])
        start = end + 1
    return sample


def kept_stays(sample):
    found = stays_of(sample.events())
    columns = (found.content, found.born, found.ended, found.cleared)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def plain_stays(rows):
    plain = ReferenceStays()
    for content, ts, begins in rows:
        if begins is None:
            plain.clear(ts)
        else:
            plain.change(content, ts, begins)
    return [
        (s["content"], s["born"], NOT_ENDED if s["ended"] is None else s["ended"], s["cleared"])
        for s in plain.stays
    ]


HISTORIES = st.builds(
    turnover,
    st.integers(0, 2**32),
    st.integers(0, 400),
    st.sampled_from([3, 40, 2_000]),
    st.sampled_from([1, SECOND, REMEMBERED_NS // 20]),
    st.sampled_from([0.0, 0.05]),
)


@given(HISTORIES, st.sampled_from([2, 16, 64, 1_024]))
def test_of_the_content_that_it_follows_a_sample_knows_every_stay_since_its_oldest_time(rows, size):
    sample = feed(ContentSample(size), rows)
    assert len(sample) <= size
    kept = kept_stays(sample)
    followed = [s for s in plain_stays(rows) if are_below(np.array([s[0]]), sample.threshold)[0]]
    assert set(kept) <= set(followed)
    assert {stay for stay in followed if stay[2] >= sample.oldest} == set(kept)
    if size == 1_024:
        assert sample.threshold == WHOLE
        assert sample.oldest == ALWAYS


@given(HISTORIES, st.data())
def test_cut_anywhere_and_saved_a_sample_goes_on_as_if_nothing_had_happened(rows, data):
    straight, sample = feed(ContentSample(16), rows), ContentSample(16)
    for start, end in data.draw(cuts(len(rows))):
        feed(sample, rows[start:end])
        after = ContentSample(16)
        after.restore(through_a_snapshot(sample.save()))
        sample = after
    assert through_a_snapshot(sample.save()).keys() == straight.save().keys()
    assert kept_stays(sample) == kept_stays(straight)
    assert (sample.threshold, sample.oldest) == (straight.threshold, straight.oldest)


def test_few_contents_that_come_and_go_all_the_time_are_all_followed_for_a_shorter_time():
    sample = feed(ContentSample(64), turnover(1, 10_000, contents=5, step_ns=SECOND))
    assert sample.threshold == WHOLE
    assert sample.oldest > 9_000 * SECOND


def test_what_ended_more_than_two_hours_before_makes_room_first():
    rows = turnover(1, 600, contents=60, step_ns=REMEMBERED_NS // 50)
    sample = feed(ContentSample(400), rows)
    assert sample.threshold == WHOLE
    assert sample.oldest == pytest.approx(rows[399][1] - 2 * REMEMBERED_NS)


def test_when_little_is_left_twice_as_much_content_is_followed_those_in_the_cache_among_it():
    rows = turnover(1, 2_000, contents=2_000, step_ns=1)
    sample = feed(ContentSample(64), rows)
    threshold, now = sample.threshold, rows[-1][1] + 3 * REMEMBERED_NS
    live = {content: born for content, born, ended, _ in plain_stays(rows) if ended == NOT_ENDED}
    sample.clear(rows[-1][1])
    assert sample.is_due(now)
    assert not sample.is_due(now + SECOND)
    contents, births = np.array(list(live)), np.array(list(live.values()))
    sample.widen(contents, births)
    assert sample.threshold == 2 * threshold
    assert sample.oldest == now
    new = are_below(contents, 2 * threshold) & ~are_below(contents, threshold)
    assert kept_stays(sample) == sorted(
        (content, born, NOT_ENDED, False)
        for content, born in zip(contents[new].tolist(), births[new].tolist(), strict=True)
    )


def test_a_sample_of_nothing_follows_nothing():
    sample = feed(ContentSample(0), turnover(1, 100, contents=5, step_ns=1))
    assert len(sample) == 0
    assert not sample.is_due(2**62)
