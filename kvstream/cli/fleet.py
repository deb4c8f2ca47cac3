"""``kvstream fleet``: agents, workers and the rest of a fleet around a Kafka broker."""

import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from anyio import to_thread

from kvstream.alerts.types import AlertLevel
from kvstream.cli.chosen_rules import RuleFiles
from kvstream.cli.command import Attempts
from kvstream.cli.engines import Engines
from kvstream.cli.exit_codes import EXIT_CODES_WITHOUT_ALERT, EXIT_SIGNAL, EXIT_UNDELIVERED
from kvstream.cli.guard import FrameLimits, Guard, Insecure
from kvstream.cli.handlers import Destinations, MinSeverity, RulesFile, undelivered_lines
from kvstream.cli.messages import note, say
from kvstream.cli.options import CacheOptions, KafkaConfig
from kvstream.cli.services import serve_all
from kvstream.cli.session import stop_on_signal
from kvstream.cli.values import choice, number
from kvstream.config import POLICIES, OverflowPolicy, StreamConfig
from kvstream.errors import ConfigError, KVStreamError
from kvstream.faults.log import FaultLog
from kvstream.settings import load_config
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.receive_budget import ReceiveBudget
from kvstream.transport.server import FrameServer

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from kvstream.fleet.address import KafkaAddress
    from kvstream.fleet.frame_log import FrameLog
    from kvstream.fleet.metrics import Sample

_AGENT = """  kvstream fleet agent --to kafka://kafka:9092/kv --listen unix:/run/kvstream.sock --create-topics

  kvstream fleet agent --to kafka://kafka-0:9092,kafka-1:9092/kv --from 'zmq://localhost:5557?source=vllm-0'
"""
_WORKER = "  kvstream fleet worker --from kafka://kafka:9092/kv --state /mnt/kvstream --metrics :9109\n"
_NOTIFY = "  kvstream fleet notify --from kafka://kafka:9092/kv --alertmanager http://alertmanager:9093\n"
_SERVE = "  kvstream fleet serve --from kafka://kafka:9092/kv --http :9110\n"


def _examples(*examples: str) -> str:
    return "\n".join(("\n[bold]Examples[/bold]\n", *examples)) + EXIT_CODES_WITHOUT_ALERT


_KAFKA_URL = "URL"
_TOPICS_HELP = "Brokers, and the prefix of the topics: kafka://HOST:PORT,…/PREFIX."

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Follow more engines than one process can: agents, a Kafka topic, workers.",
    epilog=_examples(_AGENT, _WORKER, _NOTIFY, _SERVE),
)

FromKafka = Annotated[str, typer.Option("--from", metavar=_KAFKA_URL, help=_TOPICS_HELP)]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST]:PORT",
        help="Serve /metrics there; by default on this machine only.",
        show_default=False,
    ),
]


@app.command(epilog=_examples(_AGENT))
def agent(
    *,
    engines: Engines,
    to: Annotated[str, typer.Option(metavar=_KAFKA_URL, help=_TOPICS_HELP)],
    create_topics: Annotated[
        bool, typer.Option("--create-topics", help="Create the topics that do not exist.")
    ] = False,
    partitions: Annotated[
        int,
        number(
            "count",
            "--partitions",
            metavar="N",
            low=1,
            high=10_000,
            help="With --create-topics: partitions of the frames; cannot be changed later.",
            show_default=True,
        ),
    ] = 64,
    copies: Annotated[
        int | None,
        number(
            "count",
            "--copies",
            metavar="N",
            low=1,
            help="With --create-topics: brokers that keep each partition; by default the broker's setting.",
        ),
    ] = None,
    overflow: Annotated[
        OverflowPolicy,
        choice(POLICIES, "--overflow", help="What to do while the queue is full.", show_default=True),
    ] = "block",
    queue_events: Annotated[
        int,
        number(
            "count",
            "--queue-events",
            metavar="N",
            low=1,
            help="Events that may wait for the broker.",
            show_default="4Mi",
        ),
    ] = 4_194_304,
    drain_seconds: Annotated[
        float,
        number(
            "duration",
            "--drain-seconds",
            metavar="DURATION",
            low=0,
            help="How long to go on writing queued events when stopped.",
            show_default="10s",
        ),
    ] = 10.0,
    kafka_config: KafkaConfig = None,
    metrics: Metrics = None,
    guard: Guard,
    limits: FrameLimits,
) -> int:
    """Write what the engines of a node send into the topic of a fleet, until stopped.

    What an engine sends is acknowledged once the broker has it.
    """
    from kvstream.fleet import client  # here, as it needs an extra
    from kvstream.fleet.address import KafkaAddress
    from kvstream.fleet.agent import samples
    from kvstream.fleet.frame_log import GATHER_SECONDS, FrameLog, UnwrittenFrames

    engines.require("write")
    with Attempts() as attempt:
        address = attempt(KafkaAddress.parse, to)
        settings = attempt(client.read_settings, kafka_config)
        config = attempt(load_config, StreamConfig, overflow=overflow, queue_events=queue_events)
        token = attempt(guard.token)
        tls = attempt(guard.tls)
        endpoints = engines.endpoints(attempt)
        followed = engines.followed(attempt)
        shown_at = attempt(_metrics_endpoint, metrics, guard.insecure)
    inputs = [*followed, *engines.in_targets()]
    log = FrameLog(address, settings, config)
    log.connect()
    budget = ReceiveBudget(limits.max_receive_bytes)
    servers = [
        FrameServer(
            log,
            endpoint,
            token=token,
            insecure=guard.insecure,
            longest_frame=limits.max_frame_bytes,
            most_connections=limits.max_connections,
            budget=budget,
            tls=tls if endpoint.tls else None,
            unheld=partial(UnwrittenFrames, log),
            send=log.send,
            gather_seconds=GATHER_SECONDS,
        )
        for endpoint in endpoints
    ]
    if tls is not None and not any(server.endpoint.tls for server in servers):
        raise ConfigError("--tls-cert is for --listen tls://HOST:PORT")
    if create_topics:
        from kvstream.fleet import topics

        for name in topics.create_topics(address, settings, partitions, copies or topics.BROKERS_DEFAULT):
            note(f"made topic {name}")
    else:
        topics_there(address, settings, log.faults)

    async def run() -> int:
        log.open()
        stopped: list[int] = []
        try:
            async with anyio.create_task_group() as writing:
                writing.start_soon(log.run)
                for server in servers:
                    await server.bind()
                    note(f"listening at {server.endpoint}")
                services = [server.serve for server in servers]
                is_alone = len(services) + len(inputs) == 1
                services += [partial(each.deliver, log.take, is_alone=is_alone) for each in inputs]
                async with anyio.create_task_group() as serving:
                    serving.start_soon(stop_on_signal, serving.cancel_scope, stopped)
                    await serve_all(log.faults, services)
                    serving.cancel_scope.cancel()
                log.close()
                with anyio.move_on_after(drain_seconds):
                    await log.settled()
                writing.cancel_scope.cancel()
        finally:
            for server in servers:
                await server.aclose()
        return _ended(log, stopped)

    return _run(run, shown_at, partial(samples, log, inputs))


@app.command(epilog=_examples(_WORKER))
def worker(
    *,
    from_: FromKafka,
    state: Annotated[
        str,
        typer.Option(
            metavar="DIR|s3://BUCKET/PREFIX", help="Where snapshots are kept, the same for all workers."
        ),
    ],
    checkpoint_every: Annotated[
        float,
        number(
            "duration",
            "--checkpoint-every",
            metavar="DURATION",
            low=0.1,
            help="Time between two commits of a partition.",
            show_default="5s",
        ),
    ] = 5.0,
    session: Annotated[
        float,
        number(
            "duration",
            "--session",
            metavar="DURATION",
            low=0.5,
            help="Silence of a worker after which the others take over.",
            show_default="10s",
        ),
    ] = 10.0,
    summary_every: Annotated[
        float,
        number(
            "duration",
            "--summary-every",
            metavar="DURATION",
            low=0,
            help="Time between summaries that are published; 0: none.",
            show_default="10s",
        ),
    ] = 10.0,
    next_protocol: Annotated[
        bool, typer.Option("--kip-848", help="Use the group protocol of Kafka 4.0 and later.")
    ] = False,
    rules: RulesFile = None,
    kafka_config: KafkaConfig = None,
    metrics: Metrics = None,
    insecure: Insecure = False,
    cache: CacheOptions,
) -> int:
    """Judge the partitions that the group assigns, until stopped.

    Start as many as there is work for, each with the same options: when one dies, the others go on from its
    last commit.
    """
    from kvstream.fleet import client  # here, as it needs an extra
    from kvstream.fleet.address import KafkaAddress
    from kvstream.fleet.snapshots import Snapshots
    from kvstream.fleet.worker import Worker, WorkerSettings
    from kvstream.fleet.worker_metrics import cache_metrics, samples
    from kvstream.version import __version__

    with Attempts() as attempt:
        address = attempt(KafkaAddress.parse, from_)
        kafka = attempt(client.read_settings, kafka_config)
        measured = attempt(cache.metrics)
        chosen = attempt(RuleFiles(cache.config, rules).read)
        shown_at = attempt(_metrics_endpoint, metrics, insecure)
    settings = WorkerSettings(
        checkpoint_seconds=checkpoint_every,
        session_seconds=session,
        summary_seconds=summary_every,
        next_protocol=next_protocol,
    )
    snapshots = Snapshots.at(state, address.frames, __version__)
    work = Worker(address, kafka, snapshots, measured, chosen.rules, chosen.silences, settings)
    work.connect()
    topics_there(address, kafka, work.faults)

    async def run() -> int:
        stopped = await run_until_signal(work.run)
        counts = work.counts
        say(f"kvstream: {counts['records']:,} records were applied, {counts['commits']:,} commits made")
        return EXIT_SIGNAL + stopped[0] if stopped else 0

    return _run(run, shown_at, partial(samples, work), partial(cache_metrics, work))


@app.command(epilog=_examples(_NOTIFY))
def notify(
    *,
    from_: FromKafka,
    min_severity: MinSeverity = AlertLevel.INFO,
    kafka_config: KafkaConfig = None,
    metrics: Metrics = None,
    insecure: Insecure = False,
    destinations: Destinations,
) -> int:
    """Notify of the alerts of all workers, of each change of an incident once, until stopped.

    What was sent is read from the topic, so that another process continues, started later or beside it.
    """
    from kvstream.fleet import client  # here, as it needs an extra
    from kvstream.fleet.address import KafkaAddress
    from kvstream.fleet.notifier import Notifier, samples

    with Attempts() as attempt:
        address = attempt(KafkaAddress.parse, from_)
        kafka = attempt(client.read_settings, kafka_config)
        shown_at = attempt(_metrics_endpoint, metrics, insecure)
    stream = KVStream(rules=RuleFiles(heartbeat=destinations.heartbeat).read().rules)
    destinations.attach(stream, min_severity)
    if not any(handler.topic == "alerts" for handler in stream.statistics().subscribers):
        raise ConfigError("nobody to notify: name a --webhook, an --alertmanager, …")
    topics_there(address, kafka, stream.faults)
    notifier = Notifier(address, kafka, stream)
    notifier.connect()

    async def run() -> int:
        stopped: list[int] = []
        try:
            async with stream, anyio.create_task_group() as tasks:
                tasks.start_soon(stop_on_signal, tasks.cancel_scope, stopped)
                await notifier.run()
        finally:
            await to_thread.run_sync(notifier.close)
        undelivered = undelivered_lines(stream)
        for line in undelivered:
            say(line)
        if undelivered:
            return EXIT_UNDELIVERED
        return EXIT_SIGNAL + stopped[0] if stopped else 0

    return _run(run, shown_at, partial(samples, notifier, stream))


@app.command(epilog=_examples(_SERVE))
def serve(
    *,
    from_: FromKafka,
    http: Annotated[
        str,
        typer.Option(metavar="[HOST]:PORT", help="Serve the page there; by default on this machine only."),
    ] = ":9110",
    kafka_config: KafkaConfig = None,
    guard: Guard,
) -> int:
    """Show the caches of all workers, the worst first, until stopped."""
    from kvstream.fleet import client  # here, as it needs an extra
    from kvstream.fleet.address import KafkaAddress
    from kvstream.fleet.board import Board
    from kvstream.fleet.board_app import board_app
    from kvstream.web.server import AppServer

    with Attempts() as attempt:
        address = attempt(KafkaAddress.parse, from_)
        kafka = attempt(client.read_settings, kafka_config)
        token = attempt(guard.token)
        tls = attempt(guard.tls)
        endpoint = attempt(Endpoint.parse_address, http)
    board = Board(address, kafka)
    board.connect()
    page = AppServer(endpoint, board.faults, token=token, insecure=guard.insecure, tls=tls)
    shown = board_app(board, token=token, authenticated=guard.insecure and token is None)
    topics_there(address, kafka, board.faults)

    async def run() -> int:
        page.bind()
        note(f"fleet at {page.url}")
        stopped: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(page.serve_app, shown, lambda: None)
            stopped += await run_until_signal(board.run)
            tasks.cancel_scope.cancel()
        return EXIT_SIGNAL + stopped[0] if stopped else 0

    return anyio.run(run)


async def run_until_signal(run: Callable[[threading.Event], None]) -> list[int]:
    """Run a function in a thread until a signal comes; return its number, if one did."""
    stop, stopped = threading.Event(), list[int]()

    async def listen() -> None:
        with anyio.CancelScope() as scope:
            await stop_on_signal(scope, stopped)
        if stopped:
            stop.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await to_thread.run_sync(run, stop)
        tasks.cancel_scope.cancel()
    return stopped


def topics_there(address: "KafkaAddress", settings: Mapping[str, str], faults: FaultLog) -> None:
    """Return if the topics are there, or no broker answers yet, which is noted.

    Raises:
        ConfigError: If one is missing.
    """
    from kvstream.fleet import client, topics

    try:
        topics.require_topics(address, settings)
    except ConfigError:
        raise
    except KVStreamError as error:
        faults.note_standing("kafka", "unreachable", f"{error}; {client.WAITING}")


def _ended(log: "FrameLog", stopped: list[int]) -> int:
    """Say what was written; return the exit code."""
    counted = log.statistics()
    say(f"kvstream: {counted.written:,} of {counted.offered:,} events were written")
    for reason, events in sorted(counted.dropped.items()):
        say(f"kvstream: {events:,} events were dropped ({reason})")
    if counted.dropped:
        return EXIT_UNDELIVERED
    return EXIT_SIGNAL + stopped[0] if stopped else 0


def _metrics_endpoint(metrics: str | None, insecure: bool) -> Endpoint | None:
    """Return where metrics are to be served, if they are.

    Raises:
        ConfigError: If that is no place, or one that others could read.
    """
    if metrics is None:
        return None
    endpoint = Endpoint.parse_address(metrics)
    endpoint.require_guard(f"--metrics {metrics}", None, insecure)
    return endpoint


def _run(
    run: Callable[[], Awaitable[int]],
    endpoint: Endpoint | None,
    samples: "Callable[[], Iterable[Sample]]",
    metrics: "Callable[[], Iterable[Metric]] | None" = None,
) -> int:
    """Run while metrics are served, if there is an endpoint for them."""
    with ExitStack() as exits:
        if endpoint is not None:
            from kvstream.fleet.metrics import serve_metrics

            exits.callback(serve_metrics(endpoint, samples, metrics))
        return anyio.run(run)
