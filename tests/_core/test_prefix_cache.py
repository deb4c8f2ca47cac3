import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.reuse import PrefixCache
from kvstream.events.types import Op
from tests.reference import ReferencePrefixCache

BLOCKS = st.sampled_from([0, 1, 2, 3, 5, 8, -7, 2**62, -(2**63), 2**63 - 1, *range(40, 60)])
REQUESTS = st.lists(st.lists(BLOCKS, unique=True, max_size=12), max_size=12)


def serve(cache, requests):
    """The events of each request: operation and block."""
    wanted = np.array([block for request in requests for block in request], dtype=np.int64)
    ops, blocks, counts = cache.serve(
        wanted, np.cumsum([len(request) for request in requests], dtype=np.int64)
    )
    assert len(ops) == len(blocks) == counts.sum()
    events = list(zip(ops.tolist(), blocks.tolist(), strict=True))
    ends = np.cumsum(counts).tolist()
    return [events[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.integers(1, 20), st.lists(REQUESTS, max_size=6))
def test_a_cache_equals_a_plain_one_however_requests_are_cut(capacity, calls):
    cache, plain = PrefixCache(capacity), ReferencePrefixCache(capacity)
    for requests in calls:
        assert serve(cache, requests) == [plain.serve(request) for request in requests]


def test_long_streams_equal_a_plain_cache_as_room_grows():
    rng = np.random.default_rng(5)
    for capacity in (1, 300, 2_000, 10**30):
        cache, plain = PrefixCache(capacity), ReferencePrefixCache(capacity)
        for _ in range(20):
            starts = rng.zipf(1.3, 30) % 3_000
            requests = [list(range(start, start + int(rng.integers(0, 60)))) for start in starts.tolist()]
            assert serve(cache, requests) == [plain.serve(request) for request in requests]


def test_a_hit_after_a_hole_is_none():
    first, second = serve(PrefixCache(4), [[1, 2, 3], [9, 2, 3]])
    assert [op for op, _ in first] == [Op.ALLOC] * 3
    assert Op.ACCESS not in [op for op, _ in second]


def test_the_last_block_of_a_request_is_given_up_first():
    _, second = serve(PrefixCache(3), [[1, 2, 3], [4]])
    assert second == [(Op.EVICT, 3), (Op.ALLOC, 4)]


def test_a_request_must_end_within_its_blocks():
    with pytest.raises(ValueError, match="after the last block"):
        PrefixCache(4).serve(np.arange(3), np.array([4, 3]))
