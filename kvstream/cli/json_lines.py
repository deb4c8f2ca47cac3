"""Results as JSON lines: alerts, summaries, evictions and malformed input, each with its ``type``."""

from typing import Protocol

import msgspec

from kvstream.stream import KVStream
from kvstream.text.json import encode_json


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

    def watch(self, stream: KVStream) -> None:
        """Keep nothing of the stream, as only results are written."""
