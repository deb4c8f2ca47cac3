"""``kvstream report``: recorded events to one document, and to a table of evictions."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from kvstream.cli.block_size import BlockBytes, BlockTokens, ModelConfig, block_settings
from kvstream.cli.messages import say
from kvstream.cli.recordings import (
    Force,
    Recordings,
    read_recordings,
    recordings,
)
from kvstream.cli.session import Capacity, ConfigFile, DecodeRate, Engine, PrefillRate, Unit
from kvstream.cli.standard import write_document
from kvstream.config import MetricsConfig
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.reports.html import to_html
from kvstream.reports.markdown import to_markdown
from kvstream.reports.report import Report, ReportBuilder
from kvstream.settings import load_config
from kvstream.sinks.eviction_table import EvictionTable, check_ending
from kvstream.sinks.output_file import naming, refuse_inputs, whole_file
from kvstream.sources.options import ReadOptions
from kvstream.sources.timing import FrameCutter
from kvstream.sources.vllm_cache import ServiceTime
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
    block_tokens: BlockTokens = None,
    block_bytes: BlockBytes = None,
    time_unit: Unit = None,
    engine: Engine = "lru",
    prefill_rate: PrefillRate = ServiceTime().prefill_rate,
    decode_rate: DecodeRate = ServiceTime().decode_rate,
    config: ConfigFile = None,
    force: Force = False,
) -> None:
    """Write what was found as one self-contained file: verdict, charts, tables and alerts."""
    inputs = recordings(files, "a report is of files")
    size = block_settings(model_config, block_tokens, block_bytes)
    metrics = load_config(MetricsConfig, config, capacity=capacity, **size)
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

        service = ServiceTime(prefill_rate=prefill_rate, decode_rate=decode_rate)
        options = ReadOptions(capacity=metrics.capacity, time_unit=time_unit, engine=engine, service=service)
        malformed = read_recordings(inputs, options, take)
        simulated = {
            each.simulated_source: each.simulation for each in inputs if each.simulated_source is not None
        }
        report = builder.finish([for_unicode(Path(each.name).name) for each in inputs], malformed, simulated)
        text = _WRITERS[format or _format_of(output)](report)
        if path is not None:
            with naming(path), open(path, "wb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
    if path is None:
        write_document(text)
    else:
        say(f"{output}: {len(text):,} characters about {report.events:,} events")
    if table is not None:
        say(f"{evictions}: {table.rows:,} evictions")


@contextmanager
def _eviction_table(path: Path | None, force: bool) -> Iterator[EvictionTable | None]:
    if path is None:
        yield None
        return
    check_ending(path)
    with whole_file(path, force) as written, naming(path), EvictionTable(Path(written)) as table:
        yield table


def _format_of(output: Path | None) -> Format:
    if output is not None and output.suffix == ".json":
        return "json"
    if output is not None and output.suffix == ".md":
        return "md"
    return "html"
