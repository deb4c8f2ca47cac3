"""Comparison: what differs between two recordings, or two spans of one, and whether that is chance."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.config import MetricsConfig
from kvstream.engine.cache import CacheMonitor, CacheName
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame
from kvstream.metrics.change import F64, Change, holm, ratio_change
from kvstream.text.numbers import ratio, seconds

_ALPHA = 0.01
_MOST_BINS = 600
_COUNTS = ("allocations", "accesses", "evictions", "observed", "never_accessed", "live")


class Measured(NamedTuple):
    """What is compared: a ratio of two sums over intervals.

    Attributes:
        name: What people call it.
        numerator: Name of a series.
        denominator: Name of another.
        needs_hits: Whether it is known only where hits are reported.
        unit: ``share``, ``rate``, ``time`` or ``blocks``.
    """

    name: str
    numerator: str
    denominator: str
    needs_hits: bool
    unit: str


MEASURED = (
    Measured("hit ratio", "accesses", "lookups", True, "share"),
    Measured("never-reused evictions", "never_accessed", "observed", True, "share"),
    Measured("lifetime, mean", "lifetime", "ended", False, "time"),
    Measured("evictions a second", "evictions", "seconds", False, "rate"),
    Measured("allocations a second", "allocations", "seconds", False, "rate"),
    Measured("lookups a second", "lookups", "seconds", True, "rate"),
    Measured("blocks live, mean", "live", "one", False, "blocks"),
)


class MeasuredChange(msgspec.Struct, frozen=True, kw_only=True):
    """How one figure of a cache has changed.

    Attributes:
        name: What people call it.
        unit: ``share``, ``rate`` (a second), ``time`` (seconds) or ``blocks``.
        change: Its values, the interval of the difference, and the p-value by itself.
        adjusted_p: The p-value adjusted for the number of figures and caches; None without enough evidence.
        verdict: ``higher``, ``lower``, ``no change beyond chance`` or ``unknown``.
    """

    name: str
    unit: str
    change: Change
    adjusted_p: float | None
    verdict: str


class CacheComparison(msgspec.Struct, frozen=True, kw_only=True):
    """How a cache has changed.

    Attributes:
        source: Its source in the first span.
        tier: Its tier.
        findings: What has changed, a sentence each.
        changes: All figures.
    """

    source: str
    tier: str
    findings: list[str]
    changes: list[MeasuredChange]


class Comparison(msgspec.Struct, frozen=True, kw_only=True, tag="comparison"):
    """What differs between two spans.

    Attributes:
        before: What the first is.
        after: What the second is.
        caches: Caches that are in both.
        unmatched: Caches that are in one of them only, as ``source/tier``.
    """

    before: str
    after: str
    caches: list[CacheComparison]
    unmatched: list[str]


class Series(NamedTuple):
    """What a cache did in each interval of a span.

    Attributes:
        columns: Sums by name, float64 (n,) each.
        hits_are_known: Whether a hit was ever reported.
    """

    columns: dict[str, F64]
    hits_are_known: bool


class SpanCounter:
    """Takes in the frames of a recording, and counts what each cache does in each window.

    Args:
        config: What is measured. A frame must not span more windows than are kept (``config.windows``).
    """

    def __init__(self, config: MetricsConfig) -> None:
        self._seconds = config.window_seconds
        self._window_ns = config.window_ns
        self._monitor = Monitor(msgspec.structs.replace(config, curve_keys=0), rules=())
        self._windows: defaultdict[CacheName, dict[int, tuple[int, ...]]] = defaultdict(dict)
        self._lifetimes: defaultdict[CacheName, dict[int, tuple[float, int]]] = defaultdict(dict)
        self._seen: dict[CacheName, int] = {}

    def process(self, frame: EventFrame) -> None:
        """Take in a frame."""
        outcome = self._monitor.process(frame, records=True)
        for batch in outcome.evicted:
            self._add_lifetimes(CacheName(outcome.source, outcome.tier), batch.ts, batch.lifetimes)
        for cache in self._monitor.caches(frame.source, frame.tier):
            self._add_windows(cache)

    def end(self) -> None:
        """Close the last windows."""
        self._monitor.finish()
        for cache in self._monitor.caches():
            self._add_windows(cache)

    def span(self) -> tuple[float, float]:
        """Return the times of the first window's start and of the last one's end, in seconds."""
        indices = [index for windows in self._windows.values() for index in windows]
        return min(indices, default=0) * self._seconds, (max(indices, default=0) + 1) * self._seconds

    def series(self, start: float, end: float) -> dict[CacheName, Series]:
        """Return what each cache did from one time to another, in at most 600 intervals of equal length.

        Args:
            start: Seconds since the Unix epoch.
            end: Likewise; itself outside.
        """
        first, last = int(start // self._seconds), int(-(-end // self._seconds))
        known = {cache.name: cache.hits_are_known for cache in self._monitor.caches()}
        return {
            cache_name: Series(self._columns(cache_name, first, last), known.get(cache_name, False))
            for cache_name, windows in self._windows.items()
            if any(first <= index < last for index in windows)
        }

    def _columns(self, cache_name: CacheName, first: int, last: int) -> dict[str, F64]:
        every = -(-(last - first) // _MOST_BINS)
        bins = max(1, (last - first) // every)
        columns = {name: np.zeros(bins) for name in (*_COUNTS, "lifetime", "ended")}
        live, level, filled = np.zeros(bins), 0.0, 0
        for index, counts in sorted(self._windows[cache_name].items()):
            at = (index - first) // every
            if index < first:
                level = float(counts[-1])
            if not 0 <= at < bins:
                continue
            for name, count in zip(_COUNTS, counts, strict=True):
                columns[name][at] += count
            live[filled:at] = level
            level, filled = float(counts[-1]), at
        live[filled:] = level
        for index, (total, count) in self._lifetimes[cache_name].items():
            at = (index - first) // every
            if 0 <= at < bins:
                columns["lifetime"][at] += total
                columns["ended"][at] += count
        columns["live"] = live
        columns["lookups"] = columns["accesses"] + columns["allocations"]
        columns["one"] = np.ones(bins)
        columns["seconds"] = columns["one"] * every * self._seconds
        return columns

    def _add_windows(self, cache: CacheMonitor) -> None:
        new = cache.ring.closed_count - self._seen.get(cache.name, 0)
        self._seen[cache.name] = cache.ring.closed_count
        for window in cache.ring.newest(new):
            if not window["is_empty"]:
                self._windows[cache.name][int(window["index"])] = window[[*_COUNTS]].item()

    def _add_lifetimes(
        self, cache_name: CacheName, ts: npt.NDArray[np.int64], lifetimes: npt.NDArray[np.int64]
    ) -> None:
        indices, window_of = np.unique(ts // self._window_ns, return_inverse=True)
        totals = np.bincount(window_of, weights=lifetimes / 1e9)
        counts = np.bincount(window_of)
        kept = self._lifetimes[cache_name]
        for index, total, count in zip(indices.tolist(), totals.tolist(), counts.tolist(), strict=True):
            before = kept.get(index, (0.0, 0))
            kept[index] = (before[0] + total, before[1] + count)


def compare(
    before: tuple[str, dict[CacheName, Series]], after: tuple[str, dict[CacheName, Series]]
) -> Comparison:
    """Compare two spans, each given with its name and the figures of its caches.

    Caches are compared with those of the same name; where each span has one cache, these two are.
    """
    pairs = _pairs(before[1], after[1])
    changes = {
        cache_name: [_change(measured, first, second) for measured in MEASURED]
        for cache_name, (first, second) in pairs.items()
    }
    known = [change.p_value for each in changes.values() for change in each if change.p_value is not None]
    adjusted = iter(holm(known))
    caches = []
    for cache_name, each in changes.items():
        found = [
            _judged(measured, change, None if change.p_value is None else next(adjusted))
            for measured, change in zip(MEASURED, each, strict=True)
        ]
        caches.append(
            CacheComparison(
                source=cache_name.source, tier=cache_name.tier, findings=_findings(found), changes=found
            )
        )
    alone = before[1].keys() ^ after[1].keys() if len(before[1]) != 1 or len(after[1]) != 1 else ()
    unmatched = sorted(f"{cache_name.source}/{cache_name.tier}" for cache_name in alone)
    return Comparison(before=before[0], after=after[0], caches=caches, unmatched=unmatched)


def _pairs(
    before: dict[CacheName, Series], after: dict[CacheName, Series]
) -> dict[CacheName, tuple[Series, Series]]:
    if len(before) == len(after) == 1:
        (cache_name,), (first,), (second,) = before, before.values(), after.values()
        return {cache_name: (first, second)}
    return {
        cache_name: (before[cache_name], after[cache_name])
        for cache_name in sorted(before.keys() & after.keys())
    }


def _change(measured: Measured, before: Series, after: Series) -> Change:
    if measured.needs_hits and not (before.hits_are_known and after.hits_are_known):
        return Change(before=None, after=None)
    spans = [
        (each.columns[measured.numerator], each.columns[measured.denominator]) for each in (before, after)
    ]
    return ratio_change(spans[0], spans[1])


def _judged(measured: Measured, change: Change, adjusted: float | None) -> MeasuredChange:
    if adjusted is None or change.before is None or change.after is None:
        verdict = "unknown"
    elif adjusted > _ALPHA:
        verdict = "no change beyond chance"
    else:
        verdict = "higher" if change.after > change.before else "lower"
    return MeasuredChange(
        name=measured.name, unit=measured.unit, change=change, adjusted_p=adjusted, verdict=verdict
    )


def _findings(changes: Sequence[MeasuredChange]) -> list[str]:
    """Return what has changed, a sentence each."""
    said = []
    for each in changes:
        change = each.change
        if each.verdict not in ("higher", "lower"):
            continue
        said.append(
            f"{each.name[0].upper()}{each.name[1:]}: {each.verdict}, {shown(change.after, each.unit)} "
            f"from {shown(change.before, each.unit)}{_relative(change)}; "
            f"this is not chance ({p_in_words(each.adjusted_p)})."
        )
    unknown = [each.name for each in changes if each.verdict == "unknown"]
    if not said:
        said.append("Nothing has changed by more than chance.")
    if unknown:
        said.append(f"Not judged, as too little is known or the spans are too short: {', '.join(unknown)}.")
    return said


def _relative(change: Change) -> str:
    if not change.before or change.after is None:
        return ""
    return f" ({(change.after - change.before) / change.before:+.0%})"


def shown(value: float | None, unit: str) -> str:
    """Return a figure as people read it."""
    if value is None:
        return "unknown"
    match unit:
        case "share":
            return ratio(value)
        case "time":
            return seconds(value)
        case "blocks":
            return f"{value:,.0f}"
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def p_in_words(p_value: float | None) -> str:
    """Return a p-value as people read it."""
    if p_value is None:
        return "unknown"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
