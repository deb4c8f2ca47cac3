"""Producer: events of one source and tier, from any task or thread, framed and put onto a queue."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from anyio.lowlevel import checkpoint

from kvstream._core.recorder import StepRecorder, checked_time
from kvstream.events.counters import DROP_REASONS
from kvstream.events.frame import EventFrame
from kvstream.events.recorded import KeysOf, recorded_frame
from kvstream.events.types import REASON_CODE, UNKNOWN_REASON, Labels, Op
from kvstream.recording.buffer import EventBuffer, Ids
from kvstream.recording.overflow import Overflow
from kvstream.recording.queue import FrameQueue
from kvstream.text.escape import for_terminal

logger = logging.getLogger("kvstream")

_PENDING_FRAMES = 8
_RECORDED_FRAMES = 4  # that a recorder's events become at once, so that decoding them costs little each


class ProducerStatistics(NamedTuple):
    """A producer's accounts at one moment: ``offered`` = sent + buffered + sum of ``dropped``.

    Attributes:
        offered: Events recorded.
        buffered: Events not yet on the queue.
        sent: Events put onto the queue and not displaced since.
        dropped: Events dropped, by drop reason.
        sample_rate: Share of blocks kept by the policy ``sample``.
    """

    offered: int
    buffered: int
    sent: int
    dropped: dict[str, int]
    sample_rate: float


class Producer:
    """Records what happens to the blocks of one source and tier.

    Made by ``KVStream.producer``. ``allocated``, ``accessed``, ``evicted`` and ``cleared`` are for tasks:
    under the policy ``block`` they wait for room. Their ``_nowait`` twins are for other threads and for code
    that cannot await: under ``block`` they make a thread wait, but never the event loop's own, which sets a
    few frames aside and drops the rest (``would_block``).

    Ids are an int, a sequence of ints or a numpy array; all ids of one call carry the time of the call, or
    ``ts`` (nanoseconds since the Unix epoch). Invalid ids, times, keys and labels raise
    ``MalformedInputError`` and record nothing. If a coroutine method is cancelled while it waits, its events
    stay recorded and are sent with the next ones.

    After the stream has closed, what is recorded is dropped and counted (``closed``), and nothing is raised.
    In a forked child its copy is closed likewise (``forked``).
    """

    def __init__(
        self,
        source: str,
        tier: str,
        queue: FrameQueue,
        overflow: Overflow,
        frame_events: int,
        clock: Callable[[], int],
        keep: Callable[["Producer"], None],
        wake_flusher: Callable[[FrameQueue], None],
    ) -> None:
        self.source, self.tier = source, tier
        self._queue, self._overflow = queue, overflow
        self._frame_events = frame_events
        self._clock = clock
        self._keep = keep  # must be called before anything is counted that could be lost with this object
        self._wake_flusher = wake_flusher
        self._used = True
        self._flusher_knows = False  # that there is something to flush
        self._lock = threading.RLock()
        self._buffer = EventBuffer(source, tier)
        self._recorder: StepRecorder | None = None
        self._pending: deque[EventFrame] = deque()
        self._pending_events = 0
        self._offered = 0
        self._dropped: Counter[str] = Counter()
        self._losses = 0  # dropped unasked and not yet reported to the source's monitor
        self._closed = ""  # or the reason for which events are dropped since
        self._said_forked = False

    async def allocated(
        self,
        ids: Ids,
        ts: int | None = None,
        labels: Labels | None = None,
        keys: Ids | None = None,
    ) -> None:
        """Record that blocks were allocated.

        Args:
            ids: The blocks.
            ts: When, nanoseconds since the Unix epoch; now by default.
            labels: The label set to which everything that happens to the blocks from now on is attributed.
            keys: The content key of each block, 0 where it has none. With keys, physical block numbers have
                premature evictions and a miss-ratio curve. Ids that are content hashes need none.
        """
        await self._put(Op.ALLOC, ids, ts, 0, labels, keys)

    async def accessed(self, ids: Ids, ts: int | None = None) -> None:
        """Record that live blocks were found by a request.

        Args:
            ids: The blocks.
            ts: When, nanoseconds since the Unix epoch; now by default.
        """
        await self._put(Op.ACCESS, ids, ts, 0)

    async def evicted(self, ids: Ids, ts: int | None = None, reason: str = "capacity") -> None:
        """Record that blocks were evicted.

        Args:
            ids: The blocks.
            ts: When, nanoseconds since the Unix epoch; now by default.
            reason: Why, such as ``capacity`` or ``preempted``; an unknown one counts as ``other``.
        """
        await self._put(Op.EVICT, ids, ts, REASON_CODE.get(reason, UNKNOWN_REASON))

    async def cleared(self, ts: int | None = None) -> None:
        """Record that the whole cache was emptied."""
        await self._put(Op.CLEAR, 0, ts, 0)

    def allocated_nowait(
        self,
        ids: Ids,
        ts: int | None = None,
        labels: Labels | None = None,
        keys: Ids | None = None,
    ) -> None:
        """Record that blocks were allocated, as ``allocated`` does; from any thread."""
        if self._add(Op.ALLOC, ids, ts, 0, labels, keys):
            self._settle()

    def accessed_nowait(self, ids: Ids, ts: int | None = None) -> None:
        """Record that live blocks were found by a request, as ``accessed`` does; from any thread."""
        if self._add(Op.ACCESS, ids, ts, 0):
            self._settle()

    def evicted_nowait(self, ids: Ids, ts: int | None = None, reason: str = "capacity") -> None:
        """Record that blocks were evicted, as ``evicted`` does; from any thread."""
        if self._add(Op.EVICT, ids, ts, REASON_CODE.get(reason, UNKNOWN_REASON)):
            self._settle()

    def cleared_nowait(self, ts: int | None = None) -> None:
        """Record that the whole cache was emptied; from any thread."""
        if self._add(Op.CLEAR, 0, ts, 0):
            self._settle()

    def recorder(self, keys_of: KeysOf | None = None) -> StepRecorder:
        """Return the recorder, always the same one: the cheapest way to record single blocks, step by step.

        Events keep their order, whether recorded by it or by the producer's own methods. Under ``block``,
        ``end_step`` waits as these do.

        Args:
            keys_of: Asked at the end of each step for the content keys of the blocks that it allocated, as
                ``StepRecorder`` says; that of the first call counts.
        """
        with self._lock:
            if self._recorder is None:
                self._recorder = StepRecorder(
                    self._clock,
                    _RECORDED_FRAMES * self._frame_events,
                    on_step=self._note,
                    on_full=self._settle_recorded,
                    keys_of=keys_of,
                )
                if self._closed:
                    self._recorder.close()
            return self._recorder

    async def flush(self) -> None:
        """Put everything recorded so far onto the queue, waiting for room under ``block``.

        Cancelling it only ends the wait.
        """
        with self._lock:
            self._take_recorded()
            self._frame()
        self._pump()
        while self._pending and not self._closed:
            await self._queue.room()
            self._pump()

    def flush_nowait(self) -> None:
        """Put onto the queue what fits without waiting; the rest is flushed later."""
        with self._lock:
            self._take_recorded()
            self._frame()
            self._flusher_knows = False
        self._pump()
        if self._recorder is not None:
            self._shed()  # an engine that does not end its steps must not fill memory
        if self._pending:
            self._note()

    def statistics(self) -> ProducerStatistics:
        """Return the producer's accounts now."""
        with self._lock:
            self._take_recorded()
            dropped = dict(self._dropped)
            buffered = self._buffer.events + self._pending_events
            sent = self._offered - buffered - sum(dropped.values())
            return ProducerStatistics(self._offered, buffered, sent, dropped, self._overflow.sample_rate)

    def close(self, reason: str) -> None:
        """Drop what is still buffered, for a reason; later events are dropped as ``closed``."""
        with self._lock:
            self._take_recorded()
            self._closed = self._closed or "closed"
            self._discard(reason)

    def close_after_fork(self) -> None:
        """Close the copy in a forked child; the parent sends what is buffered."""
        self._lock = threading.RLock()  # another thread may have held it
        self._closed = "forked"
        if self._recorder is not None:
            self._recorder.close_after_fork()
        self._queue.close_after_fork()
        self._discard("forked")

    def _discard(self, reason: str) -> None:
        self._drop(reason, self._buffer.events + self._pending_events)
        self._buffer = EventBuffer(self.source, self.tier)
        self._pending.clear()
        self._pending_events = 0
        if self._recorder is not None:
            self._recorder.close()

    def take_used(self) -> bool:
        """Return whether anything was recorded since the last call."""
        with self._lock:
            used, self._used = self._used or bool(self._recorder), False
            return used

    def retire(self, take_over: Callable[[int, Counter[str]], None]) -> bool:
        """Hand over the counts, so that this producer need not be kept; it keeps working.

        What is buffered is put onto the queue.

        Args:
            take_over: Called with the events offered and those dropped by reason, which then count from 0.

        Returns:
            False where that does not fit; nothing is handed over then.
        """
        with self._lock:
            self._take_recorded()
            self._frame()
            self._pump()
            if self._pending:
                return False
            take_over(self._offered, self._dropped)
            self._offered, self._dropped = 0, Counter()
            self._flusher_knows = False
            return True

    def take_losses(self) -> int:
        """Return the events lost since the last call: dropped, but not by an overflow policy."""
        with self._lock:
            losses, self._losses = self._losses, 0
            return losses

    def drop(self, reason: str, events: int) -> None:
        """Count events that were to be put onto the queue, or were on it, as dropped for a reason."""
        if events:
            with self._lock:
                self._keep(self)
                self._drop(reason, events)

    async def _put(
        self,
        op: int,
        ids: Ids,
        ts: int | None,
        reason: int,
        labels: Labels | None = None,
        keys: Ids | None = None,
    ) -> None:
        if self._add(op, ids, ts, reason, labels, keys):
            self._pump()
            await checkpoint()  # consumers get their turn also where there is room
            while self._pending and not self._closed:
                await self._queue.room()
                self._pump()

    def _settle(self) -> None:
        """Put pending frames onto the queue; a thread waits for room, the event loop's own cannot."""
        self._pump()
        if self._queue.on_loop_thread:
            self._shed()
            return
        while self._pending and not self._closed:
            self._queue.wait_for_room(self._next_pending())
            self._pump()

    def _shed(self) -> None:
        """Drop pending frames beyond a few."""
        with self._lock:
            while len(self._pending) > _PENDING_FRAMES:
                frame = self._pending.pop()
                self._pending_events -= len(frame)
                self._drop("would_block", len(frame))

    def _add(
        self,
        op: int,
        ids: Ids,
        ts: int | None,
        reason: int,
        labels: Labels | None = None,
        keys: Ids | None = None,
    ) -> bool:
        """Buffer events; return whether a frame is full."""
        ts = self._clock() if ts is None else checked_time(ts)
        with self._lock:
            if self._recorder:
                self._take_recorded()
            self._offered += self._buffer.add(op, ids, ts, reason, labels, keys)
            if not self._flusher_knows:
                self._note()
            if self._buffer.events < self._frame_events and not self._closed:
                return False
            self._frame()
            return True

    def _note(self) -> None:
        """Wake the flusher, so that recorded events are flushed in time."""
        if not self._flusher_knows:
            with self._lock:
                self._used = True
                self._keep(self)
                if not self._closed:  # the event loop may be gone
                    self._flusher_knows = True
                    self._wake_flusher(self._queue)

    def _take_recorded(self) -> None:
        """Frame what the recorder holds, after what was recorded before it."""
        if self._recorder is not None and self._recorder:
            self._note()
            self._frame()
            recorded = self._recorder.take()
            frame, malformed = recorded_frame(recorded, self.source, self.tier), recorded[-1]
            self._offered += len(frame) + malformed
            self._drop("malformed", malformed)
            self._enqueue(frame.cut(self._frame_events))

    def _settle_recorded(self) -> None:
        with self._lock:
            self._take_recorded()
        self._settle()

    def _next_pending(self) -> EventFrame | None:
        with self._lock:
            return self._pending[0] if self._pending else None

    def _frame(self) -> None:
        self._enqueue(self._buffer.take())

    def _enqueue(self, frames: list[EventFrame]) -> None:
        """Line frames up for the queue."""
        for frame in frames:
            if self._closed:
                self._drop_closed(len(frame))
            else:
                self._pending.append(frame)
                self._pending_events += len(frame)

    def _pump(self) -> None:
        """Move pending frames to the queue in order, as the policy says; never waits."""
        with self._lock:
            while self._pending:
                frame = self._pending[0]
                if not self._overflow.settle(frame, self._queue, self):
                    return
                self._pending.popleft()
                self._pending_events -= len(frame)

    def _drop_closed(self, events: int) -> None:
        if self._closed == "forked" and not self._said_forked:
            self._said_forked = True
            logger.warning(
                "%s: events recorded after a fork are dropped (forked): "
                "connect, or open a stream, in the process that records",
                for_terminal(f"{self.source}/{self.tier}"),
            )
        self._drop(self._closed, events)

    def _drop(self, reason: str, events: int) -> None:
        if events:
            self._dropped[reason] += events
            if not DROP_REASONS[reason].is_intended:
                self._losses += events
