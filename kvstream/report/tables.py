"""The tables of a report, as text, whatever they are written in."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from kvstream.report.report import CacheReport, Report
from kvstream.words import accounts_lines, interval


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
    """What the report is of, in a sentence."""
    malformed = f", {report.malformed:,} malformed pieces left out" if report.malformed else ""
    return f"{report.events:,} events of {', '.join(report.inputs)}{malformed}."


def overview(report: Report) -> Table:
    """Every cache in a line."""
    rows = []
    for cache in report.caches:
        summary = cache.analysis.summary
        rows.append(
            (
                f"{summary.source} / {summary.tier}",
                f"{summary.accounts.processed:,}",
                f"{summary.hit_rate_estimate:.3f}",
                f"{summary.total_evictions:,}",
                f"{summary.zero_access_rate:.1%}",
                f"{summary.premature.share:.1%}" if summary.premature.count else "–",
                str(sum(alert.state == "firing" for alert in cache.alerts)),
            )
        )
    columns = ("cache", "events", "hit ratio", "evictions", "of them unused", "premature", "alerts")
    return Table("Caches", columns, rows)


def tables(cache: CacheReport) -> list[Table]:
    """What there is to say of one cache; tables with nothing in them are left out."""
    every = [
        _alerts(cache),
        _figures(cache),
        _sizes(cache),
        _owners(cache),
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
    of_capacity = f" of {summary.capacity:,}" if summary.capacity else ""
    ended = ", ".join(f"{n:,} {reason}" for reason, n in summary.evictions_by_reason.items() if n)
    rows = [
        ("blocks live at the end", f"{summary.blocks_live:,}{of_capacity}"),
        ("hit ratio", f"{summary.hit_rate_estimate:.3f}"),
        ("accesses", f"{summary.accesses:,}"),
        ("generations ended", ended or "none"),
        ("lifetime", interval(summary.lifetime)),
        ("idle before eviction", interval(summary.idle)),
        ("time to first reuse", interval(summary.first_reuse)),
        ("reuse gap", interval(summary.reuse_gap)),
        (
            "evicted blocks used",
            f"never {summary.zero_access_rate:.1%}, once {summary.single_access_rate:.1%}, "
            f"more {summary.multi_access_rate:.1%}",
        ),
    ]
    if summary.premature.count:
        rows.append(
            (
                "premature evictions",
                f"{summary.premature.count:,} ({summary.premature.share:.1%}); "
                f"{summary.premature.extra_blocks_p50:,} more blocks would have kept half of them",
            )
        )
    return Table("Figures", ("figure", "value"), rows)


def _sizes(cache: CacheReport) -> Table:
    rows = [
        (f"{point.factor:g}×", f"{point.blocks:,}", _gib(point.blocks, cache), f"{point.hit_ratio:.3f}")
        for point in cache.analysis.summary.sizes.points
    ]
    return Table(
        "Hit ratio of LRU caches of other sizes",
        ("size", "blocks", "GiB", "hit ratio"),
        rows,
    )


def _gib(blocks: int, cache: CacheReport) -> str:
    of_block = cache.analysis.block_bytes
    return f"{blocks * of_block / 2**30:,.2f}" if of_block else "–"


def _owners(cache: CacheReport) -> Table:
    rows = [
        (
            f"{name}: {usage.value or 'none'}",
            f"{usage.blocks_live:,}",
            f"{usage.residency_share:.1%}",
            f"{usage.hit_share:.1%}",
            f"{usage.hit_ratio:.3f}",
            f"{usage.premature:,}",
        )
        for name, values in cache.analysis.summary.labels.items()
        for usage in values
    ]
    return Table(
        "Whose blocks", ("label", "blocks", "of block time", "of hits", "hit ratio", "wanted again"), rows
    )


def _blocks(cache: CacheReport) -> list[Table]:
    return [
        Table(
            title,
            ("block", "accesses", "held, s", "idle, s"),
            [
                (str(b.block_id), f"{b.accesses:,}", f"{b.held_seconds:,.3g}", f"{b.idle_seconds:,.3g}")
                for b in blocks
            ],
        )
        for title, blocks in (
            ("Most used blocks", cache.analysis.hottest),
            ("Longest held blocks", cache.analysis.longest_held),
        )
    ]


def _accounts(cache: CacheReport) -> Table:
    lines = accounts_lines(cache.analysis.summary.accounts, whole=True)
    return Table("Accounts", ("where everything went",), [(line,) for line in lines])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
