"""Addresses as people type them: checked, and shown without a password that stands in them."""

import re
from urllib.parse import SplitResult, urlsplit

LAST_PORT = 65_535

# Each takes in all that a name and password before a host may be part of, so that no text is searched twice.
_BEFORE_HOST = (
    re.compile(r"^[^\s/?#:]*:[^\s/?#]*@"),
    re.compile(r"(?<=://)[^\s?#]+"),
    # A password with ? or # in it, where no port stands.
    re.compile(r"(?<=://)[^\s/?#:@]*:(?!\d+(?:[/?#]|$))\S+"),
)


def without_password(text: str) -> str:
    """Return an address with ``…`` in place of the name and password before its host.

    Examples:
        >>> without_password("tcp://user:pass@127.0.0.1:9")
        'tcp://…@127.0.0.1:9'
    """
    for pattern in _BEFORE_HOST:
        text = pattern.sub(_without_secret, text)
    return text


def _without_secret(found: re.Match[str]) -> str:
    _, at, host = found[0].rpartition("@")
    return f"…@{host}" if at else host


def http_url(url: str) -> SplitResult:
    """Return the parts of an ``http://`` or ``https://`` URL that names a host, and no password.

    Raises:
        ValueError: If it is none; says what is wrong with it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it begins with neither http:// nor https://")
    if parts.username is not None:  # it would be shown wherever the address is
        raise ValueError("a name and password cannot be given")
    if not parts.hostname:
        raise ValueError("it names no host")
    try:
        port = parts.port
    except ValueError:  # which says the port, and that may be a part of a password
        raise ValueError(f"its port is not one of 1 to {LAST_PORT}") from None
    if port == 0:
        raise ValueError("0 is no port")
    return parts


def wrong_port(port: str, first: int = 1) -> str:
    """Return what is wrong with a port; empty if nothing.

    Args:
        port: The port, as it was typed.
        first: The lowest port; 0 where that stands for any that is free.
    """
    if port.isascii() and port.isdecimal() and len(port) <= 5 and first <= int(port) <= LAST_PORT:
        return ""
    return f"{port} is no port; write 1 to {LAST_PORT}"
