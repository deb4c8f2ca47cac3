"""ProducerSet: the producers of one stream or connection, and what flushes them in time."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple
from weakref import WeakValueDictionary

import anyio

from kvstream.config import POLICIES, OverflowPolicy, StreamConfig
from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.types import checked_name
from kvstream.recording.producer import Producer, ProducerStatistics
from kvstream.recording.queue import FrameQueue

_IDLE_SECONDS = 1.0  # after which recorders are looked at whose engine does not end its steps
_MAX_PRODUCERS = 10_000  # beyond, the counts of the oldest go into the totals
_RETIRED_AT_ONCE = 64  # producers that are tried where there is no room for another


class ProducersStatistics(NamedTuple):
    """The accounts of all producers.

    Attributes:
        producers: One entry a producer, in order of making; those retired are not among them.
        retired: What producers had counted when they were retired, together.
    """

    producers: tuple[ProducerStatistics, ...]
    retired: ProducerStatistics


class ProducerSet:
    """Makes producers, one for each source, tier and policy, and flushes them.

    A producer that is not used for ``forget_seconds``, or is one too many, is retired: its counts go into a
    total and only whoever uses it keeps it alive. Once it is used again it is kept again.

    Args:
        config: How they frame and flush, how many are kept and for how long.
        clock: Nanoseconds since the Unix epoch.
        queue_of: The queue that a source's frames go to.
    """

    def __init__(
        self, config: StreamConfig, clock: Callable[[], int], queue_of: Callable[[str], FrameQueue]
    ) -> None:
        self._config, self._clock, self._queue_of = config, clock, queue_of
        # Order of locks: this one, then a producer's, then a queue's. Recording takes only the last two.
        self._lock = threading.Lock()
        self._known: WeakValueDictionary[tuple[str, str, str], Producer] = WeakValueDictionary()
        self._kept: dict[Producer, None] = {}  # by time of making, or of first use since retired
        self._retired_offered = 0
        self._retired_dropped: Counter[str] = Counter()
        self._recorded = anyio.Event()

    def __iter__(self) -> Iterator[Producer]:
        """Every producer that is alive, also the retired ones."""
        with self._lock:
            return iter(list(self._known.values()))

    def get(self, source: str, tier: str, overflow: OverflowPolicy | None) -> Producer:
        """Return the producer of one source's events; asked again in the same words, the same one.

        Raises:
            ConfigError: If an argument cannot be used, or too many producers have events that wait for room.
        """
        policy = overflow or self._config.overflow
        if policy not in POLICIES:
            raise ConfigError(f"overflow must be one of {', '.join(POLICIES)}, not {overflow!r}")
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
                    policy,
                    self._config.frame_events,
                    self._clock,
                    self._keep,
                    self._wake_flusher,
                )
                self._known[key] = made
                self._keep(made)
        return made

    def statistics(self) -> ProducersStatistics:
        """Return the accounts of all producers; each event is in exactly one of them."""
        with self._lock:
            producers = tuple(producer.statistics() for producer in list(self._kept))
            dropped = dict(self._retired_dropped)
            sent = self._retired_offered - sum(dropped.values())
            return ProducersStatistics(
                producers, ProducerStatistics(self._retired_offered, 0, sent, dropped, 1.0)
            )

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
