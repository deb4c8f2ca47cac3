"""``kvstream report``: recorded events to one document, and to a table of evictions."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from kvstream.cli.command import Attempts
from kvstream.cli.messages import note
from kvstream.cli.options import CacheOptions, Force, Recordings, TraceOptions
from kvstream.cli.recordings import read_recordings, recordings
from kvstream.cli.standard import write_document
from kvstream.cli.values import choice
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.reports.html import to_html
from kvstream.reports.markdown import to_markdown
from kvstream.reports.report import Report, ReportBuilder
from kvstream.sinks.eviction_table import EvictionTable, check_ending
from kvstream.sinks.output_file import naming, refuse_inputs, whole_file
from kvstream.sources.timing import FrameCutter
from kvstream.text.escape import for_unicode
from kvstream.text.json import encode_json

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
    "json": lambda report: encode_json(report).decode() + "\n",
}
_ENDINGS: dict[str, Format] = {"": "html", ".html": "html", ".htm": "html", ".md": "md", ".json": "json"}


def report_command(
    files: Recordings,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write it; by default standard output."),
    ] = None,
    format: Annotated[  # noqa: A002
        Format | None,
        choice(get_args(Format), "--format", help="By default what the output's name ends with, or html."),
    ] = None,
    evictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write every eviction to a .parquet, .arrow or .csv file.",
            show_default=False,
        ),
    ] = None,
    cache: CacheOptions,
    traces: TraceOptions,
    force: Force = False,
) -> None:
    """Put recorded events on one page, to keep or to send: verdict, charts, tables and alerts in one file."""
    with Attempts() as attempt:
        form = format if format is not None else attempt(_format_of, output)
        inputs = attempt(recordings, files, "a report is of files")
        metrics = attempt(cache.metrics)
    refuse_inputs(sys.stdout.fileno() if output is None else output, files)
    if evictions is not None:
        refuse_inputs(evictions, files)
        if output is not None and os.path.realpath(output) == os.path.realpath(evictions):
            raise ConfigError(f"{output}: the report and the table of evictions need a file each")
    builder = ReportBuilder(metrics)
    # So that no part of a frame spans more windows than are kept.
    cutter = FrameCutter(metrics.window_ns * max(1, metrics.windows // 2))
    with (
        # Opened first, so that what cannot be written is known at once.
        nullcontext() if output is None else whole_file(output, force) as path,
        _eviction_table(evictions, force) as table,
    ):

        def take(frame: EventFrame) -> None:
            for _, part in cutter.cut(frame):
                outcome = builder.process(part, records=table is not None)
                if table is not None:
                    for batch in outcome.evicted:
                        table.write(outcome.source, outcome.tier, batch)

        malformed = read_recordings(inputs, traces.reading(metrics.capacity), take)
        simulated = {
            each.simulated_source: each.simulation for each in inputs if each.simulated_source is not None
        }
        report = builder.finish([for_unicode(Path(each.name).name) for each in inputs], malformed, simulated)
        text = _WRITERS[form](report)
        if path is not None:
            with naming(path), open(path, "wb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
    if path is None:
        write_document(text)
    else:
        note(f"{output}: {len(text):,} characters about {report.events:,} events")
    if table is not None:
        note(f"{evictions}: {table.rows:,} evictions")


@contextmanager
def _eviction_table(path: Path | None, force: bool) -> Iterator[EvictionTable | None]:
    if path is None:
        yield None
        return
    check_ending(path)
    with whole_file(path, force) as written, naming(path), EvictionTable(Path(written)) as table:
        yield table


def _format_of(output: Path | None) -> Format:
    """Return the format that a name ends with; html where it has no ending.

    Raises:
        ConfigError: If it ends with another.
    """
    ending = "" if output is None or str(output).startswith("/dev/") else output.suffix.lower()
    if ending not in _ENDINGS:
        raise ConfigError(
            f"{output}: a report is .html, .md or .json, not {ending}; --format writes one under any name"
        )
    return _ENDINGS[ending]
