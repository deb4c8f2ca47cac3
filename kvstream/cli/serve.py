"""``kvstream serve``: a stream for engines and for producers in other processes."""

import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import replace

from kvstream.cli.chosen_rules import RuleFiles
from kvstream.cli.command import Attempts
from kvstream.cli.engines import Engines
from kvstream.cli.guard import FrameLimits, Guard
from kvstream.cli.handlers import AlertOptions, Destinations
from kvstream.cli.messages import note
from kvstream.cli.options import CacheOptions, Results, StateDir
from kvstream.cli.services import serve_all
from kvstream.cli.session import EXIT_CODES, Evictions, Output, Session, run_session
from kvstream.cli.values import number
from kvstream.errors import ConfigError
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.sources.engine_input import LiveInput
from kvstream.sources.engine_metrics import EngineMetrics, event_counts
from kvstream.stream import KVStream, input_marker
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.receive_budget import ReceiveBudget
from kvstream.transport.server import FrameServer

if TYPE_CHECKING:
    from kvstream.web.server import HttpServer

EXAMPLES = f"""
[bold]Examples[/bold]

  kvstream serve --from 'zmq://vllm-0:5557?replay=tcp://vllm-0:5558' --http :9109

  kvstream serve --from 'zmq://vllm-0:5557?dp=8' --from http://sglang-0:30000 --targets engines.json

  kvstream serve --from 'zmq://vllm-0:5557?source=vllm-0' --engine-metrics vllm-0=http://vllm-0:8000/metrics

  kvstream serve --listen unix:/run/kvstream.sock --state /var/lib/kvstream      loses nothing over a restart

  kvstream serve --listen unix:/run/kvstream.sock --http 127.0.0.1:9109       dashboard and /metrics

  kvstream serve --listen tls://0.0.0.0:5560 --tls-cert cert.pem --tls-key key.pem --token-file token

  KVSTREAM_TOKEN=secret kvstream serve --listen tcp://127.0.0.1:5560 --json >> alerts.jsonl

In the engine: async with kvstream.connect("unix:/run/kvstream.sock") as remote: …
{EXIT_CODES}"""


def serve_command(
    *,
    engines: Engines,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST]:PORT",
            help="Serve the dashboard, the API and /metrics there; by default on this machine only.",
            show_default=False,
        ),
    ] = None,
    engine_metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE=URL",
            help="Compare a source's events with its engine's own /metrics (vLLM, SGLang), and alert where "
            "they differ; can be given again.",
            show_default=False,
        ),
    ] = None,
    summary_every: Annotated[
        float,
        number(
            "duration",
            "--summary-every",
            metavar="DURATION",
            low=0,
            help="Time between summaries, such as 90s or 5m; 0: only the last one.",
            show_default="10s",
        ),
    ] = 10.0,
    evictions: Evictions = False,
    state: StateDir = None,
    results: Results,
    guard: Guard,
    limits: FrameLimits,
    cache: CacheOptions,
    alerts: AlertOptions,
    destinations: Destinations,
) -> int:
    """Keep watching engines until stopped: dashboard, /metrics, API and alerts from live block events."""
    engines.require("serve")
    as_lines = results.as_lines
    rules = RuleFiles(cache.config, alerts.rules, destinations.heartbeat)
    with Attempts() as attempt:
        token = attempt(guard.token)
        tls = attempt(guard.tls)
        config = attempt(cache.stream_config)
        chosen = attempt(rules.read)
        endpoints = engines.endpoints(attempt)
        followed = engines.followed(attempt)
        address = attempt(Endpoint.parse_address, http) if http else None
    metrics = replace(config.metrics, export_interval=summary_every)
    config = replace(config, metrics=metrics)
    stream = KVStream(config, chosen.rules, silences=chosen.silences, state=state)
    destinations.attach(stream, alerts.min_severity)
    inputs = [*followed, *engines.in_targets()]
    inputs += [_engine_metrics(text, stream) for text in engine_metrics or ()]
    for each in inputs:
        stream.watch_inputs(each.statistics)
    budget = ReceiveBudget(limits.max_receive_bytes)
    servers = [
        FrameServer(
            stream,
            endpoint,
            token=token,
            insecure=guard.insecure,
            longest_frame=limits.max_frame_bytes,
            most_connections=limits.max_connections,
            budget=budget,
            tls=tls if endpoint.tls else None,
        )
        for endpoint in endpoints
    ]
    if tls is not None and address is None and not any(server.endpoint.tls for server in servers):
        raise ConfigError("--tls-cert is for --listen tls://HOST:PORT and for --http")
    page = (
        _page(stream, address, token, guard.insecure, tls, engines.listen or ())
        if address is not None
        else None
    )

    async def feed(stream: KVStream, output: Output) -> None:
        async def show(summary: CacheMetricsSummary) -> None:  # on the loop, as all else that is shown
            if not summary.final:
                with suppress(OSError):  # which the next refresh raises where it ends the run
                    output.show(summary)

        if as_lines:  # a terminal shows the figures all the time
            stream.on_summary(show)
        try:
            for server in servers:
                await server.bind()
                note(f"listening at {server.endpoint}")
            if page is not None:
                page.bind()
                note(f"dashboard at {page.url}")
            services = [server.serve for server in servers]
            if page is not None:
                services.append(page.serve)
            is_alone = len(services) + len(inputs) == 1
            services += [
                partial(
                    each.deliver,
                    stream.take,
                    stream.forget,
                    is_alone=is_alone,
                    marker_of=partial(input_marker, stream),
                )
                for each in inputs
            ]
            await serve_all(stream.faults, services)
        finally:
            for server in servers:
                await server.aclose()

    session = Session(alerts.min_severity, evictions, alerts.fail_on, rules)
    return run_session(session, stream, feed, as_lines=as_lines, is_service=True)


def _engine_metrics(text: str, stream: KVStream) -> LiveInput:
    """Return what an option SOURCE=URL asks for."""
    source, is_pair, url = text.partition("=")
    if not is_pair:
        raise ConfigError(f"--engine-metrics {text}: write SOURCE=http://HOST:PORT/metrics")
    return EngineMetrics(source, url, event_counts(stream))


def _page(
    stream: KVStream,
    address: Endpoint,
    token: str | None,
    insecure: bool,
    tls: ssl.SSLContext | None,
    listening: Sequence[str],
) -> "HttpServer":
    from kvstream.web.server import HttpServer  # here, as it needs an extra

    options: dict[str, Any] = {} if tls is None else {"tls": tls}
    return HttpServer(stream, address, token=token, insecure=insecure, listening=listening, **options)
