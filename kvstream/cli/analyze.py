"""``kvstream analyze``: recorded events to an answer in plain words."""

import sys
from itertools import zip_longest

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvstream.cli.command import Attempts
from kvstream.cli.json_lines import JsonLines
from kvstream.cli.options import CacheOptions, Recordings, Results, TraceOptions
from kvstream.cli.recordings import read_recordings, recordings
from kvstream.cli.render import console, summary_table
from kvstream.metrics.summary import ALL
from kvstream.reports.verdict import Analysis, CacheAnalysis
from kvstream.sinks.output_file import refuse_inputs
from kvstream.text.escape import for_terminal
from kvstream.text.numbers import gib, ratio, seconds

EXAMPLES = """
[bold]Examples[/bold]

  kvstream analyze day.kvlog --capacity 16384

  kvstream analyze day.kvlog --model-config Llama-3-8B/config.json --block-tokens 16

  kvstream analyze day.kvlog --block-bytes 2097152

  kvstream generate chat --events 300000 -o chat.kvlog && kvstream analyze chat.kvlog
"""


_HOT_SHOWN = 5


def analyze_command(files: Recordings, cache: CacheOptions, traces: TraceOptions, results: Results) -> None:
    """Explain recorded events: why a cache behaves as it does, what would help, and the figures."""
    with Attempts() as attempt:
        inputs = attempt(recordings, files, "what is analyzed is read from files")
        metrics = attempt(cache.metrics)
    refuse_inputs(sys.stdout.fileno(), files)
    analysis = Analysis(metrics)
    read_recordings(inputs, traces.reading(metrics.capacity), analysis.process)
    analysis.end()
    for each in inputs:
        if each.simulated_source is not None:
            analysis.mark_simulated(each.simulated_source, each.simulation)
    found = analysis.results()
    if (overall := analysis.overall()) is not None:
        found.append(overall)
    if results.as_lines:
        lines = JsonLines(sys.stdout.buffer)
        for result in found:
            lines.show(result)
        return
    screen = console()
    for result in found:
        print_analysis(screen, result)


def print_analysis(screen: Console, result: CacheAnalysis) -> None:
    """Print the answer for one cache."""
    title = "all sources" if result.source == ALL else for_terminal(f"{result.source} / {result.tier}")
    screen.print(Text(title, style="bold"))
    for sentence in result.verdict:
        screen.print(Text(f"  {for_terminal(sentence)}"))
    if result.summary.sizes.points:
        screen.print(_curve_table(result))
    if result.hottest:
        screen.print(_hot_table(result))
    screen.print(summary_table(result.summary))


def _hot_table(result: CacheAnalysis) -> Table:
    table = Table(box=box.SIMPLE, title="blocks in the cache at the end", title_justify="left")
    for name in ("most used", "accesses", "held", "longest held", "accesses", "held"):
        table.add_column(name, justify="right")
    for pair in zip_longest(result.hottest[:_HOT_SHOWN], result.longest_held[:_HOT_SHOWN]):
        cells = [
            ("", "", "") if b is None else (str(b.block_id), f"{b.accesses:,}", seconds(b.held_seconds))
            for b in pair
        ]
        table.add_row(*cells[0], *cells[1])
    return table


def _curve_table(result: CacheAnalysis) -> Table:
    table = Table(box=box.SIMPLE, title="hit ratio of other sizes", title_justify="left")
    block_bytes = result.summary.block_bytes
    for name in ("size", "blocks", "GiB", "hit ratio") if block_bytes else ("size", "blocks", "hit ratio"):
        table.add_column(name, justify="right")
    for point in result.summary.sizes.points:
        row = [f"{point.factor:g}×", f"{point.blocks:,}"]
        if block_bytes:
            row.append(gib(point.blocks * block_bytes))
        table.add_row(*row, ratio(point.hit_ratio), style="bold" if point.factor == 1.0 else None)
    return table
