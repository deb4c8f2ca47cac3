"""``kvstream serve``: a stream for engines and for producers in other processes."""

import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from kvstream.cli.services import serve_all, server_tls
from kvstream.cli.session import (
    EXIT_CODES,
    Capacity,
    ConfigFile,
    Evictions,
    FailOn,
    Json,
    MinSeverity,
    Output,
    Session,
    StateDir,
    run_session,
    wants_lines,
)
from kvstream.cli.tokens import TokenFile, token_from
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.errors import ConfigError
from kvstream.events.codec import MAX_FRAME_BYTES
from kvstream.settings import load_config
from kvstream.sources.engine_input import LiveInput
from kvstream.sources.engine_metrics import EngineMetrics, event_counts
from kvstream.sources.inputs import live_input
from kvstream.sources.targets import Targets
from kvstream.stream import KVStream, input_marker
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.receive_budget import DEFAULT_RECEIVE_BYTES, ReceiveBudget
from kvstream.transport.server import FrameServer

if TYPE_CHECKING:
    from kvstream.web.server import HttpServer

EXAMPLES = f"""
[bold]Examples[/bold]

  kvstream serve --from 'zmq://vllm-0:5557?replay=tcp://vllm-0:5558' --http :9109

  kvstream serve --from 'zmq://vllm-0:5557?dp=8' --from http://sglang-0:30000 --targets engines.json --http …

  kvstream serve --from zmq://vllm-0:5557?source=vllm-0 --engine-metrics vllm-0=http://vllm-0:8000/metrics

  kvstream serve --listen unix:/run/kvstream.sock --state /var/lib/kvstream      loses nothing over a restart

  kvstream serve --listen unix:/run/kvstream.sock --http 127.0.0.1:9109       dashboard and /metrics

  kvstream serve --listen tls://0.0.0.0:5560 --tls-cert cert.pem --tls-key key.pem --token-file token

  KVSTREAM_TOKEN=secret kvstream serve --listen tcp://127.0.0.1:5560 --json >> alerts.jsonl

In the engine: async with kvstream.connect("unix:/run/kvstream.sock") as remote: …
{EXIT_CODES}"""


def serve_command(
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="unix:PATH|tcp://HOST:PORT|tls://HOST:PORT",
            help="Where to take frames of producers; can be given again.",
            show_default=False,
        ),
    ] = None,
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="zmq://HOST:PORT|http://HOST:PORT|FILE",
            help="An engine to follow: where vLLM, SGLang or others publish KV events (?replay=… &dp=RANKS "
            "&topic=… &source=NAME), or the HTTP server of SGLang, or a file that grows; can be given again.",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="A file of engines to follow, which is watched; JSON in the manner of Prometheus' file_sd, "
            "or TOML.",
            show_default=False,
        ),
    ] = None,
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
            "they are apart; can be given again.",
            show_default=False,
        ),
    ] = None,
    token_file: TokenFile = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem", help="Certificate of tls:// endpoints and of --http.", show_default=False
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Its private key.", show_default=False)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem",
            help="Let in only clients with a certificate of one of these roots.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without a token.")
    ] = False,
    max_connections: Annotated[int, typer.Option(min=1, help="Producers at once, an endpoint.")] = 256,
    max_frame_bytes: Annotated[
        int, typer.Option(min=1024, max=MAX_FRAME_BYTES, help="Bytes a frame may have.")
    ] = MAX_FRAME_BYTES,
    max_receive_bytes: Annotated[
        int, typer.Option(min=1, help="Bytes received and not yet queued, of all connections together.")
    ] = DEFAULT_RECEIVE_BYTES,
    state: StateDir = None,
    summary_every: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="A summary every so often; 0: only the last.")
    ] = 10.0,
    json: Json = False,
    evictions: Evictions = False,
    capacity: Capacity = None,
    model_config: ModelConfig = None,
    block_tokens: BlockTokens = None,
    block_bytes: BlockBytes = None,
    rules: RulesFile = None,
    config: ConfigFile = None,
    min_severity: MinSeverity = AlertLevel.INFO,
    fail_on: FailOn = None,
    on_alert: OnAlert = None,
    webhook: WebhookUrl = None,
    slack: SlackUrl = None,
    alertmanager: AlertmanagerUrl = None,
    heartbeat: Heartbeat = False,
    alert_log: AlertLog = None,
    otlp: OtlpUrl = None,
) -> int:
    """Follow engines, take block events of other processes, and show what the caches do, until stopped."""
    if not (listen or from_ or targets):
        raise ConfigError("nothing to serve: name engines by --from or --targets, or where to --listen")
    token = token_from(token_file)
    tls = server_tls(tls_cert, tls_key, tls_client_ca)
    size = block_settings(model_config, block_tokens, block_bytes)
    metrics = load_config(MetricsConfig, config, capacity=capacity, **size)
    chosen, silences = chosen_rules(rules, heartbeat)
    metrics = msgspec.structs.replace(metrics, export_interval=summary_every)
    stream = KVStream(StreamConfig(metrics=metrics), chosen, silences=silences, state=state)
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
    inputs: list[LiveInput] = [live_input(name) for name in dict.fromkeys(from_ or ())]
    if targets is not None:
        inputs.append(Targets(targets))
    inputs += [_engine_metrics(text, stream) for text in engine_metrics or ()]
    for each in inputs:
        stream.watch_inputs(each.statistics)
    budget = ReceiveBudget(max_receive_bytes)
    servers = [
        FrameServer(
            stream,
            endpoint,
            token=token,
            insecure=insecure,
            longest_frame=max_frame_bytes,
            most_connections=max_connections,
            budget=budget,
            tls=tls if endpoint.tls else None,
        )
        for endpoint in map(Endpoint.parse, listen or ())
    ]
    if tls is not None and http is None and not any(server.endpoint.tls for server in servers):
        raise ConfigError("--tls-cert is for --listen tls://HOST:PORT and for --http")
    page = _page(stream, http, token, insecure, tls, listen or ()) if http else None

    async def feed(stream: KVStream, output: Output) -> None:
        if wants_lines(json):  # a terminal shows the figures all the time
            stream.on_summary(lambda summary: None if summary.final else output.show(summary))
        try:
            for server in servers:
                await server.bind()
                typer.echo(f"listening at {server.endpoint}", err=True)
            if page is not None:
                page.bind()
                typer.echo(f"dashboard at {page.url}", err=True)
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

    session = Session(min_severity, evictions, fail_on, rules, heartbeat)
    return run_session(session, stream, feed, as_json=json, is_service=True)


def _engine_metrics(text: str, stream: KVStream) -> LiveInput:
    """Return what an option SOURCE=URL asks for."""
    source, is_pair, url = text.partition("=")
    if not is_pair:
        raise ConfigError(f"--engine-metrics {text}: write SOURCE=http://HOST:PORT/metrics")
    return EngineMetrics(source, url, event_counts(stream))


def _page(
    stream: KVStream,
    http: str,
    token: str | None,
    insecure: bool,
    tls: ssl.SSLContext | None,
    listening: Sequence[str],
) -> "HttpServer":
    from kvstream.web.server import HttpServer  # here, as it needs an extra

    options: dict[str, Any] = {} if tls is None else {"tls": tls}
    return HttpServer(
        stream, Endpoint.parse_address(http), token=token, insecure=insecure, listening=listening, **options
    )
