"""Frames to a file or standard output as JSON lines, .kvlog or raw frames, plain or compressed."""

import gzip
import io
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, cast

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.events.codec import encode_frame, encode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.log import LogWriter

Format = Literal["jsonl", "kvlog", "frames"]
_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".kvlog": "kvlog", ".frames": "frames"}


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

    def write(self, frame: EventFrame) -> None:
        """Writes one frame."""
        if self._log is not None:
            self._log.write(frame)
        elif self._format == "frames":
            self._file.write(encode_frame(frame))
        else:
            self._file.write(encode_lines(frame.to_events()))

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
