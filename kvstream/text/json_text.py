"""JSON of what holds text from outside: always UTF-8."""

from typing import Any

import msgspec

from kvstream.text.escape import for_unicode

_encoder = msgspec.json.Encoder()


def json_text(value: Any) -> bytes:
    r"""Encode a value as JSON; lone surrogates in its text become ``\udcXX``, as no encoding holds them.

    Example:
        >>> json_text({"source": "a\udcff"})
        b'{"source":"a\\\\udcff"}'
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_in_unicode(msgspec.to_builtins(value)))


def _in_unicode(value: Any) -> Any:
    if isinstance(value, str):
        return for_unicode(value)
    if isinstance(value, dict):
        return {_in_unicode(key): _in_unicode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_unicode(item) for item in value]
    return value
