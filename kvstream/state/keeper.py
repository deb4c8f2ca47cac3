"""StateKeeper: what one stream keeps in a store, from its opening to its end."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager

from anyio import to_thread

from kvstream.alerts.inputs import InputReading
from kvstream.alerts.types import MetricType
from kvstream.engine.monitor import Monitor
from kvstream.errors import StateError
from kvstream.events.sequence import Cursor
from kvstream.metrics.summary import SavedState
from kvstream.state.degraded import DegradedSources
from kvstream.state.saver import Saver
from kvstream.state.sections import Restored, StreamParts, restore
from kvstream.state.store import DirectoryStore, SnapshotFile

_logger = logging.getLogger("kvstream")


class StateKeeper:
    """Restores a stream from a store, and keeps it there.

    Args:
        state: A directory, or a store.
        parts: Returns the state of the stream, to be read up to the next ``await``.
        monitor_of: Returns the monitor that a source belongs to.
        between_batches: Returns what keeps frames of a source from being applied while it is entered.
        writer: Version of kvstream.

    Attributes:
        saver: Takes the snapshots.
        cursors: Epoch and next sequence number of each source that was restored and had numbered frames.
        degraded: Sources of which the state was lost.
        unsaved_frames: See ``SavedState``.
    """

    def __init__(
        self,
        state: str | os.PathLike[str] | DirectoryStore,
        parts: Callable[[], StreamParts],
        monitor_of: Callable[[str], Monitor],
        between_batches: Callable[[str], AbstractAsyncContextManager[object]],
        writer: str,
    ) -> None:
        self._store = state if isinstance(state, DirectoryStore) else DirectoryStore(state)
        self._parts, self._monitor_of = parts, monitor_of
        self.saver = Saver(self._store, parts, between_batches, writer)
        self.cursors: Mapping[str, Cursor] = {}
        self.degraded = DegradedSources()
        self.unsaved_frames = 0
        self._opened_at = 0.0

    async def open(self, now: float) -> Restored:
        """Lock the store for this process and restore the newest whole snapshot into a new stream.

        What cannot be read is logged; where nothing can be, the stream begins with nothing.

        Args:
            now: Seconds since the Unix epoch.

        Raises:
            StateError: If another process has the directory, or it cannot be used.
        """
        return await to_thread.run_sync(self._open, now)

    def _open(self, now: float) -> Restored:
        self._store.open()
        try:
            self._opened_at = time.time()
            restored = self._restore(now)
            self.degraded.begin(restored.is_lost, restored.problems)
            return restored
        except BaseException:
            self._store.close()
            raise

    def _restore(self, now: float) -> Restored:
        damaged = 0
        for file in self._store.newest_first():
            restored = self._restored(file, now)
            if restored is not None:
                return restored
            damaged += 1
        if damaged:
            _logger.warning("state in %s: nothing can be read: beginning with nothing", self._store.path)
        return Restored(is_lost=damaged > 0)

    def _restored(self, file: SnapshotFile, now: float) -> Restored | None:
        """Restore a snapshot; None if it cannot be."""
        path = self._store.path
        if file.header is None:
            _logger.warning("state in %s: %s is damaged: %s", path, file.name, file.damage)
            return None
        try:
            restored = restore(self._parts(), file.sections, self._monitor_of, now)
        except StateError as error:
            _logger.warning("state in %s: %s: %s", path, file.name, error)
            return None
        for problem in restored.problems.values():
            _logger.warning("state in %s: %s; it begins with nothing", path, problem)
        if "degraded" in restored.others:
            self.degraded.restore(restored.others["degraded"])
        self.saver.go_on(file)
        sources = self._parts().sources()
        self.cursors = {name: cursor for name, of in sources.items() if (cursor := of.cursor) is not None}
        age = self._opened_at - file.header.taken_at
        _logger.info(
            "state of %d sources restored from %s, %.0f s old", len(restored.sources), file.name, age
        )
        return restored

    def note_unsaved(self, frames: int) -> None:
        """Count frames that are acknowledged though no snapshot holds them."""
        self.unsaved_frames += frames
        _logger.warning(
            "state in %s: %d frames are acknowledged that no snapshot holds%s: a crash now would lose them",
            self._store.path,
            frames,
            f" ({self.saver.error})" if self.saver.error else "",
        )

    def close(self) -> None:
        """Release the store for other processes."""
        self._store.close()

    def statistics(self) -> SavedState:
        """Return its statistics."""
        saver = self.saver
        since = self._opened_at if saver.saved_at is None else saver.saved_at
        return SavedState(
            path=str(self._store.path),
            saved_at=saver.saved_at,
            age_seconds=max(0.0, time.time() - since),
            interval_seconds=saver.interval,
            bytes=saver.bytes,
            snapshots=saver.snapshots,
            failures=saver.failures,
            error=saver.error,
            unsaved_frames=self.unsaved_frames,
            degraded=self.degraded.look(self._parts().sources().values()),
        )

    def readings(self) -> Iterator[InputReading]:
        """Yield what rules judge the saved state by."""
        seen = self.statistics()
        waited = min(seen.age_seconds, time.time() - self._opened_at)  # while it was closed, nothing was due
        overdue = max(0.0, waited - seen.interval_seconds)
        yield InputReading(MetricType.STATE_OVERDUE, seen.path, overdue, seen.error)
