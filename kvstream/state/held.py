"""HeldFrames: which frames a snapshot holds, so that they can be acknowledged to their senders."""

from collections.abc import Container

import anyio

NO_SOURCE = ""
"""What frames are counted under that cannot be decoded: the section of the stream holds their number."""


class _Counts:
    """Frames of one source: sent, applied, in the snapshot in the making, in the last one on the disk."""

    __slots__ = ("applied", "entered", "held", "sent")

    def __init__(self, start: int) -> None:
        self.sent = self.applied = self.entered = self.held = start


class HeldFrames:
    """Counts the frames of each source on their way into snapshots, on the event loop.

    Frames of a source are applied in the order in which they were sent, so that one number says how far each
    has come. What is not known of any source, as all of it is held, is forgotten.

    Example:
        >>> frames = HeldFrames()
        >>> first, second = frames.send("a"), frames.send("a")
        >>> frames.apply("a", 1)
        >>> frames.begin(), frames.enter("a"), frames.keep()
        (None, None, None)
        >>> frames.holds("a", first), frames.holds("a", second)
        (True, False)
    """

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}
        self._total = 0  # of all sources ever, so that a source that is counted anew gets higher numbers
        self._changed = anyio.Event()

    def send(self, source: str) -> int:
        """Count a frame as sent; return its number."""
        counts = self._counts.get(source)
        if counts is None:
            counts = self._counts[source] = _Counts(self._total)
        self._total += 1
        counts.sent += 1
        return counts.sent

    def last(self, source: str) -> int:
        """Return the number of the frame of a source that was sent last."""
        return self._counts[source].sent

    def apply(self, source: str, frames: int) -> None:
        """Count the next frames of a source as applied."""
        if frames:
            self._counts[source].applied += frames

    def begin(self) -> None:
        """Begin a snapshot, in which there is nothing yet."""
        for counts in self._counts.values():
            counts.entered = counts.held

    def enter(self, source: str) -> None:
        """Take note that a source was copied for the snapshot, with all that was applied to it."""
        if (counts := self._counts.get(source)) is not None:
            counts.entered = counts.applied

    def enter_rest(self, sources: Container[str]) -> None:
        """Take note that what is of no source was copied, with what came of all but some sources."""
        for source, counts in self._counts.items():
            if source not in sources:
                counts.entered = counts.applied

    def keep(self) -> None:
        """Take note that the snapshot is on the disk."""
        for source, counts in list(self._counts.items()):
            counts.held = max(counts.held, counts.entered)
            if counts.held == counts.sent:
                del self._counts[source]
        self.wake()

    def holds(self, source: str, number: int) -> bool:
        """Return whether a frame is in a snapshot on the disk."""
        counts = self._counts.get(source)
        return counts is None or number <= counts.held

    def wake(self) -> None:
        """Wake all that wait for a change."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def change(self) -> None:
        """Wait for the next snapshot, or the next attempt that fails."""
        await self._changed.wait()
