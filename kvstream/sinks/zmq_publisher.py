"""A publisher of KV events over ZMQ, framed as vLLM's: batches by PUB, what was missed by ROUTER.

Answers to replays carry the topic, as those of vLLM since 0.26, SGLang since 0.5.23 and TensorRT-LLM do.
"""

import math
from collections import deque
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.lowlevel import checkpoint

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.faults.log import FaultLog
from kvstream.sources.zmq_address import ZmqAddress
from kvstream.sources.zmq_replay import END_OF_REPLAY
from kvstream.sources.zmq_sockets import SocketReader, attach_socket, speaks_ipv6

_KEPT = 10_000  # batches for replay, as in vLLM
_KEPT_BYTES = 256 * 1024 * 1024
_HIGH_WATER_MARK = 100_000
_MAX_REQUEST_BYTES = 64 * 1024  # of what subscribers send: topics and numbers
_PAUSE_SECONDS = 1.0  # after a socket failed
_SUBSCRIBED = 1  # first byte of a subscription, as XPUB hears of it


class KVEventPublisher:
    """Publishes batches at a ZMQ endpoint; open inside ``async with``.

    Args:
        address: Where to bind (``zmq://*:5557``) or connect to, and where to answer for what was missed.
        patience: Seconds to wait for a name to connect to that has no address yet.

    Whatever a subscriber sends, it ends neither the publisher nor what others get.

    Attributes:
        faults: What went wrong with sockets and requests, by part ``zmq_publisher`` and reason.

    Raises:
        ConfigError: If the address is one of several ranks.
        MissingExtraError: If ``kvstream[zmq]`` is not installed.
    """

    def __init__(self, address: ZmqAddress, patience: float = math.inf) -> None:
        try:
            import zmq
        except ImportError:
            raise MissingExtraError("publishing to zmq://", "zmq") from None
        if address.ranks is not None:
            raise ConfigError("dp= is for reading: publish the ranks of a recording at one port")
        self._zmq: Any = zmq
        self._address, self._patience = address, patience
        self.faults = FaultLog()
        self._kept: deque[tuple[bytes, bytes]] = deque()
        self._kept_bytes = 0
        self._subscribed = anyio.Event()

    async def __aenter__(self) -> Self:
        zmq = self._zmq
        self._context = zmq.Context()
        end = anyio.current_time() + self._patience
        try:
            # XPUB hears of its subscribers; on the wire it is a PUB.
            self._live = await self._open(zmq.XPUB, self._address.endpoint, self._binds, end)
            replay = self._address.replay
            self._router = None if replay is None else await self._open(zmq.ROUTER, replay, True, end)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._hear_subscribers)
        if self._router is not None:
            self._tasks.start_soon(self._answer_replays, self._router)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(exc_type, exc, traceback)
        finally:
            self._context.destroy(linger=1000)  # ms, for what is on its way

    @property
    def _binds(self) -> bool:
        return self._address.binds or self._address.endpoint.startswith("ipc://")

    async def subscribed(self) -> None:
        """Wait for the first subscriber."""
        await self._subscribed.wait()

    def publish(self, seq: int, payload: bytes) -> None:
        """Publish a batch; what a slow subscriber cannot take is dropped, as engines do."""
        number = seq.to_bytes(8, "big")
        self._kept.append((number, payload))
        self._kept_bytes += len(payload)
        while len(self._kept) > _KEPT or self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])
        try:
            parts = [self._address.topic_bytes, number, payload]
            self._live.socket.send_multipart(parts, self._zmq.NOBLOCK)
        except self._zmq.ZMQError as error:
            self.faults.note("zmq_publisher", "socket", f"a batch was not published: {error}")

    async def _open(self, kind: int, endpoint: str, bind: bool, end: float) -> SocketReader:
        """Bind or connect a socket; a name to connect to is waited for until the time ``end``."""
        socket = self._context.socket(kind)
        socket.set_hwm(_HIGH_WATER_MARK)
        socket.setsockopt(self._zmq.MAXMSGSIZE, _MAX_REQUEST_BYTES)
        ipv6 = await speaks_ipv6(endpoint, max(0.0, end - anyio.current_time()), bind=bind)
        attach_socket(socket, endpoint, bind=bind, origin=endpoint, ipv6=ipv6)
        return SocketReader(socket)

    async def _hear_subscribers(self) -> None:
        while True:
            parts = await self._receive(self._live)
            if parts[0][:1] == bytes([_SUBSCRIBED]):
                self._subscribed.set()

    async def _answer_replays(self, router: SocketReader) -> None:
        while True:
            parts = await self._receive(router)
            if len(parts) != 3 or parts[1] or len(parts[2]) != 8:
                message = f"refused a request of {len(parts)} parts, which does not ask for a replay"
                self.faults.note("zmq_publisher", "request", message)
                continue
            client, delimiter, start = parts
            topic, send = self._address.topic_bytes, router.socket.send_multipart
            try:
                for number, payload in self._kept:
                    if number >= start:
                        send([client, delimiter, topic, number, payload], self._zmq.NOBLOCK)
                send([client, delimiter, b"", END_OF_REPLAY, b""], self._zmq.NOBLOCK)
            except self._zmq.ZMQError as error:
                self.faults.note("zmq_publisher", "replay", f"a replay was not answered: {error}")

    async def _receive(self, reader: SocketReader) -> list[bytes]:
        """Return the next message of a socket; other tasks get their turn between two."""
        while True:
            try:
                await checkpoint()
                while not reader.is_readable:
                    await anyio.wait_readable(reader.socket.FD)
                if (parts := reader.read()) is not None:
                    return parts
            except self._zmq.ZMQError as error:
                self.faults.note("zmq_publisher", "socket", f"cannot receive: {error}")
                await anyio.sleep(_PAUSE_SECONDS)
