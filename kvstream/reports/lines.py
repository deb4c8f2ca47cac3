"""Distributions and accounts in lines of text."""

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.summary import Accounts
from kvstream.text.numbers import UNKNOWN, seconds


def interval(stats: IntervalStats | None) -> str:
    """Return a distribution in one line; a dash where it is unknown or empty."""
    if stats is None or not stats.count:
        return UNKNOWN
    p50, p95, p99, longest = map(seconds, (stats.p50, stats.p95, stats.p99, stats.max))
    return f"p50 {p50}  p95 {p95}  p99 {p99}  max {longest}  ({stats.count:,})"


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
