"""``kvstream run``: event logs or standard input to summaries and alerts."""

import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Protocol

import anyio
import msgspec
import typer

from kvstream.alerts.rules import default_rules, load_rules
from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.blocks.observations import KVCacheEvictionEvent
from kvstream.cli.render import Terminal
from kvstream.config import MetricsConfig, StreamConfig, load_config
from kvstream.errors import ConfigError, KVStreamError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.sinks.jsonl import JsonLines
from kvstream.sources.files import STDIN, read_events
from kvstream.sources.timing import FrameCutter, Items, merge_by_time, paced
from kvstream.stream import KVStream

EXAMPLES = """
[bold]Examples[/bold]

  kvstream run examples/data/*.kvlog.gz               two engines at once

  kvstream run events.jsonl.gz | jq .accesses         for programs

  tail -f events.jsonl | kvstream run -               live

  kvstream run day.kvlog --speed 60 --capacity 16384  an hour a minute

  kvstream run nightly.kvlog --fail-on critical       exit code 2 if it fired

[bold]Exit codes[/bold]: 0 done, 1 error, 2 an alert of --fail-on fired, 130 or 143 stopped by a signal.
"""
EXIT_ALERT = 2
_BUFFER = 1_000_000
_REFRESH_SECONDS = 0.25

Result = CacheAlert | CacheMetricsSummary | KVCacheEvictionEvent | Malformed


class Output(Protocol):
    """Where results go: a terminal or JSON lines."""

    def show(self, result: Result) -> None:
        """Shows one result."""

    def read(self, count: int) -> None:
        """Tells how many more bytes of input were read."""

    def refresh(self) -> None:
        """Draws anew what is shown while the run goes on."""

    def watch(self, stream: KVStream) -> None:
        """Gives the stream to look at while it runs."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``kvstream run`` was asked to do, checked."""

    paths: list[str]
    follow: bool
    summary_every: float
    evictions: bool
    min_level: AlertLevel
    strict: bool
    speed: float
    fail_on: AlertLevel | None


def run_command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|-]...",
            help="Event logs: JSON lines, .kvlog or frames, plain, .gz or .zst; - is standard input.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more at the end of a file.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines, as when piped.")] = False,
    summary_every: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="SECONDS", help="A summary every so much recorded time; 0: only the last."
        ),
    ] = 0.0,
    evictions: Annotated[
        bool, typer.Option("--evictions", help="Also a line for each eviction (JSON).")
    ] = False,
    capacity: Annotated[
        int | None,
        typer.Option(min=1, metavar="BLOCKS", help="Blocks each cache has room for.", show_default=False),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Changes to the alert rules.", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Settings of the metrics.", show_default=False)
    ] = None,
    min_level: Annotated[AlertLevel, typer.Option(help="Least level of the alerts shown.")] = AlertLevel.INFO,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed input.")] = False,
    speed: Annotated[
        float,
        typer.Option(min=0.0, metavar="N", help="Replay at N times recorded time; 0: as fast as possible."),
    ] = 0.0,
    fail_on: Annotated[
        AlertLevel | None,
        typer.Option(help="Exit with 2 if an alert of this level fired.", show_default=False),
    ] = None,
) -> int:
    """Reads block events and shows what the caches do: a summary, and alerts as they fire."""
    given = paths or []
    if not given:
        if sys.stdin.isatty():
            raise ConfigError("nothing to read; name a file, or pipe events in")
        given = [STDIN]
    for path in given:
        if path != STDIN:
            Path(path).open("rb").close()
    metrics = load_config(MetricsConfig, config, capacity=capacity)
    base = default_rules(metrics.anomaly_threshold, metrics.trend_window)
    chosen = load_rules(rules, base) if rules else base
    options = RunOptions(
        paths=given,
        follow=follow,
        summary_every=summary_every,
        evictions=evictions,
        min_level=min_level,
        strict=strict,
        speed=speed,
        fail_on=fail_on,
    )
    metrics = msgspec.structs.replace(metrics, export_interval=0.0)  # by recorded time, not by the clock
    stream = KVStream(StreamConfig(metrics=metrics, shutdown_timeout=60.0), chosen)
    terminal = not json and sys.stdout.isatty()
    total = None if follow or STDIN in given else sum(Path(path).stat().st_size for path in given)
    output: Output = Terminal(total) if terminal else JsonLines(sys.stdout.buffer)
    with output if isinstance(output, Terminal) else nullcontext():
        try:
            return anyio.run(_run, options, stream, output)
        except BaseExceptionGroup as group:
            # Whoever read our output has left: not an error of ours, and the only one in the group.
            if group.split(BrokenPipeError)[1] is None:
                raise BrokenPipeError from None
            raise


async def _run(options: RunOptions, stream: KVStream, output: Output) -> int:
    """Runs until the input ends or a signal comes, then drains; returns the exit code."""
    alerts = stream.alerts(buffer=_BUFFER)
    evictions = stream.evictions(buffer=_BUFFER) if options.evictions else None
    failed_on = 0
    failure: list[KVStreamError | OSError] = []
    stopped: list[int] = []
    output.watch(stream)

    async def show_alerts() -> None:
        nonlocal failed_on
        async for alert in alerts:
            if alert.level.at_least(options.min_level):
                output.show(alert)
            if options.fail_on and alert.state == "firing" and alert.level.at_least(options.fail_on):
                failed_on += 1

    async def show_evictions() -> None:
        if evictions is not None:
            async for event in evictions:
                output.show(event)

    async def refresh() -> None:
        while True:
            await anyio.sleep(_REFRESH_SECONDS)
            output.refresh()

    async def read_all(reading: anyio.CancelScope) -> None:
        try:
            await _read_all(options, stream, output)
        except* (KVStreamError, OSError) as errors:
            failure.extend(e for e in _leaves(errors) if isinstance(e, (KVStreamError, OSError)))
        reading.cancel()

    async def stop_on_signal(reading: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                stopped.append(number)
                reading.cancel()
                return

    async with anyio.create_task_group() as results:
        results.start_soon(show_alerts)
        results.start_soon(show_evictions)
        async with stream, anyio.create_task_group() as inputs:
            inputs.start_soon(stop_on_signal, inputs.cancel_scope)
            inputs.start_soon(refresh)
            inputs.start_soon(read_all, inputs.cancel_scope)
    output.show(stream.summary())
    if failure:
        raise failure[0]
    if stopped:
        return 128 + stopped[0]
    return EXIT_ALERT if failed_on else 0


async def _read_all(options: RunOptions, stream: KVStream, output: Output) -> None:
    """Sends what the inputs hold: recorded ones merged by time, live ones as it comes."""
    clock = _SummaryClock(options.summary_every, stream, output)
    inputs = [read_events(path, follow=options.follow, on_bytes=output.read) for path in options.paths]
    if not options.follow and STDIN not in options.paths:
        inputs = [merge_by_time(inputs)]
    async with anyio.create_task_group() as tasks:
        for items in inputs:
            tasks.start_soon(_send_all, items, options, stream, output, clock)


async def _send_all(
    items: Items, options: RunOptions, stream: KVStream, output: Output, clock: "_SummaryClock"
) -> None:
    async for item in paced(items, options.speed) if options.speed else items:
        if isinstance(item, EventFrame):
            await clock.send(item)
            continue
        stream.reject(item)
        output.show(item)
        if options.strict:
            raise MalformedInputError(f"{item} (stopped by --strict)")


class _SummaryClock:
    """Sends frames on and shows a summary each time recorded time passes another interval."""

    def __init__(self, every: float, stream: KVStream, output: Output) -> None:
        self._cutter = FrameCutter(round(every * 1e9)) if every else None
        self._stream, self._output = stream, output
        self._next: int | None = None

    async def send(self, frame: EventFrame) -> None:
        if self._cutter is None:
            await self._stream.send(frame)
            return
        for number, part in self._cutter.cut(frame):
            if self._next is not None and number >= self._next:
                await self._stream.flush()
                self._output.show(self._stream.summary())
            self._next = max(number + 1, self._next or 0)
            await self._stream.send(part)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
