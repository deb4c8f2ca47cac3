"""Distributions and accounts in lines of text."""

from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.misses import MissCauses
from kvstream.metrics.sharing import SharedContent
from kvstream.metrics.summary import PROBLEM_COUNTS, Accounts, CacheMetricsSummary
from kvstream.metrics.tiers import TierUse
from kvstream.text.numbers import UNKNOWN, gib, live_blocks, percent, ratio, seconds


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
        if len(summary.block_sizes) > 1:
            line += f" in blocks of {' and '.join(f'{tokens:,}' for tokens in summary.block_sizes)}"
    note = {"none": " (no hit was reported)", "some": " (only some requests report hits)"}
    return line + note.get(summary.hits_reported or "", "")


def misses(causes: MissCauses) -> str:
    """Return why lookups were misses, in one line."""
    parts = [(causes.never_stored, "never stored before"), (causes.evicted, f"evicted{_ago(causes)}")]
    parts.append((causes.cleared, "cleared"))
    parts += [(share, f"in {tier}") for tier, share in causes.other_tier.items()]
    parts.append((causes.other_salt or 0.0, "under another salt"))
    memory = ""
    if causes.memory_seconds is not None:
        memory = f" (not there in the {seconds(causes.memory_seconds)} before)"
    parts.append((causes.unknown, f"unknown{memory}"))
    return ", ".join(f"{percent(share)} {cause}" for share, cause in parts if share)


def _ago(causes: MissCauses) -> str:
    if causes.evicted_ago_p50 is None:
        return ""
    pressure = "" if causes.pressure is None else f", at {causes.pressure:,.0f} evictions a second"
    return f" (half of them came back {within(causes.evicted_ago_p50)}{pressure})"


def within(value: float) -> str:
    """Return in which time something came back, in seconds."""
    return f"within {seconds(value)}" if value >= 0.001 else "at once"


def tier_use(use: TierUse) -> str:
    """Return what a tier does for its sources, in one line without what is unknown."""
    groups = [
        ("found: ", {"of lookups": use.hit_share, "of the misses of faster tiers": use.found}),
        ("came in: ", {"copied": use.copied, "demoted": use.demoted}),
        ("evicted: ", {"promoted before": use.promoted, "dropped unused": use.dropped_unused}),
    ]
    lines = [
        title + ", ".join(f"{percent(share)} {what}" for what, share in known.items())
        for title, shares in groups
        if (known := {what: share for what, share in shares.items() if share is not None})
    ]
    return "; ".join(lines) or UNKNOWN


def shared(content: SharedContent) -> list[str]:
    """Return what engines share and would gain, a sentence each."""
    if content.held_elsewhere is None or content.stored_before is None:
        return [
            f"No content was seen in more than one of the {content.engines:,} engines: they serve nothing in "
            "common, or their hashes differ (block size, version, PYTHONHASHSEED of vLLM)."
        ]
    lines = []
    if content.duplicates is not None:
        lines.append(
            f"{percent(content.duplicates)} of the blocks in {content.engines:,} engines are further copies "
            "of content that another engine holds."
        )
    lines.append(
        f"Another engine held {percent(content.held_elsewhere)} of what was missed: prefix-aware routing "
        f"could make hits of that{_gain(content.routing_gain)}."
    )
    lines.append(
        f"{percent(content.stored_before)} of what was missed had been stored before by some engine: a "
        f"shared tier could hold that{_gain(content.shared_tier_gain)}."
    )
    return lines


def _gain(gain: float | None) -> str:
    return "" if gain is None else f" (hit ratio + {ratio(gain)})"


def accounts_lines(accounts: Accounts, whole: bool) -> list[str]:
    """Return the accounts, a line each; of events only where they are known as a ``whole``."""
    blocks = f"{accounts.allocations:,} allocated"
    if accounts.unknown_births:
        blocks += f" + {accounts.unknown_births:,} of unknown birth"
    blocks += f" = {accounts.live:,} live + {accounts.evicted:,} evicted"
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
