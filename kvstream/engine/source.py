"""SourceMonitor: one source, the numbers of its frames and its tiers; and what is left of forgotten ones."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from kvstream.alerts.rule import Rule
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import CacheAlert
from kvstream.config import MetricsConfig
from kvstream.engine.cache import EVENTS_AT_ONCE, CacheMonitor, Outcome
from kvstream.engine.limits import TOO_MANY_BLOCKS, TOO_MANY_CACHES, StreamLimits
from kvstream.errors import StateError
from kvstream.events.counters import SourceCounts
from kvstream.events.frame import EventFrame
from kvstream.events.sequence import NEXT, RESTART, Cursor, FrameSequence
from kvstream.metrics.measurements import Measurements, restore_measurements, save_measurements

_SETTINGS = ("window_seconds", "sample_rate")
"""Settings that say what the figures of a cache mean."""

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
        self._is_applying = False  # frames, their numbers taken in already

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
            if arrival is not NEXT:
                if arrival.value in _KINDS:
                    self.duplicates[_KINDS[arrival.value]] += 1
                if arrival.is_dropped:
                    self.counts.duplicate_frames += 1
                    self.counts.duplicate_events += len(frame)
                    self._dropped_unseen += len(frame)
                    continue
            missing = self._sequence.missing
            if missing or arrival is RESTART:
                for tier in list(waiting):
                    yield from self._apply(tier, waiting.pop(tier), records)
                if arrival is RESTART:
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
        """End every generation, as the engine has restarted; not while a batch is being applied."""
        self.counts.restarts += 1
        for cache in self.tiers.values():
            cache.restart()

    def _apply(self, tier: str, frames: Sequence[EventFrame], records: bool) -> Iterator[Outcome]:
        """Apply frames of one tier."""
        frames = self._fitting(tier, frames)
        if not frames:
            return
        try:
            for alike in _runs(frames):
                lost, self._lost_unseen = self._lost_unseen, 0
                for outcome in self.tiers[tier].slices(alike, lost, records):
                    if self._dropped_unseen:
                        settled = outcome.settled + self._take_dropped()
                        outcome = msgspec.structs.replace(outcome, settled=settled)
                    yield outcome
        finally:
            self._limits.applied(self.tiers[tier].table)

    def _take_dropped(self) -> int:
        dropped, self._dropped_unseen = self._dropped_unseen, 0
        return dropped

    def _admit(self, frame: EventFrame) -> bool:
        """Make room for a tier; False if there is none."""
        reason = self._limits.reason_against(len(self.tiers))
        if reason is None:
            is_whole = not self._lost_unseen and (frame.seq <= 0 or bool(self.tiers))
            cache = self._cache(frame.tier, is_whole)
            reason = self._limits.hold(cache.table)
        if reason is not None:
            self._refuse(reason, len(frame))
            return False
        self.tiers[frame.tier] = cache
        return True

    def _cache(self, tier: str, is_whole: bool = True) -> CacheMonitor:
        return CacheMonitor(
            self.source, tier, self._config, self._rules, self._silences, self.tiers, is_whole
        )

    def hold(self) -> None:
        """Take the places of its tiers, as they were restored.

        Raises:
            StateError: If there are too few; none is taken then.
        """
        held: list[CacheMonitor] = []
        for cache in self.tiers.values():
            if self._limits.hold(cache.table) is not None:
                for other in held:
                    self._limits.release(other.table)
                raise StateError(f"source {self.source!r}: {self._limits.describe(TOO_MANY_CACHES)}")
            held.append(cache)

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
        return [alert for cache in self.tiers.values() for alert in cache.rules.replace_rules(rules)]

    @property
    def cursor(self) -> Cursor | None:
        """Return its next expected frame; None if frames have no sequence numbers."""
        return self._sequence.cursor

    @property
    def is_from_its_beginning(self) -> bool:
        """Return whether its events are known since the engine started."""
        return self._sequence.is_from_its_beginning

    def note_lost(self, count: int) -> None:
        """Note frames, or events that were dropped unasked, that are missing here."""
        self._lost_unseen += count
        for cache in self.tiers.values():
            cache.note_lost()

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
        for tier, saved in body["tiers"].items():
            saved["table"] = self.tiers[tier].table.save()

    @property
    def live(self) -> int:
        """Return how many blocks are live."""
        return sum(cache.table.live_count for cache in self.tiers.values())

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
            "tiers": {tier: cache.save() for tier, cache in self.tiers.items()},
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
        for tier, saved_cache in saved["tiers"].items():
            cache = self._cache(tier)
            ended += cache.restore(saved_cache)
            self.tiers[tier] = cache
        return ended

    def finish(self) -> list[CacheAlert]:
        """Close the open windows of every tier."""
        alerts: list[CacheAlert] = []
        for cache in self.tiers.values():
            lost = self._lost_unseen if cache.ring.open is not None else 0
            self._lost_unseen -= lost
            alerts.extend(cache.finish(lost))
        return alerts


class ForgottenSources:
    """What the sources that were forgotten had counted, together.

    Attributes:
        sources: How many they were.
        measurements: What was seen of all their tiers.
        followed_evictions: Evictions of the tiers with known contents.
        counts: What was counted of their frames.
        live: Generations that went on when they were forgotten.
    """

    def __init__(self) -> None:
        self.sources = 0
        self.measurements = Measurements.empty()
        self.followed_evictions = self.live = 0
        self.counts = SourceCounts()
        self.refused: Counter[str] = Counter()

    def add(self, source: SourceMonitor) -> None:
        """Take over what a source had counted."""
        self.sources += 1
        for cache in source.tiers.values():
            seen = cache.measurements()
            self.measurements.merge(seen)
            self.followed_evictions += seen.total_evictions if cache.premature_is_known else 0
            self.live += cache.table.live_count
        self.counts.add(source.counts)
        self.refused += source.refused

    def save(self) -> dict[str, Any]:
        """Return what they had counted."""
        return {
            "sources": self.sources,
            "measurements": save_measurements([self.measurements]),
            "followed_evictions": self.followed_evictions,
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
        of_all = measurements.total_evictions if measurements.return_time.count else 0
        self.followed_evictions += saved.get("followed_evictions", of_all)
        self.counts.add(msgspec.convert(saved["counts"], SourceCounts))
        self.refused.update(saved["refused"])


def _runs(frames: Sequence[EventFrame]) -> list[Sequence[EventFrame]]:
    """Return frames in runs to be joined: with blocks of one size, unknown ones among any.

    A run has no more events than are applied at once, which a processor's cache still holds then.
    """
    if len(frames) == 1:
        return [frames]
    events = [len(frame.ops) for frame in frames]
    if sum(events) <= EVENTS_AT_ONCE and len({frame.block_tokens for frame in frames} - {0}) < 2:
        return [frames]
    runs: list[list[EventFrame]] = [[]]
    tokens = joined = 0
    for frame, more in zip(frames, events, strict=True):
        joined += more
        is_other = frame.block_tokens and tokens not in (0, frame.block_tokens)
        if is_other or (joined > EVENTS_AT_ONCE and runs[-1]):
            runs.append([])
            tokens, joined = 0, more
        tokens = frame.block_tokens or tokens
        runs[-1].append(frame)
    return list(runs)
