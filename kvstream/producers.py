"""ProducerSet: the producers of one stream or connection, and what flushes them in time."""

from collections.abc import Callable, Iterator

import anyio

from kvstream.config import POLICIES, OverflowPolicy, StreamConfig
from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.types import checked_name
from kvstream.producer import Producer
from kvstream.queue import FrameQueue

_IDLE_SECONDS = 1.0  # after which recorders are looked at whose engine does not end its steps


class ProducerSet:
    """Makes producers, one for each source, tier and policy, and flushes them.

    Args:
        config: How they frame and flush.
        clock: Nanoseconds since the Unix epoch.
        queue_of: The queue that a source's frames go to.
    """

    def __init__(
        self, config: StreamConfig, clock: Callable[[], int], queue_of: Callable[[str], FrameQueue]
    ) -> None:
        self._config, self._clock, self._queue_of = config, clock, queue_of
        self._made: dict[tuple[str, str, str], Producer] = {}
        self._recorded = anyio.Event()

    def __iter__(self) -> Iterator[Producer]:
        return iter(list(self._made.values()))

    def get(self, source: str, tier: str, overflow: OverflowPolicy | None) -> Producer:
        """The producer of one source's events; asked again in the same words, the same one.

        Raises:
            ConfigError: If an argument cannot be used.
        """
        policy = overflow or self._config.overflow
        if policy not in POLICIES:
            raise ConfigError(f"overflow must be one of {', '.join(POLICIES)}, not {overflow!r}")
        try:
            checked_name(source)
            checked_name(tier)
        except MalformedInputError as error:
            raise ConfigError(f"source and tier: {error}") from None
        made = self._made.get((source, tier, policy))
        if made is None:
            queue = self._queue_of(source)

            def wake_flusher() -> None:
                queue.call_on_loop(lambda: self._recorded.set())

            made = Producer(source, tier, queue, policy, self._config.frame_events, self._clock, wake_flusher)
            self._made[source, tier, policy] = made
        return made

    async def flush(self) -> None:
        """Puts everything recorded so far onto the queues, waiting for room under ``block``."""
        for producer in self:
            await producer.flush()

    async def flush_regularly(self) -> None:
        """Flushes ``flush_interval`` after something was recorded; hardly wakes up if nothing is."""
        while True:
            with anyio.move_on_after(_IDLE_SECONDS):
                await self._recorded.wait()
            self._recorded = anyio.Event()
            await anyio.sleep(self._config.flush_interval)
            for producer in self:
                producer.flush_nowait()

    def close(self, cause: str) -> None:
        """Drops what is still buffered, for a cause."""
        for producer in self:
            producer.close(cause)
