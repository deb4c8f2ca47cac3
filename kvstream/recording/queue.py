"""FrameQueue: a bounded queue of frames that tasks and threads fill and one consumer task drains."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import anyio
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from kvstream.events.frame import EventFrame


class Sender(Protocol):
    """The sender of frames on a queue, which accounts for them."""

    def drop(self, reason: str, events: int) -> None:
        """Count events as dropped for a reason (``DROP_REASONS``); from any thread."""

    def take_losses(self) -> int:
        """Return the events lost since the last call, which nothing else reports."""


Item = tuple[EventFrame, Sender]
"""A frame, and who sent it."""

JOINED_EVENTS = 32_768
"""Events at most of the frames that a batch joins."""

JOINED_FRAMES = 4096
"""Frames at most of a batch: to join as many takes some milliseconds, however few events there are."""

MOST_OBJECTS = 65_536
"""Frames and labels that a queue holds: each takes up to a kilobyte, however few events there are."""


class QueueStatistics(NamedTuple):
    """The inside of a queue at one moment.

    Attributes:
        frames: Frames waiting.
        events: Events in them.
        limit_events: Events it holds before it is full.
        processing_events: Events taken by the consumer and not yet processed.
    """

    frames: int
    events: int
    limit_events: int
    processing_events: int


class FrameQueue:
    """Frames on their way to one consumer, bounded by the events in them, and by frames and labels.

    A frame larger than a bound is let in when the queue is empty. Made and drained on the event
    loop; filled from anywhere.
    """

    def __init__(self, limit_events: int) -> None:
        self._limit = limit_events
        # Two queues, as the garbage collector would have to look at each pair in one.
        self._frames: deque[EventFrame] = deque()
        self._senders: deque[Sender] = deque()
        self._events = 0
        self._objects = 0
        self._processing = 0
        self._closed = False
        self._lock = threading.Lock()  # taken directly where nobody waits, as a Condition costs more
        self._room = threading.Condition(self._lock)
        self._token: EventLoopToken = current_token()
        self._loop_thread = threading.get_ident()
        self._arrived = anyio.Event()
        self._drained = anyio.Event()
        self._idle = anyio.Event()
        self._asleep = False

    def offer(self, frame: EventFrame, sender: Sender) -> bool:
        """Append a frame if it fits; False if the queue is full."""
        events = len(frame.ops)  # a third of what len(frame) takes, which shows where frames are small
        objects = 1 + len(frame.labels)
        with self._lock:
            if not self._fits(events, objects):
                return False
            self._frames.append(frame)
            self._senders.append(sender)
            self._events += events
            self._objects += objects
            wake, self._asleep = self._asleep, False
        if wake:
            self.call_on_loop(self._wake_consumer)
        return True

    def displace(self, sender: Sender) -> EventFrame | None:
        """Take out the oldest frame of one sender; None if it has none here."""
        with self._room:
            for i, other in enumerate(self._senders):
                if other is sender:
                    frame = self._frames[i]
                    del self._frames[i], self._senders[i]
                    self._events -= len(frame)
                    self._objects -= 1 + len(frame.labels)
                    return frame
        return None

    @property
    def on_loop_thread(self) -> bool:
        """Return whether the caller runs on the event loop's thread, where waiting would stop everything."""
        return threading.get_ident() == self._loop_thread

    @property
    def fill(self) -> float:
        """Return how full the queue is, from 0 to a little over 1."""
        return self._events / self._limit

    async def room(self) -> None:
        """Wait until the consumer has taken something out, or the queue is closed."""
        if self._closed:
            await checkpoint()
        else:
            await self._drained.wait()

    def wait_for_room(self, frame: EventFrame | None) -> None:
        """Block a thread until a frame, if there is one, fits or the queue is closed."""
        events, objects = (0, 0) if frame is None else (len(frame.ops), 1 + len(frame.labels))
        with self._room:
            while not self._closed and not self._fits(events, objects):
                self._room.wait()

    def _fits(self, events: int, objects: int) -> bool:
        fits = self._events + events <= self._limit and self._objects + objects <= MOST_OBJECTS
        return fits or not self._frames

    async def take(self) -> Iterator[Item] | None:
        """Take everything that is waiting; None once closed."""
        while True:
            with self._room:
                is_empty = not self._frames
                if not is_empty:
                    self._processing += self._events
                    items = self._take_all()
                elif not self._closed:
                    self._asleep = True
                    self._arrived = anyio.Event()
            if not is_empty or self._closed:
                drained, self._drained = self._drained, anyio.Event()
                drained.set()
                return None if is_empty else items
            await self._arrived.wait()

    def _take_all(self) -> Iterator[Item]:
        """Take out everything, with the lock held, and wake the threads that wait for room."""
        items = zip(self._frames, self._senders, strict=True)
        self._frames, self._senders = deque(), deque()
        self._events = self._objects = 0
        self._room.notify_all()
        return items

    def processed(self, events: int) -> None:
        """Forget events that the consumer took, once they are processed or given up."""
        self._processing -= events
        if not self._processing and not self._frames:
            idle, self._idle = self._idle, anyio.Event()
            idle.set()

    async def join(self) -> None:
        """Wait until everything put so far has been processed."""
        while self._processing or self._frames:
            await self._idle.wait()

    def close(self) -> None:
        """Close the queue: the consumer ends when it is empty, and nobody waits for room any longer."""
        with self._room:
            self._closed = True
            self._room.notify_all()
        self._drained.set()
        self._wake_consumer()

    def close_after_fork(self) -> None:
        """Close the copy in a forked child, where no task waits and no loop may be called."""
        self._lock = threading.Lock()  # another thread may have held it
        self._room = threading.Condition(self._lock)
        self._closed = True
        self._asleep = False
        self._frames.clear()
        self._senders.clear()
        self._events = self._objects = self._processing = 0

    def abandon(self) -> Iterator[Item]:
        """Take out everything without processing it."""
        with self._room:
            return self._take_all()

    def statistics(self) -> QueueStatistics:
        """Return the inside of the queue now."""
        return QueueStatistics(len(self._frames), self._events, self._limit, self._processing)

    def call_on_loop(self, callback: Callable[[], None]) -> None:
        """Call back on the event loop's thread, soon if this is another one."""
        if self.on_loop_thread:
            callback()
            return
        native = self._token.native_token
        # anyio has no call that hands work to the loop without waiting for it; its backends do.
        soon = getattr(native, "call_soon_threadsafe", None) or getattr(native, "run_sync_soon")  # noqa: B009
        soon(callback)

    def _wake_consumer(self) -> None:
        self._arrived.set()


class Batch:
    """Frames of one source that are applied together.

    Attributes:
        source: Their source.
        frames: The frames, in order.
        senders: The sender of each frame.
        events: Events in all frames.
    """

    __slots__ = ("events", "frames", "senders", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.frames: list[EventFrame] = []
        self.senders: list[Sender] = []
        self.events = 0


def batches_of(items: Iterable[Item], most_events: int = JOINED_EVENTS) -> list[Batch]:
    """Return the frames of each source together, in order, as many as are applied at once; last batch first.

    So small frames cost little more than large ones, and the event loop gets its turn after each batch.

    Args:
        items: Frames in order.
        most_events: Events of a batch at most, but for a frame that has more. It has at most
            ``JOINED_FRAMES`` frames.
    """
    batches: list[Batch] = []
    filling: dict[str, Batch] = {}
    for frame, sender in items:
        source, n = frame.source, len(frame.ops)
        batch = filling.get(source)
        if batch is None or batch.events + n > most_events or len(batch.frames) == JOINED_FRAMES:
            batch = filling[source] = Batch(source)
            batches.append(batch)
        batch.frames.append(frame)
        batch.senders.append(sender)
        batch.events += n
    batches.reverse()
    return batches


def batches_in_order(items: Iterable[Item], step_ns: int) -> list[Batch]:
    """Return the batches of frames that start within one step of event time together; last batch first.

    Args:
        items: Frames in order of time.
        step_ns: Length of a step, ns.
    """
    steps: list[list[Item]] = []
    reached = -1
    for item in items:
        at = int(item[0].ts[0]) // step_ns if len(item[0].ts) else reached
        if at > reached or not steps:
            reached = max(at, reached)
            steps.append([])
        steps[-1].append(item)
    return [batch for step in reversed(steps) for batch in batches_of(step)]
