"""Intervals on their way from the table that sees them to their histograms."""

from collections import defaultdict
from functools import partial
from typing import Any

from kvstream._core.buckets import IntervalCounter
from kvstream.blocks.apply_result import Observations, joined
from kvstream.events.frame import I64, U16
from kvstream.metrics.buckets import buckets
from kvstream.metrics.histogram import DEFAULT_SCALE, ClassicHistogram, ExponentialHistogram
from kvstream.metrics.histogram_rows import HistogramRows
from kvstream.metrics.measurements import Measurements, histograms_of

_AT_ONCE = 65_536  # that are counted together, as each time costs what a thousand of them do
_BLOCK = 1_000_000_000  # as long as a second, so that a histogram of times can count blocks
_NAMES = ("lifetime", "idle", "first_reuse", "reuse_gap")


class Intervals:
    """Counts the intervals of one source and tier: by window, since the start, and by label set.

    The table counts them as it shows them. Once there are labels, they wait until there are many, or somebody
    asks, as label sets are counted in columns.

    Args:
        scale: Scale of the histograms.

    Attributes:
        classic: By name of the interval, those counted since the start in vLLM's buckets.
    """

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        self.classic = {name: ClassicHistogram() for name in _NAMES}
        self._counter = IntervalCounter(
            buckets(scale).core, **{name: histogram.counts for name, histogram in self.classic.items()}
        )
        self._counted: Measurements | None = None  # where the counter counts
        self._by_label_set: defaultdict[str, HistogramRows] = defaultdict(partial(HistogramRows, scale))
        self._forget()

    def _forget(self) -> None:
        self._values: dict[str, list[I64]] = {name: [] for name in _NAMES}
        self._label_sets: dict[str, list[U16]] = {name: [] for name in _NAMES}
        self._waiting = 0

    def counter(self, window: Measurements) -> IntervalCounter:
        """Return what counts the intervals of a window that have no labels."""
        if window is not self._counted:
            self._counted = window
            self._counter.enter(*histograms_of(window))
        return self._counter

    def observe_returns(self, times: I64, distances: I64, window: Measurements) -> None:
        """Count evicted content that came back in a window, as ``EvictionMemory.apply`` found it."""
        self.counter(window).count_returns(times, distances * _BLOCK)

    def observe(self, seen: Observations, window: Measurements) -> None:
        """Take in what one ``apply`` saw of labels in a window, and count if much is waiting."""
        columns = (seen.lifetimes, seen.idles, seen.first_reuses, seen.reuse_gaps)
        for name, of_name in zip(_NAMES, columns, strict=True):
            self._values[name] += of_name
            self._waiting += sum(map(len, of_name))
        for events in seen.labelled:
            label_sets = (events.lifetimes, events.idles, events.first_reuses, events.reuse_gaps)
            for name, numbers in zip(_NAMES, label_sets, strict=True):
                self._label_sets[name].append(numbers)
        if self._waiting >= _AT_ONCE:
            self.settle(window)

    def settle(self, window: Measurements) -> None:
        """Count what is waiting, all of it from one window."""
        if not self._waiting:
            return
        for name in _NAMES:
            values = joined(self._values[name])
            if len(values):
                counted = self._by_label_set[name].record(joined(self._label_sets[name]), values)
                getattr(window, name).merge(counted.exponential())
                self.classic[name].add(counted.classic())
        self._forget()

    def save(self) -> dict[str, Any]:
        """Return what was counted since the start; settled before."""
        return {
            "classic": {name: histogram.counts.copy() for name, histogram in self.classic.items()},
            "by_label_set": {name: self._by_label_set[name].save() for name in _NAMES},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        for name in _NAMES:
            self.classic[name].add(saved["classic"][name])
            self._by_label_set[name].restore(saved["by_label_set"][name])

    def of_label_set(self, label_set: int) -> dict[str, ExponentialHistogram]:
        """Return the histograms of one label set since the start, by name; the caller has settled."""
        return {name: self._by_label_set[name].histogram(label_set) for name in _NAMES}
