"""Connections of the HTTP server: each is bounded in time and memory, and ends alone."""

import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from socket import socket
from typing import Any, NamedTuple

import anyio
import h11
import uvicorn
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, current_token
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from kvstream.faults.log import FaultLog

_REQUEST_SECONDS = 10.0  # within which a request has come whole
_IDLE_SECONDS = 30  # between requests; a scrape every 15 s keeps its connection
_HANDSHAKE_SECONDS = 10.0
_STUCK_SECONDS = 10.0  # in which nothing of what waits to be sent is taken
_MOST_UNSENT_BYTES = 64 * 1024 * 1024
_SWEEP_SECONDS = 1.0
_ACCEPTED_PER_TURN = 32
_ACCEPT_AGAIN_SECONDS = 0.2
_FAREWELL_SECONDS = 1.0


class ConnectionStatistics(NamedTuple):
    """The connections of an HTTP server at one moment.

    Attributes:
        open: Connections now.
        accepted: Connections so far.
        displaced: Closed because one more came than there may be.
        late: Closed because a request did not come whole in time.
        stuck: Closed because answers were not taken.
    """

    open: int
    accepted: int
    displaced: int
    late: int
    stuck: int


class Connections:
    """Accepts connections and serves HTTP on them.

    There are at most ``limit``: one more closes another, of the address that has the most, one without a
    request before one that is being answered, the one silent for the longest time. So strangers that only
    connect keep nobody out. One is closed, too, if its request does not come whole within 10 s, if it takes
    nothing of an answer for 10 s, and, those that have the most to take first, while more than 64 MiB wait
    to be taken. What goes wrong in one is noted as a fault and ends that one.

    Args:
        faults: Where errors are noted.
        limit: Connections at once.
        tls: What TLS needs; None serves without.
    """

    def __init__(self, faults: FaultLog, limit: int, tls: ssl.SSLContext | None) -> None:
        self._faults, self._limit, self._tls = faults, limit, tls
        self._state = ServerState()
        self._open: set[_Connection] = set()
        self._handshakes: dict[anyio.CancelScope, None] = {}  # the first has lasted for the longest time
        self._accepted = self._displaced = self._late = self._stuck = 0

    def statistics(self) -> ConnectionStatistics:
        """Return the connections now."""
        return ConnectionStatistics(len(self._open), self._accepted, self._displaced, self._late, self._stuck)

    async def serve(
        self, listener: socket, app: Callable[..., object], take_leave: Callable[[], None]
    ) -> None:
        """Serve until cancelled; connections then have a second to end.

        Args:
            listener: A socket that listens and does not block.
            app: The ASGI application.
            take_leave: Called when it is cancelled, to end answers that would go on for ever.
        """
        config = uvicorn.Config(
            app,
            http=H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,  # logging belongs to the application
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
        )
        config.load()
        make = partial(_Connection, config, self._state, self._faults, _noting(self._faults), self._open)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._sweep_regularly)
                await self._accept(listener, make, tasks)
        finally:
            take_leave()
            with anyio.CancelScope(shield=True):
                await self._end()

    async def _accept(self, listener: socket, make: "Callable[[], _Connection]", tasks: TaskGroup) -> None:
        loop = _loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors are left, or the peer has gone already
                self._faults.note(
                    "http", "accept_failed", f"cannot accept HTTP connections: {error.strerror}"
                )
                await anyio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            self._accepted += 1
            self._make_room()
            scope = anyio.CancelScope()
            self._handshakes[scope] = None  # here, as many are accepted before the first task runs
            tasks.start_soon(self._begin, accepted, make, scope)
            # Many that come at once must not hold the loop, nor wait for a turn of it each.
            if self._accepted % _ACCEPTED_PER_TURN == 0:
                await checkpoint()

    async def _begin(
        self, accepted: socket, make: "Callable[[], _Connection]", scope: anyio.CancelScope
    ) -> None:
        """Give a connection to a protocol, after the handshake if there is TLS."""
        loop = _loop()
        timeout = None if self._tls is None else _HANDSHAKE_SECONDS
        with scope:
            try:
                await loop.connect_accepted_socket(
                    make, accepted, ssl=self._tls, ssl_handshake_timeout=timeout
                )
            except Exception as error:  # whatever it is, it ends this connection alone
                reason = f"{type(error).__name__}: {error}"
                self._faults.note("http", "handshake_failed", f"an HTTP connection did not begin: {reason}")
                accepted.close()
            finally:
                self._handshakes.pop(scope, None)
        if scope.cancelled_caught:
            accepted.close()

    def _make_room(self) -> None:
        while len(self._open) + len(self._handshakes) >= self._limit:
            self._displaced += 1
            self._faults.note(
                "http", "too_many_connections", f"{self._limit} HTTP connections are open already"
            )
            if self._handshakes:
                scope = next(iter(self._handshakes))
                del self._handshakes[scope]
                scope.cancel()
                continue
            at_address = Counter(connection.address for connection in self._open)
            address, _ = at_address.most_common(1)[0]
            candidates = (connection for connection in self._open if connection.address == address)
            min(candidates, key=lambda connection: (connection.is_busy, connection.heard_at)).abort()

    async def _sweep_regularly(self) -> None:
        while True:
            self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            now = anyio.current_time()
            for connection in list(self._open):
                if connection.is_late(now):
                    self._late += 1
                    # No warning, as browsers connect ahead of what they may ask.
                    self._give_up(connection, "late_request", "did not ask in time", logging.INFO)
                elif connection.is_stuck(now):
                    self._stuck += 1
                    self._give_up(connection, "slow_client", "took nothing of its answers")
            self._shed()
            await anyio.sleep(_SWEEP_SECONDS)

    def _shed(self) -> None:
        """Close those with the most to take, while it is too much in all."""
        unsent = sum(connection.unsent for connection in self._open)
        if unsent <= _MOST_UNSENT_BYTES:
            return
        for connection in sorted(self._open, key=lambda connection: -connection.unsent):
            if unsent <= _MOST_UNSENT_BYTES:
                return
            unsent -= connection.unsent
            self._stuck += 1
            self._give_up(connection, "slow_client", "had the most of its answers to take")

    def _give_up(
        self, connection: "_Connection", reason: str, what: str, level: int = logging.WARNING
    ) -> None:
        self._faults.note(
            "http", reason, f"closed the HTTP connection of {connection.address}: it {what}", level
        )
        connection.abort()

    async def _end(self) -> None:
        for connection in list(self._open):
            connection.end()
        with anyio.move_on_after(_FAREWELL_SECONDS):
            while self._open or self._state.tasks:  # noqa: ASYNC110 - uvicorn has no event for it
                await anyio.sleep(0.01)
        for connection in list(self._open):
            connection.abort()
        for task in list(self._state.tasks):
            task.cancel()
        with anyio.move_on_after(_FAREWELL_SECONDS):
            while self._state.tasks:  # noqa: ASYNC110
                await anyio.sleep(0.01)


class _Connection(H11Protocol):
    """One connection: uvicorn's protocol, with limits, and with errors noted instead of printed.

    Attributes:
        address: Where the peer is.
        heard_at: When something last came from it, in seconds of the event loop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        faults: FaultLog,
        logger: logging.Logger,
        opened: "set[_Connection]",
    ) -> None:
        super().__init__(config, state, {})
        self.logger = logger
        self.access_log = False  # which would have a token that stands in a query
        self._faults, self._opened = faults, opened
        self.address = ""
        self.heard_at = self.loop.time()
        self._request_since: float | None = self.heard_at  # since when one is awaited or comes, in part
        self._unsent_before, self._unsent_since = 0, self.heard_at

    @property
    def is_busy(self) -> bool:
        """Return whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def unsent(self) -> int:
        """Return bytes of answers that wait for the peer."""
        return self.transport.get_write_buffer_size()

    def is_late(self, now: float) -> bool:
        """Return whether a request did not come whole in time."""
        return self._request_since is not None and now - self._request_since > _REQUEST_SECONDS

    def is_stuck(self, now: float) -> bool:
        """Return whether the peer has taken nothing for too long; to be asked regularly."""
        before, self._unsent_before = self._unsent_before, self.unsent
        if not self._unsent_before or self._unsent_before < before:
            self._unsent_since = now
        return now - self._unsent_since > _STUCK_SECONDS

    def end(self) -> None:
        """Close it, after the answer to a request if there is one."""
        try:
            self.shutdown()
        except Exception:  # h11 raises where the peer broke the protocol
            self.abort()

    def abort(self) -> None:
        """Close it at once; what its request is still answered with goes nowhere."""
        self._opened.discard(self)
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.abort()

    # What asyncio and uvicorn call

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._opened.add(self)
        self.address = self.client[0] if self.client else ""

    def connection_lost(self, exc: Exception | None) -> None:
        self._opened.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if self._request_since is None:
            self._request_since = self.heard_at
        try:
            super().data_received(data)
        except Exception as error:  # a request of any form ends its connection alone
            self._break(error)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._request_since = None

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except Exception as error:  # also while the request before it is being answered
            self._break(error)

    def send_400_response(self, msg: str) -> None:
        if self.is_busy:  # another answer cannot be put into the one that is being given
            self.abort()
        else:
            super().send_400_response(msg)

    def _break(self, error: Exception) -> None:
        self._faults.note("http", "bad_request", f"refused an HTTP request: {type(error).__name__}")
        try:
            self.send_400_response("Invalid HTTP request received.")
        except Exception:  # h11 is in no state to answer
            self.abort()


def _loop() -> Any:
    """Return the event loop that uvicorn's protocol runs on; anyio has no listener for protocols."""
    return current_token().native_token


class _FaultHandler(logging.Handler):
    """Notes what uvicorn logs of a connection, without tracebacks and at a bounded rate."""

    def __init__(self, faults: FaultLog) -> None:
        super().__init__()
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Exception):
            text = f"an HTTP request failed: {type(error).__name__}: {error}"
            self._faults.note("http", "request_failed", text, logging.ERROR)
        elif record.levelno == logging.WARNING:
            self._faults.note("http", "bad_request", f"refused an HTTP request: {record.getMessage()}")
        # Else an answer was cut short, as it is when a client is dropped: whoever did it has counted it.


def _noting(faults: FaultLog) -> logging.Logger:
    """Return a logger outside of the tree of loggers, so that nothing else writes what it is given."""
    logger = logging.Logger("uvicorn.error", logging.WARNING)
    logger.addHandler(_FaultHandler(faults))
    return logger
