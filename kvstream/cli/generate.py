"""``kvstream generate``: synthetic streams of any size."""

import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from kvstream.cli.recordings import Force
from kvstream.cli.render import progress_on_stderr
from kvstream.errors import ConfigError
from kvstream.sinks.event_log import EventLogWriter, Format, chosen_format
from kvstream.sinks.output_file import whole_file
from kvstream.sources.synthetic import WORKLOADS, Workload, generate

EXAMPLES = """
[bold]Examples[/bold]

  kvstream generate chat | kvstream run -

  kvstream generate scan --events 1000000 --seed 7 -o scan.kvlog

  kvstream generate mixed --blocks 16384 -o mixed.jsonl.gz
"""


def generate_command(
    workload: Annotated[Workload, typer.Argument(help=f"One of {', '.join(WORKLOADS)}.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is standard output.")
    ] = "-",
    format: Annotated[  # noqa: A002
        Format | None, typer.Option(help="By default as the file is named, else jsonl.", show_default=False)
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Events in all.")] = 100_000,
    blocks: Annotated[int, typer.Option(min=64, help="Blocks the cache holds.")] = 4096,
    rate: Annotated[
        float, typer.Option(min=0.001, help="Events a second of recorded time, about.")
    ] = 20_000.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same stream.")] = 0,
    source: Annotated[str, typer.Option(help="Source of the events.")] = "synthetic",
    tier: Annotated[str, typer.Option(help="Tier of the events.")] = "gpu",
    force: Force = False,
) -> None:
    """Write the block events of a simulated engine: requests on an LRU prefix cache."""
    if output == "-" and format == "kvlog" and sys.stdout.isatty():
        raise ConfigError(f"{format} is binary; write it to a file with -o, or pipe it")
    frames = generate(workload, events, blocks=blocks, rate=rate, seed=seed, source=source, tier=tier)
    form = chosen_format(output, format)
    with (
        nullcontext("-") if output == "-" else whole_file(output, force) as path,
        EventLogWriter(path, form) as writer,
        progress_on_stderr() as progress,
    ):
        task = progress.add_task(f"generating {workload}", total=events)
        for frame in frames:
            writer.write(frame)
            progress.advance(task, len(frame))
