"""Intervals on their way from the table that sees them to their histograms."""

from kvstream.blocks.apply_result import Observations, joined
from kvstream.events.frame import I64, U16
from kvstream.metrics.buckets import buckets
from kvstream.metrics.histogram import ClassicHistogram, ExponentialHistogram
from kvstream.metrics.histogram_rows import HistogramRows
from kvstream.metrics.measurements import Measurements

_AT_ONCE = 65_536  # that are counted together, as each time costs what a thousand of them do
_NAMES = ("lifetime", "idle", "first_reuse", "reuse_gap")


class Intervals:
    """Counts the intervals of one source and tier: those of each window, all since the start, and by owner.

    They wait until there are many, or somebody asks.

    Args:
        scale: Scale of the histograms.

    Attributes:
        classic: By name of the interval, those counted since the start in vLLM's buckets.
    """

    def __init__(self, scale: int) -> None:
        self.classic = {name: ClassicHistogram() for name in _NAMES}
        self._buckets = buckets(scale)
        self._of_owners = {name: HistogramRows(scale) for name in _NAMES}
        self._forget()

    def _forget(self) -> None:
        self._values: dict[str, list[I64]] = {name: [] for name in _NAMES}
        self._owners: dict[str, list[U16]] = {name: [] for name in _NAMES}
        self._access_counts: list[I64] = []
        self._waiting = 0
        self._are_owned = False

    def observe(self, seen: Observations, window: Measurements) -> None:
        """Take in what one ``apply`` saw in a window, and count if much is waiting."""
        columns = (seen.lifetimes, seen.idles, seen.first_reuses, seen.reuse_gaps)
        more = sum(len(values) for of_name in columns for values in of_name)
        if not more:
            return
        if self._are_owned != bool(seen.owned):
            self.settle(window)
            self._are_owned = bool(seen.owned)
        for name, values in zip(_NAMES, columns, strict=True):
            self._values[name] += values
        self._access_counts += seen.access_counts
        for owned in seen.owned:
            owners = (owned.lives, owned.lives, owned.first_reuses, owned.reuse_gaps)
            for name, of in zip(_NAMES, owners, strict=True):
                self._owners[name].append(of)
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
        if self._are_owned:
            counted = self._of_owners[name].record(joined(self._owners[name]), values)
            of_window.merge(counted.exponential())
            self.classic[name].add(counted.classic())
        else:
            of_window.merge(self._buckets.count(values, self.classic[name].counts))

    def of_owner(self, owner: int) -> dict[str, ExponentialHistogram]:
        """Everything counted since the start of one owner's blocks, by name; settled before."""
        return {name: rows.histogram(owner) for name, rows in self._of_owners.items()}
