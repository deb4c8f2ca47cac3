"""Addresses as people type them: checked, and shown without a password that stands in them."""

import re
from urllib.parse import SplitResult, urlsplit

_SECRET = re.compile(r"(?<=://)[^\s?#]*@|^[^\s/?#]*:[^\s/?#]*@")


def without_password(text: str) -> str:
    """Return an address with ``…`` in place of the name and password before its host.

    Examples:
        >>> without_password("tcp://user:pass@127.0.0.1:9")
        'tcp://…@127.0.0.1:9'
    """
    return _SECRET.sub("…@", text)


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
    if parts.port == 0:
        raise ValueError("0 is no port")
    return parts
