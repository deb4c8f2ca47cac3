"""``kvstream record``: live events to files."""

import os
import sys
from contextlib import aclosing
from typing import Annotated

import anyio
import typer
from anyio import CancelScope
from rich.progress import TextColumn

from kvstream.cli.binary_output import OutputFormat, refuse_binary_on_terminal
from kvstream.cli.messages import MalformedReport, note
from kvstream.cli.render import progress_on_stderr
from kvstream.cli.session import stop_on_signal
from kvstream.cli.values import number
from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sinks.event_log import RotatingWriter, chosen_format
from kvstream.sinks.output_file import refuse_inputs
from kvstream.sources.inputs import Input, open_inputs
from kvstream.text.escape import for_terminal

EXAMPLES = """
[bold]Examples[/bold]

  kvstream record zmq://vllm-0:5557 -o vllm-0.kvlog

  kvstream record zmq://a:5557 zmq://b:5557 -o day.kvlog --rotate-mb 100 --rotate-minutes 60

  kvstream record zmq://vllm-0:5557 -o day.kvlog --rotate-minutes 60 --keep 24 --max-size 10GB

  tail -f events.jsonl | kvstream record - -o events.kvlog

A recording that is killed can be read up to its last second. It holds no token ids. Nothing is overwritten:
parts take the next free number, and a single file that exists is appended to (JSON lines and .kvlog,
compressed or not; captures are refused) unless --force replaces it.
"""
_FLUSH_SECONDS = 1.0


def record_command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="As for kvstream run.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    format: OutputFormat = None,  # noqa: A002
    rotate_mb: Annotated[
        float | None,
        number(
            "number",
            "--rotate-mb",
            metavar="MB",
            low=0.001,
            help="Begin another file after this many megabytes.",
        ),
    ] = None,
    rotate_minutes: Annotated[
        float | None,
        number(
            "number",
            "--rotate-minutes",
            metavar="MINUTES",
            low=0.001,
            help="Begin another file after this many minutes.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        number(
            "count",
            "--keep",
            metavar="N",
            low=1,
            help="Keep only the newest N rotated files, including those of earlier recordings.",
        ),
    ] = None,
    max_size: Annotated[
        int | None,
        number(
            "bytes",
            "--max-size",
            metavar="SIZE",
            low=1,
            help="Remove the oldest rotated files if all together are larger than this, such as 10GB.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> int:
    """Write events to a file, or to a series of files, until the input ends or it is stopped."""
    if rotate_mb is rotate_minutes is None and (keep, max_size) != (None, None):
        raise ConfigError(
            "--keep and --max-size are of files that are rotated: --rotate-mb or --rotate-minutes"
        )
    refuse_binary_on_terminal(output, chosen_format(output, format))
    opened = open_inputs(inputs)
    refuse_inputs(sys.stdout.fileno() if output == "-" else output, inputs)
    appends = not force and os.path.isfile(output) and rotate_mb is rotate_minutes is None
    writer = RotatingWriter(
        output,
        format,
        None if rotate_mb is None else round(rotate_mb * 1e6),
        None if rotate_minutes is None else rotate_minutes * 60,
        force,
        keep,
        max_size,
    )
    writer.open()
    if appends:
        note(f"kvstream: {output} exists and is appended to")
    engines = [each.engine for each in opened if each.engine is not None]
    report = MalformedReport()
    progress = progress_on_stderr(TextColumn("{task.description}"))
    task = progress.add_task("waiting for events", total=None)
    events = 0
    stopped: list[int] = []

    async def take(item: EventFrame | Malformed) -> None:
        nonlocal events
        if isinstance(item, EventFrame):
            writer.write(item)
            events += len(item)
        else:
            report.add(item)

    async def write_all(each: Input) -> None:
        if each.engine is not None:
            await each.engine.deliver(take, is_alone=len(opened) == 1)
            return
        async with aclosing(each.read()) as items:
            async for item in items:
                await take(item)

    async def write_inputs(scope: CancelScope) -> None:
        async with anyio.create_task_group() as tasks:
            for each in opened:
                tasks.start_soon(write_all, each)
        scope.cancel()

    async def record() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_on_signal, tasks.cancel_scope, stopped)
            tasks.start_soon(write_inputs, tasks.cancel_scope)
            while True:
                await anyio.sleep(_FLUSH_SECONDS)
                writer.flush()
                away = [
                    seen.input
                    for engine in engines
                    for seen in engine.statistics()
                    if seen.state != "connected"
                ]
                missing = f"; not connected: {', '.join(map(for_terminal, away))}" if away else ""
                progress.update(task, description=f"{events:,} events, {writer.size / 1e6:.1f} MB{missing}")

    try:
        with progress:
            anyio.run(record)
    finally:
        writer.close()
    for counted in (seen for engine in engines for seen in engine.statistics()):
        note(
            f"{counted.input}: {counted.batches:,} batches, {counted.lost_batches:,} lost, "
            f"{counted.replayed:,} replayed"
        )
    kept = [path for path in writer.paths if os.path.lexists(path)] if writer.removed else writer.paths
    note(
        f"{events:,} events, {report.count:,} malformed pieces left out, {writer.size / 1e6:.1f} MB in "
        f"{', '.join(kept)}"
        + (f"; {writer.removed:,} of the oldest files were removed" if writer.removed else "")
    )
    return 128 + stopped[0] if stopped else 0
