"""Options that say what is alerted on and where alerts and metrics go."""

from pathlib import Path
from typing import Annotated, ClassVar

import typer

from kvstream.alerts.types import AlertLevel
from kvstream.cli.groups import OptionGroup
from kvstream.cli.tokens import secret_from, url_from, urls_from
from kvstream.cli.values import number, severity
from kvstream.errors import ConfigError
from kvstream.notifiers.alert_file import AlertFile
from kvstream.notifiers.alertmanager import Alertmanager
from kvstream.notifiers.apprise import Apprise
from kvstream.notifiers.command import Command
from kvstream.notifiers.webhook import Webhook, slack_payload
from kvstream.stream import KVStream
from kvstream.text.escape import for_terminal

_SECRET_VARIABLE = "KVSTREAM_WEBHOOK_SECRET"  # noqa: S105
_SLACK_VARIABLE = "KVSTREAM_SLACK_URL"
_APPRISE_VARIABLE = "KVSTREAM_APPRISE_URL"

RulesFile = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Changes to the alert rules.", show_default=False)
]


MinSeverity = Annotated[
    AlertLevel, severity("--min-severity", help="Minimum severity of the alerts shown and sent.")
]


class AlertOptions(OptionGroup, frozen=True):
    """What is alerted on."""

    panel: ClassVar[str] = "Alerts"

    rules: RulesFile = None
    min_severity: MinSeverity = AlertLevel.INFO
    fail_on: Annotated[
        AlertLevel | None,
        severity("--fail-on", help="Exit with 3 if an alert of at least this severity fired."),
    ] = None


class Destinations(OptionGroup, frozen=True):
    """Where alerts and metrics go besides the output."""

    panel: ClassVar[str] = "Where alerts go"

    on_alert: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND",
            help="Run it for each alert, with the alert as JSON on its standard input; can be given again.",
            show_default=False,
        ),
    ] = None
    webhook: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL|@FILE",
            help="Post alerts there as JSON; @FILE holds a URL with a secret in it. Can be given again.",
            show_default=False,
        ),
    ] = None
    webhook_secret_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the secret that webhooks are signed with (Standard Webhooks): whsec_ and 24 random "
            f"bytes or more in base64. [${_SECRET_VARIABLE}: the secret]",
            show_default=False,
        ),
    ] = None
    slack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="@FILE",
            help="Post alerts to a Slack incoming webhook, those of a source together; the URL is a secret, "
            f"which the file holds. [${_SLACK_VARIABLE}: the URL]",
            show_default=False,
        ),
    ] = None
    apprise: Annotated[
        list[str] | None,
        typer.Option(
            metavar="@FILE",
            help="Notify Teams, PagerDuty, Opsgenie or another service of apprise (appriseit.com/services); "
            f"the URL is a secret, which the file holds. Can be given again. [${_APPRISE_VARIABLE}: the URL]",
            show_default=False,
        ),
    ] = None
    alertmanager: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL|@FILE",
            help="Post alerts to a Prometheus Alertmanager; @FILE holds a URL with a secret in it.",
            show_default=False,
        ),
    ] = None
    heartbeat: Annotated[
        bool,
        typer.Option(
            "--heartbeat",
            help="Post an alert that always fires to Alertmanager, so that its absence is noticed.",
        ),
    ] = False
    alert_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append alerts to a file as JSON lines.", show_default=False),
    ] = None
    alert_log_max_size: Annotated[
        int | None,
        number(
            "bytes",
            "--alert-log-max-size",
            metavar="SIZE",
            low=1024,
            help="Rotate that file before it is larger than this, such as 10MB; five old ones are kept.",
        ),
    ] = None
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send metrics and alerts to an OpenTelemetry collector (OTLP over HTTP); headers with a "
            "secret are those of $OTEL_EXPORTER_OTLP_HEADERS.",
            show_default=False,
        ),
    ] = None

    def attach(self, stream: KVStream, least: AlertLevel) -> None:
        """Have a stream send its alerts and metrics to all of these.

        Args:
            stream: A stream that is not open yet.
            least: Minimum severity of the alerts sent.

        Raises:
            ConfigError: If one cannot be made.
            MissingExtraError: If one needs a package that is not installed.
            OSError: If the file cannot be written.
        """
        if self.heartbeat and not self.alertmanager:
            raise ConfigError("--heartbeat goes to an Alertmanager: name one with --alertmanager URL")
        secret = secret_from(self.webhook_secret_file, _SECRET_VARIABLE, "the secret")
        for command in self.on_alert or ():
            stream.on_alert(Command(command), least)
        for url in self.webhook or ():
            stream.on_alert(Webhook(url_from(url, "--webhook"), secret=secret), least)
        for url in urls_from(self.slack, "--slack", _SLACK_VARIABLE):
            stream.on_alert_group(Webhook(url, slack_payload), least)
        for url in urls_from(self.apprise, "--apprise", _APPRISE_VARIABLE, hidden=r"\w+://"):
            stream.on_alert(Apprise(url), least)
        for url in self.alertmanager or ():
            Alertmanager(url_from(url, "--alertmanager")).attach(stream, least)
        if self.otlp is not None:
            from kvstream.exporters.otel import OpenTelemetry  # here, as it needs an extra

            OpenTelemetry(self.otlp).attach(stream)
        if self.alert_log is not None:
            stream.on_alert(AlertFile(self.alert_log, self.alert_log_max_size), least)


def undelivered_lines(stream: KVStream) -> list[str]:
    """Return a line for each destination that alerts or metrics of a closed stream were not delivered to."""
    lines = []
    for entry in stream.statistics().subscribers:
        to = for_terminal(entry.destination)
        if entry.topic == "alerts" and entry.undelivered:
            alerts = "alert" if entry.undelivered == 1 else "alerts"
            lines.append(f"not delivered: {entry.undelivered:,} {alerts} to {to}")
        elif entry.topic == "summaries" and entry.undelivered and entry.destination != entry.name:
            lines.append(f"not delivered: the newest metrics to {to}")
    return lines
