"""ScriptedSource: the events of one cache at times of a script."""

from collections.abc import Iterable
from typing import Self

import numpy as np

from kvstream.events.frame import EventFrame, as_int64
from kvstream.events.types import DEFAULT_TIER, REASON_CODE, UNKNOWN_REASON, Op
from kvstream.stream import KVStream


class ScriptedSource:
    """A script of events of one source and tier.

    Args:
        source: Name of the source.
        tier: Its tier.
        start_ns: Time that the script's seconds count from, ns since the Unix epoch.

    Examples:
        >>> script = ScriptedSource("engine-0", start_ns=0)
        >>> script.allocated([1, 2], at=0.5).accessed([1], at=2.0).frame().ts.tolist()
        [500000000, 500000000, 2000000000]
    """

    def __init__(
        self, source: str, tier: str = DEFAULT_TIER, start_ns: int = 1_700_000_000_000_000_000
    ) -> None:
        self.source, self.tier, self.start_ns = source, tier, start_ns
        self._events: list[tuple[int, int, int, int]] = []  # time, operation, block, reason

    def allocated(self, blocks: Iterable[int], at: float) -> Self:
        """Add allocations, at seconds from the start."""
        return self._add(Op.ALLOC, blocks, at)

    def accessed(self, blocks: Iterable[int], at: float) -> Self:
        """Add accesses, at seconds from the start."""
        return self._add(Op.ACCESS, blocks, at)

    def evicted(self, blocks: Iterable[int], at: float, reason: str = "capacity") -> Self:
        """Add evictions, at seconds from the start."""
        return self._add(Op.EVICT, blocks, at, REASON_CODE.get(reason, UNKNOWN_REASON))

    def cleared(self, at: float) -> Self:
        """Add a clear of the whole cache, at seconds from the start."""
        return self._add(Op.CLEAR, [0], at)

    def _add(self, op: int, blocks: Iterable[int], at: float, reason: int = 0) -> Self:
        ts = self.start_ns + round(at * 1e9)
        self._events.extend((ts, op, block, reason) for block in blocks)
        return self

    def frame(self) -> EventFrame:
        """Return all events in one frame, by time; those of one time in the order of the script.

        Raises:
            MalformedInputError: If a block is no 64-bit integer.
        """
        events = sorted(self._events, key=lambda event: event[0])
        return EventFrame(
            np.array([op for _, op, _, _ in events], dtype=np.uint8),
            as_int64([block for _, _, block, _ in events]),
            np.array([ts for ts, _, _, _ in events], dtype=np.int64),
            self.source,
            self.tier,
            None,
            np.array([reason for _, _, _, reason in events], dtype=np.uint8),
        )

    async def play(self, stream: KVStream) -> None:
        """Send the script to an open stream, and wait until it is processed.

        If it is cancelled, frames that were sent stay sent.

        Raises:
            ClosedStreamError: If the stream is not open.
        """
        await stream.send(self.frame())
        await stream.flush()
