"""Whether an input is connected: what ZMQ's socket monitor says, which its sockets never do."""

import struct
import time
from typing import Any

from kvstream.engine.inputs import ConnectionState
from kvstream.sources.zmq_sockets import SocketReader

_PATIENCE_SECONDS = 5.0  # of a connection that neither comes about nor is refused
_EVENT = struct.Struct("=hi")  # id and value, as libzmq has it


class InputConnection:
    """The state of an input's connection, and since when."""

    def __init__(self) -> None:
        self._state: ConnectionState = "connecting"
        self.error = ""
        self.since = time.time()

    @property
    def state(self) -> ConnectionState:
        """Return the state; after more than 5 s of connecting, it is not connected."""
        if self._state == "connecting" and time.time() - self.since > _PATIENCE_SECONDS:
            return "not connected"
        return self._state

    def become(self, state: ConnectionState, error: str = "") -> None:
        """Take note of a state; the same again does not change since when."""
        if state != self._state:
            self._state, self.since = state, time.time()
        self.error = error


class ConnectionMonitor:
    """Follows what becomes of a ZMQ socket's connections.

    Args:
        connection: What is to be kept up to date.

    Attributes:
        messages: The monitor's messages, once it watches a socket; ``take`` reads them.
    """

    messages: SocketReader

    def __init__(self, connection: InputConnection) -> None:
        import zmq

        self._connection = connection
        self._peers = 0
        self._failed_handshakes = 0  # of which the end is still to come
        self._connected = zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._disconnected = zmq.EVENT_DISCONNECTED
        self._failed = zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
        self._odd = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

    def watch(self, socket: Any) -> None:
        """Watch a socket that is not bound or connected yet.

        Raises:
            ZMQError: If there is no socket left.
        """
        wanted = self._connected | self._disconnected | self._failed | self._odd
        self.messages = SocketReader(socket.get_monitor_socket(wanted))

    def take(self) -> None:
        """Record an event of the connection.

        Raises:
            ZMQError: If the socket fails.
        """
        while (parts := self.messages.read()) is not None:
            self._note(_EVENT.unpack_from(parts[0])[0] & 0xFFFF)

    def _note(self, event: int) -> None:
        if event == self._connected:
            self._peers += 1
            self._connection.become("connected")
        elif event & self._odd:
            self._failed_handshakes += 1
            self._lose("what answers there does not speak ZMQ")
        elif event == self._disconnected and self._failed_handshakes:
            self._failed_handshakes -= 1
        elif event == self._disconnected:
            self._peers = max(0, self._peers - 1)
            self._lose("the peer has closed the connection")
        else:
            self._lose(self._connection.error or "nobody answers there")

    def _lose(self, why: str) -> None:
        if not self._peers:
            self._connection.become("not connected", why)
