"""Options of the command line that send alerts somewhere."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kvstream.alerts.types import AlertLevel
from kvstream.errors import ConfigError
from kvstream.notifiers.alert_file import AlertFile
from kvstream.notifiers.alertmanager import Alertmanager
from kvstream.notifiers.command import Command
from kvstream.notifiers.webhook import Webhook, slack_payload
from kvstream.stream import KVStream
from kvstream.text.escape import for_terminal

OnAlert = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COMMAND",
        help="Run it for each alert, with the alert as JSON on its standard input; can be given again.",
        show_default=False,
    ),
]
WebhookUrl = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Post alerts there as JSON, signed with $KVSTREAM_WEBHOOK_SECRET if it is set.",
        show_default=False,
    ),
]
SlackUrl = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Post alerts to a Slack incoming webhook, those of a source together.",
        show_default=False,
    ),
]
AlertmanagerUrl = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Post alerts to a Prometheus Alertmanager.", show_default=False),
]
AlertLog = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Append alerts to a file as JSON lines.", show_default=False),
]
OtlpUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Send metrics and alerts to an OpenTelemetry collector (OTLP over HTTP).",
        show_default=False,
    ),
]


class Handlers(msgspec.Struct, frozen=True, kw_only=True):
    """Where alerts and metrics go besides the output."""

    on_alert: Sequence[str] | None = None
    webhook: Sequence[str] | None = None
    slack: Sequence[str] | None = None
    alertmanager: Sequence[str] | None = None
    heartbeat: bool = False
    alert_log: Path | None = None
    otlp: str | None = None

    def attach(self, stream: KVStream, min_severity: AlertLevel) -> None:
        """Add the handlers to a stream.

        Raises:
            ConfigError: If one cannot be made.
            MissingExtraError: If one needs a package that is not installed.
            OSError: If the file cannot be written.
        """
        if self.heartbeat and not self.alertmanager:
            raise ConfigError("--heartbeat goes to an Alertmanager: name one with --alertmanager URL")
        secret = os.environ.get("KVSTREAM_WEBHOOK_SECRET")
        for command in self.on_alert or ():
            stream.on_alert(Command(command), min_severity)
        for url in self.webhook or ():
            stream.on_alert(Webhook(url, secret=secret), min_severity)
        for url in self.slack or ():
            stream.on_alert_group(Webhook(url, slack_payload), min_severity)
        for url in self.alertmanager or ():
            Alertmanager(url).attach(stream, min_severity)
        if self.otlp is not None:
            from kvstream.exporters.otel import OpenTelemetry  # here, as it needs an extra

            OpenTelemetry(self.otlp).attach(stream)
        if self.alert_log is not None:
            stream.on_alert(AlertFile(self.alert_log), min_severity)


def undelivered_lines(stream: KVStream) -> list[str]:
    """Return a line for each destination that alerts of a closed stream were not delivered to."""
    return [
        f"not delivered: {entry.undelivered:,} {'alert' if entry.undelivered == 1 else 'alerts'} "
        f"to {for_terminal(entry.destination)}"
        for entry in stream.statistics().subscribers
        if entry.topic == "alerts" and entry.undelivered
    ]
