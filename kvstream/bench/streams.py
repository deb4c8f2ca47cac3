"""Streams to measure with: a cache that fills, then accesses and evictions as a busy one has them."""

import numpy as np
from msgspec.structs import replace

from kvstream._core.table import mix
from kvstream.events.frame import I64, EventFrame
from kvstream.events.types import Labels, Op
from kvstream.sources.synthetic import START_NS

_REPLACED = 0.078
"""Share of steps that evict a block and allocate another; the others access one.

With a fill of 16,384 blocks, 400,000 events are then 11 % allocations, 82 % accesses, 7 % evictions.
"""
_STEP_NS = 1_000
_KEYS, _ZIPF = 200_000, 1.1  # different ones, and how unequally they are asked for
_TENANTS = tuple(Labels(tenant=f"tenant-{number}") for number in range(8))


def filling(blocks: int, *, content: bool = False, source: str = "bench") -> EventFrame:
    """Return allocations of ``blocks`` blocks."""
    slots = np.arange(blocks, dtype=np.int64)
    ids = _content_ids(slots, np.zeros(blocks, dtype=np.int64)) if content else slots
    times = START_NS - (blocks - slots) * _STEP_NS
    return EventFrame(np.full(blocks, Op.ALLOC, dtype=np.uint8), ids, times, source)


def busy(
    blocks: int, events: int, *, content: bool = False, source: str = "bench", seed: int = 1
) -> EventFrame:
    """Return events of a cache that ``filling`` has filled: every block as likely as any other.

    Args:
        blocks: Blocks that the cache holds.
        events: Events in all.
        content: Ids are content hashes, new for each allocation, instead of slots.
        source: Source of the frame.
        seed: The same seed gives the same events.
    """
    rng = np.random.default_rng(seed)
    replaced = rng.random(events) < _REPLACED
    step = np.repeat(np.arange(events), 1 + replaced)[:events]  # an eviction, then an allocation
    slots = rng.integers(0, blocks, events)[step]
    second = np.append(False, step[1:] == step[:-1])
    ops = np.where(replaced[step], np.where(second, Op.ALLOC, Op.EVICT), Op.ACCESS).astype(np.uint8)
    ids = _content_ids(slots, _generation(slots, ops)) if content else slots
    return EventFrame(ops, ids, START_NS + np.arange(events) * _STEP_NS, source)


def keyed(frame: EventFrame) -> EventFrame:
    """Return the events of slots with a content key for each allocation."""
    keys = np.random.default_rng(1).zipf(_ZIPF, len(frame)) % _KEYS
    return replace(frame, keys=np.where(frame.ops == Op.ALLOC, mix(keys).view(np.int64), 0))


def labelled(frame: EventFrame) -> EventFrame:
    """Return the events with one of eight label sets for each allocation."""
    label_of = np.random.default_rng(2).integers(1, len(_TENANTS) + 1, len(frame))
    label_of[frame.ops != Op.ALLOC] = 0
    return replace(frame, labels=_TENANTS, label_of=label_of.astype(np.uint16))


def _generation(slots: I64, ops: np.ndarray) -> I64:
    """Return the number of allocations of the same slot up to each event."""
    order = np.argsort(slots, kind="stable")
    allocated = ops[order] == Op.ALLOC
    total = np.cumsum(allocated)
    head = np.append(True, slots[order][1:] != slots[order][:-1])
    before = np.maximum.accumulate(np.where(head, np.arange(len(slots)), 0))
    generation = np.empty(len(slots), dtype=np.int64)
    generation[order] = total - (total - allocated)[before]
    return generation


def _content_ids(slots: I64, generation: I64) -> I64:
    return mix(slots << 20 | generation).view(np.int64)
