"""The numbers that frames carry: what is missing, what is a repeat, what is a restart."""

from enum import Enum

from kvstream.events.frame import UNNUMBERED, EventFrame


class Arrival(Enum):
    """How a frame stands to those before it."""

    NEXT = "next"
    RESTART = "restart"
    REPEAT = "repeat"


class FrameSequence:
    """Follows the numbers of one source's frames.

    A higher epoch is a restart of the producer. A frame of a lower epoch, or one that comes again or
    later than its place, is a repeat. Frames without a number are always next.
    """

    __slots__ = ("_epoch", "_next", "missing")

    def __init__(self) -> None:
        self.missing = 0
        self._epoch: int | None = None
        self._next = 0

    def arrive(self, frame: EventFrame) -> Arrival:
        """Takes in a frame's number; ``missing`` then counts the frames lost just before it."""
        self.missing = 0
        if frame.seq == UNNUMBERED:
            return Arrival.NEXT
        arrival = Arrival.NEXT
        if self._epoch is None or frame.epoch > self._epoch:
            if self._epoch is not None:
                arrival = Arrival.RESTART
            self._epoch, self._next = frame.epoch, 0
        elif frame.epoch < self._epoch or frame.seq < self._next:
            return Arrival.REPEAT
        self.missing = frame.seq - self._next
        self._next = frame.seq + 1
        return arrival
