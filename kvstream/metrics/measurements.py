"""Measurements: counts and histograms of one stretch of one stream. They merge by addition."""

from collections.abc import Callable, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Self

import numpy as np

from kvstream.events.counters import CacheCounts, counts_of
from kvstream.metrics.histogram import (
    DEFAULT_SCALE,
    ExponentialHistogram,
    restore_histograms,
    save_histograms,
)

_HISTOGRAMS = ("lifetime", "idle", "first_reuse", "reuse_gap", "return_time", "return_distance")
histograms_of: Callable[["Measurements"], tuple[ExponentialHistogram, ...]] = attrgetter(*_HISTOGRAMS)
"""Returns the histograms of measurements, in the order of their fields."""

_COUNTS = tuple(counts_of(CacheCounts))


class Measurements(CacheCounts, eq=False, gc=False):
    """What was seen of one source and tier in a window, or since the start: counts, and histograms.

    Attributes:
        lifetime: Allocation to eviction, as all of these of the generations that sampling observes.
        idle: Last access to eviction.
        first_reuse: Allocation to first access.
        reuse_gap: Access to access.
        return_time: Eviction to return, of premature evictions.
        return_distance: Blocks more, not seconds, that would have kept each of them.
    """

    lifetime: ExponentialHistogram
    idle: ExponentialHistogram
    first_reuse: ExponentialHistogram
    reuse_gap: ExponentialHistogram
    return_time: ExponentialHistogram
    return_distance: ExponentialHistogram

    @classmethod
    def empty(cls, scale: int = DEFAULT_SCALE) -> Self:
        """Return measurements of nothing, with histograms of a scale."""
        return cls(*map(ExponentialHistogram, repeat(scale, len(_HISTOGRAMS))))

    def merge(self, other: "Measurements") -> None:
        """Add another stretch."""
        self.add_counts(other)
        for histogram, more in zip(histograms_of(self), histograms_of(other), strict=True):
            histogram.merge(more)

    @property
    def lookups(self) -> int:
        """Return accesses and allocations: blocks that were asked for, found or not."""
        return self.accesses + self.allocations

    @property
    def hit_ratio(self) -> float | None:
        """Return accesses by lookups: a block-level estimate; None without any."""
        return self.accesses / self.lookups if self.lookups else None

    @property
    def never_reused_ratio(self) -> float | None:
        """Return the share of evicted generations that were never accessed; None without evictions."""
        return self._of_evicted(self.never_accessed)

    @property
    def premature_ratio(self) -> float | None:
        """Return premature evictions by all evictions, of a cache with known contents; None without any."""
        return self.premature_share(self.total_evictions)

    def premature_share(self, evictions: int | None) -> float | None:
        """Return premature evictions by the evictions of the caches with known contents; None without any."""
        return self.return_time.count / evictions if evictions else None

    @property
    def single_access_ratio(self) -> float | None:
        """Return the share of evicted generations accessed once; None without evictions."""
        return self._of_evicted(self.accessed_once)

    @property
    def multi_access_ratio(self) -> float | None:
        """Return the share of evicted generations accessed more often; None without evictions."""
        return self._of_evicted(self.lifetime.count - self.never_accessed - self.accessed_once)

    @property
    def mean_accesses(self) -> float | None:
        """Return the mean accesses of an evicted generation; None without evictions."""
        return self._of_evicted(self.access_total)

    def _of_evicted(self, count: int) -> float | None:
        return count / self.lifetime.count if self.lifetime.count else None


def save_measurements(stretches: Sequence[Measurements]) -> dict[str, Any]:
    """Return measurements as a few arrays, a row each."""
    counts = [[getattr(each, name) for name in _COUNTS] for each in stretches]
    return {
        "names": list(_COUNTS),
        "counts": np.array(counts, dtype=np.int64).reshape(-1, len(_COUNTS)),
        "evictions": np.array([each.evictions for each in stretches], dtype=np.int64),
        "histograms": save_histograms([getattr(each, name) for each in stretches for name in _HISTOGRAMS]),
    }


def restore_measurements(saved: dict[str, Any], scale: int = DEFAULT_SCALE) -> list[Measurements]:
    """Return the measurements that were saved; counts that there were not yet are 0."""
    histograms = iter(restore_histograms(saved["histograms"], scale))
    restored = []
    for counts, evictions in zip(saved["counts"].tolist(), saved["evictions"], strict=True):
        stretch = Measurements(*(next(histograms) for _ in _HISTOGRAMS))
        stretch.evictions[: len(evictions)] = evictions
        for name, count in zip(saved["names"], counts, strict=True):
            setattr(stretch, name, count)
        restored.append(stretch)
    return restored
