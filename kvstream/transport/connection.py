"""FrameConnection: one producer's connection as its server sees it, from the handshake to the last answer."""

import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import msgspec
from anyio.abc import ByteStream, UNIXSocketStream
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.tls import TLSStream

from kvstream.errors import MalformedInputError
from kvstream.transport.aligned_sleep import sleep_aligned
from kvstream.transport.messages import (
    HURRY,
    LINK_VERSION,
    MAX_HELLO_BYTES,
    Hello,
    MessageReader,
    with_length,
)
from kvstream.transport.receive_budget import ReceiveBudget
from kvstream.transport.tokens import same_token
from kvstream.transport.unheld import Unheld

ANSWER_SECONDS = 5.0  # that a peer may take to make room for an answer
STALLED_SECONDS = 60.0  # without a byte in the middle of a frame
_FAREWELL_SECONDS = 1.0
_FRAMES_AN_ANSWER = 16  # while more are waiting
_GATHERED_BYTES = 352 * 1024  # that may gather; a Unix socket has room for 400 kB, by Linux's defaults
_LEAST_GATHER_SECONDS = 0.01
_SIGN_OF_LIFE_SECONDS = 20.0  # after which an answer is repeated where frames wait for a snapshot
_LAST_SNAPSHOT_SECONDS = 4.0  # that the last frames may wait for theirs

_hello_decoder = msgspec.msgpack.Decoder(Hello)


class FrameConnectionError(Exception):
    """Raised when a connection ends for another reason than that its peer has finished.

    Attributes:
        reason: Constant of the program, as it becomes a metric's label.
        message: What happened, for the peer and the log.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class FrameConnection:
    """One connection of a producer.

    Args:
        stream: The connection.
        budget: Bounds what is received and not yet on a queue.
        unheld: Keeps frames unacknowledged until a snapshot, or a broker, holds them; None if nothing has to.
        gather_seconds: How long frames gather before they are taken, where they do not come fast.

    Attributes:
        scope: Cancelled to end this connection alone.
        fault: Why it was cut off; None if it was not.
        taken: Frames taken so far.
    """

    def __init__(
        self,
        stream: ByteStream,
        budget: ReceiveBudget,
        unheld: Unheld | None = None,
        gather_seconds: float = 0.0,
    ) -> None:
        self.scope = anyio.CancelScope()
        self.fault: FrameConnectionError | None = None
        self.taken = 0
        self._stream = stream
        self._budget = budget
        self._share = budget.join(self._cut_off_for_memory)
        self._reader = MessageReader(stream, MAX_HELLO_BYTES)
        self._acknowledged = 0
        self._answering = anyio.Lock()
        self._can_answer = True
        self._unheld = unheld
        # Where pieces are not taken together (TCP), to wait would only take time.
        self._gather_seconds = gather_seconds if isinstance(stream, UNIXSocketStream) else 0.0
        self._gathered_at, self._gathered = anyio.current_time(), 0  # bytes received until then

    def cut_off(self, reason: str, message: str) -> None:
        """End the connection from outside."""
        if self.fault is None:
            self.fault = FrameConnectionError(reason, message)
            self.scope.cancel()

    def _cut_off_for_memory(self) -> None:
        self.cut_off(
            "receive_budget", f"unfinished frames hold more than {self._budget.limit:,} bytes; send it again"
        )

    async def secure(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake.

        Raises:
            FrameConnectionError: If it fails.
        """
        self._can_answer = False
        try:
            self._stream = await TLSStream.wrap(
                self._stream, server_side=True, ssl_context=context, standard_compatible=False
            )
        except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            why = getattr(error, "reason", None) or "the connection closed"
            raise FrameConnectionError("tls_handshake", f"TLS handshake failed: {why}") from error
        self._can_answer = True
        self._reader = MessageReader(self._stream, MAX_HELLO_BYTES)

    async def greet(self, token: str | None) -> None:
        """Wait for the hello and check it.

        Raises:
            FrameConnectionError: If it is no hello of a producer that may come in.
            anyio.BrokenResourceError: If the connection breaks.
        """
        try:
            data = await self._reader.next()
        except MalformedInputError as error:
            raise FrameConnectionError("bad_hello", f"this is no kvstream producer: {error}") from error
        if data is None:
            raise FrameConnectionError("closed_early", "the connection closed before its hello")
        try:
            hello = _hello_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FrameConnectionError("bad_hello", "this is no kvstream producer") from error
        if hello.protocol != "kvstream" or hello.version != LINK_VERSION:
            raise FrameConnectionError(
                "bad_hello", f"{hello.protocol} {hello.version} is not kvstream {LINK_VERSION}"
            )
        if token is not None and not same_token(hello.token, token):
            raise FrameConnectionError("bad_token", "authentication failed: wrong token")

    async def take_frames(self, longest: int, deliver: Callable[[bytes], Awaitable[None]]) -> None:
        """Take frames and acknowledge them until the peer closes the connection.

        A frame counts as taken once ``deliver`` has returned. If that is cancelled, the frame is not
        acknowledged, and the producer's side sends it again. With ``unheld``, to which ``deliver`` adds it,
        ``acknowledge_held`` does the rest.

        Args:
            longest: Bytes that a frame may have.
            deliver: Puts a frame on its way.

        Raises:
            FrameConnectionError: If the peer breaks the rules or stalls.
            anyio.BrokenResourceError: If the connection breaks.
        """
        await self._answer(0)
        self._reader.allow(longest)
        while True:
            data = self._waiting()
            if self._unheld is None and self._owed >= (1 if data is None else _FRAMES_AN_ANSWER):
                await self._acknowledge()
                await checkpoint_if_cancelled()  # answers are not cancelled
            if data is None:
                if self._gather_seconds and self._reader.is_drained:
                    data = await self._gather()
                if data is None and (data := await self._next()) is None:
                    return
            self._share.is_reading = False
            if data == HURRY:
                if self._unheld is not None:
                    self._unheld.press()
                continue
            await deliver(data)
            self.taken += 1

    async def _gather(self) -> bytes | None:
        """Let frames gather, unless they come fast; return one if any has come.

        To wake for each costs more than what is done with it.
        """
        now, received = anyio.current_time(), self._reader.received
        came, elapsed = received - self._gathered, now - self._gathered_at
        self._gathered, self._gathered_at = received, now
        seconds = self._gather_seconds
        while came * seconds > _GATHERED_BYTES * elapsed:
            seconds /= 2
            if seconds < _LEAST_GATHER_SECONDS:
                return None
        await sleep_aligned(seconds)
        await self._budget.room(self._share)
        self._reader.receive_waiting()
        self._budget.resize(self._share, self._reader.held)
        return self._waiting()

    async def acknowledge_held(self) -> None:
        """Acknowledge frames as they come to be held, until cancelled or the connection breaks."""
        unheld = self._unheld
        assert unheld is not None  # noqa: S101
        try:
            while True:
                with anyio.move_on_after(_SIGN_OF_LIFE_SECONDS) as silence:
                    await unheld.change()
                unheld.release()
                if self._owed or (silence.cancelled_caught and len(unheld)):
                    await self._acknowledge()
        except FrameConnectionError as error:
            self.cut_off(error.reason, error.message)
        except Exception as error:
            self.cut_off("reset", f"it broke: {error}")

    @property
    def _owed(self) -> int:
        """Return how many frames may be acknowledged."""
        return self.taken - (0 if self._unheld is None else len(self._unheld)) - self._acknowledged

    async def end(self, message: str, shield: bool) -> None:
        """Acknowledge what was taken, say why the connection ends, and let the peer read it.

        Takes a few seconds at most. Errors are passed over.

        Args:
            message: Why it ends.
            shield: Go on when cancelled.
        """
        self._give_back()
        if not self._can_answer:
            return
        with anyio.CancelScope(shield=shield), suppress(Exception):
            if self._unheld is not None and shield and self.fault is None:
                await self._let_snapshot_hold(self._unheld)
            if self._owed:
                await self._acknowledge()
            await self._answer(message)
            with anyio.move_on_after(_FAREWELL_SECONDS):
                # Closing with bytes unread would reset the connection, and with it what we have just sent.
                if not isinstance(self._stream, TLSStream):
                    await self._stream.send_eof()
                while True:
                    await self._stream.receive()

    async def _let_snapshot_hold(self, unheld: Unheld) -> None:
        """Give a last snapshot some time to hold what was taken."""
        unheld.press()
        with anyio.move_on_after(_LAST_SNAPSHOT_SECONDS):
            unheld.release()
            while len(unheld):
                await unheld.change()
                unheld.release()

    async def close(self) -> None:
        """Close the connection without waiting."""
        self._give_back()
        with suppress(Exception):
            await anyio.aclose_forcefully(self._stream)

    def _give_back(self) -> None:
        """Give back the room for what is received, now: the garbage collector may take its time."""
        self._budget.leave(self._share)
        self._reader.drop()

    def _waiting(self) -> bytes | None:
        try:
            return self._reader.waiting()
        except MalformedInputError as error:
            raise FrameConnectionError("frame_too_long", str(error)) from error

    async def _next(self) -> bytes | None:
        """Wait for a frame within the budget; None at the end of the connection."""
        with (
            anyio.CancelScope() as patience
        ):  # one for all pieces of a frame, as each costs some microseconds
            while True:
                self._budget.resize(self._share, self._reader.held)
                await self._budget.room(self._share)
                patience.deadline = anyio.current_time() + STALLED_SECONDS if self._reader.held else math.inf
                try:
                    more = await self._reader.receive()
                except MalformedInputError as error:
                    raise FrameConnectionError("frame_too_long", str(error)) from error
                patience.deadline = math.inf
                if not more:
                    if self._reader.held:
                        raise FrameConnectionError("torn_frame", "the connection closed within a frame")
                    return None
                self._budget.resize(self._share, self._reader.held)
                if (data := self._waiting()) is not None:
                    return data
        raise FrameConnectionError("stalled", f"no byte of a frame for {STALLED_SECONDS:.0f} s")

    async def _acknowledge(self) -> None:
        self._acknowledged += self._owed
        await self._answer(self._acknowledged)

    async def _answer(self, answer: int | str) -> None:
        """Send an answer whole: cut in two by a cancellation, it would spoil those after it.

        Raises:
            FrameConnectionError: If the peer does not read its answers.
        """
        message = with_length(msgspec.msgpack.encode(answer))
        is_sent = False
        with anyio.move_on_after(ANSWER_SECONDS, shield=True):
            async with self._answering:
                self._can_answer = False
                await self._stream.send(message)
                self._can_answer = is_sent = True
        if not is_sent:
            raise FrameConnectionError("answers_unread", f"no answer was read for {ANSWER_SECONDS:.0f} s")
