"""``kvstream convert``: any input that holds events to any format that can hold them."""

import sys
from contextlib import nullcontext
from typing import Annotated

import anyio
import typer
from msgspec.structs import replace

from kvstream.cli.binary_output import OutputFormat, refuse_binary_on_terminal
from kvstream.cli.messages import MalformedReport, say
from kvstream.cli.options import DEFAULT_BLOCK_TOKENS, BlockTokens, Capacity, Force, TraceOptions
from kvstream.cli.recordings import say_simulated
from kvstream.cli.render import progress_on_stderr
from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.sinks.anonymizer import Anonymizer
from kvstream.sinks.event_log import LOOKUP_FORMATS, EventLogWriter, chosen_format
from kvstream.sinks.output_file import refuse_inputs, whole_file
from kvstream.sources.inputs import Input

EXAMPLES = """
[bold]Examples[/bold]

  kvstream convert events.jsonl.gz events.kvlog

  kvstream convert trace.jsonl trace.kvlog.zst --capacity 8192   a hash trace through a prefix cache

  kvstream convert capture.wire.gz - | jq .block                 what an engine published, as lines

  kvstream convert run.kvlog run.wire --source vllm-0            as if vllm-0 had published it

  kvstream convert run.kvlog shared.kvlog --anonymize            the same figures, nothing of their origin

  kvstream convert run.kvlog run.csv                             lookups, for libCacheSim

  kvstream convert run.kvlog trace.jsonl --format mooncake       lookups, for Mooncake, Dynamo and AIPerf
"""

_CACHES_SHOWN = 10


def convert_command(
    recording: Annotated[
        str, typer.Argument(metavar="FROM", help="Any file or standard input that kvstream run reads.")
    ],
    output: Annotated[str, typer.Argument(metavar="TO", help="A file, or - for standard output.")],
    *,
    format: OutputFormat = None,  # noqa: A002
    source: Annotated[
        str | None, typer.Option(help="Only the events of this source.", show_default=False)
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="Only the events of this tier.", show_default=False)
    ] = None,
    anonymize: Annotated[
        bool,
        typer.Option(
            "--anonymize",
            help="Replace content hashes, keys, labels, names and times; what the cache did stays the same.",
        ),
    ] = False,
    block_tokens: BlockTokens = None,
    capacity: Capacity = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed input.")] = False,
    force: Force = False,
    traces: TraceOptions,
) -> None:
    """Convert recorded events between formats; report on standard error what is malformed and left out."""
    recorded = Input.find(recording)
    if recorded.engine is not None:
        raise ConfigError(f"{recording} has no end; record it with kvstream record")
    form = chosen_format(output, format)
    refuse_binary_on_terminal(output, form)
    options = traces.reading(capacity)
    if holds_lookups := form in LOOKUP_FORMATS:  # which do not depend on the simulated cache
        options = replace(options, capacity=capacity or 1, engine="lru")
    anonymizer = Anonymizer() if anonymize else None
    refuse_inputs(sys.stdout.fileno() if output == "-" else output, [recording])
    report = MalformedReport()
    left: set[str] = set()  # caches that the filters leave out
    written = 0
    with (
        nullcontext("-") if output == "-" else whole_file(output, force) as path,
        EventLogWriter(path, form, block_tokens=block_tokens or DEFAULT_BLOCK_TOKENS) as writer,
        progress_on_stderr() as progress,
    ):
        task = progress.add_task(f"converting {recording}", total=None)

        async def convert() -> None:
            nonlocal written
            async for item in recorded.read(options):
                if isinstance(item, EventFrame):
                    if source in (None, item.source) and tier in (None, item.tier):
                        writer.write(item if anonymizer is None else anonymizer.frame(item))
                        written += len(item)
                        progress.advance(task, len(item))
                    elif len(left) <= _CACHES_SHOWN:
                        left.add(f"{item.source}/{item.tier}")
                elif strict:
                    raise MalformedInputError(f"{item} (stopped by --strict)")
                else:
                    report.add(item)

        anyio.run(convert)
    report.finish(recording)
    if left and not written:
        caches = sorted(left)[:_CACHES_SHOWN] + ["…"] * (len(left) > _CACHES_SHOWN)
        wanted = f"{'*' if source is None else source}/{'*' if tier is None else tier}"
        say(f"kvstream: {recording} has no events of {wanted}, but of {', '.join(caches)}")
    if writer.left_out:
        say(f"kvstream: {writer.left_out:,} lookups were left out, as nothing says what they were for")
    if not holds_lookups:
        say_simulated([recorded])
