"""Producers' time: wall-clock nanoseconds that never step back."""

import time


class Clock:
    """Nanoseconds since the Unix epoch, from the wall clock once and the monotonic clock ever after.

    Attributes:
        offset: From ``time.monotonic_ns`` to the time.

    Examples:
        >>> clock = Clock()
        >>> clock() <= clock()
        True
    """

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        """Return the time now."""
        return self.offset + time.monotonic_ns()
