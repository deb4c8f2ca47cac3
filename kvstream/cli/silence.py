"""``kvstream silence``: silences of a running server, made, listed and ended."""

import sys
from datetime import datetime
from types import NoneType
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from kvstream.alerts.silences import Silence
from kvstream.cli.options import Results
from kvstream.cli.server_client import Server
from kvstream.cli.standard import write_lines
from kvstream.cli.values import number, time
from kvstream.errors import ConfigError
from kvstream.text.escape import for_terminal

EXAMPLES = """
[bold]Examples[/bold]

  kvstream silence add --source 'batch-*' --for 2h --reason "load test"

  kvstream silence list --server http://kv-1:9109 --token-file token

  kvstream silence remove 5f2c61d0a9b3e874

  kvstream silence acknowledge 0123456789abcdef      until the incident of that alert is over
"""

app = typer.Typer(
    help="Silence alerts of a running kvstream serve --http.", no_args_is_help=True, epilog=EXAMPLES
)


class _Listed(msgspec.Struct):
    """What ``/api/silences`` answers."""

    silences: list[Silence]


@app.command("add")
def add_silence(
    *,
    rule: Annotated[str, typer.Option(metavar="PATTERN", help="Rules, as a shell pattern.")] = "*",
    source: Annotated[str, typer.Option(metavar="PATTERN", help="Sources.")] = "*",
    tier: Annotated[str, typer.Option(metavar="PATTERN", help="Tiers.")] = "*",
    lasting: Annotated[
        float | None,
        number("duration", "--for", metavar="DURATION", help="90s, 30m, 2h or 1d from now."),
    ] = None,
    until: Annotated[
        str | None,
        time("--until", help="Its end, such as 2027-01-01T06:00:00Z."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for others who see it.")] = "silenced",
    server: Server,
    results: Results,
) -> None:
    """Begin a silence: nobody is notified of what it covers until it ends.

    Times are those of the events, which for live sources are about the clock's.
    """
    if (lasting is None) == (until is None):
        raise ConfigError("say how long: --for DURATION or --until TIME")
    asked: dict[str, Any] = {"rule": rule, "source": source, "tier": tier, "reason": reason}
    if lasting is not None:
        asked["duration_seconds"] = lasting
    else:
        asked["until"] = until
    _show([server.ask("POST", "/api/silences", Silence, asked)], results.as_lines)


@app.command("list")
def list_silences(*, server: Server, results: Results) -> None:
    """Print the silences that are not over, the first to end first."""
    silences = server.ask("GET", "/api/silences", _Listed).silences
    if not silences and not results.as_lines:
        print("there are no silences")
    _show(silences, results.as_lines)


@app.command("remove")
def remove_silences(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids, as kvstream silence list prints them.")
    ],
    *,
    server: Server,
) -> None:
    """End silences; what they covered and still fires is notified at once."""
    for silence_id in ids:
        server.ask("DELETE", f"/api/silences/{quote(silence_id, safe='')}", NoneType)


@app.command("acknowledge")
def acknowledge_alert(
    fingerprint: Annotated[str, typer.Argument(help="Of an alert that fires.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, for others who see it.")] = "acknowledged",
    server: Server,
    results: Results,
) -> None:
    """Silence the incident of a firing alert until that incident is over."""
    path = f"/api/alerts/{quote(fingerprint, safe='')}/acknowledge"
    _show([server.ask("POST", path, Silence, {"reason": reason})], results.as_lines)


def _show(silences: list[Silence], as_lines: bool) -> None:
    if as_lines:
        write_lines(silences)
        return
    for silence in silences:
        print(for_terminal(_line(silence)))
    sys.stdout.flush()


def _line(silence: Silence) -> str:
    """Return a silence in a line."""
    covers = f"{silence.rule} on {silence.source}/{silence.tier}"
    if silence.incident:
        covers += f", incident {silence.incident}"
    return f"{silence.id}  {_end(silence.until)}  {covers}  ({silence.reason})"


def _end(until: datetime | None) -> str:
    return "until it is over" if until is None else f"until {until:%Y-%m-%d %H:%M:%S %Z}"
