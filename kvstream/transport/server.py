"""Frames from producers in other processes, over Unix sockets, TCP and TLS."""

import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol, cast

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketListener, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener

from kvstream.errors import ClosedStreamError, ConfigError
from kvstream.events.codec import MAX_FRAME_BYTES, decode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.faults.listening import listen_failure
from kvstream.faults.log import FaultLog
from kvstream.stream import KVStream, keeper_of
from kvstream.transport.connection import FrameConnection, FrameConnectionError
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.messages import LARGEST_READ
from kvstream.transport.receive_budget import ReceiveBudget
from kvstream.transport.socket_file import SocketFile
from kvstream.transport.tls import asks_for_certificates
from kvstream.transport.tokens import checked_token
from kvstream.transport.unheld import Unheld, UnheldFrames

__all__ = ["Destination", "FrameServer", "ServerStatistics"]

_HELLO_SECONDS = 10.0
_ACCEPT_PAUSE_SECONDS = 0.1
_KEEPALIVE_SECONDS = 60  # of silence, after which a TCP peer is asked whether it is still there

_NO_FILES = (errno.EMFILE, errno.ENFILE)
_QUIET = {"closed_early": logging.INFO}  # as load balancers and scanners do it all the time
_logger = logging.getLogger("kvstream")


class ServerStatistics(NamedTuple):
    """A server's accounts at one moment.

    Attributes:
        connections: Producers connected now.
        accepted: Producers that have connected so far.
        refused: Connections that were refused or broke the rules.
        frames: Frames taken, repeated ones among them.
        received_bytes: Bytes in them.
        strangers: Connections that have not sent their hello yet.
        faults: What ended connections or hindered new ones, by reason.
    """

    connections: int
    accepted: int
    refused: int
    frames: int
    received_bytes: int
    strangers: int
    faults: dict[str, int]


class Destination(Protocol):
    """Where a server's frames go: a ``KVStream``, or what else takes them.

    Attributes:
        faults: Where errors are noted.
    """

    faults: FaultLog

    async def send(self, frame: EventFrame) -> None:
        """Take a frame, waiting for room.

        Raises:
            ClosedStreamError: If nothing is taken any more.
            MalformedInputError: If the source or tier is no name.
        """

    def reject(self, malformed: Malformed) -> None:
        """Count a piece of input that could not be decoded."""


class FrameServer:
    """Takes frames from remote producers into a stream.

    A frame is acknowledged once it is on the stream's queue; while the queue is full, the producer's
    connection waits. If the stream has ``state``, it is acknowledged once a snapshot holds it. A frame that
    cannot be decoded is acknowledged, counted as malformed and skipped.

    Whatever happens in a connection ends that connection alone. It is counted in ``statistics().faults``
    and in the stream's ``faults`` under ``frames`` and one of these reasons: ``closed_early`` (before the
    hello), ``hello_timeout``, ``bad_hello``, ``bad_token``, ``tls_handshake``, ``too_many_strangers``,
    ``too_many_producers``, ``frame_too_long``, ``torn_frame``, ``stalled``, ``answers_unread``,
    ``receive_budget``, ``reset``, ``error``; ``accept`` counts connections that could not be accepted.

    Args:
        stream: Where the frames go.
        endpoint: Where to listen.
        token: Token that producers must send; None lets everybody in.
        insecure: Listen beyond this machine without a token.
        longest_frame: Bytes a frame may have.
        most_connections: Producers at once; a further one is refused.
        most_strangers: Connections at once that have not sent their hello yet; one more closes the oldest.
        hello_seconds: Seconds that the handshake and the hello may take.
        budget: Bounds what is received and not yet on a queue; may be shared by several servers.
        tls: Context of a ``tls://`` endpoint.
        unheld: Returns, for each connection, what decides when its frames are acknowledged; by default, if
            the stream has ``state``, once a snapshot holds them.
        send: Called with each frame and its encoded bytes, in place of the stream's ``send``.
        gather_seconds: Seconds for which frames may gather in a Unix socket before they are read together;
            shorter if they come fast.

    Raises:
        ConfigError: If others than this machine could connect without a token or a certificate, if the
            token cannot be used, or if the endpoint and ``tls`` do not agree.
    """

    def __init__(
        self,
        stream: Destination,
        endpoint: Endpoint,
        *,
        token: str | None = None,
        insecure: bool = False,
        longest_frame: int = MAX_FRAME_BYTES,
        most_connections: int = 256,
        most_strangers: int = 256,
        hello_seconds: float = _HELLO_SECONDS,
        budget: ReceiveBudget | None = None,
        tls: ssl.SSLContext | None = None,
        unheld: Callable[[], Unheld] | None = None,
        send: Callable[[EventFrame, bytes], Awaitable[None]] | None = None,
        gather_seconds: float = 0.0,
    ) -> None:
        if endpoint.tls != (tls is not None):
            needs = "needs a certificate and a key" if endpoint.tls else "is not encrypted; write tls://"
            raise ConfigError(f"{endpoint} {needs}")
        token = checked_token(token)
        endpoint.require_guard(str(endpoint), token, insecure or asks_for_certificates(tls))
        self._budget = budget or ReceiveBudget()
        if self._budget.limit < longest_frame + LARGEST_READ:
            raise ConfigError(
                f"a budget of {self._budget.limit:,} bytes has no room for a frame of {longest_frame:,}"
            )
        self.endpoint = endpoint
        self._stream, self._token, self._tls = stream, token, tls
        self._make_unheld = self._unheld_by_state if unheld is None else unheld
        self._send = send or (lambda frame, _: stream.send(frame))
        self._longest_frame = longest_frame
        self._most_connections, self._most_strangers = most_connections, most_strangers
        self._hello_seconds, self._gather_seconds = hello_seconds, gather_seconds
        self._strangers: dict[FrameConnection, None] = {}  # in order of coming
        self._connections = self._accepted = self._refused = self._frames = self._bytes = 0
        self._faults: Counter[str] = Counter()
        self._listener: SocketListener | MultiListener[SocketStream] | None = None
        self._file: SocketFile | None = None
        self._tasks: TaskGroup | None = None

    def statistics(self) -> ServerStatistics:
        """Return the accounts now."""
        return ServerStatistics(
            self._connections,
            self._accepted,
            self._refused,
            self._frames,
            self._bytes,
            len(self._strangers),
            dict(self._faults),
        )

    async def bind(self) -> None:
        """Begin to listen; ``endpoint`` then has the port, if any was asked for.

        Raises:
            ConfigError: If the endpoint cannot be listened at.
        """
        try:
            if self.endpoint.path:
                self._file = SocketFile(self.endpoint.path)
                self._listener = await self._file.listen()
            else:
                # [::] is every address of this machine, of IPv4 too, and of a machine without IPv6.
                host = None if self.endpoint.host == "::" else self.endpoint.host
                self._listener = await anyio.create_tcp_listener(
                    local_host=host, local_port=self.endpoint.port
                )
                port = self._listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
                self.endpoint = Endpoint(host=self.endpoint.host, port=port, tls=self.endpoint.tls)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot listen at {self.endpoint}: {listen_failure(error)}") from error
        if self._token is not None and self.endpoint.is_exposed:
            _logger.warning("producers send their token to %s unencrypted; use tls://", self.endpoint)

    async def serve(self) -> None:
        """Serve until cancelled; ``bind`` comes first.

        On cancellation, every frame that is on the stream's queue is acknowledged before its connection
        closes, of a stream with ``state`` by a last snapshot. That takes a few seconds at most.
        """
        assert self._listener is not None  # noqa: S101
        listener = self._listener
        listeners = (
            listener.listeners if isinstance(listener, MultiListener) else [listener]
        )  # one an address
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for each in listeners:
                tasks.start_soon(self._accept_all, each, tasks)

    async def aclose(self) -> None:
        """Stop listening; ``serve`` does so at its end. It is not cancelled halfway."""
        if self._file is not None:
            self._file.remove()
        if self._listener is not None:
            with anyio.CancelScope(shield=True):
                await self._listener.aclose()

    async def _accept_all(self, listener: Listener[SocketStream], tasks: TaskGroup) -> None:
        """Accept connections; where that fails, wait a little and go on."""
        try:
            with suppress(anyio.ClosedResourceError):
                while True:
                    await self._accept(listener, tasks)
        finally:
            await self.aclose()  # before the connections end, so that nobody comes again to be turned away

    async def _accept(self, listener: Listener[SocketStream], tasks: TaskGroup) -> None:
        """Accept a connection, or wait a little after an error."""
        try:
            connection = await cast("SocketListener", listener).accept()
        except (OSError, anyio.BrokenResourceError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            why = getattr(cause, "strerror", None) or cause or "the connection broke"
            self._note("accept", f"cannot accept a connection: {why}")
            if getattr(cause, "errno", None) in _NO_FILES:
                self._close_oldest_stranger()
            await anyio.sleep(_ACCEPT_PAUSE_SECONDS)
        else:
            tasks.start_soon(self._serve, connection)

    async def _serve(self, stream: ByteStream) -> None:
        """Serve one connection. Whatever goes wrong in it ends nothing else."""
        unheld = self._make_unheld()
        connection = FrameConnection(stream, self._budget, unheld, self._gather_seconds)
        acknowledging = anyio.CancelScope()

        async def acknowledge() -> None:
            with acknowledging:
                await connection.acknowledge_held()

        if unheld is not None:
            assert self._tasks is not None  # noqa: S101
            self._tasks.start_soon(acknowledge)
        try:
            with suppress(Exception), connection.scope:  # counted where it is raised
                await self._converse(connection, stream, unheld)
        finally:
            acknowledging.cancel()
            await connection.close()
        if connection.scope.cancelled_caught and connection.fault is not None:
            self._count(connection.fault)

    def _unheld_by_state(self) -> Unheld | None:
        keeper = keeper_of(self._stream) if isinstance(self._stream, KVStream) else None
        return None if keeper is None else UnheldFrames(keeper)

    async def _converse(self, connection: FrameConnection, stream: ByteStream, unheld: Unheld | None) -> None:
        """Let a producer in and take its frames, until it closes the connection."""
        is_producer = False
        try:
            await self._greet(connection, stream)
            self._require_place()
            del self._strangers[connection]
            is_producer = True
            self._connections += 1
            self._accepted += 1
            await connection.take_frames(self._longest_frame, partial(self._deliver, unheld))
        except BaseException as error:
            is_stopped = is_producer and not isinstance(error, Exception)
            if is_producer:
                self._connections -= 1
                is_producer = False
            if isinstance(error, Exception):
                self._count(error)
                self._strangers[connection] = None  # until it has read why
            await connection.end(_farewell(connection.fault or error), shield=is_stopped)
            raise
        finally:
            self._strangers.pop(connection, None)
            self._connections -= is_producer

    def _require_place(self) -> None:
        if self._connections >= self._most_connections:
            raise FrameConnectionError(
                "too_many_producers",
                f"{self._most_connections} producers are connected already; --max-connections lets in more",
            )

    async def _greet(self, connection: FrameConnection, stream: ByteStream) -> None:
        """Wait for the hello of a new connection, for a limited time."""
        while len(self._strangers) >= self._most_strangers:
            self._close_oldest_stranger()
        self._strangers[connection] = None
        self._require_place()
        _keep_alive(stream)
        with anyio.move_on_after(self._hello_seconds) as limit:
            if self._tls is not None:
                await connection.secure(self._tls)
            await connection.greet(self._token)
        if limit.cancelled_caught:
            raise FrameConnectionError("hello_timeout", f"no hello within {self._hello_seconds:g} s")

    def _close_oldest_stranger(self) -> None:
        if self._strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cut_off("too_many_strangers", "too many connections wait to say hello")

    async def _deliver(self, unheld: Unheld | None, data: bytes) -> None:
        """Put a frame onto the stream's queue.

        A frame that cannot be decoded, for whatever reason, is counted and passed over: refused, it would
        be sent again for ever.
        """
        try:
            frame = decode_frame(data)
        except MemoryError:
            raise
        except Exception as error:
            self._stream.reject(Malformed(str(self.endpoint), "frame", self._frames + 1, str(error)))
            if unheld is not None:
                unheld.add_malformed(len(data))
        else:
            await self._send(frame, data)
            if unheld is not None:
                unheld.add(frame.source, len(data))
        self._frames += 1
        self._bytes += len(data)

    def _count(self, error: Exception) -> None:
        """Count why a connection ended."""
        if isinstance(error, FrameConnectionError):
            self._refused += error.reason != "closed_early"
            self._note(error.reason, f"refused a producer: {error}")
        elif isinstance(error, (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)):
            self._note("reset", "a producer's connection broke")
        elif not isinstance(error, ClosedStreamError):  # which every producer is sent
            self._note("error", f"a producer's connection ended by {type(error).__name__}: {error}")

    def _note(self, reason: str, message: str) -> None:
        self._faults[reason] += 1
        level = _QUIET.get(reason, logging.WARNING)
        self._stream.faults.note("frames", reason, f"{self.endpoint}: {message}", level)


def _farewell(error: BaseException) -> str:
    """Return the text that the peer gets when its connection ends."""
    if isinstance(error, FrameConnectionError):
        return error.message
    if isinstance(error, ClosedStreamError):
        return "the stream has closed"
    return "the server had an error" if isinstance(error, Exception) else "the server is stopping"


def _keep_alive(stream: ByteStream) -> None:
    """Turn on TCP keepalive, so that connections of vanished peers are closed."""
    raw = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - not Django's
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS // 4)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
