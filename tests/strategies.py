"""Hypothesis strategies: arbitrary streams of events, cut into arbitrary frames."""

import itertools

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from kvstream.events.frame import EventFrame
from kvstream.events.types import (
    REASON_CODE,
    UNKNOWN_REASON,
    BlockAccessed,
    BlockAllocated,
    BlockEvicted,
    BlockRemoved,
    BlockResident,
    BlockStored,
    CacheCleared,
    Labels,
    PrefixStored,
)

fewer = settings(max_examples=max(10, settings().max_examples // 5))
"""For properties whose examples cost much; in proportion to the profile's number."""

SLOTS = st.integers(0, 12)
HASHES = st.sampled_from([3, 2**40, 2**40 + 1, -1, -(2**63), 2**63 - 1, 77_777_777, 5 << 33, 9])
FAR_SLOTS = st.sampled_from([0, 1, 5, 1_000, 1_024, 5_000, 70_000, 66_000])
REASON_NAMES = st.sampled_from([*REASON_CODE, "cosmic rays"])


_INT64 = st.integers(-(2**63), 2**63 - 1)
_TIMES = st.integers(0, 2**63 - 1)
_SOURCES = st.sampled_from(["default", "vllm-0/dp0", "ä"])
_TIERS = st.sampled_from(["gpu", "cpu"])
_LABELS = st.none() | st.builds(Labels, st.sampled_from(["a", "b"]), st.none() | st.just("x"))
_REASONS = st.sampled_from(["capacity", "other", "manual"])
EVENTS = st.one_of(
    st.builds(BlockAllocated, _INT64, _TIMES, _SOURCES, _TIERS, st.none() | _INT64.filter(bool), _LABELS),
    st.builds(BlockStored, _INT64, _TIMES, _SOURCES, _TIERS, _LABELS),
    st.builds(PrefixStored, _INT64, _TIMES, _SOURCES, _TIERS, _LABELS),
    st.builds(BlockRemoved, _INT64, _TIMES, _SOURCES, _TIERS),
    st.builds(BlockResident, _INT64, _TIMES, _SOURCES, _TIERS, _LABELS),
    st.builds(BlockAccessed, _INT64, _TIMES, _SOURCES, _TIERS),
    st.builds(BlockEvicted, _INT64, _TIMES, _SOURCES, _TIERS, _REASONS),
    st.builds(CacheCleared, _TIMES, _SOURCES, _TIERS),
)
"""Any event of a few sources and tiers."""


@st.composite
def plain_events(draw, clears=True):
    """A list of (op, block, ts, reason); times mostly go on, now and then back."""
    ids = draw(st.sampled_from([SLOTS, HASHES, FAR_SLOTS, SLOTS | HASHES]))
    ops = [0, 1, 1, 1, 2]
    ops += [3] if clears and draw(st.booleans()) else []
    ops += [4, 4, 5, 6] if draw(st.booleans()) else []
    ops += [7] if draw(st.booleans()) else []
    steps = st.integers(0, 50) | st.integers(-30, 10)
    rows = draw(st.lists(st.tuples(st.sampled_from(ops), ids, steps, REASON_NAMES), max_size=60))
    ts, events = 1_000, []
    for op, block, step, reason in rows:
        ts = max(0, ts + step)
        events.append((op, 0 if op == 3 else block, ts, reason))
    return events


def frame(events, source="s", tier="gpu", epoch=0, seq=-1):
    return EventFrame(
        np.array([e[0] for e in events], np.uint8),
        np.array([e[1] for e in events], np.int64),
        np.array([e[2] for e in events], np.int64),
        source,
        tier,
        None,
        np.array([REASON_CODE.get(e[3], UNKNOWN_REASON) for e in events], np.uint8),
        epoch,
        seq,
    )


def unaligned(column):
    """Return the same column at an odd address, as those of decoded frames can be."""
    return np.frombuffer(b"\0" + column.tobytes(), np.uint8)[1:].view(column.dtype)


@st.composite
def cuts(draw, length):
    """Places to cut a list of ``length`` into consecutive pieces."""
    inner = draw(st.lists(st.integers(0, length), max_size=6))
    edges = [0, *sorted(inner), length]
    return list(itertools.pairwise(edges))


def mutated(rng, data):
    """The bytes with a few changed, taken out or put in."""
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        kind, at = rng.randrange(4), rng.randrange(len(data) + 1)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            data[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1])
        elif kind == 2:
            del data[at : at + rng.randrange(1, 9)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)
