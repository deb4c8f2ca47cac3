"""Usage: what the blocks of each label set have done, and how much room they took for it."""

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from kvstream._core.columns import COUNTED_BY_LABEL_SET
from kvstream.blocks.table import BlockTable
from kvstream.events.counters import CacheCounts, counts_of
from kvstream.events.frame import I64
from kvstream.events.types import LABEL_NAMES, Labels
from kvstream.metrics.histogram import DEFAULT_SCALE, IntervalStats
from kvstream.metrics.intervals import Intervals
from kvstream.metrics.measurements import Measurements, restore_measurements

_SEEN = tuple(name for name in COUNTED_BY_LABEL_SET if name in counts_of(CacheCounts))


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


def usage_by_label_set(
    table: BlockTable, now_ns: int, intervals: Intervals, scale: int = DEFAULT_SCALE
) -> list[tuple[Labels | None, LabelSetUsage]]:
    """Return what the blocks of each label set have done.

    Args:
        table: The blocks, of which some have had labels.
        now_ns: Time up to which blocks are held, ns.
        intervals: The intervals of the same blocks, settled before.
        scale: Scale of the histograms.
    """
    label_sets, counted = table.label_sets, table.of_label_sets
    if label_sets is None or counted is None:
        return []
    usages = []
    for number, (labels, row) in enumerate(zip(label_sets.labels, counted.rows.tolist(), strict=False)):
        usage = LabelSetUsage(scale)
        seen, count = usage.measurements, dict(zip(COUNTED_BY_LABEL_SET, row, strict=True))
        for name, histogram in intervals.of_label_set(number).items():
            setattr(seen, name, histogram)
        for name in _SEEN:
            setattr(seen, name, count[name])
        seen.accesses += seen.first_reuse.count + seen.reuse_gap.count
        seen.evictions[0] = count["evictions"]
        usage.live = seen.allocations + seen.unknown_births - count["evictions"] - seen.cleared
        held_ns = (count["held_upper"] << 32) + count["held_lower"]
        usage.block_ns = float(held_ns + usage.live * now_ns)  # those that are live end now
        usage.premature = count["premature"]
        usages.append((labels, usage))
    return usages


def counts_of_usage(saved: dict[str, Any]) -> I64:
    """Return what a snapshot of version 1 holds as usage, as the rows of ``LabelSetCounts``."""
    start = saved["start_ns"] or 0
    columns = (saved[name].tolist() for name in ("live", "block_ns", "premature"))
    rows = []
    for seen, live, block_ns, premature in zip(
        restore_measurements(saved["measurements"]), *columns, strict=True
    ):
        held_ns = round(block_ns) - start * live  # from the epoch on, as LabelSetCounts has it
        counts = {name: getattr(seen, name) for name in _SEEN}
        counts |= {"evictions": int(seen.evictions.sum()), "premature": premature}
        counts |= {"held_lower": held_ns & (2**32 - 1), "held_upper": held_ns >> 32}
        rows.append([counts[name] for name in COUNTED_BY_LABEL_SET])
    return np.array(rows, dtype=np.int64).reshape(-1, len(COUNTED_BY_LABEL_SET))


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
