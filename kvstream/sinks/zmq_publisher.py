"""A publisher of KV events over ZMQ, framed as vLLM's: batches by PUB, what was missed by ROUTER."""

from collections import deque
from types import TracebackType
from typing import Any, Self

import anyio

from kvstream.errors import MissingExtraError
from kvstream.sources.zmq_events import END_OF_REPLAY, ZmqAddress, attach_socket

_KEPT = 10_000  # batches for replay, as in vLLM
_HIGH_WATER_MARK = 100_000
_SUBSCRIBED = 1  # first byte of a subscription, as XPUB hears of it


class KVEventPublisher:
    """Publishes batches at a ZMQ endpoint; open inside ``async with``.

    Args:
        address: Where to bind (``zmq://*:5557``) or connect to, and where to answer for what was missed.

    Raises:
        MissingExtraError: If ``kvstream[zmq]`` is not installed.
    """

    def __init__(self, address: ZmqAddress) -> None:
        try:
            import zmq
        except ImportError:
            raise MissingExtraError("publishing to zmq://", "zmq") from None
        self._zmq: Any = zmq
        self._address = address
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=_KEPT)
        self._subscribed = anyio.Event()

    async def __aenter__(self) -> Self:
        zmq = self._zmq
        self._context = zmq.Context()
        try:
            # XPUB hears of its subscribers; on the wire it is a PUB.
            self._live = self._open(zmq.XPUB, self._address.endpoint, bind=self._binds)
            replay = self._address.replay
            self._router: Any = None if replay is None else self._open(zmq.ROUTER, replay, bind=True)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._hear_subscribers)
        if self._router is not None:
            self._tasks.start_soon(self._answer_replays)
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
        """Waits for the first subscriber."""
        await self._subscribed.wait()

    def publish(self, seq: int, payload: bytes) -> None:
        """Publishes a batch; what a slow subscriber cannot take is dropped, as engines do."""
        number = seq.to_bytes(8, "big")
        self._kept.append((number, payload))
        self._live.send_multipart([self._address.topic.encode(), number, payload], self._zmq.NOBLOCK)

    def _open(self, kind: int, endpoint: str, *, bind: bool) -> Any:
        socket = self._context.socket(kind)
        socket.set_hwm(_HIGH_WATER_MARK)
        attach_socket(socket, endpoint, bind=bind, origin=endpoint)
        return socket

    async def _hear_subscribers(self) -> None:
        while True:
            parts = await self._receive(self._live)
            if parts[0][:1] == bytes([_SUBSCRIBED]):
                self._subscribed.set()

    async def _answer_replays(self) -> None:
        while True:
            parts = await self._receive(self._router)
            if len(parts) != 3 or len(parts[2]) != 8:
                continue
            client, delimiter, start = parts
            for number, payload in self._kept:
                if number >= start:
                    self._router.send_multipart([client, delimiter, number, payload])
            self._router.send_multipart([client, delimiter, END_OF_REPLAY, b""])

    async def _receive(self, socket: Any) -> list[bytes]:
        while not socket.getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN:
            await anyio.wait_readable(socket.FD)
        parts: list[bytes] = socket.recv_multipart(self._zmq.NOBLOCK)
        return parts
