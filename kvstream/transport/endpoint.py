"""Endpoint: where a stream listens for producers in other processes."""

import ipaddress
from typing import Self
from urllib.parse import urlsplit

import msgspec

from kvstream.errors import ConfigError
from kvstream.text.addresses import without_password

__all__ = ["Endpoint"]


class Endpoint(msgspec.Struct, frozen=True):
    """Where a stream listens: ``unix:PATH``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.

    Attributes:
        path: Path of a Unix socket; empty for TCP.
        host: Host name or address; empty for a Unix socket.
        port: TCP port.
        tls: Whether connections are encrypted by TLS.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the endpoint that a text names.

        Raises:
            ConfigError: If it names none.
        """
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=text.removeprefix("unix:").removeprefix("//"))
        try:
            parts = urlsplit(text)
            known = parts.scheme in ("tcp", "tls") and not parts.path and parts.username is None
            if known and parts.hostname and parts.port is not None:
                return cls(host=parts.hostname, port=parts.port, tls=parts.scheme == "tls")
        except ValueError:
            pass
        shown = without_password(text)
        raise ConfigError(f"{shown!r} is no endpoint; write unix:PATH, tcp://HOST:PORT or tls://HOST:PORT")

    @classmethod
    def parse_address(cls, text: str) -> Self:
        """Return the endpoint of an HTTP server, written ``HOST:PORT``, or ``:PORT`` for 127.0.0.1.

        Raises:
            ConfigError: If it is none.
        """
        try:
            return cls.parse(f"tcp://127.0.0.1{text}" if text.startswith(":") else f"tcp://{text}")
        except ConfigError:
            shown = without_password(text)
            raise ConfigError(f"{shown!r} is no address to serve at; write HOST:PORT") from None

    def require_guard(self, named: str, token: str | None, insecure: bool) -> None:
        """Raise if other machines could connect here without a token.

        Args:
            named: Name of the endpoint in the message.
            token: Token that clients must send; None without one.
            insecure: Allow it without a token.

        Raises:
            ConfigError: If they could.
        """
        if not self.is_local and not token and not insecure:
            raise ConfigError(
                f"{named} can be reached from other machines: set a token, or allow it with --insecure"
            )

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Return whether only processes of this machine can connect."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_exposed(self) -> bool:
        """Return whether what is sent here can be read on a network."""
        return not self.is_local and not self.tls
