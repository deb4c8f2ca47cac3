"""Producer: events of one source and tier, from any task or thread, framed and put onto a queue."""

import threading
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from anyio.lowlevel import checkpoint

from kvstream.blocks.hashing import below_rate, mix
from kvstream.config import OverflowPolicy
from kvstream.errors import MalformedInputError
from kvstream.events.frame import MAX_FRAME_EVENTS, EventFrame, as_int64
from kvstream.events.types import REASON_CODE, UNKNOWN_REASON, Op
from kvstream.queue import FrameQueue

Ids = int | Sequence[int] | npt.NDArray[Any]

INTENDED_DROPS = frozenset({"queue_full", "displaced", "sampled", "duplicate"})
"""Causes that a policy asked for; the others (``would_block``, ``closed``, ``cancelled``,
``shutdown_timeout``) are losses."""

_PENDING_FRAMES = 8
_LOWEST_RATE = 1 / 4096


class ProducerStatistics(NamedTuple):
    """A producer's accounts at one moment: ``offered`` = sent + buffered + sum of ``dropped``.

    Attributes:
        offered: Events recorded.
        buffered: Events not yet on the queue.
        sent: Events put onto the queue and not displaced since.
        dropped: Events dropped, by cause.
        sample_rate: Share of blocks kept by the policy ``sample``.
    """

    offered: int
    buffered: int
    sent: int
    dropped: dict[str, int]
    sample_rate: float


class EventBuffer:
    """Events of one source and tier, in order, until they become a frame."""

    def __init__(self, source: str, tier: str) -> None:
        self.source, self.tier = source, tier
        self._clear()

    def _clear(self) -> None:
        self._ops = bytearray()
        self._blocks = array("q")
        self._ts = array("q")
        self._reasons = bytearray()

    def __len__(self) -> int:
        return len(self._ops)

    def add(self, op: int, ids: Ids, ts: int, reason: int = 0) -> int:
        """Appends one event for each id; returns how many.

        Raises:
            MalformedInputError: If an id is no 64-bit integer; nothing is appended then.
        """
        if type(ids) is int and -(2**63) <= ids < 2**63:
            self._blocks.append(ids)
            self._ops.append(op)
            self._ts.append(ts)
            self._reasons.append(reason)
            return 1
        column = as_int64(np.atleast_1d(ids) if isinstance(ids, np.ndarray) else _sequence(ids))
        n = len(column)
        self._blocks.frombytes(column.tobytes())
        self._ops += bytes((op,)) * n
        self._ts.extend(array("q", (ts,)) * n)
        self._reasons += bytes((reason,)) * n
        return n

    def take(self) -> list[EventFrame]:
        """The events as frames; the buffer is empty afterwards."""
        if not self._ops:
            return []
        frame = EventFrame(
            np.frombuffer(self._ops, dtype=np.uint8),
            np.frombuffer(self._blocks, dtype=np.int64),
            np.frombuffer(self._ts, dtype=np.int64),
            self.source,
            self.tier,
            None,
            np.frombuffer(self._reasons, dtype=np.uint8) if any(self._reasons) else None,
        )
        self._clear()
        return [frame.take(slice(i, i + MAX_FRAME_EVENTS)) for i in range(0, len(frame), MAX_FRAME_EVENTS)]


def _sequence(ids: Any) -> Sequence[int]:
    if isinstance(ids, (list, tuple)):
        return ids
    return list(ids) if hasattr(ids, "__iter__") else [ids]


class Producer:
    """Records what happens to the blocks of one source and tier.

    Made by ``KVStream.producer``. The coroutine methods are for tasks: under the policy ``block`` they
    wait for room. The ``record_*`` methods are for other threads and for code that cannot await: under
    ``block`` they make a thread wait, but never the event loop's own, which sets a few frames aside and
    drops (``would_block``) beyond that. Ids are an int, a sequence of ints or a numpy array; all ids of
    one call carry the time of the call, or ``ts`` (nanoseconds since the Unix epoch). What is no id or no
    time raises ``MalformedInputError`` and records nothing. If a coroutine method is cancelled while it
    waits, its events stay recorded and are sent with the next ones.
    """

    def __init__(
        self,
        source: str,
        tier: str,
        queue: FrameQueue,
        overflow: OverflowPolicy,
        frame_events: int,
        clock: Callable[[], int],
    ) -> None:
        self.source, self.tier, self.overflow = source, tier, overflow
        self._queue = queue
        self._frame_events = frame_events
        self._clock = clock
        self._lock = threading.RLock()
        self._buffer = EventBuffer(source, tier)
        self._pending: deque[EventFrame] = deque()
        self._pending_events = 0
        self._offered = 0
        self._dropped: Counter[str] = Counter()
        self._losses = 0  # dropped unasked and not yet told to the source's monitor
        self._sample_rate = 1.0
        self._calm = 0
        self._closed = False

    async def allocated(self, ids: Ids, ts: int | None = None) -> None:
        """Blocks were handed out."""
        await self._put(Op.ALLOC, ids, ts, 0)

    async def accessed(self, ids: Ids, ts: int | None = None) -> None:
        """Live blocks were found by a request."""
        await self._put(Op.ACCESS, ids, ts, 0)

    async def evicted(self, ids: Ids, ts: int | None = None, reason: str = "capacity") -> None:
        """Blocks were given up."""
        await self._put(Op.EVICT, ids, ts, REASON_CODE.get(reason, UNKNOWN_REASON))

    async def cleared(self, ts: int | None = None) -> None:
        """Every block was given up at once."""
        await self._put(Op.CLEAR, 0, ts, 0)

    def record_allocated(self, ids: Ids, ts: int | None = None) -> None:
        """Blocks were handed out; from any thread."""
        self._record(Op.ALLOC, ids, ts, 0)

    def record_accessed(self, ids: Ids, ts: int | None = None) -> None:
        """Live blocks were found by a request; from any thread."""
        self._record(Op.ACCESS, ids, ts, 0)

    def record_evicted(self, ids: Ids, ts: int | None = None, reason: str = "capacity") -> None:
        """Blocks were given up; from any thread."""
        self._record(Op.EVICT, ids, ts, REASON_CODE.get(reason, UNKNOWN_REASON))

    def record_cleared(self, ts: int | None = None) -> None:
        """Every block was given up at once; from any thread."""
        self._record(Op.CLEAR, 0, ts, 0)

    async def flush(self) -> None:
        """Puts everything recorded so far onto the queue, waiting for room under ``block``."""
        with self._lock:
            self._frame()
        self._pump()
        while self._pending and not self._closed:
            await self._queue.room()
            self._pump()

    def flush_nowait(self) -> None:
        """Puts onto the queue what fits without waiting."""
        with self._lock:
            self._frame()
        self._pump()

    def statistics(self) -> ProducerStatistics:
        """The producer's accounts now."""
        with self._lock:
            dropped = dict(self._dropped)
            buffered = len(self._buffer) + self._pending_events
            sent = self._offered - buffered - sum(dropped.values())
            return ProducerStatistics(self._offered, buffered, sent, dropped, self._sample_rate)

    def close(self, cause: str) -> None:
        """Drops what is still buffered, for a cause; later events are dropped as ``closed``."""
        with self._lock:
            self._closed = True
            self._drop(cause, len(self._buffer) + self._pending_events)
            self._buffer.take()
            self._pending.clear()
            self._pending_events = 0

    def take_losses(self) -> int:
        """Events dropped unasked since the last call."""
        with self._lock:
            losses, self._losses = self._losses, 0
            return losses

    def drop(self, cause: str, events: int) -> None:
        """Counts events that were on the queue as dropped."""
        with self._lock:
            self._drop(cause, events)

    async def _put(self, op: int, ids: Ids, ts: int | None, reason: int) -> None:
        if self._add(op, ids, ts, reason):
            self._pump()
            await checkpoint()  # consumers get their turn also where there is room
            while self._pending and not self._closed:
                await self._queue.room()
                self._pump()

    def _record(self, op: int, ids: Ids, ts: int | None, reason: int) -> None:
        if not self._add(op, ids, ts, reason):
            return
        self._pump()
        if not self._pending:
            return
        if not self._queue.on_loop_thread:
            while self._pending and not self._closed:
                self._queue.wait_for_room(self._next_pending())
                self._pump()
            return
        with self._lock:
            while len(self._pending) > _PENDING_FRAMES:
                frame = self._pending.pop()
                self._pending_events -= len(frame)
                self._drop("would_block", len(frame))

    def _add(self, op: int, ids: Ids, ts: int | None, reason: int) -> bool:
        """Buffers events; whether a frame is full."""
        if ts is None:
            ts = self._clock()
        elif not isinstance(ts, int) or not 0 <= ts < 2**63:
            raise MalformedInputError(f"ts must be whole nanoseconds since 1970, not {ts!r}")
        with self._lock:
            n = self._buffer.add(op, ids, ts, reason)
            self._offered += n
            if self._closed:
                self._buffer.take()
                self._drop("closed", n)
                return False
            if len(self._buffer) < self._frame_events:
                return False
            self._frame()
            return True

    def _next_pending(self) -> int:
        with self._lock:
            return len(self._pending[0]) if self._pending else 0

    def _frame(self) -> None:
        for frame in self._buffer.take():
            self._pending.append(frame)
            self._pending_events += len(frame)

    def _pump(self) -> None:
        """Moves pending frames to the queue in order, as the policy says; never waits."""
        with self._lock:
            while self._pending:
                frame = self._pending[0]
                if not self._admit(frame):
                    return
                self._pending.popleft()
                self._pending_events -= len(frame)

    def _admit(self, frame: EventFrame) -> bool:
        """Whether the frame is settled: on the queue, or dropped and counted."""
        if self.overflow == "sample":
            self._offer_sample(frame)
            return True
        if self._queue.offer(frame, self):
            return True
        if self.overflow == "block":
            return False
        if self.overflow == "drop_oldest":
            while (oldest := self._queue.displace(self)) is not None:
                self._drop("displaced", len(oldest))
                if self._queue.offer(frame, self):
                    return True
        self._drop("queue_full", len(frame))
        return True

    def _offer_sample(self, frame: EventFrame) -> None:
        """Thins out whole blocks, more of them each time the queue is full."""
        self._calm = self._calm + 1 if self._queue.fill < 0.25 else 0
        if self._calm >= 64:
            self._sample_rate, self._calm = min(1.0, self._sample_rate * 2), 0
        while True:
            kept = frame
            if self._sample_rate < 1.0:
                kept = frame.take(below_rate(mix(frame.blocks), self._sample_rate) | (frame.ops == Op.CLEAR))
            if not len(kept) or self._queue.offer(kept, self):
                self._drop("sampled", len(frame) - len(kept))
                return
            if self._sample_rate <= _LOWEST_RATE:
                self._drop("queue_full", len(frame))
                return
            self._sample_rate /= 2

    def _drop(self, cause: str, events: int) -> None:
        if events:
            self._dropped[cause] += events
            if cause not in INTENDED_DROPS:
                self._losses += events
