"""CacheMonitor: one source and tier, from its events to its windows, rules and alerts."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream._core.ids import are_below
from kvstream._core.reuse import EvictionMemory
from kvstream._core.table import mix
from kvstream.alerts.evaluator import Evaluator
from kvstream.alerts.points import ClosedWindow, reader_of
from kvstream.alerts.rule import Rule
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import CacheAlert, MetricType
from kvstream.blocks.apply_result import (
    ContentChanges,
    EvictionBatch,
    KVCacheEvictionEvent,
    Observations,
    joined,
    joined_changes,
)
from kvstream.blocks.table import BlockTable
from kvstream.config import MetricsConfig
from kvstream.engine.joining import joined_frames
from kvstream.events.counters import CacheCounts
from kvstream.events.frame import I64, EventFrame
from kvstream.events.types import BIRTH_UNKNOWN, Labels, Op
from kvstream.metrics.anomalies import Anomaly, lifetime_anomalies
from kvstream.metrics.content_sample import ALWAYS, ContentSample
from kvstream.metrics.contents import CacheContents
from kvstream.metrics.histogram import ClassicHistogram
from kvstream.metrics.intervals import Intervals
from kvstream.metrics.measurements import Measurements, restore_measurements, save_measurements
from kvstream.metrics.miss_ratio import SIZES, CacheSizes, MissRatioCurve
from kvstream.metrics.premature import REMEMBERED_SECONDS
from kvstream.metrics.stays import stays_of, with_late
from kvstream.metrics.trend import Trend, detect_trend
from kvstream.metrics.usage import LabelSetUsage, counts_of_usage, usage_by_label_set
from kvstream.metrics.window import Window, WindowRing
from kvstream.metrics.working_set import WorkingSetHistory

_RECORDS_AT_ONCE = 4096  # events between two yields where records are made of evictions
_WORK_AT_ONCE = 16  # windows between two yields
_CLEAR = int(Op.CLEAR)
_ALLOCATING = (Op.ALLOC, Op.STORE, Op.PREFIX)
_CLEARS_A_WINDOW = 2  # that cost what a window does
_MOST_SIZES = 16  # of blocks, that are remembered
_CURVE_LOOKUPS = 2048  # of the contents that the curve follows in a window, beyond which it follows fewer
_CHANGES_AT_ONCE = 65_536  # of content: each time costs what a thousand of them do
_LOOKUPS_AT_ONCE = 512  # that the curve follows, likewise
_SAMPLED_AT_ONCE = 256  # changes of content that a sample takes in, likewise
_BEFORE_TREND = 240  # windows before those of a trend, that say how much a metric wanders
_SILENT_WINDOWS = 2  # after which a cache's time goes on without events
_SAVED = ("block_sizes", "_peak", "_stores_seen", "_contents_seen", "last_ts", "_restarts_unseen", "is_whole")
_TREND_METRICS = (
    MetricType.LIFETIME,
    MetricType.IDLE_TIME,
    MetricType.REUSE_GAP,
    MetricType.HIT_RATIO,
    MetricType.EVICTION_RATE,
)


EVENTS_AT_ONCE = 32_768
"""Events that are applied between two yields, where no records are made of evictions."""


class CacheName(NamedTuple):
    """The source and tier of one cache."""

    source: str
    tier: str


class Outcome(msgspec.Struct, frozen=True):
    """What processing events led to: alerts that fired or resolved, and evictions in columns.

    Attributes:
        source: Source of the events.
        tier: Their tier.
        alerts: Alerts that fired or resolved.
        evicted: Evictions, if records are made.
        settled: Events that are done with now: applied, or counted as dropped.
    """

    source: str
    tier: str
    alerts: list[CacheAlert]
    evicted: list[EvictionBatch]
    settled: int = 0

    def eviction_events(self) -> list[KVCacheEvictionEvent]:
        """Return the evictions one by one."""
        return [event for batch in self.evicted for event in batch.to_events(self.source, self.tier)]


class CacheMonitor:
    """One source and tier: its blocks, its windows, its rules.

    Attributes:
        tiers: Every tier of its source, this one among them.
        is_whole: Whether the cache was empty before its first event, and no event is missing.
    """

    def __init__(
        self,
        source: str,
        tier: str,
        config: MetricsConfig,
        rules: Sequence[Rule],
        silences: Silences,
        tiers: Mapping[str, "CacheMonitor"] | None = None,
        is_whole: bool = True,
    ) -> None:
        self.source, self.tier, self.config = source, tier, config
        self.tiers = {tier: self} if tiers is None else tiers
        self.table = BlockTable(
            source,
            tier,
            sample_rate=config.sample_rate,
            changes=config.remembered_evictions + config.curve_keys + config.content_sample > 0,
            label_sets=config.label_sets,
        )
        self._curve = MissRatioCurve(
            config.curve_keys,
            _CURVE_LOOKUPS if config.curve_half_life_seconds else None,
            config.curve_half_life_seconds / config.window_seconds or None,
        )
        self._peak = 0  # most blocks that were live at the end of a window
        self._stores_seen = False  # which may be all that an engine publishes, and no hits
        self._contents_seen = False  # which is to say content hashes, or keys of allocations
        self.working_set = WorkingSetHistory()
        self.premature = EvictionMemory(config.remembered_evictions, round(REMEMBERED_SECONDS * 1e9))
        self.sample = ContentSample(config.content_sample)
        self.is_whole = is_whole
        detailed = max(config.trend_window, config.recent_windows)
        self.ring = WindowRing(config.window_ns, config.windows, detailed=detailed)
        self._intervals = Intervals()
        self.rules = Evaluator(rules, source, tier, config.window_seconds, config.capacity, silences)
        self.last_ts = 0
        self._changes: list[ContentChanges] = []  # of the open window, not yet looked at for returns
        self._lookups, self._looked_up = 0, list[I64]()  # not yet seen by the curve
        self._changes_waiting = self._lookups_waiting = 0
        self._unsampled: list[ContentChanges] = []  # not yet seen by the sample
        self._unsampled_waiting = 0
        self.block_sizes: list[int] = []  # tokens in a block, as frames gave them, in order
        self._restarts_unseen = 0  # not yet in a window
        self._before = Measurements.empty()  # all closed windows

    @property
    def name(self) -> CacheName:
        """Return its source and tier."""
        return CacheName(self.source, self.tier)

    def slices(self, frames: Sequence[EventFrame], lost: int, records: bool) -> Iterator[Outcome]:
        """Apply frames of at least one event each, and yield after as much as takes some milliseconds.

        The state is consistent at each yield, and results do not depend on how often it yields. Until it is
        exhausted, ``pass_time`` and ``restart`` must not be called.

        Args:
            frames: The frames.
            lost: What is missing before the first.
            records: Make records of the evictions.
        """
        together = joined_frames(frames)
        tokens = together.block_tokens or self.config.block_tokens or 0
        if together.block_tokens and together.block_tokens not in self.block_sizes:
            self.block_sizes = [*self.block_sizes, together.block_tokens][-_MOST_SIZES:]
        # A step of the clock is one of a whole frame, so frames around it stay what they are.
        apart = len(frames) > 1 and self.ring.steps_back(frames, together.ts)
        at_once = _RECORDS_AT_ONCE if records else EVENTS_AT_ONCE
        alerts: list[CacheAlert] = []
        evicted: list[EvictionBatch] = []
        events = work = 0
        for index, part in (
            (index, piece)
            for frame in (frames if apart else [together])
            for index, whole in self.ring.cut(frame, at_once)
            for piece in _pieces(whole)
        ):
            if work >= _WORK_AT_ONCE or events + len(part.ops) > at_once:
                yield Outcome(self.source, self.tier, alerts, evicted, events)
                alerts, evicted, events, work = [], [], 0, 0
            window = self._enter(index, alerts)
            window.lost += lost
            window.restarts += self._restarts_unseen
            lost = self._restarts_unseen = 0
            counts = window.measurements
            seen = self.table.apply(
                part,
                self._intervals.counter(counts),
                counts,
                records=records,
                lookups_below=self._curve.threshold if self.config.curve_keys else 0,
                counted_since=index * self.ring.window_ns,
            )
            if counts.unknown_births or counts.unknown_evictions:
                self.is_whole = False
            self._stores_seen = self._stores_seen or counts.stores > 0
            self.working_set.add(index, seen.used)
            lookups = seen.accesses + seen.allocations
            if tokens:
                counts.sized_lookups += lookups
                counts.hit_tokens += seen.accesses * tokens
                counts.lookup_tokens += lookups * tokens
            if seen.labelled:
                self._intervals.observe(seen, counts)
            if seen.changes:
                self._follow(seen.changes, part if seen.unknown_births else None)
            if seen.lookups:
                self._keep_lookups(seen.lookups, joined(seen.looked_up))
            self._curve.observe(seen.accesses, lookups)
            window.live = self.table.live_count
            evicted.extend(seen.evicted)
            self.last_ts = int(part.ts[-1])
            events += len(part.ops)
            work += 1 + seen.clears // _CLEARS_A_WINDOW
        yield Outcome(self.source, self.tier, alerts, evicted, events)

    def _follow(self, changes: Sequence[ContentChanges | int], late: EventFrame | None) -> None:
        """Note content keys that came and went; returns are looked up for many of them at once.

        Args:
            changes: What came and went, and when all of it was cleared.
            late: The events, if some of them are the first of blocks that were there before.
        """
        if not self.config.remembered_evictions + self.config.content_sample:
            return
        if late is not None:
            self._settle_changes()
        for some in changes:
            if isinstance(some, int):
                self.settled_sample().clear(some)
                self.premature.clear()
            else:
                self._contents_seen |= len(some.content) > 0
                self._changes.append(some)
                self._changes_waiting += len(some.content)
                if late is not None:
                    self._settle_changes(late)
        if self._changes_waiting >= _CHANGES_AT_ONCE:
            self._settle_changes()

    def _settle(self) -> None:
        """Bring what waits to the open window."""
        if self.ring.open is not None:
            self._intervals.settle(self.ring.open.measurements)
        self._settle_changes()

    def _settle_changes(self, late: EventFrame | None = None) -> None:
        """Find what came back in the open window, and follow some of the content."""
        waiting, self._changes, self._changes_waiting = self._changes, [], 0
        if not waiting or self.ring.open is None:
            return
        changes = joined_changes(waiting)
        self._keep_for_sample(changes, late)
        if self.config.remembered_evictions:
            begins = changes.begins.view(np.uint8)
            times, distances, rows = self.premature.apply(changes.content, changes.ts, begins)
            if len(rows):
                self._intervals.observe_returns(times, distances, self.ring.open.measurements)
                if changes.label_sets is not None:
                    self.table.count_returns(changes.label_sets.take(rows))

    def _keep_for_sample(self, changes: ContentChanges, late: EventFrame | None) -> None:
        """Keep changes until there are many; those of content that was there before begin nothing."""
        if not self.config.content_sample:
            return
        if late is not None:
            known = ~_accessed(changes, late, self.table.by_hash)
            changes = ContentChanges(changes.content[known], changes.ts[known], changes.begins[known])
        self._unsampled.append(changes)
        self._unsampled_waiting += len(changes.content)
        if self._unsampled_waiting >= _SAMPLED_AT_ONCE:
            self._settle_sample()

    def _settle_sample(self) -> None:
        """Pass arrivals and evictions to the sample."""
        if self._unsampled:
            changes = joined_changes(self._unsampled)
            self._unsampled, self._unsampled_waiting = [], 0
            self.sample.observe(changes.content, changes.ts, changes.begins)

    def _keep_lookups(self, count: int, chosen: I64) -> None:
        """Count lookups, and keep those that the curve follows until there are many."""
        self._lookups += count
        if len(chosen):
            self._looked_up.append(chosen)
            self._lookups_waiting += len(chosen)
            if self._lookups_waiting >= _LOOKUPS_AT_ONCE:
                self._settle_lookups()

    def _settle_lookups(self) -> None:
        """Pass lookups to the curve."""
        if self._lookups:
            self._curve.access(joined(self._looked_up), self._lookups)
            self._lookups, self._looked_up, self._lookups_waiting = 0, [], 0

    def restart(self) -> None:
        """End every generation, as the source has lost its cache."""
        self._restarts_unseen += 1
        self._settle()
        seen = Observations(counts=self._before if self.ring.open is None else self.ring.open.measurements)
        self.table.clear(seen, self.last_ts)
        self.premature.clear()
        self.settled_sample().clear(self.last_ts)
        if self.ring.open is not None:
            self.ring.open.live = 0

    def note_lost(self) -> None:
        """Note that events are missing; how many is passed with the next ones, or at the end."""
        self.is_whole = False

    def finish(self, lost: int = 0) -> list[CacheAlert]:
        """Close the open window.

        Args:
            lost: What is missing after the last event.
        """
        if self.ring.open is not None:
            self.ring.open.lost += lost
        self._settle()
        closed = self.ring.close()
        return [] if closed is None else self._closed(closed)

    def pass_time(self, now_ns: int) -> list[CacheAlert]:
        """End the windows before a time at which nothing had come for a while."""
        self._settle()
        index = now_ns // self.ring.window_ns
        closed = self.ring.advance(index)
        alerts = [] if closed is None else self._closed(closed)
        if self.ring.open is not None:
            self.ring.open.live = self.table.live_count
        return alerts + self.rules.pass_time(index)

    def pass_silence(self, seconds: float) -> list[CacheAlert]:
        """Advance time by a silence of at least two windows, but not into the current window."""
        window = self.config.window_seconds
        if seconds < _SILENT_WINDOWS * window:
            return []
        return self.pass_time(self.last_ts + round((seconds - window) * 1e9))

    def save(self) -> dict[str, Any]:
        """Return its state but for the table as part of a section (``state.snapshot.Section``).

        What is returned changes no more. What waits to be counted is settled first, which changes no figure.
        """
        self._settle()
        return {
            "premature": self.premature.save(),
            "sample": self.settled_sample().save(),
            "curve": self._curve.save(),
            "lookups": self._lookups,
            "looked_up": joined(self._looked_up),
            "working_set": self.working_set.save(),
            "intervals": self._intervals.save(),
            "ring": self.ring.save(),
            "before": save_measurements([self._before]),
            "rules": self.rules.save(),
            **{name: getattr(self, name) for name in _SAVED},
        }

    def restore(self, saved: dict[str, Any]) -> list[CacheAlert]:
        """Go on from what was saved; return the alerts that end, as ``Evaluator.restore`` does.

        What its settings have turned off meanwhile is passed over.
        """
        if "usage" in saved:  # in version 1
            saved["table"]["of_label_sets"] = counts_of_usage(saved["usage"])
        self.table.restore(saved["table"])
        if self.config.remembered_evictions:
            self.premature.restore(saved["premature"])
        if self.config.content_sample:
            self.sample.restore(saved["sample"])
        if self.config.curve_keys:
            self._curve.restore(saved["curve"])
            self._keep_lookups(saved["lookups"], saved["looked_up"])
        self.working_set.restore(saved["working_set"])
        self._intervals.restore(saved["intervals"])
        self.ring.restore(saved["ring"])
        (self._before,) = restore_measurements(saved["before"])
        for name in _SAVED:
            setattr(self, name, saved[name])
        return self.rules.restore(saved["rules"])

    def _enter(self, index: int, alerts: list[CacheAlert]) -> Window:
        if self.ring.open is not None and self.ring.open.index != index:
            self._settle()
            self._settle_lookups()
            self._curve.pass_windows(max(1, index - self.ring.open.index))
            start_ns = index * self.ring.window_ns
            if self.sample.can_be_due(start_ns, self._unsampled_waiting):
                self._settle_sample()
                if self.sample.is_due(start_ns):
                    live, births = self.table.contents()
                    known = births != BIRTH_UNKNOWN
                    self.sample.widen(live[known], births[known])
        window, closed = self.ring.enter(index)
        if closed is not None:
            alerts.extend(self._closed(closed))
        window.live = self.table.live_count
        return window

    def _closed(self, window: Window) -> list[CacheAlert]:
        self._before.merge(window.measurements)
        self._peak = max(self._peak, window.live)
        if self.config.curve_half_life_seconds:
            self._curve.limit_to(round(SIZES[-1] * (self.config.capacity or self._peak)))
        return self.rules.close(window)

    def add_counts_to(self, total: CacheCounts) -> None:
        """Add all counts since the start, without the histograms, which cost far more."""
        total.add_counts(self._before)
        if self.ring.open is not None:
            total.add_counts(self.ring.open.measurements)

    def counts(self) -> CacheCounts:
        """Return everything seen since the start but for the histograms."""
        counts = CacheCounts()
        self.add_counts_to(counts)
        return counts

    def measurements(self) -> Measurements:
        """Return everything counted since the start."""
        self._settle()
        total = Measurements.empty()
        total.merge(self._before)
        if self.ring.open is not None:
            total.merge(self.ring.open.measurements)
        return total

    def recent(self, windows: int, until: int | None = None) -> Measurements:
        """Return what the last ``windows`` windows have counted, up to an index (``WindowRing.recent``)."""
        self._settle()
        return self.ring.recent(windows, until)

    @property
    def classic(self) -> dict[str, ClassicHistogram]:
        """Return intervals since the start in vLLM's buckets, by name."""
        self._settle()
        return self._intervals.classic

    def sizes(self) -> CacheSizes:
        """Return what caches of other sizes would do; nothing where hits or contents are unknown."""
        self._settle_lookups()
        peak = max(self._peak, self.table.live_count)
        blocks = self.config.capacity or peak
        # Where no hit was ever reported, lookups are misses only, of which no size makes hits.
        if self.hits_are_known and self.config.curve_keys:
            return self._curve.sizes(blocks, peak)
        asked_once = None if self._stores_seen else self._curve.asked_once
        return CacheSizes(blocks=blocks, peak=peak, asked_once=asked_once)

    def settled_sample(self) -> ContentSample:
        """Return the sample of contents, with all in it that was applied."""
        self._settle_changes()
        self._settle_sample()
        return self.sample

    def contents(self, threshold: int) -> CacheContents:
        """Return when contents with a hash below a threshold came and went, as far as they are followed."""
        sample = self.settled_sample()
        threshold = min(threshold, sample.threshold)
        oldest = sample.oldest
        events = sample.events(threshold)
        stays = stays_of(events)
        arrivals = None
        if oldest == ALWAYS and events.begins.any():  # some are further copies, which begin no stay
            began = int(np.count_nonzero(stays.born != BIRTH_UNKNOWN))
            arrivals = sample.arrivals * began / int(np.count_nonzero(events.begins)) or None
        counts = self.counts()
        if counts.unknown_births > counts.unknown_lifetimes:
            live, births = self.table.contents()
            stays = with_late(stays, live[(births == BIRTH_UNKNOWN) & are_below(live, threshold)])
        return CacheContents(
            source=self.source,
            tier=self.tier,
            stays=stays,
            threshold=threshold,
            oldest=oldest,
            last_ts=self.last_ts,
            arrivals=arrivals,
            is_whole=all(tier.is_whole for tier in self.tiers.values()) and oldest == ALWAYS,
        )

    @property
    def hits_are_known(self) -> bool:
        """Return whether a hit was ever reported; until then hits are unknown."""
        window = self.ring.open
        return self._before.accesses > 0 or (window is not None and window.measurements.accesses > 0)

    @property
    def premature_is_known(self) -> bool:
        """Return whether it can be seen that evicted content comes back: it is known and remembered."""
        return self._contents_seen and self.config.remembered_evictions > 0

    @property
    def block_bytes(self) -> int | None:
        """Return bytes of a block; None where that is not known, or blocks have several sizes.

        Where the settings say how many tokens theirs has, a block of other tokens has bytes in proportion.
        """
        size, tokens = self.config.block_bytes, self.config.block_tokens
        if size is None or tokens is None or not self.block_sizes:
            return size
        return size * self.block_sizes[0] // tokens if len(self.block_sizes) == 1 else None

    def usage(self) -> list[tuple[Labels | None, LabelSetUsage]]:
        """Return the usage of each label set since the start; nothing where there are no labels."""
        if self.table.label_sets is None or not self.table.label_sets.known:
            return []
        self._settle()
        return usage_by_label_set(self.table, self.last_ts, self._intervals)

    def trends(self) -> dict[str, Trend]:
        """Return the trend of each windowed metric over the last ``trend_window`` closed windows.

        Where windows before those are kept, they say how much it varies without going anywhere.
        """
        windows = self.ring.closed()[-self.config.trend_window :]
        seconds, hits_known = self.config.window_seconds, self.hits_are_known
        closed = [ClosedWindow(window, seconds, hits_known) for window in windows]
        series: dict[MetricType, list[tuple[float, float]]] = {}
        for metric in _TREND_METRICS:
            points = zip(closed, map(reader_of(metric), closed), strict=True)
            series[metric] = [(at.window.index * seconds, p.value) for at, p in points if p and p.weight]
        before = self._before_the_trend(len(windows))
        return {
            metric.value: detect_trend(
                [t for t, _ in values], [v for _, v in values], before=before.get(metric, ())
            )
            for metric, values in series.items()
        }

    def _before_the_trend(self, windows: int) -> dict[MetricType, list[float]]:
        """Return what is known of metrics before the last closed windows, oldest first."""
        older = self.ring.newest(windows + _BEFORE_TREND)[: -windows or None]
        lookups = older["accesses"] + older["allocations"]
        ended, asked = older["observed"] > 0, lookups > 0
        return {
            MetricType.LIFETIME: (older["lifetime_p50_ns"][ended] / 1e9).tolist(),
            MetricType.HIT_RATIO: (older["accesses"][asked] / lookups[asked]).tolist(),
            MetricType.EVICTION_RATE: (older["evictions"] / self.config.window_seconds).tolist(),
        }

    def anomalies(self) -> list[Anomaly]:
        """Return the closed windows with lifetimes beyond ``anomaly_threshold``, oldest first.

        Windows without evictions are passed over; those that are no longer kept with their distributions
        cannot be judged.
        """
        windows = [window for window in self.ring.closed() if window.measurements.lifetime.count]
        return lifetime_anomalies(
            [window.index * self.config.window_seconds for window in windows],
            [window.measurements.lifetime.quantile(0.5) for window in windows],
            self.config.anomaly_threshold,
        )


def _accessed(changes: ContentChanges, events: EventFrame, by_hash: bool) -> npt.NDArray[np.bool_]:
    """Return which arrivals are accesses of content that was there before, not allocations, bool (k,).

    Events say so by content and time. Where they have both at the same time, it is taken for an allocation.
    """
    contents = events.blocks if by_hash or events.keys is None else events.keys
    named = mix(contents ^ mix(events.ts).view(np.int64))
    accesses = np.setdiff1d(named[events.ops == Op.ACCESS], named[np.isin(events.ops, _ALLOCATING)])
    arrivals = mix(changes.content ^ mix(changes.ts).view(np.int64))
    return changes.begins & np.isin(arrivals, accesses)


def _pieces(part: EventFrame) -> list[EventFrame]:
    """Cut events where they hold many clears, each of which costs what a small frame does."""
    few = _WORK_AT_ONCE * _CLEARS_A_WINDOW
    # To look into bytes takes a tenth of what numpy takes, and for one that is not there next to nothing.
    if len(part.ops) < few or _CLEAR not in (ops := part.ops.tobytes()) or ops.count(_CLEAR) < few:
        return [part]
    clears = (part.ops == _CLEAR).nonzero()[0]
    edges = [*clears[::few].tolist(), len(part)]
    return [part.take(slice(start, end)) for start, end in pairwise([0, *edges] if edges[0] else edges)]
