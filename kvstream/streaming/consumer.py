"""Consumer: frames of some sources, from a queue into their state, on the event loop or in a thread."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from kvstream.engine.cache import Outcome
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame
from kvstream.recording.queue import JOINED_EVENTS, Batch, FrameQueue, batches_in_order, batches_of

if TYPE_CHECKING:
    from kvstream.streaming.worker import Worker

_WORTH_A_THREAD = 4096
"""Events that take a worker thread longer than it takes to hand them over."""

_THREAD_EVENTS = 32 * JOINED_EVENTS
"""Events of a batch where there are worker threads: between two, a thread waits for the event loop."""

T = TypeVar("T")


class Consumer:
    """Takes frames from a queue and applies them, those of one source together, a slice at a time.

    Only one thread is in its state at a time. A slice is always begun by the event loop, and runs there or in
    a worker thread. So whoever runs on the loop waits for the slice that a thread may be applying
    (``at_rest``), and then has the state to itself up to its next ``await``.

    Args:
        monitor: The state of its sources; nobody else enters it.
        step_ns: Length of the steps of event time by which frames of a recording are applied, ns; None for
            live sources, of which all that waits is applied source by source.
        before: Called with the frames of a batch before they are applied; returns whether to make records of
            evictions.
        publish: Called with what each slice led to.
        after: Called with a batch once its frames are applied.

    Attributes:
        queue: Frames on their way here; made by ``open``.
        batch: Held while a batch is applied, so that whoever holds it looks at sources between two batches;
            made by ``open``.
        taken: Sources of the frames that are about to be applied.
        consumed: Events taken from the queue and applied, or counted as dropped by the state.
        ended: Set once the queue is closed and everything is applied.
    """

    queue: FrameQueue
    # Texts, as anyio loads half of itself for a name of these.
    batch: "anyio.Lock"
    ended: "anyio.Event"

    def __init__(
        self,
        monitor: Monitor,
        step_ns: int | None,
        before: Callable[[Monitor, Sequence[EventFrame]], bool],
        publish: Callable[[Outcome], None],
        after: Callable[[Monitor, Batch], None],
    ) -> None:
        self._monitor, self._step_ns = monitor, step_ns
        self._before, self._publish, self._after = before, publish, after
        self.taken: set[str] = set()
        self.consumed = 0
        self._unsettled = 0  # events of the batch that is applied
        self._worker: Worker | None = None

    def open(self, queue_events: int, threads: "anyio.CapacityLimiter | None") -> None:
        """Make the queue, on the event loop.

        Args:
            queue_events: Events that it holds.
            threads: Room for a worker thread for each consumer; None applies everything on the event loop.
        """
        self.queue = FrameQueue(queue_events)
        self.batch = anyio.Lock(fast_acquire=True)
        self.ended = anyio.Event()
        if threads is not None:
            from kvstream.streaming import worker  # only consumers in threads pay for it

            self._worker = worker.Worker(threads, self.queue.call_on_loop)

    def at_rest(self) -> Monitor:
        """Return the state, to be read or changed on the event loop up to the next ``await``.

        Waits for the slice that a thread is applying, some milliseconds.
        """
        if self._worker is not None:
            self._worker.wait()
        return self._monitor

    def at_rest_for(self, work: Callable[[Monitor], Iterable[T]]) -> Iterator[T]:
        """Do some work on the state part by part, between which the caller may await."""
        for part in work(self.at_rest()):
            yield part
            self.at_rest()

    async def run(self) -> None:
        """Apply what comes until the queue is closed and empty.

        If it is cancelled, what is not applied by then is counted as dropped (``cancelled``).
        """
        if (worker := self._worker) is None:
            await self._consume()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                try:
                    await worker.ready.wait()
                    await self._consume()
                finally:
                    worker.stop()
        self.ended.set()

    async def _consume(self) -> None:
        batches: list[Batch] = []
        try:
            while (items := await self.queue.take()) is not None:
                if self._step_ns is not None:
                    batches = batches_in_order(items, self._step_ns)
                else:
                    batches = batches_of(items, JOINED_EVENTS if self._worker is None else _THREAD_EVENTS)
                del items  # which holds all the frames, and would until others come
                self.taken.update(batch.source for batch in batches)
                while batches:
                    async with self.batch:
                        await self._process(batches.pop())
                self.taken.clear()
        finally:
            for batch in batches:
                self._cancel(batch, batch.events)

    async def _process(self, batch: Batch) -> None:
        """Apply frames of one source."""
        losses = sum(sender.take_losses() for sender in set(batch.senders))
        if losses:
            self._monitor.note_lost(batch.source, losses)
        slices = self._monitor.slices(batch.frames, self._before(self._monitor, batch.frames))
        self._unsettled = batch.events
        try:
            left = self._unsettled
            while (applied := await self._next(slices)) is not None:
                self.queue.processed(left - self._unsettled)
                left = self._unsettled
                self._publish(applied)
                if left:
                    await checkpoint()
        finally:
            self.at_rest()
            self._cancel(batch, self._unsettled)
        self._after(self._monitor, batch)
        await checkpoint()

    async def _next(self, slices: Iterator[Outcome]) -> Outcome | None:
        """Apply a slice, or several in a thread while there is nothing to publish; None if none is left."""
        if (worker := self._worker) is None or self._unsettled < _WORTH_A_THREAD:
            return self._step(slices)

        def work() -> Outcome | None:
            while True:
                applied = self._step(slices)
                if applied is None or applied.alerts or applied.evicted:
                    return applied
                if worker.is_awaited or not self._unsettled:
                    return applied

        return await worker.call(work)

    def _step(self, slices: Iterator[Outcome]) -> Outcome | None:
        applied = next(slices, None)
        if applied is not None:
            self._unsettled -= applied.settled
            self.consumed += applied.settled
        return applied

    def _cancel(self, batch: Batch, left: int) -> None:
        """Count the last events of a batch, taken in the order of its frames, as dropped."""
        if not left:
            return
        self.queue.processed(left)
        for frame, sender in zip(reversed(batch.frames), reversed(batch.senders), strict=True):
            dropped = min(left, len(frame))
            sender.drop("cancelled", dropped)
            left -= dropped

    def abandon(self, reason: str) -> None:
        """Close the queue, and count what waits in it as dropped for a reason."""
        for frame, sender in self.queue.abandon():
            sender.drop(reason, len(frame))
        self.queue.close()

    def close_after_fork(self) -> None:
        """Close the copy in a forked child, which has no thread that applies anything."""
        self._worker = None
        self.queue.close_after_fork()
