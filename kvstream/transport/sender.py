"""FrameSender: frames from a queue to a server in another process, sent again until they are acknowledged."""

import logging
import random
import secrets
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute

from kvstream.errors import KVStreamError, MalformedInputError
from kvstream.events.codec import encode_frame
from kvstream.faults.connecting import connection_failure
from kvstream.faults.log import FaultLog
from kvstream.recording.queue import FrameQueue, Item
from kvstream.text.escape import for_terminal, shortened
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.messages import HURRY, Hello, MessageReader, with_length

MAX_UNACKNOWLEDGED_BYTES = 64 * 1024 * 1024
"""Bytes that are kept to be sent again, however few events they hold."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_CONNECT_SECONDS = 30.0  # with the TLS handshake
_ANSWER_SECONDS = 60.0  # without a word while frames wait to be acknowledged
_LAST_ANSWERS_SECONDS = 1.0  # to read what was acknowledged before a connection broke
_LONGEST_ANSWER = 4096
_LONGEST_REASON = 300  # characters
_CLOSED = "the stream's side has closed the connection"
_AT_ONCE = 256 * 1024  # bytes a write
_UNIX_SEND_BYTES = 2 * _AT_ONCE  # that a Unix socket may hold; not one write, by default
_EPOCH_RANDOM_BITS = 24  # 17 ms of the clock

_logger = logging.getLogger("kvstream")
_answer_of: Callable[[bytes], int | str] = msgspec.msgpack.Decoder(int | str).decode


class FrameSender:
    """Sends what a queue holds, in order, over as many connections as it takes.

    Frames are numbered by source, and kept until they are acknowledged: after a break they are sent again,
    and what arrives twice is counted once. A server with ``--state`` acknowledges what its snapshots hold,
    some seconds later; as many events as the queue holds, and ``MAX_UNACKNOWLEDGED_BYTES``, may wait for that
    before nothing more is taken from the queue.

    Args:
        endpoint: Where the server listens.
        token: What it asks for.
        tls: Context of a ``tls://`` endpoint.
        queue: Where frames come from; they count as processed there once they are acknowledged.
        faults: Counts and logs frames that cannot be encoded.

    Attributes:
        connects: Connections made so far.
        frames: Frames acknowledged.
        events: Events in them.
        last_error: Why the last connection failed or ended; empty if none has.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        token: str | None,
        tls: ssl.SSLContext | None,
        queue: FrameQueue,
        faults: FaultLog,
    ) -> None:
        self.connects = self.frames = self.events = 0
        self.last_error = ""
        self._endpoint, self._token, self._tls = endpoint, token, tls
        self._queue, self._faults = queue, faults
        self._epoch = new_epoch()
        self._numbers: Counter[str] = Counter()  # frames so far, by source
        self._unsent: deque[tuple[bytes, Item]] = deque()  # on this connection
        self._sent: deque[tuple[bytes, Item]] = deque()  # on this connection, not acknowledged
        self._held_bytes = self._held_events = 0  # in both
        self._limit_events = queue.statistics().limit_events
        self._acknowledged_here = 0  # on this connection
        self._is_greeting = False
        self._all_taken = False
        self._in_a_hurry = False
        self._stream: ByteStream | None = None
        self._changed = anyio.Event()  # of what is to be sent, or was acknowledged
        self._pause = _FIRST_PAUSE
        self._refusal = ""
        self._outcome: anyio.Event | None = None  # of the next attempt to connect; None if nobody waits

    @property
    def is_connected(self) -> bool:
        """Return whether there is a connection now."""
        return self._stream is not None

    async def run(self) -> None:
        """Send until the queue is closed and all that it held is acknowledged.

        If it is cancelled, ``abandon`` returns what was not.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._take)
                await self._deliver()
        finally:
            await self._close()

    async def accepted(self) -> None:
        """Wait for the first successful handshake, which is tried once there is a frame to send.

        Raises:
            KVStreamError: If it refuses. The sender goes on trying all the same.
        """
        while not self.connects:
            if self._refusal:
                raise KVStreamError(self._refusal)
            if self._outcome is None:
                self._outcome = anyio.Event()
            await self._outcome.wait()

    def hurry(self) -> None:
        """Ask the server to acknowledge received frames as soon as it can."""
        if not self._in_a_hurry:
            self._in_a_hurry = True
            self._wake()

    def abandon(self) -> list[Item]:
        """Take out everything that is not acknowledged, without sending it."""
        items = [item for _, item in (*self._sent, *self._unsent)]
        self._sent.clear()
        self._unsent.clear()
        return items

    # From the queue to what is lined up

    async def _take(self) -> None:
        while (items := await self._queue.take()) is not None:
            for item in items:
                self._encode(item)
            self._wake()
            while self._is_full:
                self.hurry()
                await self._change()
        self._all_taken = True
        self.hurry()
        self._wake()

    @property
    def _is_full(self) -> bool:
        """Return whether as much waits to be acknowledged as may."""
        return self._held_events >= self._limit_events or self._held_bytes >= MAX_UNACKNOWLEDGED_BYTES

    def _encode(self, item: Item) -> None:
        """Give a frame its sequence number and line it up; drop it if it cannot be encoded."""
        frame, sender = item
        number = self._numbers[frame.source]
        try:
            message = encode_frame(msgspec.structs.replace(frame, epoch=self._epoch, seq=number))
        except Exception as error:
            self._faults.note("connection", "malformed", f"{self._endpoint}: a frame was dropped: {error}")
            sender.drop("malformed", len(frame))
            self._queue.processed(len(frame))
        else:
            self._numbers[frame.source] = number + 1
            message = with_length(message)
            self._held_bytes += len(message)
            self._held_events += len(frame)
            self._unsent.append((message, item))

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()

    # Over one connection after the other

    async def _deliver(self) -> None:
        while True:
            while not self._unsent and not self._sent:
                if self._all_taken:
                    return
                await self._change()
            try:
                await self._connect()
                await self._converse()
            except Exception as error:
                await self._close(_why(error))
            if self._unsent or self._sent:
                await anyio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _converse(self) -> None:
        """Send and take answers, until all is acknowledged and no more will come, or the connection ends."""
        ended = broken = ""
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as reading:

                async def write() -> None:
                    nonlocal broken
                    try:
                        await self._write()
                        reading.cancel()
                    except Exception as error:
                        broken = _why(error)
                        # What was acknowledged before is still to be read, or it would be sent again.
                        reading.deadline = anyio.current_time() + _LAST_ANSWERS_SECONDS

                tasks.start_soon(write)
                while not ended and not self._is_done:
                    try:
                        ended = self._take_answer(await self._answer())
                    except KVStreamError as error:
                        ended = str(error)
            tasks.cancel_scope.cancel()
        await self._close(ended or broken or None)

    @property
    def _is_done(self) -> bool:
        """Return whether all is acknowledged and no more will come."""
        return self._all_taken and not self._unsent and not self._sent

    async def _write(self) -> None:
        """Send what there is as it comes, until all is acknowledged and no more will come."""
        stream = self._stream
        assert stream is not None  # noqa: S101
        while not self._is_done:
            while self._unsent:
                size = count = 0
                for message, _ in self._unsent:
                    size += len(message)
                    count += 1
                    if size >= _AT_ONCE:
                        break
                data = b"".join(message for message, _ in islice(self._unsent, count))
                # From now on the server may acknowledge them.
                self._sent.extend(self._unsent.popleft() for _ in range(count))
                await stream.send(data)
            if self._in_a_hurry and self._sent and (self._is_full or not self._queue.statistics().frames):
                self._in_a_hurry = False
                await stream.send(with_length(HURRY))
            if not self._unsent and not self._is_done:
                await self._change()

    def _take_answer(self, answer: int | str) -> str:
        """Count frames as acknowledged; say why the connection ends, if it does."""
        if isinstance(answer, str):
            return answer
        frames = answer - self._acknowledged_here
        if not 0 <= frames <= len(self._sent):
            return "the server acknowledges what was not sent"
        for _ in range(frames):
            message, (frame, _) = self._sent.popleft()
            self._held_bytes -= len(message)
            self._held_events -= len(frame)
            self.events += len(frame)
            self._queue.processed(len(frame))
        self.frames += frames
        self._acknowledged_here = answer
        if frames:
            self._pause = _FIRST_PAUSE
            self._wake()
        return ""

    async def _answer(self) -> int | str:
        """Return the next answer: frames taken on this connection, or why the server ends it.

        Raises:
            KVStreamError: If there is none.
        """
        try:
            data = await self._message()
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

    async def _message(self) -> bytes | None:
        """Wait for the server's next message.

        Raises:
            TimeoutError: If there is none for a minute in which it owed one.
        """
        while True:
            is_owed = self._is_greeting or bool(self._sent)
            with anyio.move_on_after(_ANSWER_SECONDS):
                return await self._reader.next()
            if is_owed:
                raise TimeoutError

    async def _connect(self) -> None:
        """Connect and say hello.

        Raises:
            OSError: If nobody listens, or the TLS handshake fails.
            KVStreamError: If we are refused, or get no answer.
        """
        try:
            with anyio.fail_after(_CONNECT_SECONDS):
                self._stream = await open_stream(self._endpoint, self._tls)
        except ssl.SSLCertVerificationError as error:
            self._refusal = f"{self._endpoint}: {_why(error)}"
            raise
        self._reader = MessageReader(self._stream, _LONGEST_ANSWER)
        self._acknowledged_here, self._is_greeting = 0, True
        await self._stream.send(with_length(msgspec.msgpack.encode(Hello(token=self._token))))
        welcome = await self._answer()
        self._is_greeting = False
        if welcome != 0:
            self._refusal = f"{self._endpoint}: {welcome}"
            raise KVStreamError(str(welcome))
        self.connects += 1
        self._report_outcome()

    def _report_outcome(self) -> None:
        if self._outcome is not None:
            self._outcome.set()
            self._outcome = None

    async def _close(self, why: str | None = None) -> None:
        """Close the connection, if there is one; ``why`` if that was not meant to be."""
        if why is not None:
            if why != self.last_error:
                # Who waits to be accepted hears of it.
                level = logging.WARNING if self._outcome is None else logging.INFO
                _logger.log(level, "connection to %s: %s", self._endpoint, why)
            self.last_error = why
            self._report_outcome()
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._in_a_hurry = self._in_a_hurry or self._all_taken
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)


async def open_stream(endpoint: Endpoint, tls: ssl.SSLContext | None) -> ByteStream:
    """Connect to a server.

    Args:
        endpoint: Where it is.
        tls: How ``tls://`` is encrypted and whom to trust.

    Raises:
        OSError: If nobody answers there, or TLS fails.
    """
    if endpoint.path:
        stream = await anyio.connect_unix(endpoint.path)
        connection = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_SEND_BYTES)
        return stream
    if tls is None:
        return await anyio.connect_tcp(endpoint.host, endpoint.port)
    return await anyio.connect_tcp(
        endpoint.host, endpoint.port, tls=True, ssl_context=tls, tls_standard_compatible=False
    )


def new_epoch() -> int:
    """Return a number that no other life of a producer has: the time, in ns, ending in random bits.

    The clock keeps epochs readable; the random bits tell apart two processes that start at once.
    """
    return (time.time_ns() >> _EPOCH_RANDOM_BITS << _EPOCH_RANDOM_BITS) + secrets.randbits(_EPOCH_RANDOM_BITS)


def _why(error: Exception) -> str:
    """Say what an error of a connection means."""
    failure = connection_failure(error, _CONNECT_SECONDS)
    return _CLOSED if failure.kind == "closed" else failure.words
