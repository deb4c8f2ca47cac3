"""Producers' time: wall-clock nanoseconds that never step back."""

import time


class Clock:
    """Nanoseconds since the Unix epoch, from the wall clock once and the monotonic clock ever after.

    Example:
        >>> clock = Clock()
        >>> clock() <= clock()
        True
    """

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        """The time now."""
        return self._offset + time.monotonic_ns()
