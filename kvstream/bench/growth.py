"""How much an event costs as the cache grows, and as more and more events have passed."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from kvstream.bench.streams import busy, filling
from kvstream.blocks.table import BlockTable
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame

BLOCKS = (10**3, 10**4, 10**5, 10**6, 10**7)
EVENTS = (10**5, 10**6, 10**7, 10**8)
_LIVE = 16_384  # blocks, while events pass
_FRAME_EVENTS = 4096
_MEASURED = 400_000  # events a repeat
_REPEATS = 7


class Growth(msgspec.Struct, frozen=True):
    """What an event costs at one size.

    Attributes:
        what: What has grown.
        size: How much of it there is.
        ns_per_event: Median of the repeats.
        of_smallest: Relative to the smallest size, median of the ratios within each repeat.
    """

    what: str
    size: int
    ns_per_event: float
    of_smallest: float


def measure_growth(on_size: Callable[[str], Any], blocks: Sequence[int] = BLOCKS) -> list[Growth]:
    """Measure what is applied to tables of more and more live blocks, by turns.

    Args:
        on_size: Called with what is measured now.
        blocks: Blocks of each table, slots and content hashes; ten million take half a gigabyte.
    """
    results: list[Growth] = []
    for what, content in (("live blocks: slots", False), ("live blocks: content hashes", True)):
        on_size(what)
        tables = {size: _filled(size, content=content) for size in blocks}
        works = {size: busy(size, _MEASURED * _REPEATS, content=content).cut(_MEASURED) for size in blocks}
        seconds: dict[int, list[float]] = {size: [] for size in blocks}
        for repeat in range(_REPEATS):
            for size, table in tables.items():
                seconds[size].append(_seconds(partial(table.apply, records=False), works[size][repeat]))
        results += _growth(what, seconds)
    return results


def measure_endurance(on_size: Callable[[str], Any], events: Sequence[int] = EVENTS) -> list[Growth]:
    """Measure what the events of one cache take, from blocks to rules, after more and more of them.

    Args:
        on_size: Called with what is measured now.
        events: Events before each measurement.
    """
    monitor = Monitor()
    monitor.process(filling(_LIVE))
    again = busy(_LIVE, _MEASURED)
    passed = 0

    def more() -> float:
        nonlocal passed
        ahead_ns = int(again.ts[-1] - again.ts[0]) * (passed // _MEASURED)
        passed += _MEASURED
        return _seconds(monitor.process, replace(again, ts=again.ts + ahead_ns))

    seconds: dict[int, list[float]] = {}
    for size in events:
        while passed + _MEASURED < size:
            on_size(f"events so far: {passed:,} of {size:,}")
            more()
        seconds[size] = [more() for _ in range(_REPEATS)]
    return _growth("events so far", seconds)


def _filled(blocks: int, *, content: bool) -> BlockTable:
    table = BlockTable("bench", "gpu")
    for frame in filling(blocks, content=content).cut(_FRAME_EVENTS):
        table.apply(frame, records=False)
    return table


def _seconds(apply: Callable[[EventFrame], object], events: EventFrame) -> float:
    """Return how long it takes to apply events, a frame at a time."""
    frames = events.cut(_FRAME_EVENTS)
    begun = time.perf_counter()
    for frame in frames:
        apply(frame)
    return time.perf_counter() - begun


def _growth(what: str, seconds: dict[int, list[float]]) -> list[Growth]:
    smallest = next(iter(seconds.values()))
    return [
        Growth(
            what,
            size,
            statistics.median(taken) / _MEASURED * 1e9,
            statistics.median(mine / its for mine, its in zip(taken, smallest, strict=True)),
        )
        for size, taken in seconds.items()
    ]
