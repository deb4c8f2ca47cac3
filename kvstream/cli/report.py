"""``kvstream report``: recorded events to one document, and to a table of evictions."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from kvstream.blocks.sizes import block_bytes_of_file
from kvstream.cli.recordings import BlockTokens, ModelConfig, Recordings, read_recordings, recordings
from kvstream.cli.session import Capacity, ConfigFile
from kvstream.config import MetricsConfig, load_config
from kvstream.events.frame import EventFrame
from kvstream.report.html import to_html
from kvstream.report.markdown import to_markdown
from kvstream.report.report import Report, ReportBuilder
from kvstream.sinks.eviction_table import EvictionTable
from kvstream.sources.timing import FrameCutter

EXAMPLES = """
[bold]Examples[/bold]

  kvstream report day.kvlog -o day.html --capacity 16384

  kvstream report day.kvlog --format md | less

  kvstream report day.kvlog -o day.html --evictions day.parquet
"""
Format = Literal["html", "md", "json"]
_WRITERS: dict[str, Callable[[Report], str]] = {
    "html": to_html,
    "md": to_markdown,
    "json": lambda report: msgspec.json.encode(report).decode() + "\n",
}


def report_command(
    files: Recordings,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write it; by default standard output."),
    ] = None,
    format: Annotated[  # noqa: A002
        Format | None,
        typer.Option(help="By default what the output's name ends with, or html.", show_default=False),
    ] = None,
    evictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write every eviction to a .parquet, .arrow or .csv file.",
            show_default=False,
        ),
    ] = None,
    capacity: Capacity = None,
    model_config: ModelConfig = None,
    block_tokens: BlockTokens = 16,
    config: ConfigFile = None,
) -> None:
    """Writes what was found as one self-contained file: verdict, charts, tables and alerts."""
    inputs = recordings(files, "a report is of files")
    size = None if model_config is None else block_bytes_of_file(model_config, block_tokens)
    metrics = load_config(MetricsConfig, config, capacity=capacity)
    if output is not None:
        output.open("ab").close()  # told at once if it cannot be written
    builder = ReportBuilder(metrics, size)
    # So that no part of a frame spans more windows than are kept.
    cutter = FrameCutter(metrics.window_ns * max(1, metrics.windows // 2))
    with EvictionTable(evictions) if evictions is not None else nullcontext() as table:

        def take(frame: EventFrame) -> None:
            for _, part in cutter.cut(frame):
                outcome = builder.process(part, records=table is not None)
                if table is not None:
                    for batch in outcome.evicted:
                        table.write(outcome.source, outcome.tier, batch)

        malformed = read_recordings(inputs, metrics.capacity, take)
    report = builder.finish([Path(of.name).name for of in inputs], malformed)
    text = _WRITERS[format or _format_of(output)](report)
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")
        typer.echo(f"{output}: {len(text):,} characters about {report.events:,} events", err=True)
    if table is not None:
        typer.echo(f"{evictions}: {table.rows:,} evictions", err=True)


def _format_of(output: Path | None) -> Format:
    if output is not None and output.suffix == ".json":
        return "json"
    if output is not None and output.suffix == ".md":
        return "md"
    return "html"
