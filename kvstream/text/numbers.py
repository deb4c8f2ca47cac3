"""Numbers as people read them: times, shares, ratios and sizes."""

import datetime

UNKNOWN = "–"

_LATE_SECONDS = 3600.0  # as no live engine is


def seconds(value: float | None) -> str:
    """Return a time with a unit that suits it."""
    if value is None:
        return UNKNOWN
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{_plain(value / size)} {unit}"
    return f"{value * 1e9:.0f} ns"


def _plain(value: float) -> str:
    """Return a number in three digits, or all those before the point, and without an exponent."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """Return a share as a percentage; a share above 0 and below 1 is never rounded to 0 or 100 %."""
    if share is None:
        return UNKNOWN
    value = 100.0 * share
    if value in (0.0, 100.0) or 1.0 <= value <= 99.0 or value > 100.0:
        return f"{value:,.0f}%"
    if value < 0.1:
        return "< 0.1%"
    return f"{value:.1f}%" if value < 99.95 else "> 99.9%"


def ratio(value: float | None) -> str:
    """Return a ratio with three decimals; a ratio above 0 and below 1 is never rounded to either."""
    if value is None:
        return UNKNOWN
    if 0.0 < value < 0.0005:
        return "< 0.001"
    return f"{value:.3f}" if not 0.9995 <= value < 1.0 else "> 0.999"


def gib(size: float) -> str:
    """Return bytes in GiB."""
    if size >= 0.005 * 2**30:
        return f"{size / 2**30:,.2f}"
    return "< 0.01" if size else "0"


def live_blocks(live: int, capacity: int | None) -> str:
    """Return blocks live, by capacity if that is known; more than there is room for is a warning."""
    if not capacity:
        return f"{live:,}"
    if live > capacity:
        return f"{live:,}: MORE THAN THE CAPACITY of {capacity:,}"
    return f"{live:,} of {capacity:,} ({percent(live / capacity)})"


def behind(lag_seconds: float) -> str:
    """Return how old an engine's events were on arrival, by the two machines' clocks."""
    if lag_seconds < _LATE_SECONDS:
        return f"{lag_seconds:.1f} s behind the engine"
    hours = lag_seconds / 3600
    return f"events {hours:,.1f} h old (replayed from a recording, or stamped by a wrong clock)"


def time_of_day(seconds: float) -> str:
    """Return a time since the Unix epoch as hours, minutes and seconds in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%H:%M:%S")
