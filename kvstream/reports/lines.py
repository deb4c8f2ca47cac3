"""Distributions and accounts in lines of text."""

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.summary import PROBLEM_COUNTS, Accounts, CacheMetricsSummary
from kvstream.text.numbers import UNKNOWN, gib, live_blocks, ratio, seconds


def interval(stats: IntervalStats | None) -> str:
    """Return a distribution in one line; a dash where it is unknown or empty."""
    if stats is None or not stats.count:
        return UNKNOWN
    p50, p95, p99, longest = map(seconds, (stats.p50, stats.p95, stats.p99, stats.max))
    return f"p50 {p50}  p95 {p95}  p99 {p99}  max {longest}  ({stats.count:,})"


def blocks_live(summary: CacheMetricsSummary) -> str:
    """Return the blocks live, and their GiB where the size of a block is known."""
    blocks = live_blocks(summary.blocks_live, summary.capacity)
    if summary.live_bytes is None:
        return blocks
    room = "" if summary.capacity_bytes is None else f" of {gib(summary.capacity_bytes)}"
    return f"{blocks}, {gib(summary.live_bytes)}{room} GiB"


def hit_ratio(summary: CacheMetricsSummary) -> str:
    """Return the hit ratio since the start, in tokens where those are known, and whether all hits count."""
    line = ratio(summary.hit_rate_estimate)
    if summary.hit_tokens is not None:
        line += f", {summary.hit_tokens:,} of {summary.lookup_tokens:,} tokens"
    note = {"none": " (no hit was reported)", "some": " (only some requests report hits)"}
    return line + note.get(summary.hits_reported or "", "")


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
