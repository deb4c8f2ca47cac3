"""KVStream: producers fill queues, consumer tasks update state, subscribers hear of it."""

import os
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio

from kvstream.alerts.buffer import AlertBuffer
from kvstream.alerts.groups import AlertGroup, alert_groups
from kvstream.alerts.inputs import InputReading
from kvstream.alerts.rule import Rule
from kvstream.alerts.silences import Silence, Silences, fits
from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.blocks.apply_result import KVCacheEvictionEvent
from kvstream.blocks.state import HotBlock
from kvstream.config import OverflowPolicy, StreamConfig
from kvstream.engine.cache import Outcome
from kvstream.engine.inputs import InputStatistics, readings_of
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import Monitor
from kvstream.engine.recorded import RecordedTime
from kvstream.errors import ClosedStreamError, ConfigError, MalformedInputError
from kvstream.events.clock import Clock
from kvstream.events.frame import EventFrame
from kvstream.events.sequence import Cursor
from kvstream.events.types import DEFAULT_SOURCE, DEFAULT_TIER, Malformed
from kvstream.faults.fork import close_in_children
from kvstream.faults.log import FaultLog
from kvstream.metrics.marks import Mark, Marks
from kvstream.metrics.summary import Accounts, CacheMetricsSummary
from kvstream.recording.producer import Producer
from kvstream.recording.queue import Batch
from kvstream.recording.registry import ProducerSet
from kvstream.state.resumption import InputMarker
from kvstream.streaming.accounts import StreamAccounts, StreamStatistics
from kvstream.streaming.alerting import StreamAlerts
from kvstream.streaming.consumer import Consumer
from kvstream.streaming.consumers import Consumers
from kvstream.streaming.event_times import EventTimes
from kvstream.streaming.liveness import Liveness
from kvstream.streaming.saved import SavedStream
from kvstream.streaming.summaries import StreamSummaries
from kvstream.subscriptions.buffer import SubscriberPolicy
from kvstream.subscriptions.handler import Batching, Delivery
from kvstream.subscriptions.subscription import Subscription
from kvstream.subscriptions.topic import Topic

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from kvstream.state.keeper import StateKeeper
    from kvstream.state.store import DirectoryStore

AlertHandler = TypeVar("AlertHandler", bound=Callable[[CacheAlert], Any] | Delivery)
GroupHandler = TypeVar("GroupHandler", bound=Callable[[AlertGroup], Any] | Delivery)
SummaryHandler = TypeVar("SummaryHandler", bound=Callable[[CacheMetricsSummary], Any])
EvictionHandler = TypeVar("EvictionHandler", bound=Callable[[KVCacheEvictionEvent], Any])


class KVStream:
    """An event stream of KV-cache blocks, open inside ``async with``.

    Leaving the block drains producers and queues, delivers the last alerts and a final summary, and ends the
    subscriptions, all within ``shutdown_timeout``. A handler without success for ``delivery_timeout`` is not
    waited for, and its items count as undelivered. Leaving the block by an exception or by cancellation
    drains nothing; events in flight are counted as ``cancelled``.

    With ``state``, the stream continues from the saved state, saves it every few seconds, and once more when
    it is left. Leaving it then does not end the caches: windows stay open and alerts stay firing for the next
    process. Opening it raises ``StateError`` if another stream uses that directory.

    In a forked child the copy is closed: summaries show what was known at the fork, and everything that needs
    an open stream raises ``ClosedStreamError``.

    Args:
        config: Settings; the defaults measure everything.
        rules: Alert rules; the built-in ones by default.
        clock: Nanoseconds since the Unix epoch, for producers.
        silences: Silences to begin with; ``silence`` adds others.
        state: Directory that the state is kept in; None keeps it in memory.

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
        state: "str | os.PathLike[str] | DirectoryStore | None" = None,
    ) -> None:
        self.config = config or StreamConfig()
        self.faults = FaultLog()  # where servers and handlers around the stream note the errors they contain
        self._clock = clock or Clock()
        self._phase = "new"
        self._opened_at = 0.0
        self._tasks: TaskGroup | None = None
        self._exits = AsyncExitStack()
        buffer = self.config.subscriber_buffer
        self._alerts: Topic[CacheAlert] = Topic("alerts", buffer, AlertBuffer, faults=self.faults)
        self._summaries: Topic[CacheMetricsSummary] = Topic("summaries", buffer, faults=self.faults)
        self._evictions: Topic[KVCacheEvictionEvent] = Topic("evictions", buffer, faults=self.faults)
        self._topics: tuple[Topic[Any], ...] = (self._alerts, self._summaries, self._evictions)
        self._inputs: list[Callable[[], Iterable[InputStatistics]]] = []
        self._marks = Marks()
        held, limits = Silences(silences), StreamLimits(self.config.metrics)
        monitors = [Monitor(self.config.metrics, rules, held, limits) for _ in range(self.config.consumers)]
        recorded = RecordedTime(monitors[0]) if self.config.recorded else None
        step_ns = None if recorded is None else recorded.step_ns
        self._consumers = Consumers(
            Consumer(monitor, step_ns, self._before_batch, self._publish_outcome, self._after_batch)
            for monitor in monitors
        )
        self._producers = ProducerSet(
            self.config, self._clock, lambda s: self._consumers.of(s).queue, self._require_open
        )
        self._accounts = StreamAccounts(self._consumers, self._producers)
        self.malformed: deque[Malformed] = self._accounts.malformed
        self._times = EventTimes(self._consumers, self._clock, recorded)
        self._alerting = StreamAlerts(
            monitors[0].rules, held, self._consumers, limits, self._times, self._readings, self._alerts
        )
        if state is not None and recorded is not None:
            raise ConfigError("the state of a recording is not kept: it can be read again")
        self._saved = SavedStream(
            state,
            self._consumers,
            limits,
            self._alerting,
            self._accounts,
            self._times.arrivals,
            self._marks,
        )
        self._summarized = StreamSummaries(
            self.config.metrics, self._consumers, self._alerting, self._accounts, self._saved
        )
        self._liveness = Liveness(
            self.config.metrics, self._consumers, self._times, self._alerting, self._saved.progress
        )

    @property
    def is_open(self) -> bool:
        """Return whether the stream has been opened and not yet closed."""
        return self._phase == "open"

    # Opening and closing

    async def __aenter__(self) -> Self:
        if self._phase != "new":
            raise ClosedStreamError("a KVStream is opened once; make another")
        close_in_children(self)
        self._consumers.open(self.config.queue_events)
        await self._saved.open(self._clock() / 1e9)
        self._exits.callback(self._saved.close)
        self._tasks = await self._exits.enter_async_context(anyio.create_task_group())
        self._phase = "open"
        self._opened_at = self._clock() / 1e9
        for number, consumer in enumerate(self._consumers):
            self._tasks.start_soon(consumer.run, name=f"kvstream consumer {number}")
        self._tasks.start_soon(self._producers.flush_regularly, name="kvstream flusher")
        if not self.config.recorded:
            self._tasks.start_soon(self._liveness.run, name="kvstream clock")
        if self.config.metrics.export_interval:
            self._tasks.start_soon(self._summarize_regularly, name="kvstream summaries")
        if self._saved.keeper is not None:
            self._tasks.start_soon(self._saved.keeper.saver.run, name="kvstream state")
        for topic in self._topics:
            topic.open(self._tasks)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._tasks is not None  # noqa: S101
        if self._phase == "forked":
            return  # its tasks and its loop are the parent's
        reason = "cancelled"
        try:
            if kind is None:
                is_drained = await self._drain()
                reason = "closed" if is_drained else "shutdown_timeout"
        finally:
            self._phase = "closed"
            self._times.arrivals.close()
            self._consumers.rest()  # as threads stop after a slice then, and not after the whole batch
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
            await self._consumers.drain()
            scope.deadline += await self._saved.save()
            if not self._saved.goes_on:
                await self._liveness.end()
            self._finish()
            for topic in self._topics:
                topic.close()
            owed = self._alerts.owed()
            async with anyio.create_task_group() as farewells:
                for topic in self._topics:
                    farewells.start_soon(topic.handled, self.config.delivery_timeout)
            if self._alerts.owed() != owed:
                await self._saved.save()  # or the next process would deliver them again
        return not scope.cancelled_caught

    def _finish(self) -> None:
        """End every window, unless another process continues it, and publish the last summary, once."""
        if self._summarized.end():
            if not self._saved.goes_on:
                self._alerting.publish(self._alerting.look())
                for monitor in self._consumers.monitors:
                    self._alerting.publish(monitor.finish())
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
        """Close the copy in a forked child; the parent processes the events in flight."""
        self._phase = "forked"
        self._times.arrivals.close()
        self._accounts.close_after_fork()
        for consumer in self._consumers:
            consumer.close_after_fork()
        self._producers.close_after_fork()

    def cursors(self) -> Mapping[str, Cursor]:
        """Return the next frame of each source after the saved state, from which its input must continue.

        These were restored when the stream was opened. It is empty without ``state``, or if nothing was
        saved. Sources without numbered frames are left out.
        """
        return self._saved.cursors

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
        self._saved.restart_embedded(source)
        return made

    async def send(self, frame: EventFrame) -> None:
        """Put a ready frame onto its source's queue, waiting for room.

        If the wait is cancelled, the frame is counted as dropped (``cancelled``); if the stream is closed
        meanwhile, as ``closed``.

        Raises:
            ClosedStreamError: If the stream is not open.
            MalformedInputError: If the source or tier is no name; nothing is counted then.
        """
        if (full := self._producers.offer(frame)) is not None:
            await self._producers.wait(frame, full)
        self._saved.send(frame.source)

    async def feed(self, items: AsyncIterable[EventFrame | Malformed]) -> None:
        """Send every frame of an input, and count its malformed pieces, until the input ends.

        If it is cancelled or fails, an input that is an asynchronous generator is closed.

        Raises:
            ClosedStreamError: If the stream is not open.
            Exception: What the input raises.
        """
        try:
            async for item in items:
                await self.take(item)
        finally:
            if isinstance(items, AsyncGenerator):  # which holds files or sockets
                await items.aclose()

    async def take(self, item: EventFrame | Malformed) -> None:
        """Send a frame of an input, waiting for room, or count a malformed piece.

        A frame with a source or tier that is no name counts as malformed. If the wait is cancelled, the frame
        is counted as dropped (``cancelled``).

        Raises:
            ClosedStreamError: If the stream is not open.
        """
        if not isinstance(item, EventFrame):
            self.reject(item)
            return
        self._saved.take(item)
        try:
            await self.send(item)
        except MalformedInputError as error:
            self._saved.progress.apply([item], False)
            self.reject(Malformed("input", "frame", 0, str(error)))

    async def forget(self, source: str) -> None:
        """Forget a source that is no longer watched: its accounts stay in the totals, its alerts resolve.

        What it has sent so far is processed first. Cancelling that wait leaves the source as it is.

        Raises:
            ClosedStreamError: If the stream has not been opened, or by a process that forked this one.
        """
        if self._phase != "closed":
            self._require_open()
        await self._consumers.of(source).queue.join()
        if source in self._times.arrivals:
            self._liveness.forget(source, "it is no longer watched")

    async def flush(self) -> None:
        """Wait until everything recorded or sent so far has been processed.

        Cancelling it only ends the wait.

        Raises:
            ClosedStreamError: If the stream is not open.
        """
        self._require_open()
        await self._producers.flush()
        await self._consumers.join()

    def input_ended(self, ends: Mapping[str, int]) -> None:
        """Note that recordings have ended while others continue, so that their sources are not silent.

        It concerns a stream of recordings (``StreamConfig.recorded``) only, and may be called while their
        frames are still on their way.

        Args:
            ends: The newest time in its recording by source, nanoseconds since the Unix epoch.
        """
        if self._times.recorded is not None:
            self._times.recorded.input_ended(ends)

    def watch_inputs(self, statistics: Callable[[], Iterable[InputStatistics]]) -> None:
        """Show the states of inputs with the stream's own; the function is called when they are needed."""
        self._inputs.append(statistics)

    def inputs(self) -> list[InputStatistics]:
        """Return the accounts of the inputs that are watched, one entry a connection."""
        return [seen for statistics in self._inputs for seen in statistics()]

    def reject(self, malformed: Malformed) -> None:
        """Count a piece of input that could not be decoded; the last hundred are kept."""
        self._accounts.reject(malformed)

    def _require_open(self) -> None:
        if self._phase != "open":  # asked for each frame
            if self._phase == "new":
                raise ClosedStreamError("the stream is not open yet")
            self._require_unclosed()

    def _require_unclosed(self) -> None:
        if self._phase == "forked":
            raise ClosedStreamError(
                "the stream is open in the process that forked this one: open another here"
            )
        if self._phase == "closed":
            raise ClosedStreamError("the stream is closed")

    # Getting results out

    async def silence(self, silence: Silence) -> Silence:
        """Begin a silence; what it covers and still fires at its end is notified then.

        Firing alerts are updated source by source, while other tasks go on. If it is cancelled, the silence
        holds, and the other alerts are updated when their caches are judged next.

        Its end is event time: about that of the clock for live sources, that of the recording in a replay
        (``event_time`` returns it).

        Returns:
            The silence with its id.

        Raises:
            ConfigError: If there are 1,000 already.
        """
        return await self._alerting.silence(silence)

    async def acknowledge(self, fingerprint: str, reason: str = "acknowledged") -> Silence | None:
        """Silence the incident of a firing alert until it is over; return None if no such alert fires.

        A rise of its severity is covered, too. The next incident of the same rule is notified again.

        Args:
            fingerprint: Fingerprint of the alert.
            reason: Why, for others who see it.

        Raises:
            ConfigError: If there are 1,000 silences already.
        """
        return await self._alerting.acknowledge(fingerprint, reason)

    async def unsilence(self, silence_id: str) -> bool:
        """End a silence, and notify of what it covered and still fires; return False if the id is unknown.

        A silence of the rules file comes back when the file is read again.
        """
        return await self._alerting.unsilence(silence_id)

    def silences(self) -> list[Silence]:
        """Return the silences that are not over, the first to end first."""
        return self._alerting.all_silences()

    def mark(self, text: str, *, timestamp: float | None = None, source: str = "*") -> Mark:
        """Note a moment, such as a deploy, for charts; the last thousand are kept.

        Args:
            text: What happened, in 1 to 256 characters.
            timestamp: When, in seconds since the Unix epoch; by default now, in event time.
            source: Pattern for the sources that it concerns.

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
        """Return the event time now, in seconds, of the newest source that matches a pattern, or of all.

        While a source is silent, it goes on with the clock. Without any source, it is that of the clock.
        """
        return self._times.newest(source)

    async def replace_rules(self, rules: Sequence[Rule], silences: Iterable[Silence] = ()) -> None:
        """Replace the alert rules, source by source, while other tasks go on.

        Alerts of unchanged rules go on. Alerts of removed or changed rules are resolved. New and changed
        rules start with the evidence of each cache, and nothing else.

        Args:
            rules: The new rules.
            silences: Silences that replace those that the stream was made with, or those of the last call;
                silences begun by ``silence`` stay.

        If it is cancelled, some sources still use the former rules; call it again.

        Raises:
            ConfigError: If there are too many silences; nothing is changed then.
        """
        await self._alerting.replace_rules(rules, silences)

    def alerts(
        self,
        min_severity: AlertLevel = AlertLevel.INFO,
        *,
        buffer: int | None = None,
        policy: SubscriberPolicy = "drop_oldest",
    ) -> Subscription[CacheAlert]:
        """Return alerts of a minimum severity, as they fire and resolve, beginning with those that fire now.

        Alerts are state: a slow subscriber misses intermediate states, but never the newest one of an alert.

        Args:
            min_severity: Minimum severity.
            buffer: Alerts that wait with all their states, by default ``StreamConfig.subscriber_buffer``; of
                further ones only the newest states wait.
            policy: Which alerts to drop beyond that, among those that began and ended unseen.

        Raises:
            ClosedStreamError: If the stream is closed.
        """
        self._require_unclosed()
        wanted = _at_least(min_severity)
        return self._alerts.subscribe(buffer, policy, wanted, first=self.firing(min_severity))

    def summaries(
        self, *, buffer: int | None = None, policy: SubscriberPolicy = "drop_oldest"
    ) -> Subscription[CacheMetricsSummary]:
        """Return a subscription of summaries of all sources: one each ``export_interval``, and a final one.

        Args:
            buffer: Summaries that wait; by default ``StreamConfig.subscriber_buffer``.
            policy: Which summary to drop beyond that.

        Raises:
            ClosedStreamError: If the stream is closed.
        """
        self._require_unclosed()
        return self._summaries.subscribe(buffer, policy)

    def evictions(
        self, *, buffer: int | None = None, policy: SubscriberPolicy = "drop_oldest"
    ) -> Subscription[KVCacheEvictionEvent]:
        """Return a subscription of every eviction; records are made only while there is one.

        Args:
            buffer: Evictions that wait; by default ``StreamConfig.subscriber_buffer``.
            policy: Which eviction to drop beyond that.

        Raises:
            ClosedStreamError: If the stream is closed.
        """
        self._require_unclosed()
        return self._evictions.subscribe(buffer, policy)

    def on_alert(self, handler: AlertHandler, min_severity: AlertLevel = AlertLevel.INFO) -> AlertHandler:
        """Call ``handler(alert)``, async or plain, for each alert; also a decorator.

        It begins with the alerts that fire now. A handler that raises ``UndeliveredError`` is called again
        later, with the newest state of each alert; any other error counts the alert as undelivered.

        Args:
            handler: Called with one alert at a time, the next once it has returned.
            min_severity: Minimum severity.

        Returns:
            The handler.

        Raises:
            ClosedStreamError: If the stream is closed.
            Exception: What ``Delivery.prepare`` raises, such as that a file cannot be written.
        """
        self._require_unclosed()
        self._alerts.handle(handler, _at_least(min_severity), first=self.firing(min_severity))
        return handler

    def on_alert_group(
        self, handler: GroupHandler, min_severity: AlertLevel = AlertLevel.INFO, wait_seconds: float = 1.0
    ) -> GroupHandler:
        """Call ``handler(group)`` with the alerts of a source that change within ``wait_seconds``.

        Args:
            handler: As for ``on_alert``, called with an ``AlertGroup``.
            min_severity: Minimum severity.
            wait_seconds: How long to wait for further alerts after the first.

        Returns:
            The handler.

        Raises:
            ClosedStreamError: If the stream is closed.
            Exception: What ``Delivery.prepare`` raises.
        """
        batching = Batching[CacheAlert](
            lambda alerts: alert_groups(alerts, wait_seconds), lambda group: group.alerts
        )
        self.on_alert_batch(handler, batching, min_severity)
        return handler

    def on_alert_batch(
        self,
        handler: Callable[[Any], Any] | Delivery,
        batching: Batching[CacheAlert],
        min_severity: AlertLevel = AlertLevel.INFO,
    ) -> None:
        """Call ``handler(batch)`` with what ``batching`` makes of the alerts, as ``on_alert`` does.

        Args:
            handler: As for ``on_alert``, called with a batch.
            batching: Makes the batches.
            min_severity: Minimum severity.

        Raises:
            ClosedStreamError: If the stream is closed.
            Exception: What ``Delivery.prepare`` raises, such as that a file cannot be written.
        """
        self._require_unclosed()
        self._alerts.handle(handler, _at_least(min_severity), batching, self.firing(min_severity))

    def on_summary(self, handler: SummaryHandler) -> SummaryHandler:
        """Call ``handler(summary)``, async or plain, for each periodic summary; also a decorator.

        Raises:
            ClosedStreamError: If the stream is closed.
        """
        self._require_unclosed()
        self._summaries.handle(handler)
        return handler

    def on_summary_batch(
        self, handler: Callable[[Any], Any] | Delivery, batching: Batching[CacheMetricsSummary]
    ) -> None:
        """Call ``handler(batch)`` with what ``batching`` makes of the summaries, as ``on_summary`` does.

        Args:
            handler: As for ``on_alert``, called with a batch.
            batching: Makes the batches.

        Raises:
            ClosedStreamError: If the stream is closed.
            Exception: What ``Delivery.prepare`` raises.
        """
        self._require_unclosed()
        self._summaries.handle(handler, batching=batching)

    def on_eviction(self, handler: EvictionHandler) -> EvictionHandler:
        """Call ``handler(event)``, async or plain, for each eviction; also a decorator.

        Raises:
            ClosedStreamError: If the stream is closed.
        """
        self._require_unclosed()
        self._evictions.handle(handler)
        return handler

    async def summary(self, source: str | None = None, tier: str | None = None) -> CacheMetricsSummary:
        """Return the summary of one source and tier, or of all, while other tasks go on.

        A summary of a thousand sources takes half a second. Each cache is shown as at some moment of that
        time, the accounts as at one moment. Accounts of events are those of the whole stream, accounts of
        blocks those of the given source and tier. Cancelling it changes nothing.

        Args:
            source: The source; None is every one.
            tier: The tier; None is every one.
        """
        return await self._summarized.summary(source, tier)

    def summary_nowait(self, source: str | None = None, tier: str | None = None) -> CacheMetricsSummary:
        """Return the same at once, also after the stream has closed; nothing else runs meanwhile."""
        return self._summarized.summary_nowait(source, tier)

    def accounts(self, source: str | None = None, tier: str | None = None) -> Accounts:
        """Return where every event and block went; for one source and tier, as far as that is known."""
        return self._accounts.of(source, tier)

    def hottest(self, source: str, tier: str = DEFAULT_TIER, n: int = 20) -> list[HotBlock]:
        """Return the ``n`` live blocks of a source and tier that have been accessed most."""
        return [b for m in self._consumers.caches(source, tier) for b in m.table.hottest(n, m.last_ts)]

    def longest_held(self, source: str, tier: str = DEFAULT_TIER, n: int = 20) -> list[HotBlock]:
        """Return the ``n`` live blocks of a source and tier that were allocated first."""
        return [b for m in self._consumers.caches(source, tier) for b in m.table.longest_held(n, m.last_ts)]

    def firing(self, min_severity: AlertLevel = AlertLevel.INFO) -> list[CacheAlert]:
        """Return the alerts of a minimum severity that fire now and are neither inhibited nor silenced."""
        return self._alerting.heard(min_severity)

    def relay(self, alert: CacheAlert, *, is_news: bool = True) -> None:
        """Publish an alert of another stream as if it were of this one; it fires here until it resolves.

        Args:
            alert: The alert.
            is_news: Publish it; otherwise it only counts among what fires.

        Raises:
            ClosedStreamError: If the stream is not open.
        """
        self._require_open()
        self._alerting.relay(alert)
        if is_news:
            self._alerting.publish([alert])

    def alerts_handled(self) -> bool:
        """Return whether every alert published so far was passed to the handlers."""
        return self._alerts.is_handled

    def heartbeat(self) -> CacheAlert | None:
        """Return the alert that fires while the stream is open, a dead man's switch; None if its rule is off.

        Subscribers do not receive it. ``Alertmanager`` posts it again and again; if it stops arriving there,
        kvstream is gone.
        """
        return self._alerting.heartbeat(self._opened_at, self._clock() / 1e9) if self.is_open else None

    def input_age(self, source: str) -> float:
        """Return seconds since the last frame of a source was applied; 0 for a source that is not known."""
        return self._times.arrivals.age(source)

    def event_lag(self, source: str) -> float | None:
        """Return seconds from the newest event of a source to when it was applied; None if not known.

        For a live source, this is how old the shown figures are; it is below 0 if its clock is ahead of ours.
        For a recording, it is the age of the recording.
        """
        return self._times.arrivals.lag(source)

    def drop_alerts(self) -> list[CacheAlert]:
        """Return the firing alerts on events that never reach a cache.

        These are refused events, repeated frames, and inputs that bring nothing.
        """
        return self._alerting.beside_caches()

    def caches(self) -> list[tuple[str, str]]:
        """Return the source and tier of each cache that is followed, sorted."""
        return sorted((cache.source, cache.tier) for cache in self._consumers.caches())

    def statistics(self) -> StreamStatistics:
        """Return the inside of the stream now."""
        counted = self._producers.statistics()
        return StreamStatistics(
            self._accounts.total(counted),
            () if self._phase == "new" else tuple(each.queue.statistics() for each in self._consumers),
            counted.producers,
            tuple(entry for topic in self._topics for entry in topic.statistics()),
            dict(self.faults.counts),
            tuple(self.inputs()),
            self._saved.statistics(),
        )

    # Tasks

    def _before_batch(self, monitor: Monitor, frames: Sequence[EventFrame]) -> bool:
        """Prepare for a batch of frames; return whether there are subscribers to evictions."""
        self._liveness.reach(monitor, frames)
        return self._evictions.listening

    def _publish_outcome(self, outcome: Outcome) -> None:
        self._alerting.publish(outcome.alerts)
        for event in outcome.eviction_events():
            self._evictions.publish(event)

    def _after_batch(self, monitor: Monitor, batch: Batch) -> None:
        """Take note that frames of a source were applied."""
        is_kept = batch.source in monitor.sources
        if is_kept:
            self._times.note(batch.frames[-1])
        self._saved.apply(batch, is_kept, self._producers.frames)

    def _readings(self, now: float) -> Iterator[InputReading]:
        """Yield what inputs and the saved state are judged by, at a time in seconds since the Unix epoch."""
        for seen in self.inputs():
            yield from readings_of(seen, now)
        yield from self._saved.readings()

    async def _summarize_regularly(self) -> None:
        while True:
            await anyio.sleep(self.config.metrics.export_interval)
            if self._summaries.listening:
                self._summaries.publish(await self.summary())


def input_marker(stream: KVStream, name: str) -> InputMarker | None:
    """Return what marks the frames of an input that can be read again, and says from where on.

    Args:
        stream: The stream.
        name: Names the input, the same in the next process.

    Returns:
        A marker; None for a stream that keeps no state.
    """
    return stream._saved.marker(name)


def consumers_of(stream: KVStream) -> Consumers:
    """Return the consumers of a stream, with the state of its sources and caches."""
    return stream._consumers


def keeper_of(stream: KVStream) -> "StateKeeper | None":
    """Return what keeps the state of a stream; None for a stream without."""
    return stream._saved.keeper


def _at_least(min_severity: AlertLevel) -> Callable[[CacheAlert], bool]:
    return lambda alert: alert.level.at_least(min_severity)
