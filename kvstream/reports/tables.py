"""The tables of a report as text, the same for every format."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from kvstream.blocks.state import HotBlock
from kvstream.events.types import MOST_SLOTS
from kvstream.reports.lines import accounts_lines, blocks_live, hit_ratio, interval, misses, tier_use
from kvstream.reports.report import CacheReport, Report
from kvstream.text.numbers import UNKNOWN, gib, percent, ratio, seconds


class Table(NamedTuple):
    """A table of text.

    Attributes:
        title: What it shows.
        columns: Title of each column.
        rows: As many texts each.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def opening(report: Report) -> str:
    """Return what the report is of, in a sentence."""
    malformed = f", {report.malformed:,} malformed pieces left out" if report.malformed else ""
    return f"{report.events:,} events of {', '.join(report.inputs)}{malformed}."


def overview(report: Report) -> Table:
    """Return a table with a line for each cache."""
    rows = []
    for cache in report.caches:
        summary = cache.analysis.summary
        rows.append(
            (
                f"{summary.source} / {summary.tier}",
                f"{summary.accounts.processed:,}",
                ratio(summary.hit_rate_estimate),
                f"{summary.total_evictions:,}",
                percent(summary.zero_access_rate),
                percent(summary.premature.share) if summary.premature.count else UNKNOWN,
                str(sum(alert.state == "firing" for alert in cache.alerts)),
            )
        )
    columns = ("cache", "events", "hit ratio", "evictions", "never reused", "premature", "alerts")
    return Table("Caches", columns, rows)


def tables(cache: CacheReport) -> list[Table]:
    """Return the tables of one cache; empty ones are left out."""
    every = [
        _alerts(cache),
        _figures(cache),
        _sizes(cache),
        _label_sets(cache),
        *_blocks(cache),
        _accounts(cache),
    ]
    return [table for table in every if table.rows]


def _alerts(cache: CacheReport) -> Table:
    rows = [
        (_time(alert.timestamp), alert.state, alert.level.value, alert.rule, alert.message, alert.hint)
        for alert in cache.alerts
    ]
    left_out = f" ({cache.alerts_left_out:,} before these)" if cache.alerts_left_out else ""
    return Table(f"Alerts{left_out}", ("at (UTC)", "state", "level", "rule", "what happened", "try"), rows)


def _figures(cache: CacheReport) -> Table:
    summary = cache.analysis.summary
    ended = ", ".join(f"{n:,} {reason}" for reason, n in summary.evictions_by_reason.items() if n)
    rows = [
        ("blocks live at the end", blocks_live(summary)),
        ("hit ratio", hit_ratio(summary)),
        ("accesses", "–" if summary.hit_rate_estimate is None else f"{summary.accesses:,}"),
        ("generations ended", ended or "none"),
        ("lifetime", interval(summary.lifetime)),
        ("idle before eviction", interval(summary.idle)),
        ("time to first reuse", interval(summary.first_reuse)),
        ("reuse gap", interval(summary.reuse_gap)),
        (
            "evicted blocks used",
            f"never {percent(summary.zero_access_rate)}, once {percent(summary.single_access_rate)}, "
            f"more {percent(summary.multi_access_rate)}",
        ),
    ]
    if summary.premature.count:
        rows.append(
            (
                "premature evictions",
                f"{summary.premature.count:,} ({percent(summary.premature.share)}); "
                f"{summary.premature.extra_blocks_p50:,} more blocks would have kept half of them",
            )
        )
    if summary.misses is not None:
        rows.append(("misses", misses(summary.misses)))
    rows += [(f"tier {use.tier}", tier_use(use)) for use in summary.tiers]
    return Table("Figures", ("figure", "value"), rows)


def _sizes(cache: CacheReport) -> Table:
    rows = [
        (f"{point.factor:g}×", f"{point.blocks:,}", _gib(point.blocks, cache), ratio(point.hit_ratio))
        for point in cache.analysis.summary.sizes.points
    ]
    return Table(
        "Hit ratio of LRU caches of other sizes",
        ("size", "blocks", "GiB", "hit ratio"),
        rows,
    )


def _gib(blocks: int, cache: CacheReport) -> str:
    of_block = cache.analysis.summary.block_bytes
    return gib(blocks * of_block) if of_block else UNKNOWN


def _label_sets(cache: CacheReport) -> Table:
    rows = [
        (
            f"{name}: {usage.value or 'none'}",
            f"{usage.blocks_live:,}",
            percent(usage.residency_share),
            percent(usage.hit_share),
            ratio(usage.hit_ratio),
            f"{usage.premature:,}",
        )
        for name, values in cache.analysis.summary.labels.items()
        for usage in values
    ]
    return Table(
        "Blocks by label", ("label", "blocks", "of block time", "of hits", "hit ratio", "premature"), rows
    )


def _blocks(cache: CacheReport) -> list[Table]:
    """Return the most used and the longest held blocks; unlabelled slot numbers are left out."""
    return [
        Table(
            title,
            ("block", "accesses", "held", "idle"),
            [
                (_named(b), f"{b.accesses:,}", seconds(b.held_seconds), seconds(b.idle_seconds))
                for b in blocks
                if b.labels is not None or not 0 <= b.block_id < MOST_SLOTS
            ],
        )
        for title, blocks in (
            ("Most used blocks", cache.analysis.hottest),
            ("Longest held blocks", cache.analysis.longest_held),
        )
    ]


def _named(block: HotBlock) -> str:
    """Return the id of a block, and its labels if it has any."""
    named = () if block.labels is None else msgspec.structs.astuple(block.labels)
    return " ".join([str(block.block_id), *(str(value) for value in named if value)])


def _accounts(cache: CacheReport) -> Table:
    lines = accounts_lines(cache.analysis.summary.accounts, whole=True)
    return Table("Accounts", ("where everything went",), [(line,) for line in lines])


def _time(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")
