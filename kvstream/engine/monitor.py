"""Monitor: frames in, block state and windows and rules behind it, alerts and evictions out.

The one engine under ``KVStream``, the collectors and the command line. It is synchronous, does no I/O
and takes no locks: whoever owns it calls it from one place at a time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from kvstream.alerts.rule import Rule
from kvstream.alerts.rules_file import default_rules
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import STREAM_METRICS, CacheAlert
from kvstream.config import MetricsConfig
from kvstream.engine.cache import CacheMonitor, Outcome
from kvstream.engine.contents import ContentGathering
from kvstream.engine.limits import TOO_MANY_BLOCKS, TOO_MANY_CACHES, StreamLimits
from kvstream.errors import StateError
from kvstream.events.counters import CacheCounts, SourceCounts, joint_hits_reported
from kvstream.events.frame import EventFrame
from kvstream.events.sequence import Arrival, Cursor, FrameSequence
from kvstream.metrics.measurements import Measurements, restore_measurements, save_measurements
from kvstream.metrics.miss_ratio import CacheSizes
from kvstream.metrics.summary import (
    ALL,
    Accounts,
    BlockSize,
    CacheMetricsSummary,
    recent_metrics,
    summarize,
)
from kvstream.metrics.usage import UsageByLabel
from kvstream.metrics.working_set import WorkingSet, total_working_set

_SETTINGS = ("window_seconds", "sample_rate")
"""Settings that say what the figures of a cache mean."""

DAMAGES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Errors that what is no state can raise when it is restored."""

_KINDS = {"repeat": "repeated", "stale": "stale", "conflict": "conflicting"}
"""Kinds of frames that more than one producer, or a repeating one, sends; by how they arrive."""


class SourceMonitor:
    """One source: the numbers of its frames, and its tiers."""

    def __init__(
        self,
        source: str,
        config: MetricsConfig,
        rules: Sequence[Rule],
        silences: Silences,
        limits: StreamLimits,
    ) -> None:
        self.source = source
        self.tiers: dict[str, CacheMonitor] = {}
        self.counts = SourceCounts()
        self.duplicates: Counter[str] = Counter()  # frames by kind: repeated, stale, conflicting
        self.refused: Counter[str] = Counter()  # events by drop reason
        self._config, self._rules, self._silences = config, rules, silences
        self._limits = limits
        self._sequence = FrameSequence()
        self._lost_unseen = 0  # not yet in a window
        self._dropped_unseen = 0  # repeats and refused events, not yet in an outcome
        self._is_applying = False  # frames whose numbers have been taken in

    def slices(self, frames: Iterable[EventFrame], records: bool) -> Iterator[Outcome]:
        """Apply frames, those of a tier joined as far as no loss or restart parts them.

        Yields as ``CacheMonitor.slices`` does.
        """
        self._is_applying = True
        try:
            yield from self._slices(frames, records)
        finally:
            self._is_applying = False

    def _slices(self, frames: Iterable[EventFrame], records: bool) -> Iterator[Outcome]:
        waiting: dict[str, list[EventFrame]] = {}
        for frame in frames:
            arrival = self._sequence.arrive(frame)
            if arrival is not Arrival.NEXT and arrival.value in _KINDS:
                self.duplicates[_KINDS[arrival.value]] += 1
            if arrival.is_dropped:
                self.counts.duplicate_frames += 1
                self.counts.duplicate_events += len(frame)
                self._dropped_unseen += len(frame)
                continue
            missing = self._sequence.missing
            if missing or arrival is Arrival.RESTART:
                for tier in list(waiting):
                    yield from self._apply(tier, waiting.pop(tier), records)
                if arrival is Arrival.RESTART:
                    self.restart()
                self.counts.lost_frames += missing
                if missing:
                    self.note_lost(missing)
            if frame.tier not in self.tiers and not self._admit(frame):
                continue
            if len(frame.ops):
                waiting.setdefault(frame.tier, []).append(frame)
        for tier, of_tier in waiting.items():
            yield from self._apply(tier, of_tier, records)
        if self._dropped_unseen:
            yield Outcome(self.source, "", [], [], self._take_dropped())

    def restart(self) -> None:
        """End every generation, as the engine has begun anew; not while a batch is applied by another."""
        self.counts.restarts += 1
        for tier in self.tiers.values():
            tier.restart()

    def _apply(self, tier: str, frames: Sequence[EventFrame], records: bool) -> Iterator[Outcome]:
        """Apply frames of one tier."""
        frames = self._fitting(tier, frames)
        if not frames:
            return
        table = self.tiers[tier].table
        table.records = records
        try:
            for alike in _runs_of_one_size(frames):
                lost, self._lost_unseen = self._lost_unseen, 0
                for outcome in self.tiers[tier].slices(alike, lost):
                    if self._dropped_unseen:
                        settled = outcome.settled + self._take_dropped()
                        outcome = msgspec.structs.replace(outcome, settled=settled)
                    yield outcome
        finally:
            self._limits.applied(table)

    def _take_dropped(self) -> int:
        dropped, self._dropped_unseen = self._dropped_unseen, 0
        return dropped

    def _admit(self, frame: EventFrame) -> bool:
        """Make room for a tier; False if there is none."""
        reason = self._limits.reason_against(len(self.tiers))
        if reason is None:
            tier = self._cache(frame.tier)
            tier.is_whole = not self._lost_unseen and (frame.seq <= 0 or bool(self.tiers))
            reason = self._limits.hold(tier.table)
        if reason is not None:
            self._refuse(reason, len(frame))
            return False
        self.tiers[frame.tier] = tier
        return True

    def _cache(self, tier: str) -> CacheMonitor:
        return CacheMonitor(self.source, tier, self._config, self._rules, self._silences, self.tiers)

    def hold(self) -> None:
        """Take the places of its tiers, as they were restored.

        Raises:
            StateError: If there are too few; none is taken then.
        """
        held: list[CacheMonitor] = []
        for tier in self.tiers.values():
            if self._limits.hold(tier.table) is not None:
                for other in held:
                    self._limits.release(other.table)
                raise StateError(f"source {self.source!r}: {self._limits.describe(TOO_MANY_CACHES)}")
            held.append(tier)

    def _fitting(self, tier: str, frames: Sequence[EventFrame]) -> Sequence[EventFrame]:
        """Return what there is room for."""
        fitting, beyond = self._limits.fitting(self.tiers[tier].table, frames) if frames else (frames, 0)
        if beyond:
            self._refuse(TOO_MANY_BLOCKS, beyond)
        return fitting

    def _refuse(self, reason: str, events: int) -> None:
        self.refused[reason] += events
        self._dropped_unseen += events
        self._limits.refuse(reason, events)

    def replace_rules(self, rules: Sequence[Rule]) -> list[CacheAlert]:
        """Judge every tier by other rules from now on; return the alerts that end with their rule."""
        self._rules = rules
        return [alert for tier in self.tiers.values() for alert in tier.rules.replace_rules(rules)]

    @property
    def cursor(self) -> Cursor | None:
        """Return how far its frames have come; None where they have no numbers."""
        return self._sequence.cursor

    @property
    def is_from_its_beginning(self) -> bool:
        """Return whether it is known since its engine's start."""
        return self._sequence.is_from_its_beginning

    def note_lost(self, count: int) -> None:
        """Note frames, or events that were dropped unasked, that are missing here."""
        self._lost_unseen += count
        for tier in self.tiers.values():
            tier.is_whole = False

    def save(self) -> dict[str, Any]:
        """Return its state, between two batches, as the body of a section, which changes no more.

        Raises:
            RuntimeError: If a batch is being applied, as numbers of frames that are not are taken in already.
        """
        body = self.save_all_but_tables()
        self.save_tables(body)
        return body

    def save_tables(self, body: dict[str, Any]) -> None:
        """Add the tables to what was saved, in any thread while no batch is applied.

        It takes some 100 ms a million blocks.
        """
        for name, saved in body["tiers"].items():
            saved["table"] = self.tiers[name].table.save()

    @property
    def live(self) -> int:
        """Return how many blocks are live."""
        return sum(tier.table.live_count for tier in self.tiers.values())

    def save_all_but_tables(self) -> dict[str, Any]:
        """Return its state without the blocks, between two batches.

        Raises:
            RuntimeError: If a batch is being applied, as numbers of frames that are not are taken in already.
        """
        if self._is_applying:
            raise RuntimeError(f"source {self.source!r} is saved in the middle of a batch")
        return {
            "settings": {name: getattr(self._config, name) for name in _SETTINGS},
            "counts": msgspec.to_builtins(self.counts),
            "duplicates": dict(self.duplicates),
            "refused": dict(self.refused),
            "sequence": self._sequence.save(),
            "lost_unseen": self._lost_unseen,
            "tiers": {name: tier.save() for name, tier in self.tiers.items()},
        }

    def restore(self, saved: dict[str, Any]) -> list[CacheAlert]:
        """Go on from what was saved; return the alerts that end, as ``Evaluator.restore`` does.

        Raises:
            StateError: If its settings have changed so that it means something else, or it has no room.
        """
        for name, before in saved["settings"].items():
            if (now := getattr(self._config, name)) != before:
                raise StateError(f"it was saved with {name} = {before}, which is {now} now")
        self.counts = msgspec.convert(saved["counts"], SourceCounts)
        self.duplicates.update(saved["duplicates"])
        self.refused.update(saved["refused"])
        self._sequence.restore(saved["sequence"])
        self._lost_unseen = saved["lost_unseen"]
        ended: list[CacheAlert] = []
        for name, of_tier in saved["tiers"].items():
            tier = self._cache(name)
            ended += tier.restore(of_tier)
            self.tiers[name] = tier
        return ended

    def finish(self) -> list[CacheAlert]:
        """Close the open windows of every tier."""
        alerts: list[CacheAlert] = []
        for tier in self.tiers.values():
            if self._lost_unseen and tier.ring.open is not None:
                tier.ring.open.lost += self._lost_unseen
                self._lost_unseen = 0
            alerts.extend(tier.finish())
        return alerts


class ForgottenSources:
    """What the sources that were forgotten had counted, together.

    Attributes:
        sources: How many they were.
        measurements: What was seen of all their tiers.
        counts: What was counted of their frames.
        live: Generations that went on when they were forgotten.
    """

    def __init__(self) -> None:
        self.sources = 0
        self.measurements = Measurements.empty()
        self.live = 0
        self.counts = SourceCounts()
        self.refused: Counter[str] = Counter()

    def add(self, source: SourceMonitor) -> None:
        """Take over what a source had counted."""
        self.sources += 1
        for tier in source.tiers.values():
            self.measurements.merge(tier.measurements())
            self.live += tier.table.live_count
        self.counts.add(source.counts)
        self.refused += source.refused

    def save(self) -> dict[str, Any]:
        """Return what they had counted."""
        return {
            "sources": self.sources,
            "measurements": save_measurements([self.measurements]),
            "live": self.live,
            "counts": msgspec.to_builtins(self.counts),
            "refused": dict(self.refused),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Add what was saved."""
        self.sources += saved["sources"]
        self.live += saved["live"]
        (measurements,) = restore_measurements(saved["measurements"])
        self.measurements.merge(measurements)
        self.counts.add(msgspec.convert(saved["counts"], SourceCounts))
        self.refused.update(saved["refused"])


class Monitor:
    """Every source of one stream, or of one consumer's share of it.

    Args:
        config: What is measured.
        rules: Alert rules; the built-in ones by default.
        silences: Alerts that nobody is notified of.
        limits: What all of it may hold, by default as ``config`` says.

    Attributes:
        sources: Each source, by name.
        forgotten: What is left of sources that were forgotten.
        refused: Events of sources that were one too many, by drop reason.

    Examples:
        >>> monitor = Monitor()
        >>> monitor.summary().total_evictions
        0
    """

    def __init__(
        self,
        config: MetricsConfig | None = None,
        rules: Sequence[Rule] | None = None,
        silences: Silences | None = None,
        limits: StreamLimits | None = None,
    ) -> None:
        self.config = config or MetricsConfig()
        self.silences = Silences() if silences is None else silences
        if rules is None:
            rules = default_rules()
        self.rules = tuple(rules)
        self.sources: dict[str, SourceMonitor] = {}
        self.forgotten = ForgottenSources()
        self.refused: Counter[str] = Counter()
        self._cache_rules = _rules_of_caches(self.rules)
        self._limits = StreamLimits(self.config) if limits is None else limits

    def process(self, frame: EventFrame, records: bool = False) -> Outcome:
        """Apply a frame.

        Args:
            frame: Events of one source and tier.
            records: Make records of the evictions.

        Returns:
            The alerts that fired or resolved, and the records.
        """
        outcomes = self.process_batch([frame], records)
        if len(outcomes) == 1:
            return outcomes[0]
        return Outcome(
            frame.source,
            frame.tier,
            [alert for outcome in outcomes for alert in outcome.alerts],
            [batch for outcome in outcomes for batch in outcome.evicted],
            sum(outcome.settled for outcome in outcomes),
        )

    def process_batch(self, frames: Sequence[EventFrame], records: bool = False) -> list[Outcome]:
        """Apply frames of one source, at least one, to the same effect as one after the other.

        Frames of a tier are joined, so that many small ones cost little more than a large one.
        """
        return list(self.slices(frames, records))

    def slices(self, frames: Sequence[EventFrame], records: bool = False) -> Iterator[Outcome]:
        """Do what ``process_batch`` does, some milliseconds of it at a time.

        The state is whole at each yield, and accounts for exactly the events that were settled; how often
        it comes changes nothing. What is not taken is not applied, and counted nowhere.
        """
        name = frames[0].source
        if not self.admits(name):
            refused = sum(map(len, frames))
            self.refused[TOO_MANY_CACHES] += refused
            self._limits.refuse(TOO_MANY_CACHES, refused)
            return iter([Outcome(name, frames[0].tier, [], [], refused)])
        return self.source(name).slices(frames, records)

    def note_lost(self, source: str, count: int) -> None:
        """Note events of a source that were dropped unasked before they came here."""
        if self.admits(source):
            self.source(source).note_lost(count)

    def admits(self, source: str) -> bool:
        """Return whether a source is known, or there is room for another."""
        # Sources without a tier hold no place, but must not fill memory either.
        return source in self.sources or not (
            self._limits.reached or len(self.sources) >= self.config.max_caches
        )

    def has_room_for(self, frames: Iterable[EventFrame]) -> bool:
        """Return whether no frame would be refused because there are too many caches."""
        if not self._limits.reached and len(self.sources) < self.config.max_caches:
            return True
        return all(f.source in self.sources and f.tier in self.sources[f.source].tiers for f in frames)

    def forget(self, name: str, why: str) -> list[CacheAlert]:
        """Forget a source, so that it leaves its places to others; its counts stay in those of all.

        If it comes back, it is a new one.

        Args:
            name: The source.
            why: Message of its alerts, which end.

        Returns:
            The alerts that are resolved.
        """
        source = self.sources.pop(name)
        self.forgotten.add(source)
        for tier in source.tiers.values():
            self._limits.release(tier.table)
        return [alert for tier in source.tiers.values() for alert in tier.rules.end(why)]

    def source(self, name: str) -> SourceMonitor:
        """Return the monitor of one source, made if there is none."""
        monitor = self.sources.get(name)
        if monitor is None:
            monitor = self.sources[name] = SourceMonitor(
                name, self.config, self._cache_rules, self.silences, self._limits
            )
        return monitor

    def save(self) -> dict[str, Any]:
        """Return what is of no source that is there now."""
        return {"forgotten": self.forgotten.save(), "refused": dict(self.refused)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Add what was saved, by one monitor or by several one after the other."""
        self.forgotten.restore(saved["forgotten"])
        self.refused.update(saved["refused"])

    def restore_source(self, name: str, saved: dict[str, Any]) -> list[CacheAlert]:
        """Go on with a source from what ``SourceMonitor.save`` returned, as a snapshot gives it back.

        Args:
            name: The source, of which nothing has come yet.
            saved: Its state.

        Returns:
            The alerts that end, as their rule is gone or another one now.

        Raises:
            StateError: If it cannot be restored; nothing is changed then.
        """
        if name in self.sources:
            raise StateError(f"source {name!r}: it is there already")
        source = SourceMonitor(name, self.config, self._cache_rules, self.silences, self._limits)
        try:
            ended = source.restore(saved)
        except StateError as error:
            raise StateError(f"source {name!r}: {error}") from error
        except DAMAGES as error:
            raise StateError(f"source {name!r} cannot be restored: {error!r}") from error
        source.hold()
        self.sources[name] = source
        return ended

    def pass_time(self, now_ns: int) -> list[CacheAlert]:
        """Judge the silence of every cache from which nothing has come up to a time in ns.

        For recordings, where the events of some sources tell what time it is for the others. Costs a
        comparison a cache, but where silence is too long.
        """
        now = now_ns / 1e9
        caches = (tier for source in self.sources.values() for tier in source.tiers.values())
        return [alert for tier in caches if tier.rules.due() < now for alert in tier.pass_time(now_ns)]

    def replace_rules(self, rules: Sequence[Rule]) -> Iterator[list[CacheAlert]]:
        """Judge every cache by other rules from now on; yield the alerts that end with their rule.

        A source at a time: the state is whole at each yield, and sources may come and go meanwhile.
        """
        self.rules = tuple(rules)
        self._cache_rules = _rules_of_caches(self.rules)
        for source in self._one_by_one():
            yield source.replace_rules(self._cache_rules)  # not those given, if there are newer ones by now

    def look_at_silences(self) -> Iterator[list[CacheAlert]]:
        """Take note of silences that have begun or ended; yield what is to be notified now.

        A cache at a time, as ``replace_rules`` does.
        """
        for source in self._one_by_one():
            for tier in list(source.tiers.values()):
                yield tier.rules.look_at_silences()

    def _one_by_one(self) -> Iterator[SourceMonitor]:
        """Yield each source that is there now and has not been forgotten when it is its turn."""
        for name, source in list(self.sources.items()):
            if self.sources.get(name) is source:
                yield source

    def finish(self) -> list[CacheAlert]:
        """Close every open window at the end of the stream; return the alerts that changed."""
        return [alert for source in self.sources.values() for alert in source.finish()]

    def caches(self, source: str | None = None, tier: str | None = None) -> list[CacheMonitor]:
        """Return the monitor of each cache of a source and tier; None is any."""
        return [
            cache
            for monitor in self.chosen(source)
            for cache in monitor.tiers.values()
            if tier in (None, cache.tier)
        ]

    def chosen(self, source: str | None) -> list[SourceMonitor]:
        """Return the monitor of a source if it is known; of every source for None."""
        return [monitor for name, monitor in self.sources.items() if source in (None, name)]

    def summary(self, source: str | None = None, tier: str | None = None) -> CacheMetricsSummary:
        """Return the summary of a source and tier, or of all of them."""
        gathering = Gathering(self.config, caches := self.caches(source, tier))
        if source is None and tier is None:
            gathering.add_forgotten(self.forgotten)
        for cache in caches:
            gathering.add(cache)
        return gathering.summary(source, tier, accounts_of([self], source, tier), final=False)


def _runs_of_one_size(frames: Sequence[EventFrame]) -> list[Sequence[EventFrame]]:
    """Return frames in runs with blocks of one size; those of unknown size go with any."""
    if len(frames) == 1 or len({frame.block_tokens for frame in frames} - {0}) < 2:
        return [frames]
    runs: list[list[EventFrame]] = [[]]
    tokens = 0
    for frame in frames:
        if frame.block_tokens and tokens not in (0, frame.block_tokens):
            runs.append([])
        tokens = frame.block_tokens or tokens
        runs[-1].append(frame)
    return list(runs)


def _rules_of_caches(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.metric not in STREAM_METRICS)


def total_measurements(caches: Iterable[CacheMonitor]) -> Measurements:
    """Return what several caches have measured since the start."""
    total = Measurements.empty()
    for cache in caches:
        total.merge(cache.measurements())
    return total


class Gathering:
    """A summary in the making, tier by tier, as many of them take their time.

    Args:
        config: What is measured.
        tiers: What is to be summarized.
    """

    def __init__(self, config: MetricsConfig, tiers: Sequence[CacheMonitor]) -> None:
        self._config, self._tiers = config, tiers
        self._known, self._unknown = Measurements.empty(), Measurements.empty()  # by whether hits are known
        self._recent_known, self._recent_unknown = Measurements.empty(), Measurements.empty()
        self._hits_are_known = False
        self._by_source: dict[str, CacheCounts] = {}
        self._working_sets: list[WorkingSet] = []
        self._usage = UsageByLabel()
        self._contents = ContentGathering(tiers)
        self._newest = max((m.ring.latest for m in tiers if m.ring.latest is not None), default=None)
        self._span = 0
        if self._newest is not None:
            oldest = min(m.ring.oldest for m in tiers if m.ring.oldest is not None)
            self._span = min(config.recent_windows, self._newest - oldest + 1)

    def add(self, tier: CacheMonitor) -> None:
        """Take in what one of the tiers has seen."""
        self._hits_are_known |= tier.hits_are_known
        total = self._known if tier.hits_are_known else self._unknown
        total.merge(tier.measurements())
        if self._span:
            recent = self._recent_known if tier.hits_are_known else self._recent_unknown
            recent.merge(tier.recent(self._span, self._newest))
        tier.add_counts_to(self._by_source.setdefault(tier.source, CacheCounts()))
        self._working_sets.append(tier.working_set.recent(self._newest))
        self._usage.add(tier.usage())
        self._contents.add(tier)

    def add_forgotten(self, forgotten: ForgottenSources) -> None:
        """Take in what forgotten sources had seen since the start."""
        seen = forgotten.measurements
        self._by_source.setdefault("", CacheCounts()).add_counts(seen)
        self._hits_are_known |= seen.accesses > 0
        (self._known if seen.accesses else self._unknown).merge(seen)

    def summary(
        self, source: str | None, tier: str | None, accounts: Accounts, final: bool
    ) -> CacheMetricsSummary:
        """Return the summary, once every tier was taken in."""
        config, tiers = self._config, self._tiers
        alone = tiers[0] if len(tiers) == 1 else None
        total, recent = Measurements.empty(), Measurements.empty()
        for part in (self._known, self._unknown):
            total.merge(part)
        for part in (self._recent_known, self._recent_unknown):
            recent.merge(part)
        known, recent_known = self._known, self._recent_known
        contents = self._contents.figures()
        return summarize(
            total,
            known if self._hits_are_known else None,
            recent_metrics(
                recent,
                recent_known if self._hits_are_known else None,
                self._span * config.window_seconds,
            ),
            source=source or ALL,
            tier=tier or ALL,
            timestamp=max((m.last_ts for m in tiers), default=0) / 1e9,
            live=accounts.live,
            config=config,
            capacity=config.capacity * len(tiers) if config.capacity else None,
            block_size=_block_size(config, tiers),
            trends=alone.trends() if alone else {},
            hits_reported=joint_hits_reported(counts.hits_reported for counts in self._by_source.values()),
            alerts=[alert.to_dict() for m in tiers for alert in m.rules.firing()],
            sizes=alone.sizes() if alone else CacheSizes(),
            working_set=total_working_set(self._working_sets),
            labels=self._usage.labels(),
            misses=contents.misses,
            tiers=contents.tiers,
            shared=contents.shared if source is None and tier is None else None,
            pending=[alert.to_dict() for m in tiers for alert in m.rules.pending()],
            accounts=accounts,
            final=final,
        )


def _block_size(config: MetricsConfig, tiers: Sequence[CacheMonitor]) -> BlockSize:
    """Return how large the blocks of some tiers are."""
    given = {tokens for tier in tiers for tokens in tier.block_sizes}
    tokens = given | {config.block_tokens or 0 for tier in tiers if not tier.block_sizes} - {0}
    sizes = [tier.block_bytes for tier in tiers] or [config.block_bytes]
    known = [size for size in sizes if size is not None]
    is_known = len(known) == len(sizes)
    live = sum(tier.table.live_count * size for tier, size in zip(tiers, known, strict=False))
    return BlockSize(
        given=sorted(given),
        tokens=min(tokens, default=config.block_tokens) if len(tokens) < 2 else None,
        bytes=known[0] if is_known and len(set(known)) == 1 else None,
        live_bytes=live if is_known else None,
        capacity_bytes=config.capacity * sum(known) if is_known and tiers and config.capacity else None,
    )


def accounts_of(monitors: Sequence[Monitor], source: str | None, tier: str | None) -> Accounts:
    """Return where the events and blocks of a source and tier went, or of all, at this moment.

    What forgotten sources had counted is in those of all sources and tiers.
    """
    forgotten = [monitor.forgotten for monitor in monitors] if source is None and tier is None else []
    caches = [cache for monitor in monitors for cache in monitor.caches(source, tier)]
    total = CacheCounts()
    for cache in caches:
        cache.add_counts_to(total)
    for before in forgotten:
        total.add_counts(before.measurements)
    accounts = Accounts(
        processed=total.processed,
        allocations=total.allocations,
        unknown_births=total.unknown_births,
        unknown_lifetimes=total.unknown_lifetimes,
        live=sum(cache.table.live_count for cache in caches),
        evicted=total.total_evictions,
        cleared=total.cleared,
        forgotten=sum(before.live for before in forgotten),
        unknown_accesses=total.unknown_accesses,
        unknown_evictions=total.unknown_evictions,
        unknown_reasons=total.unknown_reasons,
        time_regressions=total.time_regressions,
        clock_steps=total.clock_steps,
        forgotten_sources=sum(before.sources for before in forgotten),
    )
    dropped: Counter[str] = Counter()
    for monitor in monitors if source is None else ():
        dropped += monitor.refused
    frames = SourceCounts()
    counted: list[SourceMonitor | ForgottenSources] = [*forgotten]
    for monitor in monitors:
        counted += monitor.chosen(source)
    for each in counted:
        frames.add(each.counts)
        dropped += each.refused
    accounts.duplicate_frames = frames.duplicate_frames
    accounts.lost_frames = frames.lost_frames
    accounts.restarts = frames.restarts
    dropped["duplicate"] += frames.duplicate_events
    accounts.dropped = dict(+dropped)
    accounts.offered = accounts.processed + dropped.total()
    return accounts
