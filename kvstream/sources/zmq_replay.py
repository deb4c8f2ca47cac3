"""Replays over ZMQ: a request for missed batches, and the answers in both layouts that engines use.

Publishers of vLLM before 0.26 and of SGLang until 0.5.2x answer with ``["", number, payload]``, later ones
and TensorRT-LLM with ``["", topic, number, payload]``.
"""

import time
from typing import Any, Self

import msgspec

from kvstream.errors import MalformedInputError
from kvstream.sources.kv_events import MAX_PAYLOAD_BYTES
from kvstream.sources.publisher import batch_number
from kvstream.sources.zmq_sockets import SocketReader, attach_socket

END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)
SNAPSHOT_FOLLOWS = (-2).to_bytes(8, "big", signed=True)
"""Number of the answer that TensorRT-LLM begins with if it keeps no batch so old: its payload is a number,
8 bytes, and batches of that number follow that hold all that is cached."""

_IDLE_SECONDS = 1.0  # without progress, while live batches wait
_LONGEST_SECONDS = 30.0  # in all, while live batches wait
_HIGH_WATER_MARK = 100_000  # messages: a publisher sends all that it keeps at once
_LONGEST_PAUSE_MS = 500  # between attempts to connect


class ReplayAnswer(msgspec.Struct, frozen=True):
    """One answer to a request for missed batches.

    Attributes:
        kind: ``batch``, ``snapshot`` (batches that replace all before them follow) or ``end``.
        number: Number of the batch, or of the snapshot's batches.
        payload: The batch; empty for the other kinds.
    """

    kind: str
    number: int = 0
    payload: bytes = b""

    @classmethod
    def parse(cls, parts: list[bytes]) -> "ReplayAnswer":
        """Return the answer that a message is, in either layout.

        Raises:
            MalformedInputError: If it is neither.
        """
        if len(parts) not in (3, 4) or parts[0] or len(parts[-2]) != 8:
            raise MalformedInputError(
                f'an answer of {len(parts)} parts is neither ["", number, payload] nor '
                '["", topic, number, payload]'
            )
        number, payload = parts[-2:]
        if number == END_OF_REPLAY:
            return cls("end")
        if number == SNAPSHOT_FOLLOWS:
            return cls("snapshot", batch_number(payload))
        return cls("batch", batch_number(number), payload)


class Replay:
    """A request for the batches from a number on, over a socket of its own: no late answer can be mistaken.

    Args:
        socket: A ZMQ socket over which batches were requested, as ``ask`` makes one.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.messages = SocketReader(socket)
        self._has_odd_answers = False
        self.await_progress()

    @classmethod
    def ask(cls, context: Any, endpoint: str, start: int, *, origin: str, ipv6: bool) -> Self:
        """Request the batches from a number on.

        Args:
            context: ZMQ context.
            endpoint: Where the publisher answers.
            start: The first number that is requested.
            origin: The input's name, for errors.
            ipv6: Connect over IPv6.

        Raises:
            ConfigError: If the endpoint cannot be used.
            ZMQError: If there is no socket left.
        """
        import zmq

        socket: Any = context.socket(zmq.DEALER)
        try:
            socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES)
            socket.setsockopt(zmq.RECONNECT_IVL, 100)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, _LONGEST_PAUSE_MS)
            socket.setsockopt(zmq.LINGER, 0)
            attach_socket(socket, endpoint, bind=False, origin=origin, ipv6=ipv6)
            socket.send_multipart([b"", start.to_bytes(8, "big")], zmq.NOBLOCK)
        except BaseException:
            socket.close(linger=0)
            raise
        return cls(socket)

    def note_odd_answer(self) -> bool:
        """Note an answer in no known layout; return whether it is the first one."""
        is_first, self._has_odd_answers = not self._has_odd_answers, True
        return is_first

    def await_progress(self) -> None:
        """Restart the clock: live batches wait from now on."""
        self._began = self._progress = time.monotonic()

    def progress(self) -> None:
        """Note that an answer was of use."""
        self._progress = time.monotonic()

    @property
    def overdue_in(self) -> float:
        """Return seconds until live batches have waited for too long; 0 or less if they have."""
        return min(self._progress + _IDLE_SECONDS, self._began + _LONGEST_SECONDS) - time.monotonic()

    def close(self) -> None:
        """Give it up."""
        self._socket.close(linger=0)
