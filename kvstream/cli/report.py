"""``kvstream report``: recorded events to one document, and to a table of evictions."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from kvstream.cli.command import Attempts
from kvstream.cli.comparison import compared
from kvstream.cli.messages import note
from kvstream.cli.options import CacheOptions, Force, TraceOptions
from kvstream.cli.recordings import read_in_windows, recordings
from kvstream.cli.standard import write_document
from kvstream.cli.values import choice
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.reports.comparison import Comparison
from kvstream.reports.comparison_page import comparison_html, comparison_markdown
from kvstream.reports.html import to_html
from kvstream.reports.markdown import to_markdown
from kvstream.reports.report import Report, ReportBuilder
from kvstream.sinks.eviction_table import ArrowTable, CsvTable, check_ending, eviction_table
from kvstream.sinks.output_file import naming, refuse_inputs, whole_file
from kvstream.text.escape import for_unicode
from kvstream.text.json import encode_json

EXAMPLES = """
[bold]Examples[/bold]

  kvstream report day.kvlog -o day.html --capacity 16384

  kvstream report day.kvlog --format md | less

  kvstream report day.kvlog -o day.html --evictions day.parquet

  kvstream report --compare before.kvlog after.kvlog       what has changed, and is it chance?

  kvstream report day.kvlog --compare 0..10m 10m..20m
"""
Format = Literal["html", "md", "json"]
_WRITERS: dict[str, Callable[[Report], str]] = {
    "html": to_html,
    "md": to_markdown,
    "json": lambda report: encode_json(report).decode() + "\n",
}
_COMPARISON_WRITERS: dict[str, Callable[[Comparison], str]] = {
    "html": comparison_html,
    "md": comparison_markdown,
    "json": lambda comparison: encode_json(comparison).decode() + "\n",
}
_ENDINGS: dict[str, Format] = {"": "html", ".html": "html", ".htm": "html", ".md": "md", ".json": "json"}


def report_command(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...", help="Recordings: any files that kvstream run reads.", show_default=False
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write it; by default standard output."),
    ] = None,
    format: Annotated[  # noqa: A002
        Format | None,
        choice(get_args(Format), "--format", help="By default by the ending of the output's name, or html."),
    ] = None,
    evictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write every eviction to a .parquet, .arrow or .csv file.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Show what differs between two recordings, or two spans START..END of FILE.",
            show_default=False,
        ),
    ] = None,
    cache: CacheOptions,
    traces: TraceOptions,
    force: Force = False,
) -> None:
    """Put recorded events on one page, to keep or to send: verdict, charts, tables and alerts in one file."""
    if files is None and compare is None:
        raise typer.BadParameter("name a recording, or two with --compare A B", param_hint="FILE")
    files = files or []
    with Attempts() as attempt:
        form = format if format is not None else attempt(_format_of, output)
        inputs = attempt(recordings, files, "a report is of files")
        metrics = attempt(cache.metrics)
    if compare is not None:
        if evictions is not None:
            raise ConfigError("--evictions is of one report, --compare of two recordings or spans")
        form = "md" if format is None and output is None else form
        refuse_inputs(sys.stdout.fileno() if output is None else output, [*files, *compare])
        with nullcontext() if output is None else whole_file(output, force) as path:
            found = compared(files, *compare, metrics, traces.reading(metrics.capacity))
            _write(_COMPARISON_WRITERS[form](found), output, path)
        return
    refuse_inputs(sys.stdout.fileno() if output is None else output, files)
    if evictions is not None:
        refuse_inputs(evictions, files)
        if output is not None and os.path.realpath(output) == os.path.realpath(evictions):
            raise ConfigError(f"{output}: the report and the table of evictions need a file each")
    builder = ReportBuilder(metrics)
    with (
        # Opened first, so that what cannot be written is known at once.
        nullcontext() if output is None else whole_file(output, force) as path,
        _eviction_table(evictions, force) as table,
    ):

        def take(part: EventFrame) -> None:
            outcome = builder.process(part, records=table is not None)
            if table is not None:
                for batch in outcome.evicted:
                    table.write(outcome.source, outcome.tier, batch)

        malformed = read_in_windows(inputs, traces.reading(metrics.capacity), metrics, take)
        simulated = {
            each.simulated_source: each.simulation for each in inputs if each.simulated_source is not None
        }
        report = builder.finish([for_unicode(Path(each.name).name) for each in inputs], malformed, simulated)
        text = _WRITERS[form](report)
        _write(text, output, path)
    if output is not None:
        note(f"{output}: {len(text):,} characters about {report.events:,} events")
    if table is not None:
        note(f"{evictions}: {table.rows:,} evictions")


def _write(text: str, output: Path | None, path: str | None) -> None:
    """Write a document to a file that becomes ``output``, or to standard output."""
    if output is None or path is None:
        write_document(text)
        return
    with naming(path), open(path, "wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def _eviction_table(path: Path | None, force: bool) -> Iterator[ArrowTable | CsvTable | None]:
    if path is None:
        yield None
        return
    check_ending(path)
    with whole_file(path, force) as written, naming(path), eviction_table(Path(written)) as table:
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
