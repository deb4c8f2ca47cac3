"""Measurements: counts and histograms of one stretch of one stream. They merge by addition."""

import numpy as np

from kvstream.blocks.apply_result import Observations
from kvstream.events.counters import CacheCounts
from kvstream.events.frame import I64
from kvstream.events.types import REASONS
from kvstream.metrics.histogram import DEFAULT_SCALE, ExponentialHistogram
from kvstream.metrics.premature import Returns

_COUNTS = CacheCounts.__struct_fields__
_HISTOGRAMS = ("lifetime", "idle", "first_reuse", "reuse_gap", "return_time", "return_distance")
_BLOCK = 1_000_000_000  # as long as a second, so that a histogram of times can count blocks


class Measurements:
    """What was seen of one source and tier in a window, or since the start.

    Its counts are those of ``CacheCounts``, and ``evictions`` by reason code, int64; ``never_accessed``,
    ``accessed_once`` and ``access_total`` are of the sampled generations that were evicted. ``lifetime``,
    ``idle``, ``first_reuse`` and ``reuse_gap`` are histograms, as are ``return_time`` and
    ``return_distance`` (in blocks, not seconds) of premature evictions.
    """

    __slots__ = (*_COUNTS, *_HISTOGRAMS, "evictions")

    allocations: int
    sampled_allocations: int
    accesses: int
    stores: int
    clears: int
    cleared: int
    replacements: int
    never_accessed: int
    accessed_once: int
    access_total: int
    unknown_evictions: int
    unknown_accesses: int
    unknown_reasons: int
    time_regressions: int
    clock_steps: int

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        for name in _COUNTS:
            setattr(self, name, 0)
        self.evictions = np.zeros(len(REASONS), dtype=np.int64)
        self.lifetime = ExponentialHistogram(scale)
        self.idle = ExponentialHistogram(scale)
        self.first_reuse = ExponentialHistogram(scale)
        self.reuse_gap = ExponentialHistogram(scale)
        self.return_time = ExponentialHistogram(scale)
        self.return_distance = ExponentialHistogram(scale)

    def observe_accesses(self, counts: I64) -> None:
        """Add evicted generations, by how often they were accessed, int64 (m,)."""
        self.never_accessed += int(np.count_nonzero(counts == 0))
        self.accessed_once += int(np.count_nonzero(counts == 1))
        self.access_total += int(counts.sum())

    def observe_returns(self, returns: Returns) -> None:
        """Add evicted content that came back."""
        self.return_time.record(returns.times)
        self.return_distance.record(returns.distances * _BLOCK)

    def merge(self, other: "Measurements") -> None:
        """Add another stretch."""
        self.add_counts(other)
        for name in _HISTOGRAMS:
            getattr(self, name).merge(getattr(other, name))

    def add_counts(self, other: "Observations | Measurements") -> None:
        """Add the counts alone, at a fraction of what merging costs."""
        for name in _COUNTS:
            if count := getattr(other, name):  # few are not 0 where frames are small
                setattr(self, name, getattr(self, name) + count)
        self.evictions += other.evictions

    @property
    def total_evictions(self) -> int:
        """Return generations ended other than by a clear."""
        return int(self.evictions.sum())

    @property
    def processed(self) -> int:
        """Return events that these measurements account for."""
        ended = self.total_evictions - self.replacements + self.unknown_evictions
        return self.allocations + self.accesses + self.unknown_accesses + ended + self.clears

    @property
    def ended_by_reason(self) -> dict[str, int]:
        """Return generations ended, by reason; those that a clear ended among the ``cleared``."""
        by_reason = dict(zip(REASONS, self.evictions.tolist(), strict=True))
        by_reason["cleared"] += self.cleared
        return by_reason

    @property
    def lookups(self) -> int:
        """Return accesses and allocations: blocks that were asked for, found or not."""
        return self.accesses + self.allocations

    @property
    def hit_ratio(self) -> float:
        """Return accesses by lookups: a block-level estimate; 0 without any."""
        return self.accesses / self.lookups if self.lookups else 0.0

    @property
    def never_reused_ratio(self) -> float:
        """Return the share of evicted generations that were never accessed; 0 without evictions."""
        return self._of_evicted(self.never_accessed)

    @property
    def premature_ratio(self) -> float:
        """Return premature evictions by all evictions; 0 without evictions."""
        evicted = self.total_evictions
        return self.return_time.count / evicted if evicted else 0.0

    @property
    def single_access_ratio(self) -> float:
        """Share of evicted generations accessed once; 0 without evictions."""
        return self._of_evicted(self.accessed_once)

    @property
    def multi_access_ratio(self) -> float:
        """Share of evicted generations accessed more often; 0 without evictions."""
        return self._of_evicted(self.lifetime.count - self.never_accessed - self.accessed_once)

    @property
    def mean_accesses(self) -> float:
        """Mean accesses of an evicted generation; 0 without evictions."""
        return self._of_evicted(self.access_total)

    def _of_evicted(self, count: int) -> float:
        return count / self.lifetime.count if self.lifetime.count else 0.0
