"""Results on a terminal: progress and live figures while it runs, alerts above, a summary at the end."""

import sys
from typing import Self

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.cli.messages import color, is_quiet
from kvstream.engine.inputs import InputStatistics
from kvstream.events.types import Malformed
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.metrics.usage import LabelUsage
from kvstream.reports.lines import (
    accounts_lines,
    blocks_live,
    hit_ratio,
    interval,
    misses,
    shared,
    tier_use,
)
from kvstream.stream import KVStream
from kvstream.text.escape import for_terminal
from kvstream.text.numbers import behind, percent, ratio, seconds, time_of_day

LEVEL_STYLE = {AlertLevel.INFO: "cyan", AlertLevel.WARNING: "yellow", AlertLevel.CRITICAL: "bold red"}
_LABELS_SHOWN = 5
_SIZES_SHOWN = (0.5, 1.0, 1.5, 2.0, 4.0)


def console(stderr: bool = False) -> Console:
    """Return a terminal on which text is shown as it is, and nothing in it is markup."""
    wanted = color()
    return Console(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        no_color={"always": False, "never": True}.get(wanted),
        color_system="standard" if wanted == "always" else "auto",
        force_terminal=True if wanted == "always" else None,
        force_interactive=False if wanted == "always" else None,
    )


class Terminal:
    """Shows a run on a terminal; use as a context manager.

    Args:
        total_bytes: Size of the input, None if it has no end.
        screen: Where to draw.
    """

    def __init__(self, total_bytes: int | None, screen: Console | None = None) -> None:
        self._console = screen or console()
        self._stream: KVStream | None = None
        self._bytes = 0
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=self._console
        )
        self._task = self._progress.add_task("reading", total=total_bytes)
        self._live = Live(
            get_renderable=self._draw, console=self._console, transient=True, auto_refresh=False
        )

    def __enter__(self) -> Self:
        if not is_quiet() and sys.stdout.isatty():
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def watch(self, stream: KVStream) -> None:
        """Set the stream that is shown while it runs."""
        self._stream = stream

    def read(self, count: int) -> None:
        """Move the progress bar."""
        self._bytes += count
        self._progress.update(self._task, advance=count, description=f"read {decimal(self._bytes)}")

    def refresh(self) -> None:
        """Draw the figures anew; on the event loop, as a thread would look at state as it changes."""
        self._live.refresh()

    def show(self, result: msgspec.Struct) -> None:
        """Print one result."""
        if isinstance(result, CacheAlert):
            self._live.console.print(alert_line(result))
        elif isinstance(result, Malformed):
            self._live.console.print(Text(for_terminal(f"malformed  {result}"), style="magenta"))
        elif isinstance(result, CacheMetricsSummary):
            if result.final:
                self._live.stop()
                each = self._each()
                if len(each) > 1:
                    self._live.console.print(*map(summary_table, each))
            self._live.console.print(summary_table(result))
        elif isinstance(result, InputStatistics):
            self._live.console.print(_input_line(result))
        else:
            self._live.console.print(result)

    def _each(self) -> list[CacheMetricsSummary]:
        if self._stream is None:
            return []
        return [self._stream.summary_nowait(source, tier) for source, tier in self._stream.caches()]

    def _draw(self) -> RenderableType:
        if self._stream is None:
            return self._progress
        recent = self._stream.summary_nowait()
        line = (
            f"{recent.accounts.processed:,} events · {recent.blocks_live:,} blocks · "
            f"hit ratio {ratio(recent.recent.hit_ratio)} · {recent.recent.eviction_rate:,.0f} evictions/s · "
            f"{len(recent.alerts)} alerts firing"
        )
        inputs = [_input_line(seen) for seen in self._stream.inputs()]
        return Group(self._progress, *inputs, Text(line))


def progress_on_stderr(*columns: ProgressColumn) -> Progress:
    """Progress on standard error, shown only where that is a terminal."""
    screen = console(stderr=True)
    return Progress(*columns, console=screen, transient=True, disable=is_quiet() or not sys.stderr.isatty())


def alert_line(alert: CacheAlert) -> Text:
    """Return an alert in one line."""
    style = LEVEL_STYLE[alert.level] if alert.state == "firing" else "green"
    return Text.assemble(
        f"{time_of_day(alert.timestamp)}  ",
        (f"{alert.state} {alert.level.value}", style),
        for_terminal(f"  {alert.rule}  {alert.source}/{alert.tier}  {alert.message}"),
    )


def _input_line(seen: InputStatistics) -> Text:
    counted = {
        "replayed": seen.replayed,
        "lost": seen.lost_batches,
        "repeated": seen.duplicates,
        "restarts": seen.restarts,
        "events of unknown type": seen.unknown_events,
        "malformed": seen.malformed,
    }
    odd = "".join(f", {n:,} {name}" for name, n in counted.items() if n)
    counts = f"{for_terminal(seen.input)}: {seen.batches:,} batches{odd}"
    if seen.state == "connected":
        return Text(f"{counts}; {behind(seen.lag_seconds)}")
    why = f" ({for_terminal(seen.error)})" if seen.error else ""
    return Text.assemble(f"{counts}; ", (f"{seen.state} since {time_of_day(seen.since)}{why}", "red"))


def summary_table(summary: CacheMetricsSummary, *, with_alerts: bool = True) -> Table:
    """Return a summary as a table; its alerts can be left out where they stand beside it."""
    title = "all sources" if summary.source == "*" else for_terminal(f"{summary.source} / {summary.tier}")
    table = Table(
        title=Text(title), title_justify="left", box=box.SIMPLE, show_header=False, title_style="bold"
    )
    table.add_column(style="dim")
    table.add_column()
    recent, accounts = summary.recent, summary.accounts
    is_above = summary.capacity is not None and summary.blocks_live > summary.capacity
    table.add_row("blocks live", Text(blocks_live(summary), style="bold red" if is_above else ""))
    table.add_row(
        "hit ratio",
        f"{hit_ratio(summary)}   last {recent.seconds:.0f} s: {ratio(recent.hit_ratio)}"
        if summary.hit_rate_estimate is not None
        else "unknown: no hit was reported",
    )
    accesses = "–" if recent.access_rate is None else f"{recent.access_rate:,.0f}"
    table.add_row(
        f"per second, last {recent.seconds:.0f} s",
        f"{recent.allocation_rate:,.0f} allocations, {accesses} accesses, "
        f"{recent.eviction_rate:,.0f} evictions",
    )
    one, ten, sixty = (f"{blocks:,}" for blocks in summary.working_set.blocks)
    error = f"±{summary.working_set.error:.1%}"
    table.add_row("working set", f"{one} blocks in the last window, {ten} in 10, {sixty} in 60 ({error})")
    table.add_row("lifetime", interval(summary.lifetime))
    table.add_row("idle before eviction", interval(summary.idle))
    table.add_row("time to first reuse", interval(summary.first_reuse))
    table.add_row("reuse gap", interval(summary.reuse_gap))
    if summary.zero_access_rate is not None:
        table.add_row(
            "evicted blocks used",
            f"never {percent(summary.zero_access_rate)}, once {percent(summary.single_access_rate)}, "
            f"more {percent(summary.multi_access_rate)}",
        )
    if summary.shared_between_salts:
        table.add_row("shared between salts", f"{summary.shared_between_salts:,} stores and hits")
    premature = summary.premature
    if premature.count:
        table.add_row(
            "premature evictions",
            f"{percent(premature.share)}, looked up again {seconds(premature.return_time.p50)} later; "
            f"{premature.extra_blocks_p50:,} more blocks would have kept half",
        )
    if summary.misses is not None:
        table.add_row("misses", Text(for_terminal(misses(summary.misses))))
    for use in summary.tiers:
        table.add_row(Text(for_terminal(f"tier {use.tier}")), tier_use(use))
    if summary.shared is not None:
        table.add_row("shared by engines", "\n".join(shared(summary.shared)))
    if summary.sizes.points:
        at = {point.factor: point.hit_ratio for point in summary.sizes.points}
        table.add_row(
            "hit ratio if LRU, with", "  ".join(f"{factor:g}× {at[factor]:.2f}" for factor in _SIZES_SHOWN)
        )
    for name, values in summary.labels.items():
        table.add_row(f"by {name}", Text("\n".join(map(_usage, values[:_LABELS_SHOWN]))))
    reasons = ", ".join(f"{n:,} {name}" for name, n in summary.evictions_by_reason.items() if n)
    table.add_row("generations ended", reasons or "none")
    going = [
        f"{name.replace('_', ' ')} {trend.direction}"
        for name, trend in summary.trends.items()
        if trend.direction != "flat"
    ]
    if going:
        table.add_row("trends", ", ".join(going))
    table.add_row("accounts", "\n".join(accounts_lines(accounts, whole=summary.source == "*")))
    if with_alerts:
        firing = ", ".join(sorted({str(alert["rule"]) for alert in summary.alerts}))
        table.add_row(
            "alerts firing", Text(for_terminal(firing) or "none", style="red" if firing else "green")
        )
    return table


def _usage(usage: LabelUsage) -> str:
    return (
        f"{for_terminal(usage.value or 'none')}: "
        f"{percent(usage.residency_share)} of block time, {percent(usage.hit_share)} of hits; "
        f"{usage.blocks_live:,} blocks, hit ratio {ratio(usage.hit_ratio)}"
    )
