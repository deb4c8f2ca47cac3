"""JSON of objects that hold text from outside."""

from typing import Any

import msgspec

from kvstream.text.escape import for_unicode


def encode_json(value: Any) -> bytes:
    r"""Encode a value as JSON; lone surrogates in its text become ``\udcXX`` as characters.

    Examples:
        >>> encode_json({"source": "a\udcff"})
        b'{"source":"a\\\\udcff"}'
    """
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_clean(msgspec.to_builtins(value)))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return for_unicode(value)
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
