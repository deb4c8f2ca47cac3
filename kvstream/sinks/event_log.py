"""Frames to files or standard output in any format that holds them, plain or compressed."""

import gzip
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, cast

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.events.codec import encode_frame, encode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.log import LogWriter
from kvstream.sinks.kv_events import KVEventEncoder
from kvstream.sources.wire_capture import WireMessage, encode_wire_message

Format = Literal["jsonl", "kvlog", "frames", "wire"]
"""``wire`` is a capture of what an engine would have published over ZMQ."""

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".kvlog": "kvlog",
    ".frames": "frames",
    ".wire": "wire",
}


def format_of(path: str) -> Format | None:
    """The format that a file name's endings name, ``.gz`` and ``.zst`` aside; None if none."""
    suffixes = [s for s in Path(path).suffixes if s not in (".gz", ".zst")]
    return _FORMATS.get(suffixes[-1]) if suffixes else None


class EventLogWriter:
    """Writes frames to ``path`` (``-`` is standard output); compressed if it ends in .gz or .zst.

    Raises:
        ConfigError: If no format is given and the name does not tell one.
        MissingExtraError: If writing zstd needs a package that is not installed.
        OSError: If the file cannot be written.
    """

    def __init__(self, path: str, format: Format | None = None) -> None:  # noqa: A002
        chosen = format or format_of(path) or ("jsonl" if path == "-" else None)
        if chosen is None:
            raise ConfigError(f"{path}: cannot tell the format from the name; give --format")
        self._format = chosen
        self._file = _open(path)
        self._log = LogWriter(self._file) if chosen == "kvlog" else None
        self._batches = KVEventEncoder()
        self._messages = 0

    def write(self, frame: EventFrame) -> int:
        """Writes one frame; returns how many bytes that were, before compression.

        Raises:
            ConfigError: If the format cannot hold it.
        """
        if self._log is not None:
            return self._log.write(frame)
        if self._format == "frames":
            return self._file.write(encode_frame(frame))
        if self._format == "wire":
            return sum(self._file.write(message) for message in self._wire_messages(frame))
        return self._file.write(encode_lines(frame.to_events()))

    def _wire_messages(self, frame: EventFrame) -> Iterator[bytes]:
        for ts, payload in self._batches.batches(frame):
            yield encode_wire_message(WireMessage(ts, b"", self._messages.to_bytes(8, "big"), payload))
            self._messages += 1

    def flush(self) -> None:
        """Hands what has been written to the system, where a killed process cannot lose it."""
        self._file.flush()

    def close(self) -> None:
        """Writes what is buffered and closes the file."""
        if self._file is not sys.stdout.buffer:
            self._file.close()
        else:
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class RotatingWriter:
    """Writes parts ``NAME-0001.EXT``, ``NAME-0002.EXT`` and so on, or the one file if there are no bounds.

    Args:
        path: Name of the whole.
        format: Format; by default as the file is named.
        most_bytes: Bytes in a part, about, before compression; None for no bound.
        most_seconds: Seconds between the first frame of a part and that of the next; None for no bound.
    """

    def __init__(
        self,
        path: str,
        format: Format | None = None,  # noqa: A002
        most_bytes: int | None = None,
        most_seconds: float | None = None,
    ) -> None:
        self.paths: list[str] = []
        self.size = 0
        self._path, self._format = path, format
        self._most_bytes, self._most_seconds = most_bytes, most_seconds
        self._begin()

    def write(self, frame: EventFrame) -> None:
        """Writes one frame, into another part if the last is full."""
        now = time.monotonic()
        too_large = self._most_bytes is not None and self._part_size >= self._most_bytes
        too_old = self._most_seconds is not None and now - self._begun >= self._most_seconds
        if self._part_size and (too_large or too_old):
            self._writer.close()
            self._begin()
        size = self._writer.write(frame)
        self._part_size += size
        self.size += size

    def flush(self) -> None:
        """Hands what has been written to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is buffered and closes the part."""
        self._writer.close()

    def _begin(self) -> None:
        self._begun, self._part_size = time.monotonic(), 0
        path = self._path
        if self._most_bytes is not None or self._most_seconds is not None:
            folder, name = os.path.split(path)
            stem, dot, endings = name.partition(".")
            path = os.path.join(folder, f"{stem}-{len(self.paths) + 1:04}{dot}{endings}")
        self._writer = EventLogWriter(path, self._format)
        self.paths.append(path)


def _open(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdout.buffer
    if path.endswith(".gz"):
        # No name and no time in the header: the same events give the same bytes.
        raw = Path(path).open("wb")  # noqa: SIM115
        return cast("BinaryIO", _Gzip(raw))
    if path.endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise MissingExtraError("writing zstd", "zstd") from None
        return cast("BinaryIO", zstandard.open(path, "wb"))
    return Path(path).open("wb")


class _Gzip(gzip.GzipFile):
    """Gzip that closes the file under it."""

    def __init__(self, raw: io.BufferedWriter) -> None:
        self._raw: Any = raw
        super().__init__(filename="", mode="wb", fileobj=raw, mtime=0)

    def close(self) -> None:
        super().close()
        self._raw.close()
