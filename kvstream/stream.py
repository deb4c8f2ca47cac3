"""KVStream: producers fill queues, consumer tasks update state, subscribers hear of it."""

import os
import zlib
from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from kvstream.alerts.buffer import AlertBuffer
from kvstream.alerts.drops import DropWatch
from kvstream.alerts.groups import AlertGroup, alert_groups
from kvstream.alerts.heartbeat import heartbeat_alert, heartbeat_rule
from kvstream.alerts.inputs import InputWatch
from kvstream.alerts.rule import Rule
from kvstream.alerts.silences import Silence, Silences, exactly, fits
from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.blocks.apply_result import KVCacheEvictionEvent
from kvstream.blocks.state import HotBlock
from kvstream.config import OverflowPolicy, StreamConfig
from kvstream.consumer import Consumer
from kvstream.engine.cache import CacheMonitor, Outcome
from kvstream.engine.gathering import Gathering
from kvstream.engine.inputs import InputStatistics, readings_of
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import Monitor, accounts_of
from kvstream.engine.recorded import RecordedTime
from kvstream.engine.source import SourceMonitor
from kvstream.errors import ClosedStreamError, ConfigError, MalformedInputError
from kvstream.events.clock import Clock
from kvstream.events.frame import EventFrame
from kvstream.events.sequence import Cursor
from kvstream.events.types import DEFAULT_SOURCE, DEFAULT_TIER, Malformed
from kvstream.faults.fork import close_in_children
from kvstream.faults.log import FaultLog
from kvstream.metrics.marks import Mark, Marks
from kvstream.metrics.summary import Accounts, CacheMetricsSummary, SavedState
from kvstream.recording.arrivals import Arrivals
from kvstream.recording.producer import Producer, ProducerStatistics
from kvstream.recording.queue import Item, QueueStatistics
from kvstream.recording.registry import ProducerSet, ProducersStatistics
from kvstream.state.keeper import StateKeeper
from kvstream.state.progress import InputProgress
from kvstream.state.resumption import InputMarker, SavedInput
from kvstream.state.sections import Restored, StreamParts
from kvstream.state.store import DirectoryStore
from kvstream.subscriptions.buffer import SubscriberPolicy
from kvstream.subscriptions.handler import Batching, Delivery
from kvstream.subscriptions.subscription import Subscription, SubscriptionStatistics
from kvstream.subscriptions.topic import Topic
from kvstream.version import __version__

AlertHandler = TypeVar("AlertHandler", bound=Callable[[CacheAlert], Any] | Delivery)
GroupHandler = TypeVar("GroupHandler", bound=Callable[[AlertGroup], Any] | Delivery)
SummaryHandler = TypeVar("SummaryHandler", bound=Callable[[CacheMetricsSummary], Any])
EvictionHandler = TypeVar("EvictionHandler", bound=Callable[[KVCacheEvictionEvent], Any])
Monitored = TypeVar("Monitored", SourceMonitor, CacheMonitor)

_MALFORMED_KEPT = 100
_LEAST_TICK_SECONDS = 0.1
_TURN_SECONDS = 0.002  # of looking at one cache after the other, until other tasks have their turn
_RECONNECT_SECONDS = 15.0  # that the inputs of a restored source may take before it can be silent
_STOPPED_SECONDS = 10.0  # by which the loop is late when its process was stopped
_SOONER = 12  # parts of forget_seconds after which a source may be forgotten where others need its place


class StreamStatistics(NamedTuple):
    """The inside of a stream at one moment.

    Attributes:
        accounts: Where every event and block went.
        queues: One entry a consumer.
        producers: One entry a producer, in order of making.
        subscribers: One entry a subscription or handler.
        faults: Errors that ended what they concern and nothing more, by (part, reason).
        inputs: One entry a connection of the inputs around the stream (``watch_inputs``).
        state: The saved state; None for a stream without.
    """

    accounts: Accounts
    queues: tuple[QueueStatistics, ...]
    producers: tuple[ProducerStatistics, ...]
    subscribers: tuple[SubscriptionStatistics, ...]
    faults: dict[tuple[str, str], int]
    inputs: tuple[InputStatistics, ...]
    state: SavedState | None


class _Counted(NamedTuple):
    """What was counted of a stream before this process went on with it.

    Attributes:
        offered: Events that were processed or dropped.
        malformed: What could not be decoded.
        dropped: Events dropped before they came to a cache, by drop reason.
    """

    offered: int = 0
    malformed: int = 0
    dropped: Mapping[str, int] = {}


class KVStream:
    """An event stream of KV-cache blocks, open inside ``async with``.

    Leaving the block drains producers and queues, delivers the last alerts and a final summary, and
    ends the subscriptions, all within ``shutdown_timeout``; a handler that has no success for
    ``delivery_timeout`` is not waited for, and what it has not taken counts as undelivered. Leaving it by
    an exception or by cancellation drains nothing; what was on its way is counted as ``cancelled``.

    With ``state``, the stream goes on from what was saved there, and saves itself again and again and when
    it is left. Then its end is none for the caches: windows stay open and alerts fire on, for the next
    process to go on with. Opening it raises ``StateError`` where another process uses that directory.

    Args:
        config: Settings; the defaults measure everything.
        rules: Alert rules; the built-in ones by default.
        clock: Nanoseconds since the Unix epoch, for producers.
        silences: Silences to begin with; ``silence`` adds others.
        state: Directory that the state is kept in; None keeps it in memory.

    Attributes:
        faults: Where servers and handlers around the stream note the errors that they contain.

    Examples:
        >>> async def main():
        ...     async with KVStream() as stream:
        ...         engine = stream.producer("engine-0")
        ...         await engine.allocated([1, 2, 3])
        ...         await engine.accessed(2)
        ...         await engine.evicted([1, 2, 3])
        ...     return stream.summary_nowait().total_evictions
        >>> anyio.run(main)
        3
    """

    def __init__(
        self,
        config: StreamConfig | None = None,
        rules: Sequence[Rule] | None = None,
        clock: Callable[[], int] | None = None,
        silences: Iterable[Silence] = (),
        state: str | os.PathLike[str] | DirectoryStore | None = None,
    ) -> None:
        self.config = config or StreamConfig()
        self._silences = Silences(silences)
        self._marks = Marks()
        self.malformed: deque[Malformed] = deque(maxlen=_MALFORMED_KEPT)
        self.faults = FaultLog()
        self._clock = clock or Clock()
        self._producers = ProducerSet(
            self.config, self._clock, lambda s: self._consumer_of(s).queue, self._require_open
        )
        self._limits = StreamLimits(self.config.metrics)
        monitors = [
            Monitor(self.config.metrics, rules, self._silences, self._limits)
            for _ in range(self.config.consumers)
        ]
        rules = monitors[0].rules
        self._drops = DropWatch(rules, self._silences, self._limits.descriptions())
        self._input_watch = InputWatch(rules, self._silences)
        self._recorded = RecordedTime(monitors[0]) if self.config.recorded else None
        step_ns = None if self._recorded is None else self._recorded.step_ns
        self._consumers = [
            Consumer(monitor, step_ns, self._before_batch, self._publish_outcome, self._after_batch)
            for monitor in monitors
        ]
        self._arrivals = Arrivals()  # of a live stream
        self._relayed: dict[str, CacheAlert] = {}  # those of other streams that fire, by fingerprint
        self._heartbeat = heartbeat_rule(rules)
        self._opened_at = 0.0
        self._inputs: list[Callable[[], Iterable[InputStatistics]]] = []
        self._malformed_count = 0
        buffer = self.config.subscriber_buffer
        self._alerts: Topic[CacheAlert] = Topic("alerts", buffer, AlertBuffer, faults=self.faults)
        self._summaries: Topic[CacheMetricsSummary] = Topic("summaries", buffer, faults=self.faults)
        self._evictions: Topic[KVCacheEvictionEvent] = Topic("evictions", buffer, faults=self.faults)
        self._topics: tuple[Topic[Any], ...] = (self._alerts, self._summaries, self._evictions)
        self._keeper = None if state is None else self._make_keeper(state)
        self._before = _Counted()
        self._unheard: set[str] = set()  # restored sources without numbered frames, of which nothing came yet
        self._progress = InputProgress()
        self._saved_inputs: dict[str, SavedInput] = {}  # those that have not been begun yet
        self._tasks: TaskGroup | None = None
        self._exits = AsyncExitStack()
        self._state = "new"
        self._final = False

    def _make_keeper(self, state: str | os.PathLike[str] | DirectoryStore) -> StateKeeper:
        if self._recorded is not None:
            raise ConfigError("the state of a recording is not kept: it can be read again")

        def monitor_of(source: str) -> Monitor:
            return self._consumer_of(source).at_rest()

        def parts() -> StreamParts:
            return StreamParts(
                self._monitors,
                self._limits,
                self._silences,
                self._drops,
                self._others,
                self._progress,
                self._input_watch,
            )

        return StateKeeper(state, parts, monitor_of, lambda s: self._consumer_of(s).batch, __version__)

    @property
    def is_open(self) -> bool:
        """Return whether the stream has been opened and not yet closed."""
        return self._state == "open"

    # Opening and closing

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise ClosedStreamError("a KVStream is opened once; make another")
        close_in_children(self)
        threads = anyio.CapacityLimiter(len(self._consumers)) if len(self._consumers) > 1 else None
        for consumer in self._consumers:
            consumer.open(self.config.queue_events, threads)
        if self._keeper is not None:
            self._go_on(await self._keeper.open(self._clock() / 1e9))
            self._exits.callback(self._keeper.close)
        self._tasks = await self._exits.enter_async_context(anyio.create_task_group())
        self._state = "open"
        self._opened_at = self._clock() / 1e9
        for number, consumer in enumerate(self._consumers):
            self._tasks.start_soon(consumer.run, name=f"kvstream consumer {number}")
        self._tasks.start_soon(self._producers.flush_regularly, name="kvstream flusher")
        if self._recorded is None:
            self._tasks.start_soon(self._pass_time, name="kvstream clock")
        if self.config.metrics.export_interval:
            self._tasks.start_soon(self._summarize_regularly, name="kvstream summaries")
        if self._keeper is not None:
            self._tasks.start_soon(self._keeper.saver.run, name="kvstream state")
        for topic in self._topics:
            topic.open(self._tasks)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._tasks is not None  # noqa: S101
        if self._state == "forked":
            return  # its tasks and its loop are the parent's
        reason = "cancelled"
        try:
            if exc is None:
                is_drained = await self._drain()
                reason = "closed" if is_drained else "shutdown_timeout"
        finally:
            self._state = "closed"
            self._rest()  # as threads stop after a slice then, and not after the whole batch
            self._tasks.cancel_scope.cancel()
            # The body's own exception goes on as it is, not wrapped into a group.
            try:
                await self._exits.__aexit__(None, None, None)
            finally:
                self._settle(reason)

    async def _drain(self) -> bool:
        """Apply what is on its way, and deliver what came of it; return whether there was time for all."""
        with anyio.move_on_after(self.config.shutdown_timeout) as scope:
            await self._producers.flush()
            for consumer in self._consumers:
                consumer.queue.close()
            for consumer in self._consumers:
                await consumer.ended.wait()
            scope.deadline += await self._save_last()
            if self._goes_on:
                self._finish()
            else:
                await self._end_windows()
            for topic in self._topics:
                topic.close()
            owed = self._alerts.owed()
            async with anyio.create_task_group() as farewells:
                for topic in self._topics:
                    farewells.start_soon(topic.handled, self.config.delivery_timeout)
            if self._alerts.owed() != owed:
                await self._save_last()  # or the next process would deliver them again
        return not scope.cancelled_caught

    async def _save_last(self) -> float:
        """Save everything for the next process, if it is to be; return seconds that this took."""
        if self._keeper is None:
            return 0.0
        began = anyio.current_time()
        with anyio.CancelScope(shield=True), anyio.move_on_after(self._keeper.saver.interval):
            await self._keeper.saver.save()
        return anyio.current_time() - began

    async def _end_windows(self) -> None:
        """End the windows of every source, while other tasks go on."""
        if self._recorded is not None:
            self._publish_alerts(self._recorded.end())
        async for source in sources_in_turn(self):
            self._publish_alerts(source.finish())
        self._finish()

    def _finish(self) -> None:
        """End every window, unless another process goes on with it, and publish the last summary, once."""
        if not self._final:
            self._final = True
            if not self._goes_on:
                self._publish_alerts(self._look_at_drops())
                for monitor in self._monitors:
                    self._publish_alerts(monitor.finish())
            if self._summaries.listening:
                self._summaries.publish(self.summary_nowait())

    def _settle(self, reason: str) -> None:
        """Account for everything that was still on its way."""
        self._producers.close(reason)
        for consumer in self._consumers:
            consumer.abandon(reason)
        if reason != "cancelled":
            self._finish()
        for topic in self._topics:
            topic.abandon_handlers()
            topic.close()

    def close_after_fork(self) -> None:
        """Close the copy in a forked child; what was on its way is the parent's to process."""
        self._state = "forked"
        for consumer in self._consumers:
            consumer.close_after_fork()
        self._producers.close_after_fork()

    # State that outlives the process

    @property
    def _goes_on(self) -> bool:
        """Whether another process is to go on with the windows and alerts, from what was saved."""
        return self._keeper is not None and self._keeper.saver.saved_at is not None

    def _others(self) -> dict[str, Any]:
        """Return what the stream itself has to go on from, as plain values."""
        counted = self._producers.statistics()
        dropped = Counter(self._before.dropped)
        for sender in (counted.others, *counted.producers):
            dropped.update(sender.dropped)
        return {
            "malformed": self._before.malformed + self._malformed_count,
            "dropped": dict(+dropped),
            "marks": self._marks.save(),
            "silent_seconds": self._arrivals.ages(),
            "owed_alerts": msgspec.to_builtins(self._alerts.owed()),
            "degraded": self._keeper.degraded.save() if self._keeper is not None else {},
        }

    def _go_on(self, restored: Restored) -> None:
        """Go on from what was restored."""
        others = restored.others
        owed = msgspec.convert(others.get("owed_alerts", []), list[tuple[str, list[CacheAlert]]])
        self._alerts.go_on(owed, self.firing())
        self._publish_alerts(restored.alerts)
        self._marks.restore(others.get("marks", []))
        dropped, malformed = others.get("dropped", {}), others.get("malformed", 0)
        engine = accounts_of(self._monitors, None, None)
        self._before = _Counted(engine.offered + sum(dropped.values()), malformed, dropped)
        silent = others.get("silent_seconds", {})
        self._arrivals.restore(
            {source: silent.get(source, 0.0) - _RECONNECT_SECONDS for source in restored.sources}
        )
        self._unheard = {
            name
            for monitor in self._monitors
            for name, source in monitor.sources.items()
            if source.cursor is None
        }
        self._progress.restore(restored.inputs)
        self._saved_inputs = restored.inputs

    def _restart_embedded(self, source: str) -> None:
        """Clear a restored source of this process: its engine and its cache ended with the one before."""
        self._unheard.discard(source)
        consumer = self._consumer_of(source)
        if source not in consumer.taken and (found := consumer.at_rest().sources.get(source)) is not None:
            found.restart()

    def cursors(self) -> Mapping[str, Cursor]:
        """Return how far the frames of each source had come when it was saved, for inputs to go on from.

        It is what was restored when the stream was opened; empty without ``state``, or where nothing was
        saved. Sources without numbered frames are left out.
        """
        return {} if self._keeper is None else self._keeper.cursors

    # Getting events in

    def producer(
        self,
        source: str = DEFAULT_SOURCE,
        tier: str = DEFAULT_TIER,
        overflow: OverflowPolicy | None = None,
    ) -> Producer:
        """Return the producer of one source's events; equal arguments return the same one.

        Args:
            source: Cache instance, such as an engine rank; 1 to 256 characters.
            tier: Where its blocks live; 1 to 256 characters.
            overflow: What to do when the queue is full; by default as configured.

        Raises:
            ClosedStreamError: If the stream is not open.
            ConfigError: If an argument cannot be used.
        """
        made = self._producers.get(source, tier, overflow)
        if source in self._unheard:
            self._restart_embedded(source)
        return made

    async def send(self, frame: EventFrame) -> None:
        """Put a ready frame onto its source's queue, waiting for room.

        If the wait is cancelled, the frame is counted as dropped (``cancelled``); if the stream is closed
        meanwhile, as ``closed``.

        Raises:
            ClosedStreamError: If the stream is not open.
            MalformedInputError: If the source or tier is no name; nothing is counted then.
        """
        await self._producers.send(frame)
        if self._keeper is not None:
            self._keeper.saver.held.send(frame.source)

    async def feed(self, items: AsyncIterable[EventFrame | Malformed]) -> None:
        """Send every frame of an input on and count what of it was malformed, until the input ends."""
        try:
            async for item in items:
                await self.take(item)
        finally:
            if isinstance(items, AsyncGenerator):  # which holds files or sockets
                await items.aclose()

    async def take(self, item: EventFrame | Malformed) -> None:
        """Send a frame of an input on, or count what of it was malformed."""
        if not isinstance(item, EventFrame):
            self.reject(item)
            return
        if item.position is not None:
            self._progress.take(item)
            if self._keeper is not None and self._keeper.saver.saved_at is None:
                self._keeper.saver.soon()  # as without a snapshot nobody knows where to go on
        try:
            await self.send(item)
        except MalformedInputError as error:
            self._progress.apply([item], False)
            self.reject(Malformed("input", "frame", 0, str(error)))

    async def forget(self, source: str) -> None:
        """Forget a source that is watched no more: its accounts stay in the totals, its alerts end."""
        await self._consumer_of(source).queue.join()
        if source in self._arrivals:
            self._forget(source, "it is watched no more")

    async def flush(self) -> None:
        """Wait until everything recorded or sent so far has been processed."""
        self._require_open()
        await self._producers.flush()
        for consumer in self._consumers:
            await consumer.queue.join()

    def input_ended(self, ends: Mapping[str, int]) -> None:
        """Take note that recordings have ended while others go on, so that their sources are not silent.

        It concerns a stream of recordings (``StreamConfig.recorded``) only, and may be called while their
        frames are still on their way.

        Args:
            ends: The newest time in its recording by source, nanoseconds since the Unix epoch.
        """
        if self._recorded is not None:
            self._recorded.input_ended(ends)

    def watch_inputs(self, statistics: Callable[[], Iterable[InputStatistics]]) -> None:
        """Show the states of inputs beside the stream's own: what it returns is asked for when needed."""
        self._inputs.append(statistics)

    def inputs(self) -> list[InputStatistics]:
        """Return the accounts of the inputs that are watched, one entry a connection."""
        return [seen for statistics in self._inputs for seen in statistics()]

    def reject(self, malformed: Malformed) -> None:
        """Count a piece of input that could not be decoded; the last hundred are kept."""
        self._malformed_count += malformed.count
        self.malformed.append(malformed)

    def _consumer_of(self, source: str) -> Consumer:
        return self._consumers[_hashed(source) % len(self._consumers)]

    @property
    def _monitors(self) -> list[Monitor]:
        """The state of each consumer, which no thread changes before the next ``await``."""
        return [consumer.at_rest() for consumer in self._consumers]

    def _rest(self) -> None:
        """Wait until no thread changes any state, some milliseconds; none does before the next ``await``."""
        for consumer in self._consumers:
            consumer.at_rest()

    def _require_open(self) -> None:
        if self._state != "open":  # asked for each frame
            if self._state == "new":
                raise ClosedStreamError("the stream is not open yet")
            self._require_unclosed()

    def _require_unclosed(self) -> None:
        if self._state == "forked":
            raise ClosedStreamError(
                "the stream is open in the process that forked this one: open another here"
            )
        if self._state == "closed":
            raise ClosedStreamError("the stream is closed")

    # Getting results out

    async def silence(self, silence: Silence) -> Silence:
        """Begin a silence; what it covers and still fires at its end is notified then.

        Alerts that fire are looked at source by source, while other tasks go on. If it is cancelled, the
        silence holds; the rest of the alerts are looked at when their caches are judged next.

        Its end is event time: about the clock's for live sources, the recording's for a replay
        (``event_time`` says which it is now).

        Returns:
            The silence with its id.

        Raises:
            ConfigError: If there are 1,000 already.
        """
        self._rest()  # as silences are looked at wherever windows close
        self._drop_ended_silences()
        silence = self._silences.add(silence)
        await self._look_at_silences()
        return silence

    async def acknowledge(self, fingerprint: str, reason: str = "acknowledged") -> Silence | None:
        """Silence exactly the incident of an alert that fires, until it is over; None if none does.

        A rise of its severity is covered, too. The next incident of the same rule is notified again.

        Args:
            fingerprint: The alert's.
            reason: Why nobody is to be notified of it any more.

        Raises:
            ConfigError: If there are 1,000 silences already.
        """
        alert = next((each for each in self._all_firing() if each.fingerprint == fingerprint), None)
        if alert is None:
            return None
        return await self.silence(
            Silence(
                rule=exactly(alert.rule),
                source=exactly(alert.source),
                tier=exactly(alert.tier),
                incident=alert.incident,
                reason=reason,
                id=f"ack-{alert.incident}",  # so that it is acknowledged once
            )
        )

    async def unsilence(self, silence_id: str) -> bool:
        """End a silence, and notify of what it covered and still fires; False if there is none with that id.

        One of the rules file comes back when the file is read again.
        """
        self._rest()  # as silences are looked at wherever windows close
        removed = self._silences.remove(silence_id)
        await self._look_at_silences()
        return removed

    def silences(self) -> list[Silence]:
        """Return the silences that are not over, the first to end first."""
        self._rest()
        self._drop_ended_silences()
        return self._silences.all()

    def mark(self, text: str, *, timestamp: float | None = None, source: str = "*") -> Mark:
        """Note a moment, such as a deploy, for charts; the last thousand are kept.

        Args:
            text: What happened, in 1 to 256 characters.
            timestamp: When, in seconds since the Unix epoch; by default now, in event time.
            source: Pattern of the sources that it concerns.

        Returns:
            The mark with its id.

        Raises:
            ConfigError: If an argument cannot be used.
        """
        at = self.event_time(source) if timestamp is None else timestamp
        return self._marks.add(Mark(text=text, timestamp=at, source=source))

    def unmark(self, mark_id: str) -> bool:
        """Remove a mark; return whether it was there."""
        return self._marks.remove(mark_id)

    def marks(self, source: str | None = None) -> list[Mark]:
        """Return the marks that concern a source, or all of them, the oldest first."""
        return [mark for mark in self._marks.all() if source is None or fits(mark.source, source)]

    def event_time(self, source: str = "*") -> float:
        """Return the event time now, in seconds, of the newest source that a pattern fits, or of all if none.

        It goes on with the clock while a source is silent. Without any source it is the clock's.
        """
        times = self._event_times()
        chosen = [time for name, time in times.items() if fits(source, name)]
        return max(chosen or times.values(), default=self._clock() / 1e9)

    def _event_times(self) -> dict[str, float]:
        """Return the event time now of each source, in seconds."""
        newest = {
            each.source: max((t.last_ts for t in each.tiers.values()), default=0) for each in sources_of(self)
        }
        return {source: ts / 1e9 + self.input_age(source) for source, ts in newest.items() if ts}

    def _drop_ended_silences(self) -> None:
        times = self._event_times()
        if times:
            self._silences.drop_ended(min(times.values()), {each.incident for each in self._all_firing()})

    async def _look_at_silences(self) -> None:
        for consumer in self._consumers:
            await self._publish_bit_by_bit(consumer.at_rest_for(Monitor.look_at_silences))
        await self._publish_bit_by_bit(self._drops.look_at_silences(self._clock() / 1e9))
        await self._publish_bit_by_bit(self._input_watch.look_at_silences(self._clock() / 1e9))

    async def _publish_bit_by_bit(self, parts: Iterable[list[CacheAlert]]) -> None:
        """Publish alerts part by part; each part takes a millisecond or less."""
        for alerts in parts:
            self._publish_alerts(alerts)
            await checkpoint()

    async def replace_rules(self, rules: Sequence[Rule], silences: Iterable[Silence] = ()) -> None:
        """Judge by other rules from now on, source by source, while other tasks go on.

        What fires by a rule that is the same as before goes on. Alerts of rules that are gone or changed are
        resolved; new and changed rules begin without any past, but for the evidence of each cache.

        Args:
            rules: The rules in the place of those of before.
            silences: Silences in the place of those that the stream was made with or that were last given
                here; those that ``silence`` began stay.

        If it is cancelled, some sources go on by the rules of before; call it again.

        Raises:
            ConfigError: If there are too many silences; nothing is changed then.
        """
        self._rest()  # as silences are looked at wherever windows close
        self._silences.replace_configured(silences)
        self._heartbeat = heartbeat_rule(rules)
        self._publish_alerts(self._drops.replace_rules(rules, self._clock() / 1e9))
        self._publish_alerts(self._input_watch.replace_rules(rules, self._clock() / 1e9))
        for consumer in self._consumers:
            await self._publish_bit_by_bit(consumer.at_rest_for(lambda monitor: monitor.replace_rules(rules)))
        await self._look_at_silences()

    def alerts(
        self,
        min_severity: AlertLevel = AlertLevel.INFO,
        *,
        buffer: int | None = None,
        policy: SubscriberPolicy = "drop_oldest",
    ) -> Subscription[CacheAlert]:
        """Return alerts of a minimum severity, as they fire and resolve, beginning with those that fire now.

        Alerts are state: whoever is slow misses intermediate states, but not the newest of any alert.

        Args:
            min_severity: Minimum severity.
            buffer: Alerts that wait with all their states; of any more only the newest states do.
            policy: Beyond that, which of the alerts that began and ended unknown to the subscriber to drop.
        """
        self._require_unclosed()
        wanted = _at_least(min_severity)
        return self._alerts.subscribe(buffer, policy, wanted, first=self.firing(min_severity))

    def summaries(
        self, *, buffer: int | None = None, policy: SubscriberPolicy = "drop_oldest"
    ) -> Subscription[CacheMetricsSummary]:
        """Return a summary of all sources every ``export_interval`` seconds, and a final one."""
        self._require_unclosed()
        return self._summaries.subscribe(buffer, policy)

    def evictions(
        self, *, buffer: int | None = None, policy: SubscriberPolicy = "drop_oldest"
    ) -> Subscription[KVCacheEvictionEvent]:
        """Return a subscription of every eviction; records are made only while somebody listens."""
        self._require_unclosed()
        return self._evictions.subscribe(buffer, policy)

    def on_alert(self, handler: AlertHandler, min_severity: AlertLevel = AlertLevel.INFO) -> AlertHandler:
        """Call ``handler(alert)``, async or plain, for each alert; also a decorator.

        It begins with the alerts that fire now. A handler that raises ``UndeliveredError`` is called again
        later, with the newest state of each alert; any other error counts the alert as undelivered.
        """
        self._require_unclosed()
        self._alerts.handle(handler, _at_least(min_severity), first=self.firing(min_severity))
        return handler

    def on_alert_group(
        self, handler: GroupHandler, min_severity: AlertLevel = AlertLevel.INFO, wait: float = 1.0
    ) -> GroupHandler:
        """Call ``handler(group)`` with the alerts of a source that change within ``wait`` seconds."""
        batching = Batching[CacheAlert](lambda alerts: alert_groups(alerts, wait), lambda group: group.alerts)
        self.on_alert_batch(handler, batching, min_severity)
        return handler

    def on_alert_batch(
        self,
        handler: Callable[[Any], Any] | Delivery,
        batching: Batching[CacheAlert],
        min_severity: AlertLevel = AlertLevel.INFO,
    ) -> None:
        """Call ``handler(batch)`` with what ``batching`` makes of the alerts, as ``on_alert`` does."""
        self._require_unclosed()
        self._alerts.handle(handler, _at_least(min_severity), batching, self.firing(min_severity))

    def on_summary(self, handler: SummaryHandler) -> SummaryHandler:
        """Call ``handler(summary)``, async or plain, for each periodic summary; also a decorator."""
        self._require_unclosed()
        self._summaries.handle(handler)
        return handler

    def on_eviction(self, handler: EvictionHandler) -> EvictionHandler:
        """Call ``handler(event)``, async or plain, for each eviction; also a decorator."""
        self._require_unclosed()
        self._evictions.handle(handler)
        return handler

    async def summary(self, source: str | None = None, tier: str | None = None) -> CacheMetricsSummary:
        """Return the summary of one source and tier, or of all, while other tasks go on.

        A summary of a thousand sources takes half a second. What it says of each cache is as it was at some
        moment of that time; its accounts are of one moment. Events are accounted for a stream as a whole,
        blocks for the source and tier asked for. Cancelling it changes nothing.
        """
        gathering, caches = self._gathering(source, tier)
        async for cache in _in_turn(self, caches):
            gathering.add(cache)
        return self._summary(gathering, source, tier)

    def summary_nowait(self, source: str | None = None, tier: str | None = None) -> CacheMetricsSummary:
        """Return the same at once, also after the stream has closed; nothing else runs meanwhile."""
        gathering, caches = self._gathering(source, tier)
        for cache in caches:
            gathering.add(cache)
        return self._summary(gathering, source, tier)

    def _gathering(self, source: str | None, tier: str | None) -> tuple[Gathering, list[CacheMonitor]]:
        caches = caches_of(self, source, tier)
        gathering = Gathering(self.config.metrics, caches)
        for monitor in self._monitors if source is None and tier is None else ():
            gathering.add_forgotten(monitor.forgotten)
        return gathering, caches

    def _summary(self, gathering: Gathering, source: str | None, tier: str | None) -> CacheMetricsSummary:
        summary = gathering.summary(source, tier, self.accounts(source, tier), self._final)
        if tier is None:
            alerts = (alert for alert in self.drop_alerts() if source in (None, alert.source))
            summary.alerts.extend(alert.to_dict() for alert in alerts)
        if source is None and tier is None:
            summary.state = self._saved_state()
        return summary

    def accounts(self, source: str | None = None, tier: str | None = None) -> Accounts:
        """Return where every event and block went; of one source and tier, as far as that is known."""
        if source is None and tier is None:
            return self._accounts(self._producers.statistics())
        return accounts_of(self._monitors, source, tier)

    def hottest(self, source: str, tier: str = DEFAULT_TIER, n: int = 20) -> list[HotBlock]:
        """Return the ``n`` live blocks of a source and tier that have been accessed most."""
        return [b for m in caches_of(self, source, tier) for b in m.table.hottest(n, m.last_ts)]

    def longest_held(self, source: str, tier: str = DEFAULT_TIER, n: int = 20) -> list[HotBlock]:
        """Return the ``n`` live blocks of a source and tier that were allocated first."""
        return [b for m in caches_of(self, source, tier) for b in m.table.longest_held(n, m.last_ts)]

    def firing(self, min_severity: AlertLevel = AlertLevel.INFO) -> list[CacheAlert]:
        """Return the alerts of a minimum severity that fire now and are neither inhibited nor silenced."""
        return [
            alert
            for alert in self._all_firing()
            if not alert.silenced_by and alert.level.at_least(min_severity)
        ]

    def _all_firing(self) -> list[CacheAlert]:
        of_caches = (alert for cache in caches_of(self) for alert in cache.rules.firing())
        return [*of_caches, *self.drop_alerts(), *self._relayed.values()]

    def relay(self, alert: CacheAlert, *, is_news: bool = True) -> None:
        """Publish an alert of another stream as if it were of this one; it fires here until it resolves.

        Args:
            alert: The alert.
            is_news: Publish it; otherwise it only counts among what fires.

        Raises:
            ClosedStreamError: If the stream is not open.
        """
        self._require_open()
        if alert.state == "firing":
            self._relayed[alert.fingerprint] = alert
        else:
            self._relayed.pop(alert.fingerprint, None)
        if is_news:
            self._publish_alerts([alert])

    def alerts_handled(self) -> bool:
        """Return whether the handlers have had every alert that was published so far."""
        return self._alerts.is_handled

    def heartbeat(self) -> CacheAlert | None:
        """Return the alert that fires while the stream is open, a dead man's switch; None if its rule is off.

        It is no news, so that no subscriber hears of it. ``Alertmanager`` posts it again and again: where it
        is missed there, kvstream is gone.
        """
        if self._heartbeat is None or not self.is_open:
            return None
        return heartbeat_alert(self._heartbeat, self._opened_at, self._clock() / 1e9)

    def input_age(self, source: str) -> float:
        """Return seconds since the last frame of a source was applied; 0 for a source that is not known."""
        return self._arrivals.age(source) if self._state == "open" else 0.0

    def event_lag(self, source: str) -> float | None:
        """Return seconds from the newest event of a source to when it was applied; None if not known.

        Of a live source, it is how far what is shown lies behind; less than 0 if its clock is ahead of ours.
        Of a recording, it is how old that is.
        """
        return self._arrivals.lag(source)

    def drop_alerts(self) -> list[CacheAlert]:
        """Return the alerts that fire on what never reaches a cache.

        That is what is refused, what has come before, and what an input does not bring.
        """
        return [*self._drops.firing(), *self._input_watch.firing()]

    def caches(self) -> list[tuple[str, str]]:
        """Return the source and tier of each cache that is followed, sorted."""
        return sorted((cache.source, cache.tier) for cache in caches_of(self))

    def statistics(self) -> StreamStatistics:
        """Return the inside of the stream now."""
        counted = self._producers.statistics()
        return StreamStatistics(
            self._accounts(counted),
            () if self._state == "new" else tuple(each.queue.statistics() for each in self._consumers),
            counted.producers,
            tuple(entry for topic in self._topics for entry in topic.statistics()),
            dict(self.faults.counts),
            tuple(self.inputs()),
            self._saved_state(),
        )

    def _saved_state(self) -> SavedState | None:
        return None if self._keeper is None else self._keeper.statistics()

    def _accounts(self, counted: ProducersStatistics) -> Accounts:
        """Return the accounts of the whole stream at the moment when its producers had counted this.

        While threads record, events go from a producer to a queue between two looks. So what is in flight is
        not looked for there: it is what was offered and has neither been dropped nor left a queue to be
        applied. The last changes with the state of a consumer only, which is at rest, each producer's counts
        under a lock of its own.
        """
        accounts = accounts_of(self._monitors, None, None)
        dropped = Counter(accounts.dropped)
        dropped.update(self._before.dropped)
        offered = 0
        in_flight = -sum(consumer.consumed for consumer in self._consumers)
        for sender in (counted.others, *counted.producers):
            offered += sender.offered
            in_flight += sender.offered - sum(sender.dropped.values())
            dropped.update(sender.dropped)
        if self._state == "forked":  # which may have been in the middle of a slice
            dropped["forked"] += self._before.offered + offered - accounts.processed - dropped.total()
            in_flight = 0
        accounts.malformed = self._before.malformed + self._malformed_count
        accounts.offered = self._before.offered + offered + accounts.malformed
        accounts.in_flight = in_flight
        accounts.dropped = dict(dropped)
        return accounts

    # Tasks

    def _before_batch(self, monitor: Monitor, frames: Sequence[EventFrame]) -> bool:
        """Prepare for frames that are to be applied; return whether anybody listens to evictions."""
        if not monitor.has_room_for(frames):
            self._make_room()
        if self._recorded is not None:
            self._reach(self._recorded, frames)
        return self._evictions.listening

    def _publish_outcome(self, outcome: Outcome) -> None:
        self._publish_alerts(outcome.alerts)
        for event in outcome.eviction_events():
            self._evictions.publish(event)

    def _after_batch(self, monitor: Monitor, batch: Sequence[Item]) -> None:
        """Take note that frames of a source were applied."""
        newest = batch[-1][0]
        source = newest.source
        self._progress.apply((frame for frame, _ in batch), source in monitor.sources)
        self._unheard.discard(source)
        if source in monitor.sources and self._recorded is None:
            self._arrivals.note(
                source, (self._clock() - int(newest.ts[-1])) / 1e9 if len(newest.ts) else None
            )
        if self._keeper is not None:
            sent = sum(sender is self._producers.frames for _, sender in batch)
            self._keeper.saver.held.apply(source, sent)

    def _reach(self, recorded: RecordedTime, frames: Sequence[EventFrame]) -> None:
        """Let the time of a recording go on to frames that are to be applied."""
        before = recorded.now_ns
        self._publish_alerts(recorded.reach(frames))
        if recorded.now_ns > before:
            self._publish_alerts(self._look_at_drops())

    async def _pass_time(self) -> None:
        """Let the time of silent sources go on as the clock does, so that silence is noticed and alerts end.

        Only the time since a source's last frame is taken from the clock: a replay has times of its own.
        Events that are on their way meanwhile are not late for that (``WindowRing.advance``).
        """
        tick = max(_LEAST_TICK_SECONDS, self.config.metrics.window_seconds)
        while True:
            began = anyio.current_time()
            await anyio.sleep(tick)
            late = anyio.current_time() - began - tick
            if late > _STOPPED_SECONDS:  # the process was stopped: that no source was heard says nothing
                self._arrivals.postpone(late)
            self._publish_alerts(self._look_at_drops())
            await self._forget_silent()
            async for cache in caches_in_turn(self):
                if self._is_followed(cache):
                    self._publish_alerts(cache.pass_silence(self._silent_seconds(cache.source)))

    def _is_followed(self, cache: CacheMonitor) -> bool:
        """Return whether a cache has not been forgotten."""
        source = self._consumer_of(cache.source).at_rest().sources.get(cache.source)
        return source is not None and source.tiers.get(cache.tier) is cache

    def _silent_seconds(self, source: str) -> float:
        """Return seconds since a source's last frame was applied; 0 if others may be on their way."""
        consumer = self._consumer_of(source)
        if source in consumer.taken or consumer.queue.fill > 0:
            return 0.0
        return self.input_age(source)

    def _look_at_drops(self) -> list[CacheAlert]:
        duplicates = ((each.source, each.duplicates) for each in sources_of(self) if each.duplicates)
        now_ns = self._clock() if self._recorded is None else self._recorded.now_ns
        alerts = self._drops.look(self._limits.refused, duplicates, now_ns / 1e9)
        readings = [reading for seen in self.inputs() for reading in readings_of(seen, now_ns / 1e9)]
        if self._keeper is not None:
            readings += self._keeper.readings()
        return [*alerts, *self._input_watch.look(readings, now_ns / 1e9)]

    async def _forget_silent(self) -> None:
        """Forget sources that have been silent for ``forget_seconds``, as a rule dead ones."""
        forget_after = self.config.metrics.forget_seconds
        while forget_after and self._silent_longest(forget_after):
            self._forget_longest_silent()
            await checkpoint()  # each takes a part of a millisecond

    def _make_room(self) -> None:
        """Forget the source that has been silent for the longest time, if that is long."""
        if self._silent_longest(self.config.metrics.forget_seconds / _SOONER):
            self._forget_longest_silent()

    def _silent_longest(self, seconds: float) -> bool:
        """Return whether the source silent for longest has been silent for ``seconds``."""
        silent = self._arrivals.longest_silent()
        if not seconds or silent is None or silent[0] in self._consumer_of(silent[0]).taken:
            return False
        return silent[1] >= seconds

    def _forget_longest_silent(self) -> None:
        if (silent := self._arrivals.longest_silent()) is not None:
            source, seconds = silent
            self._forget(source, f"the source was forgotten after {seconds:,.0f} s without events")

    def _forget(self, source: str, why: str) -> None:
        self._arrivals.forget(source)
        self._progress.forget(source)
        self._publish_alerts(self._consumer_of(source).at_rest().forget(source, why))
        self._publish_alerts(self._drops.forget(source, why, self._clock() / 1e9))

    async def _summarize_regularly(self) -> None:
        while True:
            await anyio.sleep(self.config.metrics.export_interval)
            if self._summaries.listening:
                self._summaries.publish(await self.summary())

    def _publish_alerts(self, alerts: list[CacheAlert]) -> None:
        for alert in alerts:
            self._alerts.publish(alert)


def input_marker(stream: KVStream, name: str) -> InputMarker | None:
    """Return what marks the frames of an input that can be read again, and says from where on.

    Args:
        stream: The stream.
        name: Names the input, the same in the next process.

    Returns:
        A marker; None for a stream that keeps no state.
    """
    if stream._keeper is None:
        return None
    return InputMarker(name, stream._saved_inputs.pop(name, None), stream._keeper.cursors)


def caches_of(stream: KVStream, source: str | None = None, tier: str | None = None) -> list[CacheMonitor]:
    """Return the monitor of each cache of a source and tier, None for any; to be read as ``sources_of``."""
    return [cache for monitor in stream._monitors for cache in monitor.caches(source, tier)]


def sources_of(stream: KVStream) -> list[SourceMonitor]:
    """Return the monitor of each source, to be read on the event loop up to the next ``await``."""
    return [source for monitor in stream._monitors for source in monitor.sources.values()]


def caches_in_turn(
    stream: KVStream, source: str | None = None, tier: str | None = None
) -> AsyncIterator[CacheMonitor]:
    """Yield what ``caches_of`` returns one by one, each to be read up to the next ``await``.

    Other tasks go on meanwhile, and may change or forget what is yielded later.
    """
    return _in_turn(stream, caches_of(stream, source, tier))


def sources_in_turn(stream: KVStream) -> AsyncIterator[SourceMonitor]:
    """Yield what ``sources_of`` returns as ``caches_in_turn`` does."""
    return _in_turn(stream, sources_of(stream))


async def _in_turn(stream: KVStream, monitors: Sequence[Monitored]) -> AsyncIterator[Monitored]:
    began = anyio.current_time()
    for monitor in monitors:
        stream._consumer_of(monitor.source).at_rest()
        yield monitor
        if anyio.current_time() - began >= _TURN_SECONDS:
            await checkpoint()
            began = anyio.current_time()
    await checkpoint()


def keeper_of(stream: KVStream) -> StateKeeper | None:
    """Return what keeps the state of a stream; None for a stream without."""
    return stream._keeper


def _at_least(min_severity: AlertLevel) -> Callable[[CacheAlert], bool]:
    return lambda alert: alert.level.at_least(min_severity)


@lru_cache(maxsize=4096)
def _hashed(source: str) -> int:
    """Return the same number for a source in every process."""
    return zlib.crc32(source.encode("utf-8", "surrogatepass"))
