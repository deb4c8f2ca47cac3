"""Saver: saves a stream's state to a store at intervals, while the stream runs."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

import anyio
from anyio import to_thread

from kvstream.engine.source import SourceMonitor
from kvstream.faults.containment import described
from kvstream.state.held import HeldFrames
from kvstream.state.sections import StreamParts, source_section, stream_section
from kvstream.state.snapshot import Header
from kvstream.state.store import DirectoryStore, SnapshotFile, SnapshotWriter

SHORTEST_INTERVAL = 5.0
"""Seconds between two snapshots, more where they cost more."""

MOST_OF_THE_TIME = 0.05
"""Share of the time that saving may take."""

_MOST_WAITING = 3.0
"""How many times its CPU time what runs in a thread counts at most for the time that it takes.

While events come as fast as they can be applied, it takes from them what it waits for, too: the interpreter,
and a CPU where others are busy. A slow disk takes nothing.
"""

_MANY_BLOCKS = 32_768
"""Blocks that are copied in a thread, as they would hold the event loop for some milliseconds."""

_logger = logging.getLogger("kvstream")
_T = TypeVar("_T")


class Saver:
    """Takes snapshots of a stream, source by source.

    The event loop copies a source between two batches of its frames, and a worker thread its tables where
    they are large; packing and writing run in a worker thread, too. What cannot be written is tried again
    later, and stops nothing.

    Args:
        store: Where snapshots are kept, open.
        parts: Returns the state, to be read up to the next ``await``.
        between_batches: Returns what keeps frames of a source from being applied while it is entered.
        writer: Version of kvstream.

    Attributes:
        held: Which frames the last snapshot holds.
        interval: Seconds between the end of a snapshot and the next one.
        saved_at: When the last whole snapshot was begun, seconds since the Unix epoch; None before the first.
        bytes: Its length.
        error: Why the last attempt failed; empty if it did not.
        snapshots: Snapshots taken so far.
        failures: Attempts that failed.
        cost: Seconds that the last snapshot took of the event loop, and as threads count.
    """

    def __init__(
        self,
        store: DirectoryStore,
        parts: Callable[[], StreamParts],
        between_batches: Callable[[str], AbstractAsyncContextManager[object]],
        writer: str,
    ) -> None:
        self.held = HeldFrames()
        self.interval = SHORTEST_INTERVAL
        self.saved_at: float | None = None
        self.bytes = self.snapshots = self.failures = 0
        self.error = ""
        self._store, self._parts = store, parts
        self._between_batches, self._writer = between_batches, writer
        self._lock = anyio.Lock()
        self.cost = 0.0
        self._asked = anyio.Event()
        self._failed_since = -math.inf  # when the last attempt that failed had begun, by the loop's clock

    def go_on(self, file: SnapshotFile) -> None:
        """Count a whole snapshot that the stream was restored from as the last one."""
        assert file.header is not None  # noqa: S101 - it is whole
        self.saved_at, self.bytes = file.header.taken_at, file.bytes

    async def run(self) -> None:
        """Save at intervals, sooner if asked for it, until cancelled."""
        while True:
            ended = anyio.current_time()
            with anyio.move_on_after(self.interval):
                await self._asked.wait()
            await anyio.sleep_until(ended + self.cost / MOST_OF_THE_TIME)
            self._asked = anyio.Event()
            await self.save()

    def soon(self) -> None:
        """Take the next snapshot as soon as the time that saving may take allows it."""
        self._asked.set()

    def has_failed_since(self, time: float) -> bool:
        """Return whether an attempt has failed that began later than a time of the loop's clock."""
        return self._failed_since > time

    async def save(self) -> bool:
        """Take a snapshot, once one that is being taken is done; return whether it is on the disk now.

        If it is cancelled, or cannot be written, the snapshots before it are there still.
        """
        async with self._lock:
            return await self._save_once()

    async def _save_once(self) -> bool:
        begun_at, began = time.time(), anyio.current_time()
        self.cost = 0.0
        try:
            size = await self._save(begun_at)
        except Exception as error:
            why = (isinstance(error, OSError) and error.strerror) or described(error)
            if why != self.error:
                _logger.warning("state cannot be saved in %s: %s", self._store.path, why)
            self.error, self._failed_since = why, began
            self.failures += 1
            self.held.wake()
            return False
        finally:
            self.interval = max(SHORTEST_INTERVAL, self.cost / MOST_OF_THE_TIME)
        if self.error:
            _logger.warning("state is saved in %s again", self._store.path)
        self.saved_at, self.bytes, self.error = begun_at, size, ""
        self.snapshots += 1
        self.held.keep()
        return True

    async def _save(self, begun_at: float) -> int:
        """Write a snapshot; return its length."""
        saved: dict[str, SourceMonitor] = {}
        self.held.begin()
        with await self._in_thread(self._begin, begun_at) as writer:
            # Until each source has a section: of one that came meanwhile, more may be applied than is saved.
            while unsaved := _others_than(saved, self._parts().sources()):
                for name, source in unsaved.items():
                    async with self._between_batches(name):
                        if self._parts().source(name) is not source:
                            continue  # forgotten meanwhile
                        copied = partial(source_section, with_tables=False)
                        section = self._copied(copied, source, self._parts().inputs)
                        self.held.enter(name)
                        if source.live < _MANY_BLOCKS:
                            self._copied(source.save_tables, section.body)
                        else:
                            await self._in_thread(source.save_tables, section.body)
                    saved[name] = source
                    await self._in_thread(writer.add, section)
            parts = self._parts()
            section = self._copied(stream_section, parts, saved)
            self.held.enter_rest(parts.sources())
            await self._in_thread(writer.add, section)
            await self._in_thread(writer.finish)
            return writer.bytes

    def _begin(self, begun_at: float) -> SnapshotWriter:
        number = self._store.next_number()
        return self._store.begin(Header(number=number, taken_at=begun_at, writer=self._writer))

    def _copied(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function, and count what it costs the event loop."""
        began = time.perf_counter()
        result = function(*arguments)
        self.cost += time.perf_counter() - began
        return result

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function in a worker thread, and count what it costs others."""

        def work() -> tuple[_T, float]:
            began, cpu_began = time.perf_counter(), time.thread_time()
            result = function(*arguments)
            cpu = time.thread_time() - cpu_began
            return result, min(time.perf_counter() - began, _MOST_WAITING * cpu)

        result, cost = await to_thread.run_sync(work)
        self.cost += cost
        return result


def _others_than(
    saved: Mapping[str, SourceMonitor], sources: Mapping[str, SourceMonitor]
) -> dict[str, SourceMonitor]:
    return {name: source for name, source in sources.items() if saved.get(name) is not source}
