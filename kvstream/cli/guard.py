"""Options of commands that listen: who may connect, and how much each may send."""

import ssl
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from kvstream.cli.groups import OptionGroup
from kvstream.cli.tokens import TokenFile, token_from
from kvstream.cli.values import number
from kvstream.errors import ConfigError
from kvstream.events.codec import MAX_FRAME_BYTES
from kvstream.transport.receive_budget import DEFAULT_RECEIVE_BYTES
from kvstream.transport.tls import server_context

Insecure = Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without a token.")]


class Guard(OptionGroup, frozen=True):
    """Who may connect."""

    panel: ClassVar[str] = "Access"

    token_file: TokenFile = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE.pem", help="Certificate to serve TLS with.", show_default=False),
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Its private key.", show_default=False)
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem",
            help="Let in only clients with a certificate of one of these roots.",
            show_default=False,
        ),
    ] = None
    insecure: Insecure = False

    def token(self) -> str | None:
        """Return the token that clients must know; None without one.

        Raises:
            ConfigError: If it cannot be used.
        """
        return token_from(self.token_file)

    def tls(self) -> ssl.SSLContext | None:
        """Return the context that the options ask for; None without a certificate.

        Raises:
            ConfigError: If they are not complete, or a file cannot be used.
        """
        if self.tls_cert is not None and self.tls_key is not None:
            return server_context(self.tls_cert, self.tls_key, self.tls_client_ca)
        if (self.tls_cert, self.tls_key, self.tls_client_ca) != (None, None, None):
            raise ConfigError("--tls-cert and --tls-key are given together, --tls-client-ca with both")
        return None


class FrameLimits(OptionGroup, frozen=True):
    """How much producers may send."""

    panel: ClassVar[str] = "Limits"

    max_connections: Annotated[
        int,
        number(
            "count",
            "--max-connections",
            metavar="N",
            low=1,
            help="Producers connected at once, for each endpoint.",
            show_default=True,
        ),
    ] = 256
    max_frame_bytes: Annotated[
        int,
        number(
            "bytes",
            "--max-frame-bytes",
            metavar="SIZE",
            low=1024,
            high=MAX_FRAME_BYTES,
            help="Largest frame, in bytes.",
            show_default="64MiB",
        ),
    ] = MAX_FRAME_BYTES
    max_receive_bytes: Annotated[
        int,
        number(
            "bytes",
            "--max-receive-bytes",
            metavar="SIZE",
            low=1,
            help="Bytes received and not yet queued, of all connections together.",
            show_default="256MiB",
        ),
    ] = DEFAULT_RECEIVE_BYTES
