"""KV events over ZMQ, as vLLM and SGLang publish them: subscribing, replaying what was missed."""

import time
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.kv_events import MAX_PAYLOAD_BYTES
from kvstream.sources.publisher import Publisher

END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)

_PARTS = {"topic", "replay", "source"}
_REPLAY_SECONDS = 5.0  # without an answer, while batches wait for one
_AT_ONCE = 1024  # messages between two looks at the other tasks
_HIGH_WATER_MARK = 100_000  # messages, as vLLM's publisher
_LONGEST_PAUSE_MS = 10_000  # between attempts to connect
_HEARTBEAT_MS = 5_000


class ZmqAddress(msgspec.Struct, frozen=True):
    """Where a publisher is, from ``zmq://host:port?topic=…&replay=tcp://host:port&source=name``.

    Attributes:
        endpoint: ZMQ endpoint to connect to, or to bind to if its host is ``*``.
        topic: Messages whose topic begins with it.
        replay: Endpoint that answers for what was missed; None if there is none.
        source: Name of the publisher's events; by default its host and port, or its topic if bound.
    """

    endpoint: str
    topic: str = ""
    replay: str | None = None
    source: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """The address that a URL names.

        Raises:
            ConfigError: If it is none.
        """
        parts = urlsplit(url)
        given = parse_qs(parts.query, keep_blank_values=True)
        if unknown := given.keys() - _PARTS:
            raise ConfigError(f"{url}: unknown {', '.join(sorted(unknown))}; known are topic, replay, source")
        if parts.scheme == "zmq+ipc" and parts.path:
            endpoint = f"ipc://{parts.netloc}{parts.path}"
        elif parts.scheme == "zmq" and parts.netloc.rpartition(":")[2].isdecimal():
            endpoint = f"tcp://{parts.netloc}"
        else:
            raise ConfigError(f"{url}: write zmq://HOST:PORT or zmq+ipc:///PATH")
        replay = given.get("replay", [None])[-1]
        if replay is not None and "://" not in replay:
            raise ConfigError(f"{url}: write the replay endpoint as tcp://HOST:PORT")
        return cls(endpoint, given.get("topic", [""])[-1], replay, given.get("source", [None])[-1])

    @property
    def binds(self) -> bool:
        """Whether publishers connect to us."""
        return self.endpoint.startswith("tcp://*")


class SubscriberStatistics(msgspec.Struct, frozen=True, tag="input"):
    """A subscription's accounts at one moment.

    Attributes:
        input: Its URL.
        messages: Messages received live.
        batches: Batches decoded, replayed ones among them.
        replayed: Batches had by replay.
        lost_batches: Batches that could not be had.
        duplicates: Batches that came twice.
        restarts: New lives of publishers.
        unknown_events: Events of unknown types, skipped.
        malformed: Messages and events that could not be decoded.
        lag_seconds: From the time of the last batch until it was decoded, by the two machines' clocks.
    """

    input: str
    messages: int = 0
    batches: int = 0
    replayed: int = 0
    lost_batches: int = 0
    duplicates: int = 0
    restarts: int = 0
    unknown_events: int = 0
    malformed: int = 0
    lag_seconds: float = 0.0


def attach_socket(socket: Any, endpoint: str, *, bind: bool, origin: str) -> None:
    """Binds or connects a ZMQ socket.

    Raises:
        ConfigError: If that fails; it names ``origin``.
    """
    from zmq import ZMQError  # there is a socket, so it is there

    try:
        (socket.bind if bind else socket.connect)(endpoint)
    except ZMQError as error:
        raise ConfigError(f"{origin}: cannot {'bind' if bind else 'connect'}: {error}") from error


class KVEventSubscriber:
    """Subscribes to engines that publish KV events over ZMQ, and reconnects for ever.

    What is missing is asked for at the replay endpoint, if there is one, from the first batch on; what
    cannot be had is a hole in the numbers of the frames, so that a stream counts it and alerts.

    Args:
        url: ``zmq://HOST:PORT``, as ``ZmqAddress`` says.

    Raises:
        ConfigError: If the URL cannot be used.
        MissingExtraError: If ``kvstream[zmq]`` is not installed.

    Example:
        ``await stream.feed(KVEventSubscriber("zmq://localhost:5557").read())``
    """

    def __init__(self, url: str) -> None:
        try:
            import zmq
        except ImportError:
            raise MissingExtraError("reading zmq://", "zmq") from None
        self.url, self.address = url, ZmqAddress.parse(url)
        self._zmq: Any = zmq
        self._publishers: dict[str, Publisher] = {}
        self._messages = self._malformed = 0
        self._lag_ns = 0
        self._context: Any = None
        self._replay: Any = None  # the socket of the replay under way
        self._answered = 0.0  # when the replay last gave something, or batches began to wait for it

    def statistics(self) -> SubscriberStatistics:
        """The accounts now."""
        of = list(self._publishers.values())
        return SubscriberStatistics(
            self.url,
            self._messages,
            sum(p.decoder.batches for p in of),
            sum(p.feed.replayed for p in of),
            sum(p.lost_batches for p in of),
            sum(p.feed.duplicates for p in of),
            sum(p.restarts for p in of),
            sum(p.decoder.unknown_events for p in of),
            self._malformed + sum(p.malformed for p in of),
            self._lag_ns / 1e9,
        )

    async def read(self) -> AsyncIterator[EventFrame | Malformed]:
        """Yields frames and what was malformed, until the caller stops.

        Raises:
            ConfigError: If the endpoint cannot be connected or bound to.
        """
        zmq = self._zmq
        self._context = zmq.Context()
        try:
            live = self._open()
            if self.address.replay and not self.address.binds:
                self._publisher("")  # asks for everything there is
            while True:
                for item in self._receive(live):
                    yield item
                sockets = [s for s in (live, self._replay) if s is not None]
                if not any(s.getsockopt(zmq.EVENTS) & zmq.POLLIN for s in sockets):
                    await self._readable(sockets)
        finally:
            self._context.destroy(linger=0)

    def _open(self) -> Any:
        zmq = self._zmq
        socket = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        self._configure(socket)
        socket.setsockopt(zmq.SUBSCRIBE, self.address.topic.encode())
        attach_socket(socket, self.address.endpoint, bind=self.address.binds, origin=self.url)
        return socket

    def _configure(self, socket: Any) -> None:
        zmq = self._zmq
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _LONGEST_PAUSE_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.LINGER, 0)

    async def _readable(self, sockets: list[Any]) -> None:
        """Waits until one of the sockets may have something, or a replay is overdue.

        A ZMQ socket's descriptor tells of a change only once: ``EVENTS`` must have been looked at before.
        """
        holds = self._replay is not None and self._publisher("").feed.holds
        overdue = _REPLAY_SECONDS if holds else None
        with anyio.move_on_after(overdue):
            async with anyio.create_task_group() as tasks:

                async def wait(socket: Any) -> None:
                    await anyio.wait_readable(socket.FD)
                    tasks.cancel_scope.cancel()

                for socket in sockets:
                    tasks.start_soon(wait, socket)

    def _receive(self, live: Any) -> list[EventFrame | Malformed]:
        """Takes what has arrived, a bounded number of messages."""
        items: list[EventFrame | Malformed] = []
        for _ in range(_AT_ONCE):
            parts = self._message(live)
            if parts is None:
                break
            self._messages += 1
            if len(parts) != 3 or len(parts[1]) != 8:
                self._malformed += 1
                reason = f"{len(parts)} parts, not topic, number and payload"
                items.append(Malformed(self.url, "message", self._messages, reason))
                continue
            publisher = self._publisher(parts[0].decode(errors="replace"))
            waited = publisher.feed.holds
            publisher.feed.live(int.from_bytes(parts[1], "big"), parts[2])
            if publisher.feed.holds and not waited:
                self._answered = time.monotonic()
        self._receive_replay()
        for publisher in self._publishers.values():
            items.extend(publisher.take())
            if publisher.decoder.last_ts:
                self._lag_ns = max(0, time.time_ns() - publisher.decoder.last_ts)
        return items

    def _receive_replay(self) -> None:
        if self._replay is None:
            return
        publisher = self._publisher("")
        for _ in range(_AT_ONCE):
            parts = self._message(self._replay)
            if parts is None:
                break
            self._answered = time.monotonic()
            if len(parts) == 3 and not parts[0]:
                parts = parts[1:]  # the delimiter of REQ
            if len(parts) != 2 or len(parts[0]) != 8:
                publisher.reject(
                    "replay", publisher.feed.replayed, f"answer of {len(parts)} parts, not number and payload"
                )
            elif parts[0] == END_OF_REPLAY:
                self._close_replay()
                publisher.feed.replay_ended()
                return
            else:
                publisher.feed.replay(int.from_bytes(parts[0], "big"), parts[1])
        if publisher.feed.holds and time.monotonic() - self._answered > _REPLAY_SECONDS:
            self._close_replay()
            publisher.feed.give_up()

    def _close_replay(self) -> None:
        if self._replay is not None:
            self._replay.close(linger=0)
            self._replay = None

    def _message(self, socket: Any) -> list[bytes] | None:
        try:
            parts: list[bytes] = socket.recv_multipart(self._zmq.NOBLOCK)
        except self._zmq.Again:
            return None
        return parts

    def _publisher(self, topic: str) -> Publisher:
        """The publisher of a topic, where several connect to us; otherwise there is one."""
        key = topic if self.address.binds else ""
        found = self._publishers.get(key)
        if found is None:
            name = self.address.source or (key if self.address.binds else "") or self._place()
            ask = self._ask if self.address.replay and not self.address.binds else None
            found = self._publishers[key] = Publisher(self.url, name, time.time_ns(), ask)
        return found

    def _place(self) -> str:
        return self.address.endpoint.partition("://")[2]

    def _ask(self, start: int) -> None:
        """Asks for the batches from a number on, over a socket of its own: no late answer can be mistaken."""
        self._close_replay()
        self._replay = self._context.socket(self._zmq.DEALER)
        self._replay.setsockopt(self._zmq.RCVHWM, _HIGH_WATER_MARK)
        self._configure(self._replay)
        attach_socket(self._replay, str(self.address.replay), bind=False, origin=self.url)
        self._replay.send_multipart([b"", start.to_bytes(8, "big")], self._zmq.NOBLOCK)
        self._answered = time.monotonic()
