"""``kvstream generate``: synthetic streams of any size."""

from contextlib import nullcontext
from typing import Annotated

import typer

from kvstream.cli.binary_output import OutputFormat, refuse_binary_on_terminal
from kvstream.cli.options import Force
from kvstream.cli.render import progress_on_stderr
from kvstream.cli.values import chosen, number
from kvstream.sinks.event_log import EventLogWriter, chosen_format
from kvstream.sinks.output_file import whole_file
from kvstream.sources.synthetic import WORKLOADS, Workload, generate

EXAMPLES = """
[bold]Examples[/bold]

  kvstream generate chat | kvstream run -

  kvstream generate scan --events 1000000 --seed 7 -o scan.kvlog

  kvstream generate mixed --blocks 16384 -o mixed.jsonl.gz
"""


def generate_command(
    workload: Annotated[
        Workload, chosen(WORKLOADS, metavar="WORKLOAD", help=f"One of {', '.join(WORKLOADS)}.")
    ],
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="File to write; - is standard output.")
    ] = "-",
    format: OutputFormat = None,  # noqa: A002
    events: Annotated[
        int, number("count", "--events", metavar="N", low=1, help="Events in all.", show_default=True)
    ] = 100_000,
    blocks: Annotated[
        int,
        number("count", "--blocks", metavar="N", low=64, help="Capacity of the cache.", show_default=True),
    ] = 4096,
    rate: Annotated[
        float,
        number(
            "number",
            "--rate",
            metavar="N",
            low=0.001,
            help="About how many events a second of recorded time.",
            show_default=True,
        ),
    ] = 20_000.0,
    seed: Annotated[
        int,
        number(
            "count",
            "--seed",
            metavar="N",
            low=0,
            help="The same seed gives the same stream.",
            show_default=True,
        ),
    ] = 0,
    source: Annotated[str, typer.Option(help="Source of the events.")] = "synthetic",
    tier: Annotated[str, typer.Option(help="Tier of the events.")] = "gpu",
    force: Force = False,
) -> None:
    """Write the block events of a simulated engine: requests on an LRU prefix cache."""
    form = chosen_format(output, format)
    refuse_binary_on_terminal(output, form)
    frames = generate(workload, events, blocks=blocks, rate=rate, seed=seed, source=source, tier=tier)
    with (
        nullcontext("-") if output == "-" else whole_file(output, force) as path,
        EventLogWriter(path, form) as writer,
        progress_on_stderr() as progress,
    ):
        task = progress.add_task(f"generating {workload}", total=events)
        for frame in frames:
            writer.write(frame)
            progress.advance(task, len(frame))
