"""Frames to a stream in another process, over a Unix socket, TCP or TLS: ``connect``.

Sockets and TLS are loaded by those who connect, not by all who import kvstream.
"""

import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

import anyio

from kvstream.config import OverflowPolicy, StreamConfig
from kvstream.errors import ClosedStreamError, ConfigError
from kvstream.events.clock import Clock
from kvstream.events.frame import EventFrame
from kvstream.events.types import DEFAULT_SOURCE, DEFAULT_TIER
from kvstream.faults.fork import close_in_children
from kvstream.faults.log import FaultLog
from kvstream.recording.producer import Producer, ProducerStatistics
from kvstream.recording.queue import FrameQueue, QueueStatistics
from kvstream.recording.registry import ProducerSet
from kvstream.transport.tokens import checked_token

if TYPE_CHECKING:
    import ssl

    from kvstream.transport.endpoint import Endpoint

_logger = logging.getLogger("kvstream")


class ConnectionStatistics(NamedTuple):
    """A connection's accounts at one moment.

    Every event is counted in one place: ``offered`` plus the ``offered`` of all producers equals ``events``,
    plus the queue's ``events`` and ``processing_events``, plus what producers have ``buffered``, plus all
    that was dropped.

    Attributes:
        connected: Whether there is a connection now.
        connects: Connections made so far.
        frames: Frames acknowledged.
        queue: The queue of frames to be sent; its ``processing_events`` are sent and not yet acknowledged.
        producers: One entry for each producer, oldest first.
        last_error: Why the last connection failed or ended; empty if none has.
        offered: Events in frames passed to ``send``.
        dropped: Events in such frames that were dropped, by drop reason.
        events: Events acknowledged, from producers and from ``send``.
    """

    connected: bool
    connects: int
    frames: int
    queue: QueueStatistics
    producers: tuple[ProducerStatistics, ...]
    last_error: str
    offered: int
    dropped: dict[str, int]
    events: int


class Connection:
    """A stream in another process, open inside ``async with``; made by ``connect``.

    It connects and reconnects for ever, in the background. Meanwhile, events wait in a bounded queue, to
    which the producers' overflow policies apply. Frames are numbered, kept until they are acknowledged, and
    sent again after a break; a frame that arrives twice is counted once.

    Leaving the block sends what is left, for up to ``shutdown_timeout``.
    """

    def __init__(
        self,
        endpoint: "Endpoint",
        token: str | None,
        config: StreamConfig,
        clock: Callable[[], int] | None,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        self.endpoint, self.config = endpoint, config
        self.faults = FaultLog()
        self._token, self._tls = token, tls
        self._producers = ProducerSet(config, clock or Clock(), lambda _: self._queue, self._require_open)
        self._exits = AsyncExitStack()
        self._open = self._forked = self._was_opened = False

    async def __aenter__(self) -> Self:
        from kvstream.transport.sender import FrameSender

        close_in_children(self)
        self._queue = FrameQueue(self.config.queue_events)
        self._sender = FrameSender(self.endpoint, self._token, self._tls, self._queue, self.faults)
        self._sent_all = anyio.Event()
        self._tasks = await self._exits.enter_async_context(anyio.create_task_group())
        self._tasks.start_soon(self._send_all, name="kvstream sender")
        self._tasks.start_soon(self._producers.flush_regularly, name="kvstream flusher")
        self._open = self._was_opened = True
        if self._token is not None and self.endpoint.is_exposed:
            _logger.warning("the token is sent to %s unencrypted; use tls://", self.endpoint)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._forked:
            return  # its tasks and its loop are the parent's
        reason = "cancelled"
        try:
            if kind is None:
                with anyio.move_on_after(self.config.shutdown_timeout) as scope:
                    await self._producers.flush()
                    self._queue.close()
                    await self._sent_all.wait()
                reason = "shutdown_timeout" if scope.cancelled_caught else "closed"
        finally:
            self._open = False
            self._tasks.cancel_scope.cancel()
            try:
                await self._exits.__aexit__(None, None, None)
            finally:
                self._producers.close(reason)
                unsent = self._sender.abandon()
                for frame, sender in [*unsent, *self._queue.abandon()]:
                    sender.drop(reason, len(frame))
                self._queue.close()
                self._queue.processed(sum(len(frame) for frame, _ in unsent))

    def producer(
        self,
        source: str = DEFAULT_SOURCE,
        tier: str = DEFAULT_TIER,
        overflow: OverflowPolicy | None = None,
    ) -> Producer:
        """Return the producer of one source's events, as ``KVStream.producer``.

        Raises:
            ClosedStreamError: If the connection is not open.
            ConfigError: If an argument cannot be used.
        """
        return self._producers.get(source, tier, overflow)

    async def send(self, frame: EventFrame) -> None:
        """Put a ready frame onto the queue, waiting for room; it gets a new number.

        If the wait is cancelled, the frame is counted as dropped (``cancelled``); if the connection is
        closed meanwhile, as ``closed``.

        Raises:
            ClosedStreamError: If the connection is not open.
            MalformedInputError: If the source or tier is no name; nothing is counted then.
        """
        await self._producers.send(frame)

    async def flush(self) -> None:
        """Wait until everything recorded so far has been acknowledged.

        Cancelling it only ends the wait.

        Raises:
            ClosedStreamError: If the connection is not open, or is closed meanwhile.
        """
        self._require_open()
        await self._producers.flush()
        self._sender.hurry()
        await self._queue.join()
        self._require_open()

    async def accepted(self) -> None:
        """Wait until the server has accepted this client, which connects once there is a frame to send.

        Cancelling it only ends the wait.

        Raises:
            KVStreamError: If it refuses. The connection goes on trying all the same.
            ClosedStreamError: If the connection is not open.
        """
        self._require_open()
        await self._sender.accepted()

    def statistics(self) -> ConnectionStatistics:
        """Return the accounts now, also after the connection has closed.

        Raises:
            ClosedStreamError: If it was never opened.
        """
        if not self._was_opened:
            self._require_open()
        return ConnectionStatistics(
            self._sender.is_connected,
            self._sender.connects,
            self._sender.frames,
            self._queue.statistics(),
            self._producers.statistics().producers,
            self._sender.last_error,
            self._producers.frames.offered,
            dict(self._producers.frames.dropped),
            self._sender.events,
        )

    def close_after_fork(self) -> None:
        """Close the copy in a forked child; the connection itself is the parent's."""
        self._forked, self._open = True, False
        self._producers.close_after_fork()

    def _require_open(self) -> None:
        if self._forked:
            raise ClosedStreamError(
                "the connection belongs to the process that forked this one: connect here"
            )
        if not self._open:
            raise ClosedStreamError("the connection is not open")

    async def _send_all(self) -> None:
        await self._sender.run()
        self._sent_all.set()


def connect(
    endpoint: str,
    *,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    config: StreamConfig | None = None,
    clock: Callable[[], int] | None = None,
) -> Connection:
    """Return a connection to a stream that ``kvstream serve`` or a ``FrameServer`` holds in another process.

    Args:
        endpoint: ``unix:PATH``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.
        token: Token of the server, if it needs one.
        ca: PEM file with the roots to trust, for ``tls://``; by default those of the system.
        certificate: PEM file with a client certificate, if the server requires one.
        key: PEM file with its private key.
        config: Queue, framing and overflow policy; settings of metrics have no effect here.
        clock: Nanoseconds since the Unix epoch, for producers.

    Raises:
        ConfigError: If the endpoint, the token or a file cannot be used.

    Examples:
        ``async with connect("unix:/run/kvstream.sock") as remote: remote.producer("engine-0")``
    """
    from kvstream.transport.endpoint import Endpoint

    place = Endpoint.parse(endpoint)
    tls = None
    if place.tls:
        from kvstream.transport.tls import client_context

        tls = client_context(ca, certificate, key)
    elif (ca, certificate, key) != (None, None, None):
        raise ConfigError(f"{endpoint} is not encrypted: certificates are for tls://HOST:PORT")
    return Connection(place, checked_token(token), config or StreamConfig(), clock, tls)
