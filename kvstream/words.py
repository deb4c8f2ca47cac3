"""Figures in words: times, intervals and accounts as people read them."""

import datetime

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.summary import Accounts


def interval(stats: IntervalStats) -> str:
    """A distribution in one line."""
    if not stats.count:
        return "–"
    p50, p95, p99, most = map(seconds, (stats.p50, stats.p95, stats.p99, stats.max))
    return f"p50 {p50}  p95 {p95}  p99 {p99}  max {most}  ({stats.count:,})"


def seconds(value: float) -> str:
    """A time with a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.0f} ns"


def accounts_lines(accounts: Accounts, whole: bool) -> list[str]:
    """The accounts, a line each; of events only where they are known as a ``whole``."""
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
    """A time since the Unix epoch as hours, minutes and seconds in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%H:%M:%S")
