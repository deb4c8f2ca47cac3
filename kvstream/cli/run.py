"""``kvstream run``: event logs, standard input and publishers to summaries and alerts."""

import sys
from functools import partial
from typing import Annotated

import anyio
import msgspec
import typer

from kvstream.alerts.types import AlertLevel
from kvstream.cli.block_size import BlockBytes, BlockTokens, ModelConfig, block_settings
from kvstream.cli.chosen_rules import Heartbeat, RulesFile, chosen_rules
from kvstream.cli.handlers import (
    AlertLog,
    AlertmanagerUrl,
    Handlers,
    OnAlert,
    OtlpUrl,
    SlackUrl,
    WebhookUrl,
)
from kvstream.cli.messages import say
from kvstream.cli.recordings import say_simulated
from kvstream.cli.session import (
    EXIT_CODES,
    Capacity,
    ConfigFile,
    DecodeRate,
    Engine,
    Evictions,
    FailOn,
    Json,
    MinSeverity,
    Output,
    PrefillRate,
    Session,
    StateDir,
    Unit,
    run_session,
)
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.settings import load_config
from kvstream.sinks.output_file import refuse_inputs
from kvstream.sources.files import STDIN
from kvstream.sources.inputs import Input, live_and_recorded
from kvstream.sources.options import ReadOptions
from kvstream.sources.timing import FrameCutter, Items, paced
from kvstream.sources.vllm_cache import ServiceTime
from kvstream.stream import KVStream

EXAMPLES = f"""
[bold]Examples[/bold]

  kvstream run examples/data/*.kvlog.gz               two engines at once

  kvstream run 'zmq://vllm-0:5557?replay=tcp://vllm-0:5600&dp=8'      eight ranks, at ports 5557 to 5564

  kvstream run http://sglang-0:30000                  asks SGLang where it publishes

  kvstream run events.jsonl.gz | jq .accesses         for programs

  tail -f events.jsonl | kvstream run -               live

  kvstream run day.kvlog --speed 60 --capacity 16384  an hour a minute

  kvstream run trace.jsonl --capacity 8192            requests by hashes, through a simulated cache

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
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more at the end of a file.")
    ] = False,
    json: Json = False,
    summary_every: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="SECONDS", help="A summary every so much recorded time; 0: only the last."
        ),
    ] = 0.0,
    evictions: Evictions = False,
    capacity: Capacity = None,
    model_config: ModelConfig = None,
    block_tokens: BlockTokens = None,
    block_bytes: BlockBytes = None,
    time_unit: Unit = None,
    engine: Engine = "lru",
    prefill_rate: PrefillRate = ServiceTime().prefill_rate,
    decode_rate: DecodeRate = ServiceTime().decode_rate,
    rules: RulesFile = None,
    config: ConfigFile = None,
    state: StateDir = None,
    min_severity: MinSeverity = AlertLevel.INFO,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed input.")] = False,
    speed: Annotated[
        float,
        typer.Option(min=0.0, metavar="N", help="Replay at N times recorded time; 0: as fast as possible."),
    ] = 0.0,
    fail_on: FailOn = None,
    on_alert: OnAlert = None,
    webhook: WebhookUrl = None,
    slack: SlackUrl = None,
    alertmanager: AlertmanagerUrl = None,
    heartbeat: Heartbeat = False,
    alert_log: AlertLog = None,
    otlp: OtlpUrl = None,
) -> int:
    """Read block events and show what the caches do: a summary, and alerts as they fire."""
    given = paths or []
    if not given:
        if sys.stdin.isatty():
            raise ConfigError("nothing to read; name a file, or pipe events in")
        given = [STDIN]
    inputs = [Input(name, follow) for name in given]
    for output in (sys.stdout.fileno(), *([alert_log] if alert_log is not None else [])):
        refuse_inputs(output, given)
    size = block_settings(model_config, block_tokens, block_bytes)
    metrics = load_config(MetricsConfig, config, capacity=capacity, **size)
    chosen, silences = chosen_rules(rules, heartbeat)
    service = ServiceTime(prefill_rate=prefill_rate, decode_rate=decode_rate)
    reading = ReadOptions(capacity=metrics.capacity, time_unit=time_unit, engine=engine, service=service)
    options = RunOptions(summary_every=summary_every, strict=strict, speed=speed, reading=reading)
    metrics = msgspec.structs.replace(metrics, export_interval=0.0)  # by recorded time, not by the clock
    endless = any(each.is_live for each in inputs)
    stream_config = StreamConfig(metrics=metrics, recorded=not endless, shutdown_timeout=60.0)
    stream = KVStream(stream_config, chosen, silences=silences, state=state)
    if state is not None and STDIN in given:
        say("standard input cannot be read again: a crash loses what the last snapshot does not hold")
    handlers = Handlers(
        on_alert=on_alert,
        webhook=webhook,
        slack=slack,
        alertmanager=alertmanager,
        heartbeat=heartbeat,
        alert_log=alert_log,
        otlp=otlp,
    )
    handlers.attach(stream, min_severity)

    async def feed(stream: KVStream, output: Output) -> None:
        try:
            await _read_all(inputs, options, stream, output)
        finally:
            for seen in stream.inputs():
                output.show(seen)

    code = run_session(
        Session(min_severity, evictions, fail_on, rules if endless else None, heartbeat),
        stream,
        feed,
        as_json=json,
        total_bytes=None if endless else sum(each.size for each in inputs),
        is_service=follow or any(each.engine is not None for each in inputs),
    )
    say_simulated(inputs)
    return code


async def _read_all(inputs: list[Input], options: RunOptions, stream: KVStream, output: Output) -> None:
    """Send what the inputs hold: recorded ones merged by time, live ones as it comes."""
    clock = _SummaryClock(options.summary_every, stream, output)

    async def take(item: EventFrame | Malformed) -> None:
        if isinstance(item, EventFrame):
            await clock.send(item)
            return
        stream.reject(item)
        output.show(item)
        if options.strict:
            raise MalformedInputError(f"{item} (stopped by --strict)")

    async def take_all(items: Items) -> None:
        async for item in paced(items, options.speed):
            await take(item)

    live, recorded = live_and_recorded(inputs, options.reading, output.read, stream.input_ended)
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
        for number, part in self._cutter.cut(frame):
            if self._next is not None and number >= self._next:
                await self._stream.flush()
                self._output.show(self._stream.summary_nowait())
            self._next = max(number + 1, self._next or 0)
            await self._stream.send(part)
