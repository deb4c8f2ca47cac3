"""Saver: a stream's state into a store, again and again, while the stream goes on."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from kvstream.engine.monitor import SourceMonitor
from kvstream.errors import StateError
from kvstream.state.sections import StreamParts, source_section, stream_section
from kvstream.state.snapshot import Header, Section
from kvstream.state.store import DirectoryStore, SnapshotWriter

SHORTEST_INTERVAL = 5.0
"""Seconds between two snapshots, more where they cost more."""

MOST_OF_THE_TIME = 0.05
"""Share of the time that saving may take."""

_logger = logging.getLogger("kvstream")
_T = TypeVar("_T")


class Saver:
    """Takes snapshots of a stream, source by source.

    The event loop copies a source between two batches of its frames; packing and writing run in a worker
    thread. What cannot be written is tried again later, and stops nothing.

    Args:
        store: Where snapshots are kept, open.
        parts: Returns the state, to be read up to the next ``await``.
        between_batches: Returns what keeps frames of a source from being applied while it is entered.
        saved: Called with the sequence numbers of each source once a snapshot of them is on the disk.
        writer: Version of kvstream.

    Attributes:
        interval: Seconds between the end of a snapshot and the next one.
        saved_at: When the last whole snapshot was begun, seconds since the Unix epoch; None before the first.
        bytes: Its length.
        error: Why the last attempt failed; empty if it did not.
    """

    def __init__(
        self,
        store: DirectoryStore,
        parts: Callable[[], StreamParts],
        between_batches: Callable[[str], AbstractAsyncContextManager[object]],
        saved: Callable[[Mapping[str, Any]], None],
        writer: str,
    ) -> None:
        self.interval = SHORTEST_INTERVAL
        self.saved_at: float | None = None
        self.bytes = 0
        self.error = ""
        self._store, self._parts = store, parts
        self._between_batches, self._saved = between_batches, saved
        self._writer = writer
        self._lock = anyio.Lock()
        self._cost = 0.0  # seconds of the snapshot in the making

    async def run(self) -> None:
        """Save at intervals until cancelled."""
        while True:
            await anyio.sleep(self.interval)
            await self.save()

    async def save(self) -> bool:
        """Take a snapshot, once one that is being taken is done; return whether it is on the disk now.

        If it is cancelled, or cannot be written, the snapshots before it are there still.
        """
        async with self._lock:
            return await self._save_once()

    async def _save_once(self) -> bool:
        begun_at, self._cost = time.time(), 0.0
        try:
            numbers, size = await self._save(begun_at)
        except (OSError, StateError) as error:
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            if why != self.error:
                _logger.warning("state cannot be saved in %s: %s", self._store.path, why)
            self.error = why
            return False
        finally:
            self.interval = max(SHORTEST_INTERVAL, self._cost / MOST_OF_THE_TIME)
        if self.error:
            _logger.warning("state is saved in %s again", self._store.path)
        self.saved_at, self.bytes, self.error = begun_at, size, ""
        self._saved(numbers)
        return True

    async def _save(self, begun_at: float) -> tuple[dict[str, Any], int]:
        """Write a snapshot; return the sequence numbers of each source in it, and its length."""
        numbers: dict[str, Any] = {}
        saved: dict[str, SourceMonitor] = {}
        with await self._in_thread(self._begin, begun_at) as writer:
            for name, source in self._parts().sources().items():
                async with self._between_batches(name):
                    if self._parts().sources().get(name) is not source:
                        continue  # forgotten meanwhile
                    section = self._copied(source_section, source)
                saved[name], numbers[name] = source, section.body["sequence"]
                await self._in_thread(writer.add, section)
            await self._in_thread(writer.add, self._copied(stream_section, self._parts(), saved))
            await self._in_thread(writer.finish)
            return numbers, writer.bytes

    def _begin(self, begun_at: float) -> SnapshotWriter:
        number = self._store.next_number()
        return self._store.begin(Header(number=number, taken_at=begun_at, writer=self._writer))

    def _copied(self, function: Callable[..., Section], *arguments: object) -> Section:
        """Return a section, and count what it costs the event loop."""
        began = time.perf_counter()
        section = function(*arguments)
        self._cost += time.perf_counter() - began
        return section

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function in a worker thread, and count what it costs."""

        def work() -> tuple[_T, float]:
            began = time.thread_time()
            result = function(*arguments)
            return result, time.thread_time() - began

        result, cost = await to_thread.run_sync(work)
        self._cost += cost
        return result
