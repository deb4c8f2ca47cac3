"""ProducerSet: how events get into one stream or connection, by producers and as ready frames."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple
from weakref import WeakValueDictionary

import anyio

from kvstream.config import OverflowPolicy, StreamConfig
from kvstream.errors import ClosedStreamError, ConfigError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.types import checked_name
from kvstream.recording.overflow import OVERFLOW
from kvstream.recording.producer import Producer, ProducerStatistics
from kvstream.recording.queue import FrameQueue

_IDLE_SECONDS = 1.0  # after which recorders are flushed, as an engine may not end its steps
_MAX_PRODUCERS = 10_000  # beyond, the counts of the oldest go into the totals
_RETIRED_AT_ONCE = 64  # producers that are tried where there is no room for another
_MOST_QUEUES_KNOWN = 4096  # of sources, as ready frames may bring new names without end


class ProducersStatistics(NamedTuple):
    """The accounts of all producers.

    Attributes:
        producers: One entry a producer, in order of making; those retired are not among them.
        others: What producers had counted when they were retired, and ready frames, together.
    """

    producers: tuple[ProducerStatistics, ...]
    others: ProducerStatistics


class SentFrames:
    """The accounts of ready frames, which no producer has made; changed on the event loop only.

    Attributes:
        offered: Events in frames given to ``ProducerSet.send``.
        dropped: Those of them that were dropped, by drop reason.
    """

    def __init__(self) -> None:
        self.offered = 0
        self.dropped: Counter[str] = Counter()

    def drop(self, reason: str, events: int) -> None:
        """Count events as dropped for a reason."""
        if events:
            self.dropped[reason] += events

    def take_losses(self) -> int:
        """Return 0: what is lost of them is missing by its sequence number."""
        return 0


class ProducerSet:
    """Makes producers, one for each source, tier and policy, flushes them, and takes ready frames.

    A producer that is not used for ``forget_seconds``, or is one too many, is retired: its counts go into a
    total and only whoever uses it keeps it alive. Once it is used again it is kept again.

    Args:
        config: How they frame and flush, how many are kept and for how long.
        clock: Nanoseconds since the Unix epoch.
        queue_of: The queue that a source's frames go to.
        require_open: Raises ``ClosedStreamError`` unless events can be taken.

    Attributes:
        frames: The accounts of ready frames.
    """

    def __init__(
        self,
        config: StreamConfig,
        clock: Callable[[], int],
        queue_of: Callable[[str], FrameQueue],
        require_open: Callable[[], None],
    ) -> None:
        self._config, self._clock = config, clock
        self._queue_of, self._require_open = queue_of, require_open
        self.frames = SentFrames()
        self._queues: dict[str, FrameQueue] = {}  # by checked name of a source of ready frames
        # Order of locks: this one, then a producer's, then a queue's. Recording takes only the last two.
        self._lock = threading.Lock()
        self._known: WeakValueDictionary[tuple[str, str, str], Producer] = WeakValueDictionary()
        self._kept: dict[Producer, None] = {}  # by time of making, or of first use since retired
        self._retired_offered = 0
        self._retired_dropped: Counter[str] = Counter()
        self._recorded = anyio.Event()

    def __iter__(self) -> Iterator[Producer]:
        """Iterate over all producers in use, also the retired ones."""
        with self._lock:
            return iter(list(self._known.values()))

    def get(self, source: str, tier: str, overflow: OverflowPolicy | None) -> Producer:
        """Return the producer of one source's events; equal arguments return the same one.

        Raises:
            ClosedStreamError: If the stream or connection is not open.
            ConfigError: If an argument cannot be used, or too many producers have events that wait for room.
        """
        self._require_open()
        policy = overflow or self._config.overflow
        if policy not in OVERFLOW:
            raise ConfigError(f"overflow must be one of {', '.join(OVERFLOW)}, not {overflow!r}")
        try:
            key = checked_name(source), checked_name(tier), policy
        except MalformedInputError as error:
            raise ConfigError(f"source and tier: {error}") from None
        with self._lock:
            made = self._known.get(key)
            if made is None:
                if len(self._kept) >= _MAX_PRODUCERS:
                    self._make_room()
                made = Producer(
                    source,
                    tier,
                    self._queue_of(source),
                    OVERFLOW[policy](),
                    self._config.frame_events,
                    self._clock,
                    self._keep,
                    self._wake_flusher,
                )
                self._known[key] = made
                self._keep(made)
        return made

    async def send(self, frame: EventFrame) -> None:
        """Put a ready frame onto its source's queue, waiting for room.

        If the wait is cancelled, the frame is counted as dropped (``cancelled``); if the stream or connection
        is closed meanwhile, as ``closed``.

        Raises:
            ClosedStreamError: If the stream or connection is not open.
            MalformedInputError: If the source or tier is no name; nothing is counted then.
        """
        if (full := self.offer(frame)) is not None:
            await self.wait(frame, full)

    def offer(self, frame: EventFrame) -> FrameQueue | None:
        """Count a ready frame and put it onto its source's queue; return that queue if it is full.

        Then ``wait`` must be called with the frame and the queue. A frame that fits needs no coroutine.

        Raises:
            ClosedStreamError: If the stream or connection is not open.
            MalformedInputError: If the source or tier is no name; nothing is counted then.
        """
        self._require_open()
        source = frame.source
        queue = self._queues.get(source) if type(source) is str else None
        if queue is None:
            queue = self._find_queue(source)
        checked_name(frame.tier)
        self.frames.offered += len(frame.ops)
        return None if queue.offer(frame, self.frames) else queue

    async def wait(self, frame: EventFrame, queue: FrameQueue) -> None:
        """Put a frame onto the queue that ``offer`` found full once there is room, as ``send`` does."""
        try:
            while True:
                await queue.room()
                self._require_open()
                if queue.offer(frame, self.frames):
                    return
        except BaseException as error:
            reason = "closed" if isinstance(error, ClosedStreamError) else "cancelled"
            self.frames.drop(reason, len(frame.ops))
            raise

    def _find_queue(self, source: str) -> FrameQueue:
        """Check the name of a source and return its queue, which is remembered."""
        queue = self._queue_of(checked_name(source))
        if len(self._queues) >= _MOST_QUEUES_KNOWN:
            self._queues.clear()
        self._queues[source] = queue
        return queue

    def statistics(self) -> ProducersStatistics:
        """Return the accounts of all producers and ready frames; each event is in exactly one of them."""
        with self._lock:
            producers = tuple(producer.statistics() for producer in list(self._kept))
            offered = self._retired_offered + self.frames.offered
            dropped = dict(self._retired_dropped + self.frames.dropped)
            sent = offered - sum(dropped.values())
            return ProducersStatistics(producers, ProducerStatistics(offered, 0, sent, dropped, 1.0))

    async def flush(self) -> None:
        """Put everything recorded so far onto the queues, waiting for room under ``block``."""
        for producer in self:
            await producer.flush()

    async def flush_regularly(self) -> None:
        """Flush ``flush_seconds`` after something was recorded; hardly wake up if nothing is."""
        forget_after = self._config.metrics.forget_seconds / 2  # and once more, if it was used meanwhile
        looked_at = anyio.current_time()
        while True:
            with anyio.move_on_after(_IDLE_SECONDS):
                await self._recorded.wait()
            self._recorded = anyio.Event()
            await anyio.sleep(self._config.flush_seconds)
            for producer in self:
                producer.flush_nowait()
            if forget_after and anyio.current_time() - looked_at >= forget_after:
                looked_at = anyio.current_time()
                self.retire_unused()

    def retire_unused(self) -> None:
        """Retire the producers that were not used since the last call."""
        with self._lock:
            for producer in list(self._kept):
                if not producer.take_used():
                    self._retire(producer)

    def close(self, reason: str) -> None:
        """Drop what is still buffered, for a reason."""
        for producer in self:
            producer.close(reason)

    def close_after_fork(self) -> None:
        """Close the copies in a forked child."""
        self._lock = threading.Lock()  # another thread may have held it
        for producer in self:
            producer.close_after_fork()

    def _make_room(self) -> None:
        """Retire the oldest producer of which no event waits for room.

        Raises:
            ConfigError: If there is none among the oldest; the next call looks at others.
        """
        for producer in list(islice(self._kept, _RETIRED_AT_ONCE)):
            if self._retire(producer):
                return
            del self._kept[producer]
            self._keep(producer)
        raise ConfigError(f"{_MAX_PRODUCERS:,} producers have events that wait for room")

    def _retire(self, producer: Producer) -> bool:
        def take_over(offered: int, dropped: Counter[str]) -> None:
            self._retired_offered += offered
            self._retired_dropped += dropped
            self._kept.pop(producer, None)

        return producer.retire(take_over)

    def _keep(self, producer: Producer) -> None:
        """Keep a producer until it is retired; from any thread, which holds that producer's lock."""
        self._kept.setdefault(producer)

    def _wake_flusher(self, queue: FrameQueue) -> None:
        queue.call_on_loop(lambda: self._recorded.set())
