"""Consumers: all consumers of one stream, and the state of its sources that is with them."""

import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

from kvstream.engine.cache import CacheMonitor
from kvstream.engine.monitor import Monitor
from kvstream.engine.source import SourceMonitor
from kvstream.streaming.consumer import Consumer
from kvstream.streaming.turns import Turns

Monitored = TypeVar("Monitored", SourceMonitor, CacheMonitor)


class Consumers:
    """The consumers of a stream, which share its sources.

    What is returned of their state is to be read on the event loop, up to the next ``await``
    (``Consumer.at_rest``).

    Args:
        consumers: At least one.
    """

    def __init__(self, consumers: Iterable[Consumer]) -> None:
        self._consumers = tuple(consumers)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._consumers)

    def of(self, source: str) -> Consumer:
        """Return the consumer of a source, the same one in every process."""
        return self._consumers[_hashed(source) % len(self._consumers)]

    @property
    def monitors(self) -> list[Monitor]:
        """Return the state of each consumer, once no thread changes any."""
        return [consumer.at_rest() for consumer in self._consumers]

    def rest(self) -> None:
        """Wait until no thread changes any state, some milliseconds; none does before the next ``await``."""
        for consumer in self._consumers:
            consumer.at_rest()

    def sources(self) -> list[SourceMonitor]:
        """Return the monitor of each source."""
        return [source for monitor in self.monitors for source in monitor.sources.values()]

    def caches(self, source: str | None = None, tier: str | None = None) -> list[CacheMonitor]:
        """Return the monitor of each cache of a source and tier, None for any."""
        return [cache for monitor in self.monitors for cache in monitor.caches(source, tier)]

    async def in_turn(self, monitors: Iterable[Monitored]) -> AsyncIterator[Monitored]:
        """Yield sources or caches one by one, each to be read up to the next ``await``.

        Other tasks go on meanwhile, and may change or forget what is yielded later.
        """
        turns = Turns()
        for monitor in monitors:
            self.of(monitor.source).at_rest()
            yield monitor
            await turns.give_way()
        await checkpoint()

    def caches_in_turn(
        self, source: str | None = None, tier: str | None = None
    ) -> AsyncIterator[CacheMonitor]:
        """Yield what ``caches`` returns as ``in_turn`` does."""
        return self.in_turn(self.caches(source, tier))

    def is_followed(self, cache: CacheMonitor) -> bool:
        """Return whether a cache has not been forgotten."""
        source = self.of(cache.source).at_rest().sources.get(cache.source)
        return source is not None and source.tiers.get(cache.tier) is cache

    def open(self, queue_events: int) -> None:
        """Make the queues, on the event loop.

        Args:
            queue_events: Events that each holds.
        """
        count = len(self._consumers)
        threads = anyio.CapacityLimiter(count) if count > 1 else None
        for consumer in self._consumers:
            consumer.open(queue_events, threads)

    async def join(self) -> None:
        """Wait until everything on the queues has been applied."""
        for consumer in self._consumers:
            await consumer.queue.join()

    async def drain(self) -> None:
        """Close the queues, and wait until everything on them has been applied."""
        for consumer in self._consumers:
            consumer.queue.close()
        for consumer in self._consumers:
            await consumer.ended.wait()


@lru_cache(maxsize=4096)
def _hashed(source: str) -> int:
    """Return the same number for a source in every process."""
    return zlib.crc32(source.encode("utf-8", "surrogatepass"))
