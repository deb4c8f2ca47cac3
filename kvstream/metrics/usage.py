"""Usage: what the blocks of each label set have done, and how much room they took for it."""

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from kvstream.blocks.apply_result import LabelledEvents, Observations, joined
from kvstream.events.frame import I64, U16
from kvstream.events.types import LABEL_NAMES, Labels
from kvstream.metrics.histogram import DEFAULT_SCALE, IntervalStats
from kvstream.metrics.intervals import Intervals
from kvstream.metrics.measurements import Measurements, restore_measurements, save_measurements

_AT_ONCE = 131_072  # events that are taken in together, as each time costs what a thousand of them do

_MOST_WAITING = 256  # pieces that wait, however few events are in them


class LabelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What the blocks of one label set have done since the start.

    Attributes:
        value: The label's value; None for blocks without one, ``other`` for label sets beyond the bound.
        blocks_live: Blocks live now.
        allocations: Generations begun.
        accesses: Hits on their blocks, by requests of any label set.
        evictions: Generations ended by eviction or replacement.
        premature: Evicted content of any label set that was allocated again in their blocks.
        residency_share: Their share of the block·seconds of all blocks.
        hit_share: Their share of all hits; None, as are the next two, where hits are unknown.
        hit_ratio: accesses / (accesses + allocations).
        zero_access_rate: Share of evicted blocks never accessed.
        lifetime: Allocation to eviction.
        idle: Last access to eviction.
        first_reuse: Allocation to first access; None where hits are unknown.
        reuse_gap: Access to access; None where hits are unknown.
    """

    value: str | None
    blocks_live: int
    allocations: int
    accesses: int
    evictions: int
    premature: int
    residency_share: float
    hit_share: float | None
    hit_ratio: float | None
    zero_access_rate: float | None
    lifetime: IntervalStats
    idle: IntervalStats
    first_reuse: IntervalStats | None
    reuse_gap: IntervalStats | None


class LabelSetUsage:
    """What the blocks of one label set, or of several, have done.

    Attributes:
        measurements: What was seen of them.
        live: Blocks live.
        block_ns: Time that their blocks were held until now, ns, summed over blocks.
        premature: Evicted content that came back into their blocks.
    """

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        self.measurements = Measurements.empty(scale)
        self.live = 0
        self.block_ns = 0.0
        self.premature = 0

    def merge(self, other: "LabelSetUsage") -> None:
        """Add another label set."""
        self.measurements.merge(other.measurements)
        self.live += other.live
        self.block_ns += other.block_ns
        self.premature += other.premature


class UsageByLabelSet:
    """What the blocks of each label set of one source and tier have done.

    Args:
        scale: Scale of the histograms.
    """

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        self._scale = scale
        self._label_sets: list[LabelSetUsage] = []  # without what their intervals say
        self._waiting: list[LabelledEvents] = []
        self._access_counts: list[I64] = []
        self._events = 0
        self._start_ns: int | None = None

    def observe(self, seen: Observations) -> None:
        """Take in what one ``apply`` saw."""
        self._waiting += seen.labelled
        self._access_counts += seen.access_counts
        self._events += seen.allocations + seen.accesses + sum(len(events.ended) for events in seen.labelled)
        if self._events >= _AT_ONCE or len(self._waiting) >= _MOST_WAITING:
            self._settle()

    def observe_returns(self, label_sets: U16) -> None:
        """Take in premature evictions, by label set of the blocks that hold the content now, uint16 (m,)."""
        if not len(label_sets):
            return
        self._settle()
        for label_set, count in zip(self._label_sets, np.bincount(label_sets).tolist(), strict=False):
            label_set.premature += count

    def by_number(self, now_ns: int, intervals: Intervals) -> list[LabelSetUsage]:
        """Return usage by label set, with block time up to now and the intervals settled before."""
        self._settle()
        copies = []
        for number, label_set in enumerate(self._label_sets):
            copy = LabelSetUsage(self._scale)
            copy.merge(label_set)
            seen = copy.measurements
            for name, histogram in intervals.of_label_set(number).items():
                setattr(seen, name, histogram)
            seen.accesses += seen.first_reuse.count + seen.reuse_gap.count
            copy.block_ns += label_set.live * float(now_ns - (self._start_ns or 0))
            copies.append(copy)
        return copies

    def save(self) -> dict[str, Any]:
        """Return the usage of each label set, by number, without what intervals say."""
        self._settle()
        return {
            "start_ns": self._start_ns,
            "measurements": save_measurements([each.measurements for each in self._label_sets]),
            "live": np.array([each.live for each in self._label_sets], dtype=np.int64),
            "block_ns": np.array([each.block_ns for each in self._label_sets], dtype=np.float64),
            "premature": np.array([each.premature for each in self._label_sets], dtype=np.int64),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self._start_ns = saved["start_ns"]
        columns = zip(
            restore_measurements(saved["measurements"], self._scale),
            saved["live"].tolist(),
            saved["block_ns"].tolist(),
            saved["premature"].tolist(),
            strict=True,
        )
        for measurements, live, block_ns, premature in columns:
            usage = LabelSetUsage(self._scale)
            usage.measurements, usage.live = measurements, live
            usage.block_ns, usage.premature = block_ns, premature
            self._label_sets.append(usage)

    def _settle(self) -> None:
        waiting, self._waiting, self._events = self._waiting, [], 0
        accesses, self._access_counts = joined(self._access_counts), []
        if not waiting:
            return
        begun_ts, ended_ts = joined([o.begun_ts for o in waiting]), joined([o.ended_ts for o in waiting])
        if self._start_ns is None and len(begun_ts):
            self._start_ns = int(begun_ts[0])
        start = self._start_ns or 0
        begun, ended = joined([o.begun for o in waiting]), joined([o.ended for o in waiting])
        lifetimes, unobserved = (
            joined([o.lifetimes for o in waiting]),
            joined([o.unobserved for o in waiting]),
        )
        late = joined([o.late for o in waiting])
        highest = max(int(label_sets.max(initial=0)) for label_sets in (begun, ended, unobserved))
        while len(self._label_sets) <= highest:
            self._label_sets.append(LabelSetUsage(self._scale))
        count = len(self._label_sets)
        # A block held from b to e adds e - b; one still held adds its part when it is asked for.
        block_times = np.bincount(ended, ended_ts - start, count) - np.bincount(
            begun, begun_ts - start, count
        )
        cleared = joined([o.ended for o in waiting if o.cleared])
        evicted = joined([o.ended for o in waiting if not o.cleared])
        columns = zip(
            np.bincount(begun, minlength=count).tolist(),
            np.bincount(late, minlength=count).tolist(),
            np.bincount(unobserved, minlength=count).tolist(),
            np.bincount(evicted, minlength=count).tolist(),
            np.bincount(cleared, minlength=count).tolist(),
            np.bincount(lifetimes.compress(accesses == 0), minlength=count).tolist(),
            np.bincount(lifetimes.compress(accesses == 1), minlength=count).tolist(),
            np.bincount(lifetimes, accesses, count).tolist(),
            block_times.tolist(),
            strict=True,
        )
        for label_set, (b, unknown, hits, e, c, never, once, total, block_ns) in zip(
            self._label_sets, columns, strict=True
        ):
            seen = label_set.measurements
            seen.allocations += b - unknown
            seen.unknown_births += unknown
            seen.accesses += hits
            seen.evictions[0] += e
            seen.cleared += c
            seen.never_accessed += never
            seen.accessed_once += once
            seen.access_total += round(total)
            label_set.live += b - e - c
            label_set.block_ns += block_ns


class UsageByLabel:
    """What each value of each label has done, added up cache by cache, as many of them take their time.

    Args:
        scale: Scale of the histograms.
    """

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        self._scale = scale
        self._values: dict[str, dict[str | None, LabelSetUsage]] = {name: {} for name in LABEL_NAMES}
        self._residency = 0.0
        self._hits = 0

    def add(self, label_sets: Iterable[tuple[Labels | None, LabelSetUsage]]) -> None:
        """Add the label sets of a cache, each with its labels."""
        for labels, usage in label_sets:
            if not usage.measurements.allocations and not usage.measurements.unknown_births:
                continue
            self._residency += usage.block_ns
            self._hits += usage.measurements.accesses
            for name, values in self._values.items():
                value = None if labels is None else getattr(labels, name)
                if value not in values:
                    values[value] = LabelSetUsage(self._scale)
                values[value].merge(usage)

    def labels(self) -> dict[str, list[LabelUsage]]:
        """Return the values of each label, largest residency first; labels without values are left out."""
        return {
            name: [
                _usage(value, usage, self._residency, self._hits)
                for value, usage in sorted(values.items(), key=lambda item: -item[1].block_ns)
            ]
            for name, values in self._values.items()
            if values.keys() - {None, "other"}
        }


def usage_by_label(label_sets: Iterable[tuple[Labels | None, LabelSetUsage]]) -> dict[str, list[LabelUsage]]:
    """Return what each value of each label has done, of the label sets of one cache (``UsageByLabel``)."""
    total = UsageByLabel()
    total.add(label_sets)
    return total.labels()


def _usage(value: str | None, usage: LabelSetUsage, residency: float, hits: int) -> LabelUsage:
    seen = usage.measurements
    return LabelUsage(
        value=value,
        blocks_live=usage.live,
        allocations=seen.allocations,
        accesses=seen.accesses,
        evictions=seen.total_evictions,
        premature=usage.premature,
        residency_share=usage.block_ns / residency if residency > 0 else 0.0,
        hit_share=seen.accesses / hits if hits else None,
        hit_ratio=seen.hit_ratio if hits else None,
        zero_access_rate=seen.never_reused_ratio if hits else None,
        lifetime=seen.lifetime.stats(),
        idle=seen.idle.stats(),
        first_reuse=seen.first_reuse.stats() if hits else None,
        reuse_gap=seen.reuse_gap.stats() if hits else None,
    )
