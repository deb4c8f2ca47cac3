"""ReceiveBudget: a bound on the bytes that all connections together hold between socket and queue."""

from collections.abc import Callable

import anyio

DEFAULT_RECEIVE_BYTES = 256 * 1024 * 1024


class Share:
    """What one connection holds of a budget.

    Attributes:
        held: Bytes received and not yet on a queue.
        is_reading: Whether only the peer can make it smaller, by finishing its frame.
        is_leaving: Whether the connection was cut off, and soon gives back all.
        cut_off: Ends the connection.
    """

    __slots__ = ("cut_off", "held", "is_leaving", "is_reading")

    def __init__(self, cut_off: Callable[[], None]) -> None:
        self.held = 0
        self.is_reading = True
        self.is_leaving = False
        self.cut_off = cut_off


class ReceiveBudget:
    """Bounds what the connections of one server, or of several, hold of frames that are not on a queue.

    A connection asks for room before it reads. While the budget is used up, it waits for frames that are
    complete to go on to their queue. If there are none, so that only peers could make room by finishing
    their frames, the connection that holds most is cut off. So the wait always ends.

    Args:
        limit: Bytes held by all connections; each can go beyond it by one read.

    Attributes:
        held: Bytes held now.
        cut_off: Connections cut off so far.
    """

    def __init__(self, limit: int = DEFAULT_RECEIVE_BYTES) -> None:
        self.limit = limit
        self.held = 0
        self.cut_off = 0
        self._shares: set[Share] = set()
        self._smaller: anyio.Event | None = None  # set once a connection holds less; None if nobody waits

    def join(self, cut_off: Callable[[], None]) -> Share:
        """Return the share of a new connection, which ``cut_off`` ends."""
        share = Share(cut_off)
        self._shares.add(share)
        return share

    def leave(self, share: Share) -> None:
        """Give back what a connection holds."""
        self.resize(share, 0)
        self._shares.discard(share)

    def resize(self, share: Share, held: int) -> None:
        """Set what a connection holds, in bytes."""
        change, share.held = held - share.held, held
        self.held += change
        if change < 0 and self._smaller is not None:
            self._smaller.set()
            self._smaller = None

    async def room(self, share: Share) -> None:
        """Wait until a connection may read on."""
        share.is_reading = True
        while self.held > self.limit:
            holding = [other for other in self._shares if other.held]
            if all(other.is_reading and not other.is_leaving for other in holding):
                largest = max(holding, key=lambda other: other.held)
                largest.is_leaving = True
                self.cut_off += 1
                largest.cut_off()
            if self._smaller is None:
                self._smaller = anyio.Event()
            await self._smaller.wait()
