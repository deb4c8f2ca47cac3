"""Intervals on their way from the table that sees them to their histograms."""

from collections import defaultdict
from functools import partial
from typing import Any

from kvstream.blocks.apply_result import Observations, joined
from kvstream.events.frame import I64, U16
from kvstream.metrics.histogram import DEFAULT_SCALE, ClassicHistogram, ExponentialHistogram
from kvstream.metrics.histogram_rows import HistogramRows
from kvstream.metrics.measurements import Measurements

_AT_ONCE = 65_536  # that are counted together, as each time costs what a thousand of them do
_NAMES = ("lifetime", "idle", "first_reuse", "reuse_gap")


class Intervals:
    """Counts the intervals of one source and tier: by window, since the start, and by label set.

    They wait until there are many, or somebody asks.

    Args:
        scale: Scale of the histograms.

    Attributes:
        classic: By name of the interval, those counted since the start in vLLM's buckets.
    """

    def __init__(self, scale: int = DEFAULT_SCALE) -> None:
        self.classic = {name: ClassicHistogram() for name in _NAMES}
        self._by_label_set: defaultdict[str, HistogramRows] = defaultdict(partial(HistogramRows, scale))
        self._forget()

    def _forget(self) -> None:
        self._values: dict[str, list[I64]] = {name: [] for name in _NAMES}
        self._label_sets: dict[str, list[U16]] = {name: [] for name in _NAMES}
        self._access_counts: list[I64] = []
        self._waiting = 0
        self._are_labelled = False

    def observe(self, seen: Observations, window: Measurements) -> None:
        """Take in what one ``apply`` saw in a window, and count if much is waiting."""
        columns = (seen.lifetimes, seen.idles, seen.first_reuses, seen.reuse_gaps)
        more = sum(len(values) for of_name in columns for values in of_name)
        if not more:
            return
        if self._are_labelled != bool(seen.labelled):
            self.settle(window)
            self._are_labelled = bool(seen.labelled)
        for name, values in zip(_NAMES, columns, strict=True):
            self._values[name] += values
        self._access_counts += seen.access_counts
        for events in seen.labelled:
            label_sets = (events.lives, events.idles, events.first_reuses, events.reuse_gaps)
            for name, numbers in zip(_NAMES, label_sets, strict=True):
                self._label_sets[name].append(numbers)
        self._waiting += more
        if self._waiting >= _AT_ONCE:
            self.settle(window)

    def settle(self, window: Measurements) -> None:
        """Count what is waiting, all of it from one window."""
        if not self._waiting:
            return
        for name in _NAMES:
            values = joined(self._values[name])
            if len(values):
                self._count(name, values, getattr(window, name))
        window.observe_accesses(joined(self._access_counts))
        self._forget()

    def _count(self, name: str, values: I64, of_window: ExponentialHistogram) -> None:
        if self._are_labelled:
            counted = self._by_label_set[name].record(joined(self._label_sets[name]), values)
            of_window.merge(counted.exponential())
            self.classic[name].add(counted.classic())
        else:
            of_window.record(values, self.classic[name])

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
