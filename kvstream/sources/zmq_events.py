"""KV events over ZMQ, as vLLM and SGLang publish them: subscribing, replaying what was missed."""

import time
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from kvstream.engine.inputs import InputStatistics
from kvstream.errors import ConfigError, MalformedInputError, MissingExtraError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.faults.log import FaultLog
from kvstream.sources.connection_state import ConnectionMonitor, InputConnection
from kvstream.sources.kv_events import MAX_PAYLOAD_BYTES
from kvstream.sources.publisher import Publisher, batch_number
from kvstream.sources.publishers import FORGET_SECONDS, MOST_PUBLISHERS, Publishers
from kvstream.sources.reports import ReportLimiter
from kvstream.sources.zmq_address import ZmqAddress
from kvstream.sources.zmq_replay import Replay, ReplayAnswer
from kvstream.sources.zmq_sockets import MOST_PARTS, SocketReader, attach_socket, speaks_ipv6
from kvstream.state.resumption import MarkerOf, no_marker

_MAX_TOPIC_BYTES = 4096
_AT_ONCE = 1024  # messages between two looks at the other tasks
_AT_ONCE_BYTES = 16 * 1024 * 1024
_HIGH_WATER_MARK = 100_000  # messages, as vLLM's publisher
_LONGEST_PAUSE_MS = 10_000  # between attempts to connect
_HEARTBEAT_MS = 5_000
_GATHER_SECONDS = 0.05
_PAUSE_SECONDS = 1.0  # after a socket failed
_FIND_SECONDS = 1.0  # for the address of the replay endpoint


_NOT_MALFORMED = {"no_memory", "too_many_publishers"}


class KVEventSubscriber:
    """Subscribes to engines that publish KV events over ZMQ, and reconnects for ever.

    Missing batches are requested from the replay endpoint, if there is one, from the first batch on. Those
    that it does not have leave a gap in the sequence numbers of the frames, which the stream counts and
    alerts on.

    Nothing received ends it: a malformed message is counted and skipped, and a socket that fails is opened
    again.

    Args:
        url: ``zmq://HOST:PORT``, as ``ZmqAddress`` says, of one publisher.
        address: Where it is, if that is not what ``url`` says.
        most_publishers: Publishers that are followed where they connect to us, each by its topic; messages
            of any more are refused.
        forget_seconds: Seconds without a message after which such a publisher makes room for another.

    Attributes:
        connection: Whether it is connected.
        faults: What went wrong with sockets and publishers, by part ``zmq`` and reason.

    Raises:
        ConfigError: If the URL cannot be used.
        MissingExtraError: If ``kvstream[zmq]`` is not installed.

    Examples:
        ``await stream.feed(KVEventSubscriber("zmq://localhost:5557").read())``
    """

    def __init__(
        self,
        url: str,
        *,
        address: ZmqAddress | None = None,
        most_publishers: int = MOST_PUBLISHERS,
        forget_seconds: float = FORGET_SECONDS,
    ) -> None:
        try:
            import zmq
        except ImportError:
            raise MissingExtraError("reading zmq://", "zmq") from None
        if most_publishers < 1 or not 0 < forget_seconds < float("inf"):
            raise ConfigError("most_publishers must be 1 or more, and forget_seconds above 0")
        self.url, self.address = url, address or ZmqAddress.parse(url)
        if self.address.ranks is not None:
            raise ConfigError(f"{url}: a subscriber is of one rank")
        self.connection = InputConnection()
        self.faults = FaultLog()
        self._zmq: Any = zmq
        self._most_publishers = most_publishers
        binds = self.address.binds
        self._publishers = Publishers(
            url,
            self.address.source,
            fallback=self.address.endpoint.partition("://")[2],
            by_topic=binds,
            ask=self._ask if self.address.replay and not binds else None,
            rank=self.address.rank,
            most=most_publishers,
            forget_seconds=forget_seconds,
            marker_of=lambda name: self._marker_of(name),
        )
        self._marker_of: MarkerOf = no_marker
        self._replayed: Publisher | None = None  # the publisher that can be asked for a replay
        self._active: dict[Publisher, None] = {}  # those with something to take
        self._messages = 0
        self._refused: Counter[str] = Counter()
        self._items: list[EventFrame | Malformed] = []
        self._reports = ReportLimiter()
        self._lag_ns = 0
        self._context: Any = None
        self._monitor: ConnectionMonitor | None = None
        self._replay: Replay | None = None  # the one under way
        self._replay_ipv6 = False

    def statistics(self) -> InputStatistics:
        """Return the accounts now."""
        totals = self._publishers.totals()
        refused = dict(totals.refused + self._refused)
        return InputStatistics(
            input=self.url,
            state=self.connection.state,
            since=self.connection.since,
            error=self.connection.error,
            messages=self._messages,
            batches=totals.batches,
            replayed=totals.replayed,
            lost_batches=totals.lost_batches,
            duplicates=totals.duplicates,
            restarts=totals.restarts,
            unknown_events=totals.unknown_events,
            malformed=sum(count for reason, count in refused.items() if reason not in _NOT_MALFORMED),
            lag_seconds=self._lag_ns / 1e9,
            refused=refused,
            publishers=len(self._publishers),
            forgotten_publishers=self._publishers.forgotten,
            shared_topics=self._publishers.shared_topics,
        )

    async def read(self, marker_of: MarkerOf = no_marker) -> AsyncGenerator[EventFrame | Malformed, None]:
        """Yield frames and what was malformed, until the caller stops or is cancelled, which closes all.

        Args:
            marker_of: Returns what marks the frames of a publisher and says where to go on, so that it is
                replayed from there; what the replay no longer has is counted as lost.

        Raises:
            ConfigError: If the endpoint cannot be connected or bound to.
        """
        is_usable, self._marker_of = False, marker_of
        try:
            while True:
                try:
                    live, self._monitor = await self._open()
                    is_usable = True
                    while True:
                        for item in self._receive(live):
                            yield item
                        readers = [live, self._monitor.messages]
                        if self._replay is not None:
                            readers.append(self._replay.messages)
                        if self._active or any(reader.is_readable for reader in readers):
                            await checkpoint()
                        else:
                            await self._wait(readers)
                            if self._reports.is_limiting:  # let what is malformed gather, to be one report
                                await anyio.sleep(_GATHER_SECONDS)
                except (self._zmq.ZMQError, ConfigError) as error:
                    if isinstance(error, ConfigError) and not is_usable:
                        raise
                    self.faults.note("zmq", "socket", f"{self.url}: {error}; opening the socket again")
                    self._close()
                    self.connection.become("not connected", str(error))
                    await anyio.sleep(_PAUSE_SECONDS)
        finally:
            self._close()

    async def _open(self) -> tuple[SocketReader, ConnectionMonitor]:
        zmq, address = self._zmq, self.address
        asks = address.replay is not None and not address.binds
        ipv6 = await speaks_ipv6(address.endpoint)
        if asks:
            self._replay_ipv6 = await speaks_ipv6(str(address.replay), _FIND_SECONDS)
        self._context = zmq.Context()
        socket = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _LONGEST_PAUSE_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SUBSCRIBE, address.topic_bytes)
        monitor = ConnectionMonitor(self.connection)
        monitor.watch(socket)
        attach_socket(socket, address.endpoint, bind=address.binds, origin=self.url, ipv6=ipv6)
        if asks:
            if self._replayed is not None:
                self._replayed.feed.catch_up()
            else:
                self._replayed = self._publishers.get(b"", 0)  # asks for everything there is
        return SocketReader(socket), monitor

    def _close(self) -> None:
        self._close_replay()
        self._monitor = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    async def _wait(self, readers: list[SocketReader]) -> None:
        """Wait until a socket may have something or a replay is overdue.

        A ZMQ socket's descriptor becomes readable only once for a change: ``is_readable`` must have been
        looked at before.
        """
        seconds = None
        if self._replay is not None and self._holds:
            seconds = max(0.0, self._replay.overdue_in)
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:

                async def wait(reader: SocketReader) -> None:
                    await anyio.wait_readable(reader.socket.FD)
                    tasks.cancel_scope.cancel()

                for reader in readers:
                    tasks.start_soon(wait, reader)

    def _receive(self, live: SocketReader) -> list[EventFrame | Malformed]:
        """Take what has arrived, in bounded portions; nothing while batches wait to be decoded."""
        if self._monitor is not None:
            self._monitor.take()
        if not self._active:
            size = 0
            for _ in range(_AT_ONCE):
                parts = live.read()
                if parts is None:
                    break
                self._take(parts)
                size += sum(map(len, parts))
                if size >= _AT_ONCE_BYTES:
                    break
            self._receive_replay()
        for publisher in list(self._active):
            self._items.extend(publisher.take())
            if not publisher.is_pending:
                del self._active[publisher]
            if publisher.decoder.last_ts:
                self._lag_ns = max(0, time.time_ns() - publisher.decoder.last_ts)
        items, self._items = self._items, []
        return self._reports.limited(items)

    def _take(self, parts: list[bytes]) -> None:
        self._messages += 1
        if len(parts) != 3:
            self._refuse("parts", f"{_at_most(parts)} parts, not topic, number and payload")
            return
        topic, number, payload = parts
        if len(topic) > _MAX_TOPIC_BYTES:
            self._refuse("topic", f"a topic of {len(topic):,} bytes is longer than {_MAX_TOPIC_BYTES:,}")
            return
        try:
            seq = batch_number(number)
        except MalformedInputError as error:
            self._refuse("number", str(error))
            return
        publisher = self._publishers.get(topic, seq)
        if publisher is None:
            self._refused["too_many_publishers"] += 1
            message = f"{self.url}: refused a batch of one more than {self._most_publishers:,} publishers"
            self.faults.note("zmq", "too_many_publishers", message)
            return
        self._active[publisher] = None
        waited = publisher.feed.holds
        publisher.feed.live(seq, payload)
        if self._replay is not None and publisher.feed.holds and not waited:
            self._replay.await_progress()

    def _refuse(self, reason: str, text: str) -> None:
        self._refused[reason] += 1
        self._items.append(Malformed(self.url, "message", self._messages, text))

    def _receive_replay(self) -> None:
        replay, publisher = self._replay, self._replayed
        if publisher is None or not publisher.feed.is_waiting:
            return
        self._active[publisher] = None
        bytes_read = 0
        for _ in range(_AT_ONCE):
            parts = None if replay is None else replay.messages.read()
            if replay is None or parts is None or bytes_read >= _AT_ONCE_BYTES:
                break
            bytes_read += sum(map(len, parts))
            try:
                answer = ReplayAnswer.parse(parts)
            except MalformedInputError as error:
                if replay.note_odd_answer():  # counted once a replay: more of them say nothing more
                    self._refused["replay"] += 1
                    self._items.append(Malformed(self.url, "replay", publisher.feed.replayed, str(error)))
                continue
            if answer.kind == "end":
                self._close_replay()
                publisher.feed.replay_ended()
            elif answer.kind == "snapshot":
                publisher.feed.replay_snapshot(answer.number)
                replay.progress()
            elif publisher.feed.replay(answer.number, answer.payload):
                replay.progress()
            if self._replay is not replay:  # it has ended, or another one was asked for
                break
        if publisher.feed.holds and (self._replay is None or self._replay.overdue_in <= 0):
            self._close_replay()
            publisher.feed.give_up()
            self.faults.note("zmq", "replay", f"{self.url}: {self.address.replay} does not answer a replay")

    @property
    def _holds(self) -> bool:
        return self._replayed is not None and self._replayed.feed.holds

    def _close_replay(self) -> None:
        if self._replay is not None:
            self._replay.close()
            self._replay = None

    def _ask(self, start: int) -> None:
        """Ask for the batches from a number on; if that fails, what waits for them is given up soon."""
        self._close_replay()
        endpoint = str(self.address.replay)
        try:
            self._replay = Replay.ask(self._context, endpoint, start, origin=self.url, ipv6=self._replay_ipv6)
        except (self._zmq.ZMQError, ConfigError) as error:
            if isinstance(error, ConfigError) and self._replayed is None:
                raise  # at the first time, it is the endpoint that is wrong
            self.faults.note("zmq", "replay", f"{self.url}: cannot ask for missed batches: {error}")


def _at_most(parts: list[bytes]) -> str:
    return str(len(parts)) if len(parts) < MOST_PARTS else f"{MOST_PARTS} or more"
