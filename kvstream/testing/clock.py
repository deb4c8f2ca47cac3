"""FakeClock: time that passes when a test says so."""


class FakeClock:
    """Nanoseconds since the Unix epoch, for ``KVStream(clock=…)`` and the collectors.

    Args:
        now_ns: Time at the start, ns.

    Attributes:
        now_ns: Time now, ns; tests may set it.

    Examples:
        >>> clock = FakeClock(now_ns=0)
        >>> clock.advance(1.5)
        >>> clock()
        1500000000
    """

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        """Return the time now, ns."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now_ns += round(seconds * 1e9)
