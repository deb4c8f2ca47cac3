"""Position: how far into an input the frames of a cache have come, so that the input can go on from there."""

from typing import NamedTuple


class Place(NamedTuple):
    """A place at which an input can be begun to be read.

    Attributes:
        life: Which of the files, or lives of a publisher, that followed each other under the input's name;
            ascending.
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
        place: The last place before it at which the input can be begun to be read.
        events: Events of the frame's cache from there to its end.
        held: Of caches that have been further already, the source, the tier, and how many of their events
            from the place on.
    """

    input: str
    place: Place
    events: int
    held: tuple[tuple[str, str, int], ...] = ()
