"""``kvstream serve``: a stream for producers in other processes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import msgspec
import typer

from kvstream.alerts.types import AlertLevel
from kvstream.cli.handlers import (
    AlertLog,
    AlertmanagerUrl,
    Handlers,
    OnAlert,
    OtlpUrl,
    SlackUrl,
    WebhookUrl,
)
from kvstream.cli.session import (
    EXIT_CODES,
    Capacity,
    ConfigFile,
    Evictions,
    FailOn,
    Json,
    MinLevel,
    Output,
    RulesFile,
    Session,
    chosen_rules,
    run_session,
    wants_lines,
)
from kvstream.config import MetricsConfig, StreamConfig, load_config
from kvstream.errors import ConfigError
from kvstream.events.codec import MAX_FRAME_BYTES
from kvstream.link import Endpoint
from kvstream.sources.socket import FrameServer
from kvstream.stream import KVStream

if TYPE_CHECKING:
    from kvstream.web.server import HttpServer

EXAMPLES = f"""
[bold]Examples[/bold]

  kvstream serve --listen unix:/run/kvstream.sock

  kvstream serve --listen unix:/run/kvstream.sock --http 127.0.0.1:9109       dashboard and /metrics

  KVSTREAM_TOKEN=secret kvstream serve --listen tcp://0.0.0.0:5560 --json >> alerts.jsonl

In the engine: async with kvstream.connect("unix:/run/kvstream.sock") as remote: …
{EXIT_CODES}"""


def serve_command(
    listen: Annotated[
        list[str],
        typer.Option(metavar="unix:PATH|tcp://HOST:PORT", help="Where to take frames; can be given again."),
    ],
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve the dashboard, the API and /metrics there.", show_default=False
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the token that producers and browsers must know; also $KVSTREAM_TOKEN.",
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
    summary_every: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="A summary every so often; 0: only the last.")
    ] = 10.0,
    json: Json = False,
    evictions: Evictions = False,
    capacity: Capacity = None,
    rules: RulesFile = None,
    config: ConfigFile = None,
    min_level: MinLevel = AlertLevel.INFO,
    fail_on: FailOn = None,
    on_alert: OnAlert = None,
    webhook: WebhookUrl = None,
    slack: SlackUrl = None,
    alertmanager: AlertmanagerUrl = None,
    alert_log: AlertLog = None,
    otlp: OtlpUrl = None,
) -> int:
    """Takes block events from other processes and shows what the caches do, until it is stopped."""
    token = _token(token_file)
    metrics = load_config(MetricsConfig, config, capacity=capacity)
    chosen, silences = chosen_rules(metrics, rules)
    metrics = msgspec.structs.replace(metrics, export_interval=summary_every)
    stream = KVStream(StreamConfig(metrics=metrics), chosen, silences=silences)
    handlers = Handlers(
        on_alert=on_alert,
        webhook=webhook,
        slack=slack,
        alertmanager=alertmanager,
        alert_log=alert_log,
        otlp=otlp,
    )
    handlers.attach(stream, min_level)
    servers = [
        FrameServer(
            stream,
            Endpoint.parse(text),
            token=token,
            insecure=insecure,
            longest_frame=max_frame_bytes,
            most_connections=max_connections,
        )
        for text in listen
    ]

    page = _page(stream, http, token, insecure) if http else None

    async def feed(stream: KVStream, output: Output) -> None:
        if wants_lines(json):  # a terminal shows the figures all the time
            stream.on_summary(lambda summary: None if summary.final else output.show(summary))
        for server in servers:
            await server.bind()
            typer.echo(f"listening at {server.endpoint}", err=True)
        if page is not None:
            page.bind()
            typer.echo(f"dashboard at {page.url}", err=True)
        async with anyio.create_task_group() as tasks:
            if page is not None:
                tasks.start_soon(page.serve)
            for server in servers:
                tasks.start_soon(server.serve)

    return run_session(Session(min_level, evictions, fail_on), stream, feed, as_json=json, is_service=True)


def _page(stream: KVStream, http: str, token: str | None, insecure: bool) -> "HttpServer":
    from kvstream.web.server import HttpServer  # here, as it needs an extra

    return HttpServer(stream, Endpoint.parse_address(http), token=token, insecure=insecure)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("KVSTREAM_TOKEN")
    token = file.read_text(encoding="utf-8").strip()
    if not token:
        raise ConfigError(f"{file} holds no token")
    return token
