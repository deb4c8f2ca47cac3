"""Figures in words: times, intervals and accounts as people read them."""

import datetime

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.summary import Accounts

UNKNOWN = "–"


def interval(stats: IntervalStats | None) -> str:
    """Return a distribution in one line; a dash where it is unknown or empty."""
    if stats is None or not stats.count:
        return UNKNOWN
    p50, p95, p99, most = map(seconds, (stats.p50, stats.p95, stats.p99, stats.max))
    return f"p50 {p50}  p95 {p95}  p99 {p99}  max {most}  ({stats.count:,})"


def seconds(value: float) -> str:
    """Return a time with a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{_plain(value / size)} {unit}"
    return f"{value * 1e9:.0f} ns"


def _plain(value: float) -> str:
    """Return a number in three digits, or all those before the point, and without an exponent."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """Return a share as people write it; what is neither nothing nor all is never rounded to 0 or 100 %."""
    if share is None:
        return UNKNOWN
    value = 100.0 * share
    if value in (0.0, 100.0) or 1.0 <= value <= 99.0 or value > 100.0:
        return f"{value:,.0f} %"
    if value < 0.1:
        return "< 0.1 %"
    return f"{value:.1f} %" if value < 99.95 else "> 99.9 %"


def ratio(value: float | None) -> str:
    """Return a ratio in three places; what is neither 0 nor 1 is never rounded to it."""
    if value is None:
        return UNKNOWN
    if 0.0 < value < 0.0005:
        return "< 0.001"
    return f"{value:.3f}" if not 0.9995 <= value < 1.0 else "> 0.999"


def gib(size: float) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:,.2f}" if size >= 0.005 * 2**30 else "< 0.01"


def live_blocks(live: int, capacity: int | None) -> str:
    """Blocks live, by capacity if that is known; more than there is room for is a warning."""
    if not capacity:
        return f"{live:,}"
    if live > capacity:
        return f"{live:,}: MORE THAN THE CAPACITY of {capacity:,}"
    return f"{live:,} of {capacity:,} ({percent(live / capacity)})"


def accounts_lines(accounts: Accounts, whole: bool) -> list[str]:
    """Return the accounts, a line each; of events only where they are known as a ``whole``."""
    blocks = f"{accounts.allocations:,} allocated = {accounts.live:,} live + {accounts.evicted:,} evicted"
    blocks += f" + {accounts.cleared:,} cleared"
    if accounts.forgotten:
        blocks += f" + {accounts.forgotten:,} forgotten"
    lines = [blocks]
    if whole:
        dropped = sum(accounts.dropped.values())
        lines.insert(
            0,
            f"{accounts.offered:,} events = {accounts.processed:,} processed + {dropped:,} dropped"
            f" + {accounts.malformed:,} malformed" + ("" if accounts.balanced else "  NOT BALANCED"),
        )
    counted = {
        "unknown evictions": accounts.unknown_evictions,
        "unknown accesses": accounts.unknown_accesses,
        "unknown reasons": accounts.unknown_reasons,
        "time regressions": accounts.time_regressions,
        "clock steps": accounts.clock_steps,
        "duplicate frames": accounts.duplicate_frames,
        "lost frames": accounts.lost_frames,
        "restarts": accounts.restarts,
        "forgotten sources": accounts.forgotten_sources,
    }
    odd = ", ".join(f"{n:,} {name}" for name, n in counted.items() if n)
    return [*lines, odd] if odd else lines


def time_of_day(seconds: float) -> str:
    """Return a time since the Unix epoch as hours, minutes and seconds in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%H:%M:%S")
