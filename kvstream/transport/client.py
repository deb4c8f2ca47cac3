"""Frames to a stream in another process, over a Unix socket, TCP or TLS: ``connect``."""

import logging
import os
import random
import secrets
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import NamedTuple, Self

import anyio
import msgspec
from anyio.abc import ByteStream

from kvstream.config import OverflowPolicy, StreamConfig
from kvstream.errors import ClosedStreamError, ConfigError, KVStreamError, MalformedInputError
from kvstream.events.clock import Clock
from kvstream.events.codec import encode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.types import DEFAULT_SOURCE, DEFAULT_TIER
from kvstream.faults.fork import close_in_children
from kvstream.faults.log import FaultLog
from kvstream.recording.producer import Producer, ProducerStatistics
from kvstream.recording.queue import FrameQueue, Item, QueueStatistics
from kvstream.recording.registry import ProducerSet
from kvstream.text.escape import for_terminal, shortened
from kvstream.transport.endpoint import Endpoint, Hello, MessageReader, with_length
from kvstream.transport.tls import File, client_context
from kvstream.transport.tokens import checked_token

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_CONNECT_SECONDS = 30.0  # with the TLS handshake
_ANSWER_SECONDS = 60.0  # without a word while frames wait to be acknowledged
_LAST_ANSWERS_SECONDS = 1.0  # to read what was acknowledged before a connection broke
_LONGEST_ANSWER = 4096
_LONGEST_REASON = 300  # characters
_CLOSED = "the stream's side has closed the connection"
_AT_ONCE = 256 * 1024  # bytes a write
_EPOCH_RANDOM_BITS = 24  # 17 ms of the clock

_logger = logging.getLogger("kvstream")
_answer_of: Callable[[bytes], int | str] = msgspec.msgpack.Decoder(int | str).decode


class ConnectionStatistics(NamedTuple):
    """A connection's accounts at one moment.

    Every event is in one place: ``offered`` and the ``offered`` of all producers together are ``events``,
    what the queue holds (``events`` and ``processing_events``), what producers have ``buffered``, and
    all that was dropped.

    Attributes:
        connected: Whether there is a connection now.
        connects: Connections made so far.
        frames: Frames acknowledged.
        queue: The queue of frames to be sent; it is processing what was sent and not yet acknowledged.
        producers: One entry a producer, in order of making.
        last_error: Why the last connection failed or ended; empty if none has.
        offered: Events in frames given to ``send``.
        dropped: Events of those that were dropped, by drop reason.
        events: Events acknowledged, of producers and of ``send``.
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
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.endpoint, self.config = endpoint, config
        self.faults = FaultLog()
        self._token, self._tls = token, tls
        self._producers = ProducerSet(config, clock or Clock(), lambda _: self._queue, self._require_open)
        self._epoch = new_epoch()
        self._numbers: Counter[str] = Counter()  # frames so far, by source
        self._unsent: deque[tuple[bytes, Item]] = deque()  # taken from the queue and not acknowledged
        self._stream: ByteStream | None = None
        self._connects = self._acknowledged = self._acknowledged_events = 0
        self._acknowledged_here = 0  # on this connection
        self._pause = _FIRST_PAUSE
        self._last_error = self._refusal = ""
        self._outcome: anyio.Event | None = None  # of the next attempt to connect; None if nobody waits
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
        if self._token is not None and self.endpoint.is_exposed:
            _logger.warning("the token is sent to %s unencrypted; use tls://", self.endpoint)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._forked:
            return  # its tasks and its loop are the parent's
        reason = "cancelled"
        try:
            if exc is None:
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
                unsent = [item for _, item in self._unsent]
                for frame, sender in [*unsent, *self._queue.abandon()]:
                    sender.drop(reason, len(frame))
                self._unsent.clear()
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
        """Put a ready frame onto the queue, waiting for room; it is numbered anew.

        If the wait is cancelled, the frame is counted as dropped (``cancelled``); if the connection is
        closed meanwhile, as ``closed``.

        Raises:
            ClosedStreamError: If the connection is not open.
            MalformedInputError: If the source or tier is no name; nothing is counted then.
        """
        await self._producers.send(frame)

    async def flush(self) -> None:
        """Wait until everything recorded so far has been acknowledged.

        Raises:
            ClosedStreamError: If the connection is not open, or is closed meanwhile.
        """
        self._require_open()
        await self._producers.flush()
        await self._queue.join()
        self._require_open()

    async def accepted(self) -> None:
        """Wait until the server has let us in for the first time; it is asked once there is a frame to send.

        Raises:
            KVStreamError: If it refuses. The connection goes on trying all the same.
            ClosedStreamError: If the connection is not open.
        """
        self._require_open()
        while not self._connects:
            if self._refusal:
                raise KVStreamError(self._refusal)
            if self._outcome is None:
                self._outcome = anyio.Event()
            await self._outcome.wait()

    def statistics(self) -> ConnectionStatistics:
        """Return the accounts now."""
        return ConnectionStatistics(
            self._stream is not None,
            self._connects,
            self._acknowledged,
            self._queue.statistics(),
            self._producers.statistics().producers,
            self._last_error,
            self._producers.frames.offered,
            dict(self._producers.frames.dropped),
            self._acknowledged_events,
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
                for item in items:
                    self._encode(item)
                await self._deliver()
        finally:
            await self._drop_connection()
        self._sent_all.set()

    def _encode(self, item: Item) -> None:
        """Give a frame its sequence number and queue it; drop it if it cannot be encoded."""
        frame, sender = item
        number = self._numbers[frame.source]
        try:
            message = encode_frame(msgspec.structs.replace(frame, epoch=self._epoch, seq=number))
        except Exception as error:
            self.faults.note("connection", "malformed", f"{self.endpoint}: a frame was dropped: {error}")
            sender.drop("malformed", len(frame))
            self._queue.processed(len(frame))
        else:
            self._numbers[frame.source] = number + 1
            self._unsent.append((with_length(message), item))

    async def _deliver(self) -> None:
        """Send what is lined up until all of it is acknowledged, over as many connections as it takes."""
        while self._unsent:
            try:
                if self._stream is None:
                    await self._connect()
                await self._send()
            except Exception as error:
                await self._drop_connection(_why(error))
            if self._unsent:
                await anyio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _send(self) -> None:
        """Send what is lined up over the connection there is, until it is acknowledged or that breaks."""
        stream, messages = self._stream, [message for message, _ in self._unsent]
        assert stream is not None  # noqa: S101
        broken = ended = ""

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as reading:

                async def write() -> None:
                    nonlocal broken
                    start = size = 0
                    try:
                        for end, message in enumerate(messages, 1):
                            size += len(message)
                            if size >= _AT_ONCE or end == len(messages):
                                await stream.send(b"".join(messages[start:end]))
                                start, size = end, 0
                    except Exception as error:
                        broken = _why(error)
                        # What was acknowledged before is still to be read, or it would be sent again.
                        reading.deadline = anyio.current_time() + _LAST_ANSWERS_SECONDS

                tasks.start_soon(write)
                while self._unsent and not ended:
                    try:
                        ended = self._take_answer(await self._answer())
                    except KVStreamError as error:
                        ended = str(error)
            tasks.cancel_scope.cancel()
        if why := ended or broken:
            await self._drop_connection(why)

    def _take_answer(self, answer: int | str) -> str:
        """Count frames as acknowledged; say why the connection ends, if it does."""
        if isinstance(answer, str):
            return answer
        frames = answer - self._acknowledged_here
        if not 0 <= frames <= len(self._unsent):
            return "the server acknowledges what was not sent"
        for _ in range(frames):
            _, (frame, _) = self._unsent.popleft()
            self._acknowledged_events += len(frame)
            self._queue.processed(len(frame))
        self._acknowledged += frames
        self._acknowledged_here = answer
        if frames:
            self._pause = _FIRST_PAUSE
        return ""

    async def _answer(self) -> int | str:
        """Return the next answer: frames taken on this connection, or why the server ends it.

        Raises:
            KVStreamError: If there is none.
        """
        try:
            with anyio.fail_after(_ANSWER_SECONDS):
                data = await self._reader.next()
            answer = None if data is None else _answer_of(data)
        except TimeoutError:
            raise KVStreamError(f"no answer for {_ANSWER_SECONDS:.0f} s") from None
        except (msgspec.DecodeError, UnicodeDecodeError, MalformedInputError) as error:
            raise KVStreamError("this is no kvstream server") from error
        except Exception as error:
            raise KVStreamError(_why(error)) from error
        if answer is None:
            raise KVStreamError(_CLOSED)
        return shortened(for_terminal(answer), _LONGEST_REASON) if isinstance(answer, str) else answer

    async def _connect(self) -> None:
        """Connect and say hello.

        Raises:
            OSError: If nobody listens, or the TLS handshake fails.
            KVStreamError: If we are refused, or get no answer.
        """
        try:
            with anyio.fail_after(_CONNECT_SECONDS):
                self._stream = await self._opened()
        except ssl.SSLCertVerificationError as error:
            self._refusal = f"{self.endpoint}: {_why(error)}"
            raise
        self._reader = MessageReader(self._stream, _LONGEST_ANSWER)
        self._acknowledged_here = 0
        await self._stream.send(with_length(msgspec.msgpack.encode(Hello(token=self._token))))
        welcome = await self._answer()
        if welcome != 0:
            self._refusal = f"{self.endpoint}: {welcome}"
            raise KVStreamError(str(welcome))
        self._connects += 1
        self._report_outcome()

    async def _opened(self) -> ByteStream:
        host, port = self.endpoint.host, self.endpoint.port
        if self.endpoint.path:
            return await anyio.connect_unix(self.endpoint.path)
        if self._tls is None:
            return await anyio.connect_tcp(host, port)
        return await anyio.connect_tcp(
            host, port, tls=True, ssl_context=self._tls, tls_standard_compatible=False
        )

    def _report_outcome(self) -> None:
        if self._outcome is not None:
            self._outcome.set()
            self._outcome = None

    async def _drop_connection(self, why: str | None = None) -> None:
        """Close the connection, if there is one; ``why`` if that was not meant to be."""
        if why is not None:
            if why != self._last_error:
                # Who waits to be accepted hears of it.
                level = logging.WARNING if self._outcome is None else logging.INFO
                _logger.log(level, "connection to %s: %s", self.endpoint, why)
            self._last_error = why
            self._report_outcome()
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)


def new_epoch() -> int:
    """Return a number that no other life of a producer has: the time, in ns, ending in random bits.

    The clock keeps epochs readable; the random bits tell apart two processes that start at once.
    """
    return (time.time_ns() >> _EPOCH_RANDOM_BITS << _EPOCH_RANDOM_BITS) + secrets.randbits(_EPOCH_RANDOM_BITS)


def _why(error: Exception) -> str:
    """Say what an error of a connection means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)):
        return _CLOSED
    if isinstance(error.__cause__, ExceptionGroup):  # of the addresses that a name has
        return _why(error.__cause__.exceptions[0])
    if isinstance(error, OSError) and isinstance(error.__cause__, OSError):
        return _why(error.__cause__)
    if isinstance(error, OSError) and error.strerror:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    if isinstance(error, TimeoutError):
        return f"no connection within {_CONNECT_SECONDS:.0f} s"
    return str(error) or type(error).__name__


def connect(
    endpoint: str,
    *,
    token: str | None = None,
    ca: File | None = None,
    certificate: File | None = None,
    key: File | None = None,
    config: StreamConfig | None = None,
    clock: Callable[[], int] | None = None,
) -> Connection:
    """Return a connection to a stream that ``kvstream serve`` or a ``FrameServer`` holds in another process.

    Args:
        endpoint: ``unix:PATH``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.
        token: What the server asks for.
        ca: PEM file with the roots to trust, for ``tls://``; by default those of the system.
        certificate: PEM file with a client certificate, if the server asks for one.
        key: PEM file with its private key.
        config: Queue, framing and overflow policy; what concerns metrics is the server's affair.
        clock: Nanoseconds since the Unix epoch, for producers.

    Raises:
        ConfigError: If the endpoint is none, or the token or a file cannot be used.

    Example:
        ``async with connect("unix:/run/kvstream.sock") as remote: remote.producer("engine-0")``
    """
    place = Endpoint.parse(endpoint)
    tls = None
    if place.tls:
        tls = client_context(ca, certificate, key)
    elif (ca, certificate, key) != (None, None, None):
        raise ConfigError(f"{endpoint} is not encrypted: certificates are for tls://HOST:PORT")
    return Connection(place, checked_token(token), config or StreamConfig(), clock, tls)
