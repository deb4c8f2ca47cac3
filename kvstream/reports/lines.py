"""Distributions and accounts in lines of text."""

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.summary import PROBLEM_COUNTS, Accounts
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
    problems = ((name.replace("_", " "), getattr(accounts, name)) for name in PROBLEM_COUNTS)
    found = ", ".join(f"{count:,} {name}" for name, count in problems if count)
    return [*lines, found] if found else lines
