"""``kvstream run``: event logs, standard input and publishers to summaries and alerts."""

import shlex
import sys
from contextlib import aclosing
from functools import partial
from typing import Annotated

import anyio
import msgspec
import typer
from msgspec.structs import replace

from kvstream.cli.chosen_rules import RuleFiles
from kvstream.cli.command import Attempts, lines_of
from kvstream.cli.handlers import AlertOptions, Destinations
from kvstream.cli.messages import malformed_shown, note, say
from kvstream.cli.options import CacheOptions, Follow, Results, Speed, StateDir, TraceOptions
from kvstream.cli.recordings import say_simulated
from kvstream.cli.session import EXIT_CODES, Evictions, Output, Session, run_session
from kvstream.cli.values import number
from kvstream.errors import ConfigError, KVStreamError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sinks.output_file import refuse_inputs
from kvstream.sources.files import STDIN
from kvstream.sources.inputs import Input, live_and_recorded, open_inputs
from kvstream.sources.options import ReadOptions
from kvstream.sources.timing import FrameCutter, Items, paced
from kvstream.stream import KVStream

EXAMPLES = f"""
[bold]Examples[/bold]

  kvstream run examples/data/*.kvlog.gz               several recordings together

  kvstream run 'zmq://vllm-0:5557?replay=tcp://vllm-0:5600&dp=8'      eight ranks, at ports 5557 to 5564

  kvstream run http://sglang-0:30000                  asks SGLang where it publishes

  kvstream run events.jsonl.gz | jq .accesses         for programs

  tail -f events.jsonl | kvstream run -               live

  kvstream run day.kvlog --speed 60 --capacity 16384  an hour of the recording each minute

  kvstream run trace.jsonl --capacity 8192            a hash trace, through a simulated cache

  kvstream run nightly.kvlog --fail-on critical       exit code 3 if it fired

  kvstream run zmq://vllm-0:5557 --min-severity warning --on-alert ./page.sh --alertmanager http://am:9093
{EXIT_CODES}"""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How ``kvstream run`` was asked to read."""

    summary_every: float
    strict: bool
    speed: float
    reading: ReadOptions


def run_command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|-|zmq://HOST:PORT|http://HOST:PORT]...",
            help="Event logs: JSON lines, .kvlog, ZMQ captures, events of TensorRT-LLM and Dynamo, lookups "
            "of LMCache or hash traces, plain, .gz or .zst; - is standard input; zmq:// subscribes to vLLM, "
            "SGLang and others, http:// to SGLang.",
            show_default=False,
        ),
    ] = None,
    *,
    follow: Follow = False,
    summary_every: Annotated[
        float,
        number(
            "duration",
            "--summary-every",
            metavar="DURATION",
            low=0,
            help="Recorded time between summaries, such as 90s or 5m; 0: only the last one.",
        ),
    ] = 0.0,
    evictions: Evictions = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed input.")] = False,
    speed: Speed = 0.0,
    state: StateDir = None,
    results: Results,
    cache: CacheOptions,
    traces: TraceOptions,
    alerts: AlertOptions,
    destinations: Destinations,
) -> int:
    """Read block events once and print what happened: alerts as they fire, a summary at the end."""
    given = paths or []
    if not given:
        if sys.stdin.isatty():
            raise ConfigError("nothing to read; name a file, or pipe events in")
        given = [STDIN]
    as_lines = results.as_lines
    rules = RuleFiles(cache.config, alerts.rules, destinations.heartbeat)
    with Attempts() as attempt:
        inputs = attempt(open_inputs, given, follow)
        config = attempt(cache.stream_config)
        chosen = attempt(rules.read)
    for output in (
        sys.stdout.fileno(),
        *([destinations.alert_log] if destinations.alert_log is not None else []),
    ):
        refuse_inputs(output, given)
    reading = traces.reading(config.metrics.capacity)
    options = RunOptions(summary_every=summary_every, strict=strict, speed=speed, reading=reading)
    metrics = replace(config.metrics, export_interval=0.0)  # by recorded time, not by the clock
    endless = any(each.is_live for each in inputs)
    if not endless:
        config = replace(config, recorded=True, consumers=1)
    config = replace(config, metrics=metrics, shutdown_timeout=60.0)
    stream = KVStream(config, chosen.rules, silences=chosen.silences, state=state)
    if state is not None and STDIN in given:
        say("standard input cannot be read again: a crash loses what the last snapshot does not hold")
    destinations.attach(stream, alerts.min_severity)
    unreadable: list[KVStreamError | OSError] = []

    async def feed(stream: KVStream, output: Output) -> None:
        try:
            await _read_all(inputs, options, stream, output, unreadable)
            await stream.flush()  # however long it takes where the core is interpreted
        finally:
            for seen in stream.inputs():
                output.show(seen)

    code = run_session(
        Session(alerts.min_severity, evictions, alerts.fail_on, rules if endless else RuleFiles()),
        stream,
        feed,
        as_lines=as_lines,
        total_bytes=None if endless else sum(each.size for each in inputs),
        is_service=follow or any(each.engine is not None for each in inputs),
        unreadable=unreadable,
    )
    say_simulated(inputs)
    if sys.stdout.isatty() and not as_lines and not unreadable:
        note(_hint(given[0], endless))
    return code


def _hint(name: str, endless: bool) -> str:
    """Return what else there is for an input."""
    if endless:
        return f"kvstream serve --from {shlex.quote(name)} --http :9109 keeps watching, with a dashboard"
    named = shlex.quote(name)
    return (
        f"kvstream analyze {named} says why and what would help; "
        f"kvstream report {named} -o report.html puts it on a page"
    )


async def _read_all(
    inputs: list[Input],
    options: RunOptions,
    stream: KVStream,
    output: Output,
    unreadable: list[KVStreamError | OSError],
) -> None:
    """Send what the inputs hold: recorded ones merged by time, live ones as it comes.

    Those that cannot be read are reported, and why is added to ``unreadable``; the others go on.

    Raises:
        KVStreamError: If no input is left that can be read, or with ``--strict`` at the first one.
        OSError: Likewise.
    """
    clock = _SummaryClock(options.summary_every, stream, output)
    malformed = 0

    async def take(item: EventFrame | Malformed) -> None:
        if isinstance(item, EventFrame):
            await clock.send(item)
            return
        nonlocal malformed
        stream.reject(item)
        malformed += 1
        if malformed <= malformed_shown():
            output.show(item)
        if malformed == malformed_shown():
            say("kvstream: further malformed pieces are counted only; -v lists them all")
        if options.strict:
            raise MalformedInputError(f"{item} (stopped by --strict)")

    def go_on(error: KVStreamError | OSError) -> None:
        if options.strict or len(unreadable) == len(inputs) - 1:
            raise error
        unreadable.append(error)
        for line in lines_of(error):
            say(f"kvstream: {line}")

    async def take_all(items: Items) -> None:
        async with aclosing(paced(items, options.speed)) as each:
            async for item in each:
                await take(item)

    live, recorded = live_and_recorded(inputs, options.reading, output.read, stream.input_ended, go_on)
    async with anyio.create_task_group() as tasks:
        for engine in (each.engine for each in inputs if each.engine is not None):
            stream.watch_inputs(engine.statistics)
            tasks.start_soon(partial(engine.deliver, take, stream.forget, is_alone=len(inputs) == 1))
        for items in [*live, *recorded]:
            tasks.start_soon(take_all, items)


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
        for window, part in self._cutter.cut(frame):
            if self._next is not None and window >= self._next:
                await self._stream.flush()
                self._output.show(self._stream.summary_nowait())
            self._next = max(window + 1, self._next or 0)
            await self._stream.send(part)
