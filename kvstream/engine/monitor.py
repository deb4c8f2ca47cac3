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
from kvstream.engine.gathering import Gathering
from kvstream.engine.limits import TOO_MANY_CACHES, StreamLimits
from kvstream.engine.source import ForgottenSources, SourceMonitor
from kvstream.errors import StateError
from kvstream.events.counters import CacheCounts, SourceCounts, counts_of
from kvstream.events.frame import EventFrame
from kvstream.metrics.summary import Accounts, CacheMetricsSummary

# Before 0.22, errors of msgspec were no ValueError.
DAMAGES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, msgspec.MsgspecError)
"""Errors that what is no state can raise when it is restored."""


_OF_CACHES = counts_of(CacheCounts).keys() & set(Accounts.__struct_fields__)
_OF_FRAMES = counts_of(SourceCounts).keys() & set(Accounts.__struct_fields__)


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
        for cache in source.tiers.values():
            self._limits.release(cache.table)
        return [alert for cache in source.tiers.values() for alert in cache.rules.end(why)]

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
        caches = (cache for source in self.sources.values() for cache in source.tiers.values())
        return [alert for cache in caches if cache.rules.due() < now for alert in cache.pass_time(now_ns)]

    def replace_rules(self, rules: Sequence[Rule]) -> Iterator[list[CacheAlert]]:
        """Judge every cache by other rules from now on; yield the alerts that end with their rule.

        A source at a time: the state is whole at each yield, and sources may come and go meanwhile.
        """
        self.rules = tuple(rules)
        self._cache_rules = _rules_of_caches(self.rules)
        for source in self._one_by_one():
            yield source.replace_rules(self._cache_rules)  # not those given, if there are newer ones by now

    def look_at_silences(self) -> Iterator[list[CacheAlert]]:
        """Apply silences that have begun or ended; yield the alerts to notify of now.

        A cache at a time, as ``replace_rules`` does.
        """
        for source in self._one_by_one():
            for cache in list(source.tiers.values()):
                yield cache.rules.look_at_silences()

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
        gathering = Gathering(self.config, self.caches(source, tier))
        if source is None and tier is None:
            gathering.add_forgotten(self.forgotten)
        gathering.add_all()
        return gathering.summary(source, tier, accounts_of([self], source, tier), final=False)


def _rules_of_caches(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.metric not in STREAM_METRICS)


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
    dropped: Counter[str] = Counter()
    for monitor in monitors if source is None else ():
        dropped += monitor.refused
    frames = SourceCounts()
    counted: list[SourceMonitor | ForgottenSources] = [*forgotten]
    for monitor in monitors:
        counted += monitor.chosen(source)
    for each in counted:
        frames.add(each.counts)
        if each.refused:
            dropped += each.refused
    dropped["duplicate"] += frames.duplicate_events
    return Accounts(
        offered=total.processed + dropped.total(),
        processed=total.processed,
        dropped=dict(+dropped),
        live=sum(cache.table.live_count for cache in caches),
        evicted=total.total_evictions,
        forgotten=sum(before.live for before in forgotten),
        forgotten_sources=sum(before.sources for before in forgotten),
        **{name: getattr(total, name) for name in _OF_CACHES},
        **{name: getattr(frames, name) for name in _OF_FRAMES},
    )
