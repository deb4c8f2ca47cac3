"""``kvstream silence``: silences of a running server, made, listed and ended."""

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from kvstream.alerts.silences import Silence
from kvstream.cli.options import Results
from kvstream.cli.standard import write_document
from kvstream.cli.tokens import token_from
from kvstream.cli.values import number
from kvstream.errors import ConfigError, KVStreamError, MissingExtraError
from kvstream.text.escape import for_terminal
from kvstream.text.json import encode_json

EXAMPLES = """
[bold]Examples[/bold]

  kvstream silence add --source 'batch-*' --for 2h --reason "load test"

  kvstream silence list --server http://kv-1:9109 --token-file token

  kvstream silence remove 5f2c61d0a9b3e874

  kvstream silence acknowledge 0123456789abcdef      what fires now, until it is over; the fingerprint is in
                                                     the alert
"""
_TIMEOUT_SECONDS = 10.0

app = typer.Typer(
    help="Silence alerts of a running kvstream serve --http.", no_args_is_help=True, epilog=EXAMPLES
)

Server = Annotated[str, typer.Option(metavar="URL|:PORT", help="A running kvstream serve --http.")]
ServerToken = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Holds the server's token; also $KVSTREAM_TOKEN.", show_default=False),
]
_SERVER = "http://127.0.0.1:9109"


class _Listed(msgspec.Struct):
    """What ``/api/silences`` answers."""

    silences: list[Silence]


@app.command("add")
def add_silence(
    *,
    rule: Annotated[str, typer.Option(metavar="PATTERN", help="Rules, as a shell has them.")] = "*",
    source: Annotated[str, typer.Option(metavar="PATTERN", help="Sources.")] = "*",
    tier: Annotated[str, typer.Option(metavar="PATTERN", help="Tiers.")] = "*",
    lasting: Annotated[
        float | None,
        number("duration", "--for", metavar="DURATION", help="90s, 30m, 2h or 1d from now."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Its end, such as 2027-01-01T06:00:00Z.", show_default=False),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for those who wonder.")] = "silenced",
    server: Server = _SERVER,
    token_file: ServerToken = None,
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
    body = _Client(server, token_file).ask("POST", "/api/silences", asked)
    _show([msgspec.json.decode(body, type=Silence)], results.as_lines)


@app.command("list")
def list_silences(*, server: Server = _SERVER, token_file: ServerToken = None, results: Results) -> None:
    """Print the silences that are not over, the first to end first."""
    body = _Client(server, token_file).ask("GET", "/api/silences")
    silences = msgspec.json.decode(body, type=_Listed).silences
    if not silences and not results.as_lines:
        print("there are no silences")
    _show(silences, results.as_lines)


@app.command("remove")
def remove_silences(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As kvstream silence list has them.")],
    server: Server = _SERVER,
    token_file: ServerToken = None,
) -> None:
    """End silences; what they covered and still fires is notified at once."""
    client = _Client(server, token_file)
    for silence_id in ids:
        client.ask("DELETE", f"/api/silences/{quote(silence_id, safe='')}")


@app.command("acknowledge")
def acknowledge_alert(
    fingerprint: Annotated[str, typer.Argument(help="Of an alert that fires.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, for those who wonder.")] = "acknowledged",
    server: Server = _SERVER,
    token_file: ServerToken = None,
    results: Results,
) -> None:
    """Silence exactly the incident of an alert that fires, until that incident is over."""
    path = f"/api/alerts/{quote(fingerprint, safe='')}/acknowledge"
    body = _Client(server, token_file).ask("POST", path, {"reason": reason})
    _show([msgspec.json.decode(body, type=Silence)], results.as_lines)


class _Client:
    """Asks a server, one request at a time.

    Raises:
        ConfigError: If the address or the token cannot be used.
        MissingExtraError: If ``kvstream[webhook]`` is not installed.
    """

    def __init__(self, server: str, token_file: Path | None) -> None:
        try:
            import httpx2
        except ImportError:
            raise MissingExtraError("kvstream silence", "webhook") from None
        if server.startswith(":"):
            server = f"http://127.0.0.1{server}"
        if not re.match(r"https?://[^/]", server):
            raise ConfigError(f"{server!r} is no server; write http://HOST:PORT")
        token = token_from(token_file)
        self._http: Any = httpx2
        self._server = server.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Return what the server answers.

        Raises:
            KVStreamError: If it does not answer, or refuses.
        """
        headers = dict(self._headers)
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            answer = self._http.request(
                method,
                self._server + path,
                headers=headers,
                content=None if body is None else encode_json(body),
                timeout=_TIMEOUT_SECONDS,
            )
        except (self._http.HTTPError, self._http.InvalidURL) as error:
            raise KVStreamError(f"{self._server}: {str(error) or type(error).__name__}") from error
        if answer.status_code == 401:
            raise KVStreamError(f"{self._server} asks for a token: --token-file or $KVSTREAM_TOKEN")
        if not answer.is_success:
            raise KVStreamError(f"{self._server}: {_why(bytes(answer.content), answer.status_code)}")
        return bytes(answer.content)


class _Refusal(msgspec.Struct):
    """What the server says where it refuses."""

    error: str


def _why(body: bytes, status: int) -> str:
    try:
        return msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"it answers {status}; is it kvstream serve --http?"


def _show(silences: list[Silence], as_lines: bool) -> None:
    if as_lines:
        write_document("".join(encode_json(silence).decode() + "\n" for silence in silences))
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
