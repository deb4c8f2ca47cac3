"""Frames to a stream in another process, over a Unix socket or TCP: ``connect``."""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import NamedTuple, Self

import anyio
import msgspec
from anyio.abc import ByteStream

from kvstream.clock import Clock
from kvstream.config import OverflowPolicy, StreamConfig
from kvstream.errors import ClosedStreamError, KVStreamError, MalformedInputError
from kvstream.events.codec import encode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.types import DEFAULT_SOURCE, DEFAULT_TIER
from kvstream.fork import close_in_children
from kvstream.link import Endpoint, Hello, MessageReader, with_length
from kvstream.producer import Producer, ProducerStatistics
from kvstream.producers import ProducerSet
from kvstream.queue import FrameQueue, Item, QueueStatistics

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_ANSWER_SECONDS = 60.0  # without a word while frames wait to be acknowledged
_LONGEST_ANSWER = 4096
_AT_ONCE = 256 * 1024  # bytes a write

_logger = logging.getLogger("kvstream")
_answer_of: Callable[[bytes], int | str] = msgspec.msgpack.Decoder(int | str).decode


class ConnectionStatistics(NamedTuple):
    """A connection's accounts at one moment.

    Attributes:
        connected: Whether there is a connection now.
        connects: Connections made so far.
        frames: Frames acknowledged.
        queue: The queue of frames to be sent.
        producers: One entry a producer, in order of making.
        last_error: Why the last connection failed or ended; empty if none has.
    """

    connected: bool
    connects: int
    frames: int
    queue: QueueStatistics
    producers: tuple[ProducerStatistics, ...]
    last_error: str


class Connection:
    """A stream in another process, open inside ``async with``; made by ``connect``.

    It connects and reconnects for ever, in the background. What is recorded meanwhile waits in a bounded
    queue, to which the producers' overflow policies apply. Frames are numbered, kept until they are
    acknowledged, and sent again after a break; what arrives twice is counted once.

    Leaving the block sends what is left, for up to ``shutdown_timeout``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        token: str | None,
        config: StreamConfig,
        clock: Callable[[], int] | None,
    ) -> None:
        self.endpoint, self.config = endpoint, config
        self._token = token
        self._producers = ProducerSet(config, clock or Clock(), lambda _: self._queue)
        self._epoch = time.time_ns()
        self._numbers: Counter[str] = Counter()  # frames so far, by source
        self._unsent: list[Item] = []  # taken from the queue and not acknowledged
        self._stream: ByteStream | None = None
        self._connects = self._acknowledged = 0
        self._acknowledged_here = 0  # on this connection
        self._pause = _FIRST_PAUSE
        self._last_error = ""
        self._exits = AsyncExitStack()
        self._open = self._forked = False

    async def __aenter__(self) -> Self:
        close_in_children(self)
        self._queue = FrameQueue(self.config.queue_events)
        self._sent_all = anyio.Event()
        self._tasks = await self._exits.enter_async_context(anyio.create_task_group())
        self._tasks.start_soon(self._send_all, name="kvstream sender")
        self._tasks.start_soon(self._producers.flush_regularly, name="kvstream flusher")
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._forked:
            return  # its tasks and its loop are the parent's
        cause = "cancelled"
        try:
            if exc is None:
                with anyio.move_on_after(self.config.shutdown_timeout) as scope:
                    await self._producers.flush()
                    self._queue.close()
                    await self._sent_all.wait()
                cause = "shutdown_timeout" if scope.cancelled_caught else "closed"
        finally:
            self._open = False
            self._tasks.cancel_scope.cancel()
            try:
                await self._exits.__aexit__(None, None, None)
            finally:
                self._producers.close(cause)
                for frame, producer in [*self._unsent, *self._queue.abandon()]:
                    if producer is not None:
                        producer.drop(cause, len(frame))
                self._queue.close()

    def producer(
        self,
        source: str = DEFAULT_SOURCE,
        tier: str = DEFAULT_TIER,
        overflow: OverflowPolicy | None = None,
    ) -> Producer:
        """The producer of one source's events, as ``KVStream.producer``.

        Raises:
            ClosedStreamError: If the connection is not open.
            ConfigError: If an argument cannot be used.
        """
        self._require_open()
        return self._producers.get(source, tier, overflow)

    async def send(self, frame: EventFrame) -> None:
        """Puts a ready frame onto the queue, waiting for room; it is numbered anew.

        Raises:
            ClosedStreamError: If the connection is not open.
        """
        self._require_open()
        while not self._queue.offer(frame, None):
            await self._queue.room()
            self._require_open()

    async def flush(self) -> None:
        """Waits until everything recorded so far has been acknowledged.

        Raises:
            ClosedStreamError: If the connection is not open.
        """
        self._require_open()
        await self._producers.flush()
        await self._queue.join()

    def statistics(self) -> ConnectionStatistics:
        """The accounts now."""
        return ConnectionStatistics(
            self._stream is not None,
            self._connects,
            self._acknowledged,
            self._queue.statistics(),
            self._producers.statistics().producers,
            self._last_error,
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
        try:
            while items := await self._queue.take():
                self._unsent = items
                messages = [with_length(encode_frame(self._numbered(frame))) for frame, _ in items]
                events = sum(len(frame) for frame, _ in items)
                await self._deliver(messages)
                self._queue.processed(events)
        finally:
            await self._drop_connection()
        self._sent_all.set()

    def _numbered(self, frame: EventFrame) -> EventFrame:
        number = self._numbers[frame.source]
        self._numbers[frame.source] += 1
        return msgspec.structs.replace(frame, epoch=self._epoch, seq=number)

    async def _deliver(self, messages: list[bytes]) -> None:
        """Sends messages until all of them are acknowledged, over as many connections as it takes."""
        done = 0
        while done < len(messages):
            try:
                if self._stream is None:
                    await self._connect()
                done += await self._send(messages[done:])
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, KVStreamError) as error:
                await self._drop_connection(str(error) or type(error).__name__)
                await anyio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _send(self, messages: list[bytes]) -> int:
        """Sends messages over the connection there is; returns how many were acknowledged at its end."""
        stream, before = self._stream, self._acknowledged_here
        assert stream is not None  # noqa: S101

        failed: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                start = size = 0
                try:
                    for end, message in enumerate(messages, 1):
                        size += len(message)
                        if size >= _AT_ONCE or end == len(messages):
                            await stream.send(b"".join(messages[start:end]))
                            start, size = end, 0
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                    failed.append(str(error) or type(error).__name__)
                    tasks.cancel_scope.cancel()

            tasks.start_soon(write)
            try:
                while self._acknowledged_here - before < len(messages):
                    answer = await self._answer()
                    if isinstance(answer, str):
                        failed.append(answer)
                        break
                    self._acknowledged += answer - self._acknowledged_here
                    self._acknowledged_here = answer
            finally:
                tasks.cancel_scope.cancel()
        done = self._acknowledged_here - before
        del self._unsent[:done]
        if failed:
            await self._drop_connection(failed[0])
        return done

    async def _answer(self) -> int | str:
        """The next answer: frames taken on this connection, or why it ends."""
        with anyio.move_on_after(_ANSWER_SECONDS):
            try:
                data = await self._reader.next()
                return "the stream's side has closed the connection" if data is None else _answer_of(data)
            except (msgspec.DecodeError, MalformedInputError):
                return "this is no kvstream server"
        return f"no answer for {_ANSWER_SECONDS:.0f} s"

    async def _connect(self) -> None:
        """Connects and says hello.

        Raises:
            OSError: If nobody listens.
            KVStreamError: If we are refused.
        """
        if self.endpoint.path:
            self._stream = await anyio.connect_unix(self.endpoint.path)
        else:
            self._stream = await anyio.connect_tcp(self.endpoint.host, self.endpoint.port)
        self._reader = MessageReader(self._stream, _LONGEST_ANSWER)
        self._acknowledged_here = 0
        await self._stream.send(with_length(msgspec.msgpack.encode(Hello(token=self._token))))
        welcome = await self._answer()
        if isinstance(welcome, str):
            raise KVStreamError(f"{self.endpoint}: {welcome}")
        self._connects += 1
        self._pause = _FIRST_PAUSE

    async def _drop_connection(self, why: str | None = None) -> None:
        """Closes the connection, if there is one; ``why`` if that was not meant to be."""
        if why is not None:
            if why != self._last_error:
                _logger.warning("connection to %s: %s", self.endpoint, why)
            self._last_error = why
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)


def connect(
    endpoint: str,
    *,
    token: str | None = None,
    config: StreamConfig | None = None,
    clock: Callable[[], int] | None = None,
) -> Connection:
    """A connection to a stream that ``kvstream serve`` or a ``FrameServer`` holds in another process.

    Args:
        endpoint: ``unix:PATH`` or ``tcp://HOST:PORT``.
        token: What the server asks for.
        config: Queue, framing and overflow policy; what concerns metrics is the server's affair.
        clock: Nanoseconds since the Unix epoch, for producers.

    Raises:
        ConfigError: If the endpoint is none.

    Example:
        ``async with connect("unix:/run/kvstream.sock") as remote: remote.producer("engine-0")``
    """
    return Connection(Endpoint.parse(endpoint), token, config or StreamConfig(), clock)
