"""Unheld: frames of one connection that nothing durable holds yet; UnheldFrames: that no snapshot does."""

from collections import deque
from typing import Protocol

import anyio

from kvstream.state.held import NO_SOURCE
from kvstream.state.keeper import StateKeeper

_PRESSING_BYTES = 2 * 1024 * 1024
"""Bytes of a connection that wait to be acknowledged, beyond which a snapshot is taken soon: some 100,000
events, less than half of what its other side keeps by default."""

_PATIENCE_SECONDS = 30.0  # and two intervals, that a snapshot may take that is waited for


class Unheld(Protocol):
    """The frames of a connection from when they are taken until they may be acknowledged, in order."""

    def __len__(self) -> int:
        """Return how many there are."""

    def add(self, source: str, size: int) -> None:
        """Add the frame of a source that was sent on last, and how many bytes it has."""

    def add_malformed(self, size: int) -> None:
        """Add a frame that cannot be decoded and was counted as such."""

    def press(self) -> None:
        """Take note that the other side waits."""

    def release(self) -> None:
        """Take out the frames that may be acknowledged, oldest first."""

    async def change(self) -> None:
        """Wait until frames may have to be released."""


class UnheldFrames:
    """The frames of a connection from when they are taken until they may be acknowledged.

    A snapshot is asked for where the other side waits for one, or soon may have to drop events. If none can
    be written then, the frames are acknowledged all the same, as the stream is not to be held up; they are
    counted (``SavedState.unsaved_frames``).

    Args:
        keeper: Keeps the state of the stream.
    """

    def __init__(self, keeper: StateKeeper) -> None:
        self._keeper = keeper
        self._held = keeper.saver.held
        self._frames: deque[tuple[str, int, int]] = deque()  # source, number, bytes
        self._bytes = 0
        self._awaited = 0  # frames, the oldest ones, that a snapshot was asked for
        self._awaited_since = 0.0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, source: str, size: int) -> None:
        """Add the frame of a source that was sent to the stream last."""
        self._frames.append((source, self._held.last(source), size))
        self._bytes += size
        if self._bytes >= _PRESSING_BYTES:
            self.press()

    def add_malformed(self, size: int) -> None:
        """Add a frame that cannot be decoded and was counted as such."""
        self._held.send(NO_SOURCE)
        self._held.apply(NO_SOURCE, 1)
        self.add(NO_SOURCE, size)

    def press(self) -> None:
        """Ask for a snapshot of the frames so far."""
        if not self._awaited:
            self._awaited_since = anyio.current_time()
        self._awaited = len(self._frames)
        if self._awaited:
            self._keeper.saver.soon()

    def release(self) -> None:
        """Take out the frames that need no longer wait, oldest first."""
        while self._frames and self._held.holds(*self._frames[0][:2]):
            self._bytes -= self._frames.popleft()[2]
            self._awaited = max(0, self._awaited - 1)
        if self._awaited and self._is_too_late():
            self._keeper.note_unsaved(len(self._frames))
            self._frames.clear()
            self._bytes = self._awaited = 0
        elif self._awaited:
            self._keeper.saver.soon()  # as they were not applied yet when it was taken

    def _is_too_late(self) -> bool:
        saver = self._keeper.saver
        patience = _PATIENCE_SECONDS + 2 * saver.interval
        waited = anyio.current_time() - self._awaited_since
        return saver.has_failed_since(self._awaited_since) or waited > patience

    async def change(self) -> None:
        """Wait until frames may have to be released."""
        await self._held.change()
