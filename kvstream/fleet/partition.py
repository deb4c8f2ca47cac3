"""Partition: the records of one partition of the frames, in order, into the state of its sources.

Whatever becomes of it follows from the records alone, their times among them: so whoever applies the same
records comes to the same state and the same alerts, however they are cut into batches.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from kvstream.alerts.drops import DropWatch
from kvstream.alerts.rule import Rule
from kvstream.alerts.silences import Silence, Silences
from kvstream.alerts.types import CacheAlert
from kvstream.config import MetricsConfig
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import DAMAGES, Monitor, accounts_of
from kvstream.errors import StateError
from kvstream.events.codec import decode_frame
from kvstream.events.frame import EventFrame
from kvstream.faults.log import FaultLog
from kvstream.metrics.summary import Accounts
from kvstream.state.sections import StreamParts, restore, source_section, stream_section
from kvstream.state.snapshot import Section

TICK = b"tick"
"""Value of a record that only says that it is as late as its time, so that silence can be judged."""

_SECTION = "partition"
_STOPPED_MS = 10_000  # without a tick, after which nobody can say who was silent
_SOONEST_MS = 500  # after a tick, in which another one is of a second worker


class Record(NamedTuple):
    """A record of the topic.

    Attributes:
        offset: Its place in the partition.
        timestamp_ms: When the broker took it, or its producer made it, ms since the Unix epoch.
        value: An encoded frame, or ``TICK``.
    """

    offset: int
    timestamp_ms: int
    value: bytes


class Partition:
    """The state of the sources of one partition.

    Args:
        name: What it is called in messages.
        config: What is measured; its limits are those of each partition.
        rules: Alert rules; the built-in ones by default.
        silences: Alerts that nobody is notified of.
        faults: Where records that cannot be decoded are noted.

    Attributes:
        offset: Place of the next record.
        malformed: Records that could not be decoded.
        monitor: The sources.
    """

    def __init__(
        self,
        name: str,
        config: MetricsConfig,
        rules: Sequence[Rule] | None,
        silences: Iterable[Silence],
        faults: FaultLog,
    ) -> None:
        self.name = name
        self.offset = self.malformed = 0
        self._config, self._faults = config, faults
        known, self._limits = Silences(silences), StreamLimits(config)
        self.monitor = Monitor(config, rules, known, self._limits)
        self._drops = DropWatch(self.monitor.rules, known, self._limits.descriptions())
        self._parts = StreamParts([self.monitor], self._limits, known, self._drops)
        self._arrived: dict[str, int] = {}  # time of each source's last record, ms
        self._ticked: int | None = None  # time of the last tick, ms
        self._gone: list[tuple[str, str]] = []

    def read_from(self, offset: int) -> None:
        """Pass over the records before an offset."""
        self.offset = offset

    def apply(self, records: Sequence[Record]) -> list[CacheAlert]:
        """Apply records in order; return the alerts that fired or resolved.

        Records before ``offset`` are passed over. If it raises, the partition is not to be used any more.
        """
        alerts: list[CacheAlert] = []
        waiting: dict[str, list[EventFrame]] = {}
        for record in records:
            if record.offset < self.offset:
                continue
            self.offset = record.offset + 1
            if record.value == TICK:
                alerts += self._apply(waiting)
                waiting = {}
                alerts += self._tick(record.timestamp_ms)
            elif (frame := self._decoded(record)) is not None:
                waiting.setdefault(frame.source, []).append(frame)
                self._arrived[frame.source] = record.timestamp_ms
        return alerts + self._apply(waiting)

    def _decoded(self, record: Record) -> EventFrame | None:
        try:
            return decode_frame(record.value)
        except MemoryError:
            raise
        except Exception as error:
            self.malformed += 1
            self._faults.note("frames", "malformed", f"{self.name}: record {record.offset}: {error}")
            return None

    def _apply(self, waiting: dict[str, list[EventFrame]]) -> list[CacheAlert]:
        alerts: list[CacheAlert] = []
        for source, frames in waiting.items():
            for outcome in self.monitor.slices(frames):
                alerts += outcome.alerts
            if source not in self.monitor.sources:  # one too many
                del self._arrived[source]
        return alerts

    def _tick(self, now: int) -> list[CacheAlert]:
        """Judge which sources are silent now."""
        gap = 0 if self._ticked is None else now - self._ticked
        if self._ticked is not None and abs(gap) < _SOONEST_MS:
            return []
        self._ticked = now
        if gap > _STOPPED_MS:  # nobody watched: that no source was heard says nothing
            self._arrived = {source: min(now, at + gap) for source, at in self._arrived.items()}
        elif gap < 0:  # the broker's clock was set back: what was heard before is by the one of before
            self._arrived = {
                source: at if at <= now else min(now, at + gap) for source, at in self._arrived.items()
            }
        alerts: list[CacheAlert] = []
        forget_after = self._config.forget_seconds
        for source, at in list(self._arrived.items()):
            silent = (now - at) / 1e3
            if forget_after and silent >= forget_after:
                alerts += self._forget(source, silent, now)
                continue
            for cache in self.monitor.sources[source].tiers.values():
                alerts += cache.pass_silence(silent)
        duplicates = [(s.source, s.duplicates) for s in self.monitor.sources.values() if s.duplicates]
        return alerts + self._drops.look(self._limits.refused, duplicates, now / 1e3)

    def _forget(self, source: str, silent: float, now: int) -> list[CacheAlert]:
        del self._arrived[source]
        self._gone += [(source, tier) for tier in self.monitor.sources[source].tiers]
        why = f"the source was forgotten after {silent:,.0f} s without events"
        return [*self.monitor.forget(source, why), *self._drops.forget(source, why, now / 1e3)]

    # What is seen of it

    def accounts(self, source: str | None = None) -> Accounts:
        """Return where the events and blocks went, of one source or of all."""
        return accounts_of([self.monitor], source, None)

    def summaries(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield source, tier and summary (JSON) of each cache; some milliseconds each."""
        for cache in self.monitor.caches():
            summary = self.monitor.summary(cache.source, cache.tier)
            yield cache.source, cache.tier, msgspec.json.encode(summary)

    def take_gone(self) -> list[tuple[str, str]]:
        """Return source and tier of caches that were forgotten since the last call."""
        gone, self._gone = self._gone, []
        return gone

    # What outlives it

    def sections(self) -> Iterator[Section]:
        """Yield its state, to be packed before the next record is applied."""
        sources = dict(self.monitor.sources)
        for source in sources.values():
            yield source_section(source)
        yield stream_section(self._parts, sources)
        yield Section(
            _SECTION,
            "",
            {
                "offset": self.offset,
                "malformed": self.malformed,
                "arrived": self._arrived,
                "ticked": self._ticked,
            },
        )

    def restore(self, sections: Sequence[Section]) -> list[CacheAlert]:
        """Go on from a snapshot, in a new partition; return the alerts that end as rules have changed.

        Raises:
            StateError: If any of it cannot be restored; the partition is not to be used then.
        """
        own = next((section.body for section in sections if section.kind == _SECTION), None)
        if own is None:
            raise StateError("the section of the partition is missing")
        try:
            self._arrived.update(own["arrived"])
            self._ticked = own["ticked"]
            self.offset, self.malformed = own["offset"], own["malformed"]
            now = (self._ticked or 0) / 1e3
        except DAMAGES as error:
            raise StateError(f"the section of the partition cannot be restored: {error!r}") from error
        restored = restore(self._parts, sections, lambda _: self.monitor, now)
        for problem in restored.problems.values():
            raise StateError(problem)
        return restored.alerts
