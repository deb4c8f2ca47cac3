"""Results as JSON lines: alerts, summaries, evictions and malformed input, each with its ``type``."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from kvstream.sources.zmq_events import KVEventSubscriber
from kvstream.stream import KVStream
from kvstream.text.escape import for_unicode

_encoder = msgspec.json.Encoder()


def encode_json(value: Any) -> bytes:
    r"""Encode a Struct or built-in value as JSON; lone surrogates in it as ``\udcXX``.

    Example:
        >>> encode_json({"path": "a\udcff"})
        b'{"path":"a\\\\udcff"}'
    """
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:  # a file name, or a name that a program gave
        return _encoder.encode(_without_surrogates(msgspec.to_builtins(value)))


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return for_unicode(value)
        case dict():
            return {_without_surrogates(key): _without_surrogates(each) for key, each in value.items()}
        case list() | tuple():
            return [_without_surrogates(each) for each in value]
    return value


class LineFile(Protocol):
    """What lines are written to: a binary file, or a ``PatientFile``."""

    def write(self, data: bytes, /) -> int:
        """Take a line."""

    def flush(self) -> None:
        """Hand over what was taken."""


class JsonLines:
    """Writes each result as one line at once.

    Args:
        file: Where to.
    """

    def __init__(self, file: LineFile) -> None:
        self._file = file

    def show(self, result: msgspec.Struct) -> None:
        """Write one result.

        Raises:
            OSError: If it cannot be written.
        """
        self._file.write(encode_json(result) + b"\n")
        self._file.flush()

    def read(self, count: int) -> None:
        """Progress is not written."""

    def refresh(self) -> None:
        """Write what has waited for room."""
        self._file.flush()

    def watch(self, stream: KVStream, subscribers: Sequence[KVEventSubscriber]) -> None:
        """What is shown is all it needs."""
