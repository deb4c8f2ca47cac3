"""Results as JSON lines: alerts, summaries, evictions and malformed input, each with its ``type``."""

from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from kvstream.sources.zmq_events import KVEventSubscriber
from kvstream.stream import KVStream


class JsonLines:
    """Writes each result as one line at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def show(self, result: msgspec.Struct) -> None:
        """Writes one result."""
        self._file.write(self._encoder.encode(result) + b"\n")
        self._file.flush()

    def read(self, count: int) -> None:
        """Progress is not written."""

    def refresh(self) -> None:
        """Lines stay as they are."""

    def watch(self, stream: KVStream, subscribers: Sequence[KVEventSubscriber]) -> None:
        """What is shown is all it needs."""
