"""``kvstream convert``: any input that holds events to any format that can hold them."""

import sys
from contextlib import nullcontext
from typing import Annotated

import anyio
import typer

from kvstream.cli.messages import MalformedReport
from kvstream.cli.recordings import Force, say_simulated
from kvstream.cli.render import progress_on_stderr
from kvstream.cli.session import Capacity, Unit
from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.sinks.event_log import EventLogWriter, Format, chosen_format
from kvstream.sinks.output_file import refuse_inputs, whole_file
from kvstream.sources.inputs import Input
from kvstream.sources.options import ReadOptions

EXAMPLES = """
[bold]Examples[/bold]

  kvstream convert events.jsonl.gz events.kvlog

  kvstream convert trace.jsonl trace.kvlog.zst --capacity 8192   a hash trace through a prefix cache

  kvstream convert capture.wire.gz - | jq .block                 what an engine published, as lines

  kvstream convert run.kvlog run.wire --source vllm-0            as if vllm-0 had published it
"""


def convert_command(
    recording: Annotated[str, typer.Argument(metavar="FROM", help="Any input of kvstream run that ends.")],
    output: Annotated[str, typer.Argument(metavar="TO", help="A file, or - for standard output.")],
    format: Annotated[  # noqa: A002
        Format | None, typer.Option(help="By default as the file is named, else jsonl.", show_default=False)
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Only the events of this source.", show_default=False)
    ] = None,
    capacity: Capacity = None,
    time_unit: Unit = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed input.")] = False,
    force: Force = False,
) -> None:
    """Convert recorded events between formats; report on standard error what is malformed and left out."""
    recorded = Input(recording)
    if recorded.engine is not None:
        raise ConfigError(f"{recording} has no end; record it with kvstream record")
    if output == "-" and format not in (None, "jsonl") and sys.stdout.isatty():
        raise ConfigError(f"{format} is binary; name a file, or pipe it")
    form = chosen_format(output, format)
    refuse_inputs(sys.stdout.fileno() if output == "-" else output, [recording])
    report = MalformedReport()
    with (
        nullcontext("-") if output == "-" else whole_file(output, force) as path,
        EventLogWriter(path, form) as writer,
        progress_on_stderr() as progress,
    ):
        task = progress.add_task(f"converting {recording}", total=None)

        async def convert() -> None:
            async for item in recorded.read(ReadOptions(capacity=capacity, time_unit=time_unit)):
                if isinstance(item, EventFrame):
                    if source in (None, item.source):
                        writer.write(item)
                        progress.advance(task, len(item))
                elif strict:
                    raise MalformedInputError(f"{item} (stopped by --strict)")
                else:
                    report.add(item)

        anyio.run(convert)
    report.finish(recording)
    say_simulated([recorded])
