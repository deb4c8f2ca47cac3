import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.reuse import EvictionMemory
from tests.reference import ReferenceGhosts
from tests.strategies import cuts, fewer


def changes(rows):
    return (
        np.array([content for content, _, _ in rows], np.int64),
        np.array([ts for _, ts, _ in rows], np.int64),
        np.array([begins for _, _, begins in rows], np.uint8),
    )


def returns_of(index, rows):
    times, distances, _ = index.apply(*changes(rows))
    return list(zip(times.tolist(), distances.tolist(), strict=True))


@st.composite
def streams(draw):
    contents = st.sampled_from([1, 2, 3, 5, -7, 2**62, -(2**63), 40, 41, 42, 43])
    rows, ts = [], 1_000
    for content, step, begins in draw(
        st.lists(st.tuples(contents, st.integers(-5, 40), st.booleans()), max_size=80)
    ):
        ts = max(0, ts + step)
        rows.append((content, ts, begins))
    return rows


@given(st.data(), streams(), st.integers(1, 12), st.integers(1, 400))
def test_premature_evictions_equal_the_plain_twin_however_the_stream_is_cut(data, rows, most, longest):
    index, plain = EvictionMemory(most, longest), ReferenceGhosts(most, longest)
    found = [pair for a, b in data.draw(cuts(len(rows))) for pair in returns_of(index, rows[a:b])]
    for row in rows:
        plain.apply(*row)
    assert sorted(found) == sorted(plain.returned)


@fewer
@given(st.integers(0, 2**32), st.integers(1, 5_000))
def test_premature_evictions_equal_the_plain_twin_on_long_streams(seed, most):
    rng = np.random.default_rng(seed)
    contents = rng.integers(-(2**63), 2**63 - 1, 3_000)
    rows = [
        (int(contents[c]), n * 10, bool(b))
        for n, (c, b) in enumerate(zip(rng.zipf(1.2, 12_000) % 3_000, rng.random(12_000) < 0.5, strict=True))
    ]
    index, plain = EvictionMemory(most, 50_000), ReferenceGhosts(most, 50_000)
    found = [pair for a in range(0, 12_000, 2_500) for pair in returns_of(index, rows[a : a + 2_500])]
    for row in rows:
        plain.apply(*row)
    assert sorted(found) == sorted(plain.returned)


def test_after_a_clear_nothing_is_remembered():
    index = EvictionMemory(10, 10**9)
    assert returns_of(index, [(1, 5, False)]) == []
    index.clear()
    assert returns_of(index, [(1, 6, True)]) == []


def test_memory_is_bounded_by_what_is_remembered():
    index = EvictionMemory(1_000, 10**18)
    for batch in range(200):
        rows = [(batch * 1_000 + n, batch, False) for n in range(1_000)]
        index.apply(*changes(rows))
    assert index.places <= 1024


@given(st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 5)), max_size=6))
def test_after_clears_only_what_was_evicted_since_comes_back(rounds):
    index, plain = EvictionMemory(10_000, 10**9), ReferenceGhosts(10_000, 10**9)
    for n, (evicted, back) in enumerate(rounds):
        rows = [(content, n, False) for content in range(1, evicted + 1)]
        rows += [(content, n, True) for content in range(1, 3 * back, 3)]
        found = returns_of(index, rows)
        for row in rows:
            plain.apply(*row)
        assert sorted(found) == sorted(plain.returned)
        before = range(1, evicted + 1)
        index.clear()
        plain.gone.clear()
        plain.returned.clear()
        assert returns_of(index, [(content, n, True) for content in before]) == []


def test_what_came_back_meanwhile_takes_no_room():
    """One block more would have held what goes out and comes back, however often it does."""
    index = EvictionMemory(100, 10**9)
    rows = [(1, 0, False)]
    for turn in range(1, 21):
        rows += [(2, turn, False), (2, turn, True)]
    rows += [(1, 30, True)]
    assert sorted(distance for _, distance in returns_of(index, rows)) == [1] * 21


@pytest.mark.parametrize("earliest", [-(2**63) + 1, -2, -1])
def test_times_before_the_epoch_are_times_like_others(earliest):
    rng = np.random.default_rng(1)
    ts = rng.choice([earliest, 0, 1, 2**63 - 1], 20_000)
    rows = list(
        zip(rng.integers(0, 3_000, 20_000).tolist(), ts.tolist(), rng.random(20_000) < 0.4, strict=True)
    )
    index, plain = EvictionMemory(1_500, 2**63 - 1), ReferenceGhosts(1_500, 2**63 - 1)
    found = [pair for a in range(0, 20_000, 2_500) for pair in returns_of(index, rows[a : a + 2_500])]
    for row in rows:
        plain.apply(*row)
    assert found == plain.returned


def test_the_earliest_time_of_all_is_a_time_of_an_eviction():
    index = EvictionMemory(10, 2**63 - 1)
    for _ in range(3):
        rows = [(key, -(2**63), False) for key in range(1_024)]
        assert returns_of(index, rows) == []
    assert returns_of(index, [(1_023, -(2**63), True)]) == [(0, 1)]


@fewer
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_with_that_much_more_an_lru_cache_would_have_held_it(seed, blocks):
    """Larger caches are run on the same requests: the smallest that finds one is larger by its distance."""
    rng = np.random.default_rng(seed)
    requests = (rng.zipf(1.2, 400) % 30).tolist()
    found = {extra: lru_hits(requests, blocks + extra) for extra in range(31)}
    rows, row_of = [], {}
    held = []
    for n, content in enumerate(requests):
        if content in held:
            held.remove(content)
        else:
            if len(held) == blocks:
                rows.append((held.pop(0), n, False))
            row_of[len(rows)] = n
            rows.append((content, n, True))
        held.append(content)
    _, distances, returned = EvictionMemory(1_000, 10**9).apply(*changes(rows))
    for row, distance in zip(returned.tolist(), distances.tolist(), strict=True):
        request = row_of[row]
        assert request in found[distance]
        assert request not in found[distance - 1]


def lru_hits(requests, blocks):
    """Which requests an LRU cache finds."""
    held, hits = [], set()
    for n, content in enumerate(requests):
        if content in held:
            held.remove(content)
            hits.add(n)
        elif len(held) == blocks:
            held.pop(0)
        held.append(content)
    return hits
