"""Overflow policies: what becomes of a producer's frame that its queue has no room for, a class each."""

from typing import Protocol

from kvstream._core.ids import below_rate
from kvstream._core.table import mix
from kvstream.config import OverflowPolicy
from kvstream.events.frame import EventFrame
from kvstream.events.types import Op
from kvstream.recording.queue import FrameQueue, Sender

_LOWEST_RATE = 1 / 4096
_CALM_FILL = 0.25  # of a queue's room
_CALM_FRAMES = 64  # that come while the queue is calm, after which more blocks are kept again


class Overflow(Protocol):
    """A policy, as one producer applies it.

    Attributes:
        sample_rate: Share of blocks that is kept now.
    """

    sample_rate: float

    def settle(self, frame: EventFrame, queue: FrameQueue, sender: Sender) -> bool:
        """Put a frame onto the queue, or count it as dropped; return False to keep it until there is room.

        Never waits. Called by one thread at a time.
        """


class Block:
    """Keeps frames until there is room."""

    sample_rate = 1.0

    def settle(self, frame: EventFrame, queue: FrameQueue, sender: Sender) -> bool:
        """Put a frame onto the queue if it fits."""
        return queue.offer(frame, sender)


class DropNewest:
    """Drops the frame that does not fit."""

    sample_rate = 1.0

    def settle(self, frame: EventFrame, queue: FrameQueue, sender: Sender) -> bool:
        """Put a frame onto the queue, or drop it."""
        if not queue.offer(frame, sender):
            sender.drop("queue_full", len(frame))
        return True


class DropOldest:
    """Drops the sender's own oldest frames for the one that does not fit, or that one if there are none."""

    sample_rate = 1.0

    def settle(self, frame: EventFrame, queue: FrameQueue, sender: Sender) -> bool:
        """Put a frame onto the queue, in place of older ones if need be."""
        while not queue.offer(frame, sender):
            oldest = queue.displace(sender)
            if oldest is None:
                sender.drop("queue_full", len(frame))
                break
            sender.drop("displaced", len(oldest))
        return True


class Sample:
    """Keeps the whole history of some blocks: half as many each time the queue is full, until it is calm."""

    def __init__(self) -> None:
        self.sample_rate = 1.0
        self._calm = 0  # frames that came since the queue was last filled beyond its calm part

    def settle(self, frame: EventFrame, queue: FrameQueue, sender: Sender) -> bool:
        """Put the events of the chosen blocks onto the queue, and drop the others."""
        self._calm = self._calm + 1 if queue.fill < _CALM_FILL else 0
        if self._calm >= _CALM_FRAMES:
            self.sample_rate, self._calm = min(1.0, self.sample_rate * 2), 0
        while True:
            kept = frame
            if self.sample_rate < 1.0:
                kept = frame.take(below_rate(mix(frame.blocks), self.sample_rate) | (frame.ops == Op.CLEAR))
            if not len(kept) or queue.offer(kept, sender):
                sender.drop("sampled", len(frame) - len(kept))
                return True
            if self.sample_rate <= _LOWEST_RATE:
                sender.drop("queue_full", len(frame))
                return True
            self.sample_rate /= 2


OVERFLOW: dict[OverflowPolicy, type[Overflow]] = {
    "block": Block,
    "drop_newest": DropNewest,
    "drop_oldest": DropOldest,
    "sample": Sample,
}
"""The class of each policy, by its name in settings."""
