"""FrameLog: writes the frames of a node's engines to the topic, through a bounded queue."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

import anyio
import msgspec
from anyio import to_thread
from confluent_kafka import KafkaError, KafkaException, Producer

from kvstream.config import StreamConfig
from kvstream.errors import ClosedStreamError, KVStreamError, MalformedInputError
from kvstream.events.codec import MAX_FRAME_BYTES, encode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed, checked_name
from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.client import client_settings, described, made
from kvstream.recording.overflow import OVERFLOW
from kvstream.recording.queue import FrameQueue
from kvstream.transport.aligned_sleep import sleep_aligned

GATHER_SECONDS = 0.05
"""How long frames gather before they are taken, and reports of the broker before they are."""

_LINGER_MS = 60  # a request is of all that came in two of these
_IDLE_SECONDS = 1.0  # from one look at what the client has to say to the next, where nothing is sent
_HURRIED_SECONDS = 0.2  # that reports are waited for once somebody does

_AHEAD_BYTES = 64 * 1024 * 1024  # handed to the client and not yet acknowledged
_UNREPORTED_BYTES = 1024 * 1024  # handed to the client since reports were taken, beyond which it is fast


class FrameLogStatistics(NamedTuple):
    """A frame log's accounts at one moment: offered = written + dropped + waiting.

    Attributes:
        offered: Events given to ``send``.
        written: Events that the broker has acknowledged.
        dropped: Events dropped, by drop reason.
        waiting: Events on the queue, or on their way to the broker.
        frames: Frames that the broker has acknowledged.
        written_bytes: Bytes in them, before compression.
        malformed: Pieces of input that could not be decoded.
    """

    offered: int
    written: int
    dropped: dict[str, int]
    waiting: int
    frames: int
    written_bytes: int
    malformed: int


class _Record(msgspec.Struct):
    """A frame on its way to the broker."""

    frame: EventFrame | None  # until it is handed to the client
    events: int
    size: int = 0
    is_done: bool = False
    error: KafkaError | None = None


class FrameLog:
    """Writes frames to the topic of a fleet, each of them once within its lifetime.

    While no broker answers, frames wait in a queue of ``config.queue_events`` events; ``config.overflow``
    applies to those that do not fit. The memory of the Kafka client is bounded as well.

    Args:
        address: Where the topic is.
        settings: Settings of librdkafka.
        config: Room of the queue, and what to do when it is full.

    Attributes:
        faults: Errors of the broker, and of servers around it.
    """

    def __init__(self, address: KafkaAddress, settings: Mapping[str, str], config: StreamConfig) -> None:
        self.faults = FaultLog()
        self._address, self._settings, self._config = address, settings, config
        self._overflow = OVERFLOW[config.overflow]()
        self._records: deque[_Record] = deque()  # taken off the queue and not settled, in order
        self._taken = self._settled = 0  # frames taken off the queue; those before the first in _records
        self._offered = self._written = self._frames = self._bytes = self._malformed = 0
        self._ahead_bytes = self._unreported_bytes = 0
        self._dropped: Counter[str] = Counter()
        self._fatal: KafkaError | None = None
        self._closed = self._is_gone = self._is_handing = False

    def connect(self) -> None:
        """Make the client; ``open`` comes after it.

        Raises:
            ConfigError: If a setting cannot be used.
        """
        own = client_settings(
            self._address,
            {
                "compression.type": "lz4",
                "linger.ms": str(_LINGER_MS),
                "message.max.bytes": str(MAX_FRAME_BYTES),
                **self._settings,
            },
            self.faults,
            enable_idempotence=True,  # with all replicas to acknowledge
            partitioner="murmur2",  # as Java's, so that whatever writes has a source in one partition
            message_timeout_ms=0,  # what the broker does not take is tried again for ever
            queue_buffering_max_messages=0,
            queue_buffering_max_kbytes=2**31 - 1,  # bounded here
        )
        self._producer: Producer = made(Producer, own)

    def open(self) -> None:
        """Make the queue, on the event loop."""
        self._queue = FrameQueue(self._config.queue_events)
        self._changed, self._begun, self._hurried = anyio.Event(), anyio.Event(), anyio.Event()

    # What comes in

    async def send(self, frame: EventFrame, encoded: bytes | None = None) -> None:
        """Hand a frame to the client; put it onto the queue, or do with it as the overflow policy says.

        Args:
            frame: The frame.
            encoded: The same frame as it was received, which spares encoding it again.

        Raises:
            ClosedStreamError: If the log is closed.
            MalformedInputError: If the source or tier is no name; nothing is counted then.
        """
        self._require_open()
        checked_name(frame.source)
        checked_name(frame.tier)
        self._offered += len(frame)
        if self._is_idle and self._ahead_bytes < _AHEAD_BYTES and self._write_now(frame, encoded):
            return
        try:
            while not self._overflow.settle(frame, self._queue, self):
                await self._queue.room()
                self._require_open()
        except BaseException as error:
            self.drop("closed" if isinstance(error, ClosedStreamError) else "cancelled", len(frame))
            raise

    async def take(self, item: EventFrame | Malformed) -> None:
        """Send a frame of an input on, or count what of it was malformed."""
        if not isinstance(item, EventFrame):
            self.reject(item)
            return
        try:
            await self.send(item)
        except MalformedInputError as error:
            self.reject(Malformed("input", "frame", 0, str(error)))

    def reject(self, malformed: Malformed) -> None:
        """Count a piece of input that could not be decoded, and say where it was."""
        self._malformed += malformed.count
        self.faults.note("frames", "malformed", str(malformed))

    def drop(self, reason: str, events: int) -> None:
        """Count events as dropped for a reason."""
        if events:
            self._dropped[reason] += events

    def take_losses(self) -> int:
        """Return 0: what is lost is missing by its sequence number."""
        return 0

    @property
    def position(self) -> int:
        """Return the place of the frame that was sent last, which ``is_settled`` asks for."""
        return self._taken + self._queue.statistics().frames

    def is_settled(self, position: int) -> bool:
        """Return whether the broker has acknowledged all frames up to a place, or they count as dropped."""
        # A frame that was displaced is not counted among those that were taken; once nothing waits, all are.
        is_idle = not (self._records or self._queue.statistics().frames)
        return self._settled >= position or (is_idle and not self._is_gone)

    async def change(self) -> None:
        """Wait until more frames are settled, or the log is gone."""
        await self._changed.wait()

    async def settled(self) -> None:
        """Wait until every frame sent so far is settled.

        Raises:
            ClosedStreamError: If the log ends before that.
        """
        position = self.position
        while not self.is_settled(position):
            if self._is_gone:
                raise ClosedStreamError("the log is closed")
            await self.change()

    def hurry(self) -> None:
        """Look for acknowledgements without delay for a moment, as a caller waits for them."""
        self._hurried.set()

    def close(self) -> None:
        """Take nothing more; ``run`` ends once all that was sent is settled."""
        self._closed = True
        self._queue.close()
        self._wake()

    def statistics(self) -> FrameLogStatistics:
        """Return the accounts now."""
        dropped = dict(self._dropped)
        return FrameLogStatistics(
            self._offered,
            self._written,
            dropped,
            self._offered - self._written - sum(dropped.values()),
            self._frames,
            self._bytes,
            self._malformed,
        )

    # On its way out

    async def run(self) -> None:
        """Write until the log is closed and everything is settled.

        If it is cancelled, what is not settled is counted as dropped (``shutdown_timeout``): the broker may
        have some of it all the same.

        Raises:
            KVStreamError: If the client cannot go on; what it had not written is to be sent again.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._take_reports_regularly)
                tasks.start_soon(self._take_reports_at_once)
                await self._write_all()
                tasks.cancel_scope.cancel()
        finally:
            self._closed = self._is_gone = True
            left = sum(record.events for record in self._records)
            left += sum(len(frame) for frame, _ in self._queue.abandon())
            self.drop("shutdown_timeout", left)
            self._records.clear()
            self._queue.close()
            self._producer.purge()
            self._wake()

    async def _write_all(self) -> None:
        while (items := await self._queue.take()) is not None:
            frames = [frame for frame, _ in items]
            self._taken += len(frames)
            await self._write(frames)
        while self._records:
            await self._progress()

    @property
    def _is_idle(self) -> bool:
        """Return whether nothing is on the queue, or on its way from there to the client."""
        return not (self._is_handing or self._fatal or self._queue.statistics().frames)

    def _write_now(self, frame: EventFrame, encoded: bytes | None) -> bool:
        """Hand a frame to the client past the queue; return False if it has no room."""
        record = _Record(frame, len(frame))
        self._taken += 1
        self._records.append(record)
        self._begun.set()
        if self._produce(record, encoded):
            return True
        self._taken -= 1
        self._records.pop()
        return False

    async def _write(self, frames: list[EventFrame]) -> None:
        records = [_Record(frame, len(frame)) for frame in frames]
        self._records.extend(records)
        self._begun.set()
        self._is_handing = True
        for record in records:
            while self._ahead_bytes >= _AHEAD_BYTES:
                await self._progress()
            while not self._produce(record):
                await self._progress()
        self._is_handing = False
        self._queue.processed(sum(record.events for record in records))

    async def _progress(self) -> None:
        if self._fatal is None:
            await self.change()
        if self._fatal is not None:
            raise KVStreamError(f"{self._address.brokers}: {described(self._fatal)}; start again")

    def _produce(self, record: _Record, encoded: bytes | None = None) -> bool:
        """Hand a frame to the client; return False if it has no room."""
        frame = record.frame
        assert frame is not None  # noqa: S101
        try:
            message = encode_frame(frame) if encoded is None else encoded
        except Exception as error:
            self.faults.note("kafka", "malformed", f"a frame of {frame.source} was dropped: {error}")
            self._refuse(record, "malformed")
            return True

        def report(error: KafkaError | None, _: object) -> None:  # on whichever thread polls
            record.error, record.is_done = error, True

        key = frame.source.encode("utf-8", "surrogatepass")
        try:
            self._producer.produce(self._address.frames, message, key, on_delivery=report)
        except BufferError:
            return False
        except KafkaException as error:
            self.faults.note("kafka", "refused", f"a frame of {frame.source}: {described(error.args[0])}")
            self._refuse(record, "refused_by_broker")
            return True
        record.frame, record.size = None, len(message)
        self._ahead_bytes += record.size
        self._unreported_bytes += record.size
        if self._unreported_bytes >= _UNREPORTED_BYTES:
            self.hurry()
        return True

    def _refuse(self, record: _Record, reason: str) -> None:
        self.drop(reason, record.events)
        record.frame, record.events, record.is_done = None, 0, True
        self._settle()

    async def _take_reports_regularly(self) -> None:
        """Take what the client reports now and then: to wake for each report costs more than all else."""
        seen = 0
        while True:
            if self._records or self._taken != seen:
                seen = self._taken
                await sleep_aligned(GATHER_SECONDS)
            else:
                self._begun = anyio.Event()
                with anyio.move_on_after(_IDLE_SECONDS):
                    await self._begun.wait()
            self._take_reports()

    async def _take_reports_at_once(self) -> None:
        """Wait for reports in a thread, for a moment, whenever a caller waits for them."""
        while True:
            await self._hurried.wait()
            self._hurried = anyio.Event()
            until = anyio.current_time() + _HURRIED_SECONDS
            while self._records and anyio.current_time() < until:
                if await to_thread.run_sync(self._producer.poll, _HURRIED_SECONDS / 2):
                    self._settle()

    def _take_reports(self) -> None:
        self._unreported_bytes = 0
        if self._producer.poll(0):
            self._settle()

    def _settle(self) -> None:
        """Settle the frames that are done, in order: those before one that is not."""
        while self._records and self._records[0].is_done:
            record = self._records.popleft()
            self._settled += 1
            self._ahead_bytes -= record.size
            if record.error is None:
                self._written += record.events
                self._frames += record.size > 0
                self._bytes += record.size
            elif record.error.fatal():
                self._fatal = record.error
                self._records.appendleft(record)
                self._queue.close()  # so that ``run`` ends by it
                break
            else:
                self.faults.note("kafka", "refused", f"{self._address.frames}: {described(record.error)}")
                self.drop("refused_by_broker", record.events)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedStreamError("the log is closed")


class UnwrittenFrames:
    """The frames of a connection that the broker has not acknowledged.

    Args:
        log: Where they were sent to.
    """

    def __init__(self, log: FrameLog) -> None:
        self._log = log
        self._places: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, source: str, size: int) -> None:
        """Add the frame that was sent to the log last."""
        self._places.append(self._log.position)

    def add_malformed(self, size: int) -> None:
        """Add a frame that was counted as malformed, which waits for nothing but those before it."""
        self._places.append(self._places[-1] if self._places else 0)

    def press(self) -> None:
        """Take note that the other side waits."""
        self._log.hurry()

    def release(self) -> None:
        """Take out the frames that are settled, oldest first."""
        while self._places and self._log.is_settled(self._places[0]):
            self._places.popleft()

    async def change(self) -> None:
        """Wait until frames may have to be released."""
        await self._log.change()
