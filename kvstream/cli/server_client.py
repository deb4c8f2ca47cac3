"""Asking a running ``kvstream serve --http``: the options that name it, and its answers."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import typer

from kvstream.cli.groups import OptionGroup
from kvstream.cli.tokens import token_from
from kvstream.errors import ConfigError, KVStreamError, MissingExtraError
from kvstream.text.json import encode_json

_TIMEOUT_SECONDS = 10.0


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

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Return what the server answers.

        Raises:
            ConfigError: If the address or the token cannot be used.
            KVStreamError: If it does not answer, or refuses.
            MissingExtraError: If ``kvstream[webhook]`` is not installed.
        """
        try:
            import httpx2
        except ImportError:
            raise MissingExtraError("asking a server", "webhook") from None
        server = (f"http://127.0.0.1{self.server}" if self.server.startswith(":") else self.server).rstrip(
            "/"
        )
        if not re.match(r"https?://[^/]", server):
            raise ConfigError(f"{self.server!r} is no server; write http://HOST:PORT")
        token = token_from(self.token_file)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            answer = httpx2.request(
                method,
                server + path,
                headers=headers,
                content=None if body is None else encode_json(body),
                timeout=_TIMEOUT_SECONDS,
            )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise KVStreamError(f"{server}: {str(error) or type(error).__name__}") from error
        if answer.status_code == 401:
            raise KVStreamError(f"{server} asks for a token: --token-file or $KVSTREAM_TOKEN")
        if not answer.is_success:
            raise KVStreamError(f"{server}: {_why(bytes(answer.content), answer.status_code)}")
        return bytes(answer.content)


class _Refusal(msgspec.Struct):
    """What the server says where it refuses."""

    error: str


def _why(body: bytes, status: int) -> str:
    try:
        return msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"it answers {status}; is it kvstream serve --http?"
