"""SavedStream: the saved state of a stream, and how the next process continues from it."""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from kvstream.alerts.inputs import InputReading
from kvstream.engine.limits import StreamLimits
from kvstream.events.frame import EventFrame
from kvstream.events.sequence import Cursor
from kvstream.metrics.marks import Marks
from kvstream.metrics.summary import SavedState
from kvstream.recording.queue import Batch
from kvstream.recording.registry import SentFrames
from kvstream.state.progress import InputProgress
from kvstream.state.resumption import InputMarker, SavedInput
from kvstream.streaming.accounts import StreamAccounts
from kvstream.streaming.alerting import StreamAlerts
from kvstream.streaming.arrivals import Arrivals
from kvstream.streaming.consumers import Consumers
from kvstream.version import __version__

if TYPE_CHECKING:
    from kvstream.state.keeper import StateKeeper
    from kvstream.state.sections import StreamParts
    from kvstream.state.store import DirectoryStore

_RECONNECT_SECONDS = 15.0  # that the inputs of a restored source may take before it can be silent


class SavedStream:
    """Saves a stream and restores it, if it has a place for its state; without one, nothing outlives it.

    Args:
        state: A directory, or a store; None for a stream without.
        consumers: Its consumers.
        limits: What all of them may hold.
        alerts: Its alerts.
        accounts: Its accounts.
        arrivals: When its sources were heard.
        marks: Its marks.

    Attributes:
        keeper: What keeps the state; None for a stream without.
        progress: How far the inputs have come that can be read again.
    """

    def __init__(
        self,
        state: "str | os.PathLike[str] | DirectoryStore | None",
        consumers: Consumers,
        limits: StreamLimits,
        alerts: StreamAlerts,
        accounts: StreamAccounts,
        arrivals: Arrivals,
        marks: Marks,
    ) -> None:
        self._consumers, self._limits, self._alerts = consumers, limits, alerts
        self._accounts, self._arrivals, self._marks = accounts, arrivals, marks
        self.progress = InputProgress()
        self._inputs: dict[str, SavedInput] = {}  # those that have not been begun yet
        self._unheard: set[str] = set()  # restored sources without numbered frames, of which nothing came yet
        self.keeper = None if state is None else self._keeper(state)

    @property
    def goes_on(self) -> bool:
        """Return whether another process will continue the windows and alerts from the saved state."""
        return self.keeper is not None and self.keeper.saver.saved_at is not None

    @property
    def cursors(self) -> Mapping[str, Cursor]:
        """Return epoch and next number of each source that was restored and has numbered frames."""
        return {} if self.keeper is None else self.keeper.cursors

    async def open(self, now: float) -> None:
        """Go on from what was saved, at a time in seconds since the Unix epoch.

        Raises:
            StateError: If another process uses the directory, or it cannot be used.
        """
        if self.keeper is None:
            return
        restored = await self.keeper.open(now)
        others = restored.others
        self._alerts.go_on(others.get("owed_alerts", []), restored.alerts)
        self._marks.restore(others.get("marks", []))
        self._accounts.restore(others)
        silent = others.get("silent_seconds", {})
        self._arrivals.restore(
            {source: silent.get(source, 0.0) - _RECONNECT_SECONDS for source in restored.sources}
        )
        self._unheard = {each.source for each in self._consumers.sources() if each.cursor is None}
        self.progress.restore(restored.inputs)
        self._inputs = restored.inputs

    def close(self) -> None:
        """Release the directory for other processes."""
        if self.keeper is not None:
            self.keeper.close()

    async def save(self) -> float:
        """Save everything for the next process, if state is kept; return the seconds that this took."""
        if self.keeper is None:
            return 0.0
        began = anyio.current_time()
        with anyio.CancelScope(shield=True), anyio.move_on_after(self.keeper.saver.interval):
            await self.keeper.saver.save()
        return anyio.current_time() - began

    def take(self, frame: EventFrame) -> None:
        """Take note of a frame that an input has brought, before it is sent on."""
        if frame.position is not None:
            self.progress.take(frame)
            if self.keeper is not None and not self.goes_on:
                self.keeper.saver.soon()  # as without a snapshot nobody knows where to go on

    def send(self, source: str) -> None:
        """Take note that a ready frame of a source was put onto its queue."""
        if self.keeper is not None:
            self.keeper.saver.held.send(source)

    def apply(self, batch: Batch, is_kept: bool, ready: SentFrames) -> None:
        """Take note that frames of one source were applied.

        Args:
            batch: The frames.
            is_kept: Whether their source has state now.
            ready: Who sends ready frames.
        """
        self.progress.apply(batch.frames, is_kept)
        self._unheard.discard(batch.source)
        if self.keeper is not None:
            self.keeper.saver.held.apply(batch.source, batch.senders.count(ready))

    def restart_embedded(self, source: str) -> None:
        """Clear a restored source of this process: its engine and its cache ended with the one before."""
        if source not in self._unheard:
            return
        self._unheard.discard(source)
        consumer = self._consumers.of(source)
        if source not in consumer.taken and (found := consumer.at_rest().sources.get(source)) is not None:
            found.restart()

    def marker(self, name: str) -> InputMarker | None:
        """Return what marks the frames of an input that can be read again; None without a keeper."""
        if self.keeper is None:
            return None
        return InputMarker(name, self._inputs.pop(name, None), self.keeper.cursors)

    def statistics(self) -> SavedState | None:
        """Return the saved state's statistics; None if no state is kept."""
        return None if self.keeper is None else self.keeper.statistics()

    def readings(self) -> Iterable[InputReading]:
        """Return the readings of the saved state that rules judge."""
        return () if self.keeper is None else self.keeper.readings()

    def _keeper(self, state: "str | os.PathLike[str] | DirectoryStore") -> "StateKeeper":
        from kvstream.state.keeper import StateKeeper  # only a stream that is saved pays for it

        return StateKeeper(
            state,
            self._parts,
            lambda source: self._consumers.of(source).at_rest(),
            lambda source: self._consumers.of(source).batch,
            __version__,
        )

    def _parts(self) -> "StreamParts":
        from kvstream.state.sections import StreamParts

        return StreamParts(
            self._consumers.monitors,
            self._limits,
            self._alerts.silences,
            self._alerts.drops,
            self._others,
            self.progress,
            self._alerts.inputs,
        )

    def _others(self) -> dict[str, Any]:
        """Return the stream's own state, as plain values."""
        return {
            **self._accounts.save(),
            "marks": self._marks.save(),
            "silent_seconds": self._arrivals.ages(),
            "owed_alerts": self._alerts.owed(),
            "degraded": {} if self.keeper is None else self.keeper.degraded.save(),
        }
