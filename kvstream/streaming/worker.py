"""Worker: a thread that applies what the event loop hands to it."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

import anyio
from anyio import to_thread

from kvstream.faults.containment import outcome

T = TypeVar("T")


class Worker:
    """A worker thread that runs one function at a time, for the event loop.

    To hand a function over takes no turn of the loop, so that the loop may stand still for it (``wait``).

    Args:
        threads: Room for the thread.
        call_on_loop: Calls back on the event loop's thread.

    Attributes:
        ready: Set once the thread is there.
        is_awaited: Whether the event loop stands still until the function that runs is done.
    """

    def __init__(
        self, threads: "anyio.CapacityLimiter", call_on_loop: Callable[[Callable[[], None]], None]
    ) -> None:
        self._threads, self._call_on_loop = threads, call_on_loop
        self.ready = anyio.Event()
        self.is_awaited = False
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()

    async def run(self) -> None:
        """Run the thread until ``stop``, even if this is cancelled."""
        await to_thread.run_sync(self._run, limiter=self._threads)

    def _run(self) -> None:
        self._call_on_loop(self.ready.set)
        while (work := self._work.get()) is not None:
            work()

    def stop(self) -> None:
        """End the thread after the current function."""
        self._work.put(None)

    def wait(self) -> None:
        """Wait until the thread runs nothing; nothing begins before the event loop's next turn."""
        if not self._idle.is_set():
            self.is_awaited = True
            self._idle.wait()
            self.is_awaited = False

    async def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns in the thread; if this is cancelled, it is still waited for."""
        done = anyio.Event()
        answers: list[tuple[T, BaseException | None]] = []

        def work() -> None:
            answers.append(outcome(function))
            self._idle.set()
            self._call_on_loop(done.set)

        self._idle.clear()
        self._work.put(work)
        with anyio.CancelScope(shield=True):
            await done.wait()
        returned, raised = answers[0]
        if raised is not None:
            raise raised
        return returned
