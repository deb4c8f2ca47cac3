"""Position: how far into an input the frames of a cache have come, so that the input can go on from there."""

from typing import NamedTuple


class Place(NamedTuple):
    """A place from which an input can be read again.

    Attributes:
        life: Counts the files, or runs of a publisher, that followed each other under the input's name.
        at: Offset in bytes, or number of a batch.
        check: What the input knows of the place to find it again, such as a checksum of what is before it.
    """

    life: int
    at: int
    check: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Return what the places of one input are compared by."""
        return self.life, self.at


class Position(NamedTuple):
    """Where a frame ends in its input.

    Attributes:
        input: Name of the input.
        place: The last place before it from which the input can be read again.
        events: Events of the frame's cache between that place and the end of the frame.
        held: (source, tier, events) of each cache that had been further: how many of its events from that
            place on it already has.
    """

    input: str
    place: Place
    events: int
    held: tuple[tuple[str, str, int], ...] = ()
