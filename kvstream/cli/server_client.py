"""Asking a running ``kvstream serve --http``: the options that name it, and its answers."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import quote, urlsplit

import anyio
import msgspec
import typer

from kvstream.cli.groups import OptionGroup
from kvstream.cli.tokens import token_from
from kvstream.errors import ConfigError, KVStreamError
from kvstream.faults.connecting import Kind
from kvstream.sources.http_client import Answer, FetchError, open_client, request
from kvstream.text.addresses import http_url, without_password
from kvstream.text.json import encode_json

T = TypeVar("T")

_SECONDS = 10.0
_WHAT = "kvstream serve --http"
_OTHER_PROGRAM = "check that {what} is there, and that the address asks for TLS if it serves TLS"
_ADVICE: dict[Kind, str] = {
    "refused": "start {what} there, or correct the address",
    "unknown_host": "correct the address",
    "unreachable": "check that the machine is up and in reach of this network",
    "timeout": "check that it is not overloaded, and that no firewall drops what is sent to it",
    "closed": _OTHER_PROGRAM,
    "certificate": "name the roots to trust by SSL_CERT_FILE=FILE.pem",
    "tls": "write {plain} if it serves without TLS",
    "protocol": _OTHER_PROGRAM,
    "denied": "run this as a user who may connect there",
}


def advice(kind: Kind, what: str = _WHAT, plain: str = "http://") -> str:
    """Return what to do about a connection that was not made; empty if that is not known.

    Args:
        kind: Why it was not made.
        what: What should be there.
        plain: How an address without TLS begins.
    """
    return _ADVICE.get(kind, "").format(what=what, plain=plain)


class ServerClient:
    """Asks a running server.

    Args:
        url: Its address: ``http://HOST:PORT``, or ``:PORT`` of this machine.
        token: Its token; None without one.
        how_token: How the user gives a token.
        seconds: Until an answer must be complete.

    Attributes:
        name: The address as it may be shown.

    Raises:
        ConfigError: If the address cannot be used.
    """

    def __init__(self, url: str, token: str | None, how_token: str, seconds: float) -> None:
        url = f"http://127.0.0.1{url}" if url.startswith(":") else url
        self.name = _shown(url).rstrip("/")
        self._url = url.rstrip("/")
        self._token, self._how_token, self._seconds = token, how_token, seconds

    async def connect(self, feature: str, extra: str) -> Any:
        """Return an HTTP client for this server.

        Args:
            feature: What asks it.
            extra: The extra that this needs.

        Raises:
            KVStreamError: If the certificates that verify the server cannot be read.
            MissingExtraError: If the extra is not installed.
        """
        try:
            return await open_client(self.name, feature, extra)
        except FetchError as error:
            raise self._unanswered(error) from error

    async def ask(
        self,
        http: Any,
        method: str,
        path: str,
        kind: type[T],
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> T:
        """Return what the server answers.

        Args:
            http: An HTTP client.
            method: Such as ``GET``.
            path: What to ask for.
            kind: Type of the answer.
            query: Query of the URL.
            body: What is sent, as JSON.

        Raises:
            KVStreamError: If it does not answer, refuses, or is no server of ours.
        """
        headers = {b"accept": b"application/json"}
        if self._token:  # bytes of the environment stay what they are
            headers[b"authorization"] = b"Bearer " + self._token.encode("utf-8", "surrogateescape")
        if body is not None:
            headers[b"content-type"] = b"application/json"
        url = self._url + path
        if query:
            url += "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        content = None if body is None else encode_json(body)
        try:
            answer = await request(http, method, url, headers, content, self._seconds)
        except FetchError as error:
            raise self._unanswered(error) from error
        if not 200 <= answer.status < 300:
            raise KVStreamError(f"{self.name}: {self._refusal(answer)}")
        try:
            return msgspec.json.decode(answer.body or b"null", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise KVStreamError(
                f"{self.name}: its answer to {method} {path} is not that of {_WHAT}; correct the address, "
                f"or use the same version of kvstream on both sides"
            ) from error

    def _unanswered(self, error: FetchError) -> KVStreamError:
        """Return an error that says why a server has not answered, and what to do."""
        if error.failure is None:
            return KVStreamError(f"{self.name}: its answer is too long; is it {_WHAT}?")
        what_to_do = advice(error.failure.kind)
        return KVStreamError(
            f"{self.name}: {error.failure.words}" + (f"; {what_to_do}" if what_to_do else "")
        )

    def _refusal(self, answer: Answer) -> str:
        """Say why a server refuses, and what to do."""
        try:
            return msgspec.json.decode(answer.body, type=_Refusal).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        if answer.status == HTTPStatus.UNAUTHORIZED:
            if self._token:
                return f"it refuses the token; give the server's own by {self._how_token}"
            return f"it asks for a token; give it by {self._how_token}"
        if answer.status == HTTPStatus.MISDIRECTED_REQUEST:
            return "it does not serve that host name; ask for 127.0.0.1, or start the server with a token"
        try:
            named = f"{answer.status} {HTTPStatus(answer.status).phrase}"
        except ValueError:
            named = str(answer.status)
        return f"it answers {named}; check that the address is that of {_WHAT}, and not of a proxy"


class _Refusal(msgspec.Struct):
    """What the server says where it refuses."""

    error: str


def _shown(url: str) -> str:
    """Return the URL of a server as it may be shown, without a password in it.

    Raises:
        ConfigError: If it is no URL of a server.
    """
    try:
        parts = urlsplit(url)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        http_url(shown)
    except ValueError:
        pass
    else:
        if not parts.netloc.endswith(":"):
            return shown
    raise ConfigError(f"{without_password(url)!r} is no server; write http://HOST:PORT")


class Server(OptionGroup, frozen=True):
    """A running server."""

    panel: ClassVar[str] = "The server"

    server: Annotated[
        str,
        typer.Option(metavar="URL|:PORT", help="A running kvstream serve --http."),
    ] = "http://127.0.0.1:9109"
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Holds the server's token; also $KVSTREAM_TOKEN.", show_default=False
        ),
    ] = None

    def ask(self, method: str, path: str, kind: type[T], body: dict[str, Any] | None = None) -> T:
        """Return what the server answers.

        Raises:
            ConfigError: If the address or the token cannot be used.
            KVStreamError: If it does not answer, refuses, or is no server of ours.
            MissingExtraError: If ``kvstream[webhook]`` is not installed.
        """
        client = ServerClient(
            self.server, token_from(self.token_file), "--token-file or $KVSTREAM_TOKEN", _SECONDS
        )

        async def ask() -> T:
            async with await client.connect("asking a server", "webhook") as session:
                return await client.ask(session, method, path, kind, body=body)

        return anyio.run(ask)
