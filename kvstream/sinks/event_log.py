"""Frames to files or standard output in any format that holds them, plain or compressed."""

import gzip
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, Self, cast, get_args

import numpy as np

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.events.codec import encode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC, encode_record
from kvstream.events.sequence import RUNS
from kvstream.events.types import Malformed, Op
from kvstream.sinks.kv_events import KVEventEncoder
from kvstream.sinks.libcachesim import HEADER, csv_lines
from kvstream.sinks.lookups import LookupEncoder
from kvstream.sinks.mooncake import mooncake_row
from kvstream.sinks.output_file import is_special, naming
from kvstream.sources.compression import Decompressor
from kvstream.sources.wire_capture import WireMessage, encode_wire_message

__all__ = ["EventLogWriter"]

Format = Literal["jsonl", "kvlog", "wire", "mooncake", "libcachesim"]
"""``wire`` is a capture of what an engine would have published over ZMQ; the last two hold lookups only."""

LOOKUP_FORMATS: tuple[Format, ...] = ("mooncake", "libcachesim")

BINARY_FORMATS: tuple[Format, ...] = ("kvlog", "wire")

_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".kvlog": "kvlog",
    ".wire": "wire",
    ".csv": "libcachesim",
}


class Encoder(Protocol):
    """Encodes frames in one format."""

    def encode(self, frame: EventFrame) -> Iterable[bytes]:
        """Return what can be written once there is this frame.

        Raises:
            ConfigError: If the format cannot hold it.
        """

    def finish(self) -> Iterable[bytes]:
        """Return what is left at the end."""

    @property
    def left_out(self) -> int:
        """Return events that are not in what was written, as the format cannot say what is known of them."""


def format_of(path: str) -> Format | None:
    """Return the format that a file name's endings name, ``.gz`` and ``.zst`` aside; None if none."""
    suffixes = [s for s in Path(path).suffixes if s not in (".gz", ".zst")]
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def chosen_format(path: str, format: Format | None) -> Format:  # noqa: A002
    """Return the format to write ``path`` in: the given one, else as it is named, else jsonl for ``-``.

    Raises:
        ConfigError: If no format is given and the name does not show one, or there is no such format.
    """
    if format not in (None, *get_args(Format)):
        raise ConfigError(f"format must be one of {', '.join(get_args(Format))}, not {format!r}")
    chosen = format or format_of(path) or ("jsonl" if path == "-" else None)
    if chosen is None:
        raise ConfigError(f"{path}: cannot tell the format from the name; give --format")
    return chosen


Existing = Literal["replace", "append", "refuse"]
"""What is done with a file that exists."""


class EventLogWriter:
    """Writes frames to ``path`` (``-`` is standard output); compressed if it ends in .gz or .zst.

    Use it as a context manager. Without one, ``open`` or the first frame opens the file.

    Args:
        path: Where to.
        format: Format; by default as the file is named.
        existing: What is done with a file that exists. JSON lines and .kvlog can be appended to,
            compressed or not, a torn last line being ended before.
        block_tokens: Tokens in a block, for formats that have lengths of prompts.

    Raises:
        ConfigError: If no format is given and the name does not show one.
    """

    def __init__(
        self,
        path: str,
        format: Format | None = None,  # noqa: A002
        existing: Existing = "replace",
        block_tokens: int = 16,
    ) -> None:
        self._format = chosen_format(path, format)
        self._path, self._existing = path, existing
        self._name = "standard output" if path == "-" else path
        self._file: BinaryIO | None = None
        self._encoder = _encoder(self._format, block_tokens)
        self._restarts = _Restarts(is_said=self._format == "jsonl")

    def open(self) -> None:
        """Open the file, unless it has been opened.

        Raises:
            ConfigError: If the file cannot be appended to.
            FileExistsError: If the file exists and is to be refused.
            MissingExtraError: If writing zstd needs a package that is not installed.
            OSError: If the file cannot be written.
        """
        self._opened()

    def _opened(self) -> BinaryIO:
        if self._file is not None:
            return self._file
        path, held = self._path, None
        appends = self._existing == "append" and path != "-" and not is_special(path)
        if appends and os.path.isfile(path):
            held = inspected(path, self._format)
        with naming(self._name):
            file = _open(path, "ab" if held else "xb" if self._existing == "refuse" else "wb")
            try:
                if held is not None and self._format == "jsonl" and not held.ends_line:
                    file.write(b"\n")
                if self._format == "kvlog" and held is None:
                    file.write(MAGIC)
            except BaseException:
                if file is not sys.stdout.buffer:
                    file.close()
                raise
        self._file = file
        return file

    @property
    def left_out(self) -> int:
        """Return events that are not in what was written, as the format cannot say what is known of them."""
        return self._encoder.left_out

    def write(self, frame: EventFrame) -> int:
        """Write one frame; return how many bytes that were, before compression.

        Raises:
            ConfigError: If the format cannot hold it.
            OSError: If it cannot be written.
        """
        file = self._opened()
        with naming(self._name):
            return sum(
                file.write(piece)
                for each in (*self._restarts.before(frame), frame)
                for piece in self._encoder.encode(each)
            )

    def flush(self) -> None:
        """Hand what has been written to the system, where a killed process cannot lose it."""
        if self._file is not None:
            with naming(self._name):
                self._file.flush()

    def close(self) -> None:
        """Write what is left and buffered, and close the file, if it was opened."""
        file = self._file
        if file is None or file.closed:
            return
        with naming(self._name):
            try:
                for piece in self._encoder.finish():
                    file.write(piece)
            finally:
                if file is not sys.stdout.buffer:
                    file.close()
                else:
                    file.flush()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Restarts:
    """Has each restart of a source as a clear of its tiers, for JSON lines, which have no epochs.

    Args:
        is_said: Whether these are JSON lines.
    """

    def __init__(self, is_said: bool) -> None:
        self._is_said = is_said
        self._epochs: dict[str, deque[int]] = {}  # newest epochs of each source
        self._tiers: dict[str, set[str]] = {}

    def before(self, frame: EventFrame) -> list[EventFrame]:
        """Return what goes before a frame: clears, if its source has begun a new epoch."""
        if not self._is_said or not frame.epoch or not len(frame):
            return []
        tiers = self._tiers.setdefault(frame.source, set())
        epochs = self._epochs.setdefault(frame.source, deque(maxlen=RUNS))
        clears: list[EventFrame] = []
        if frame.epoch not in epochs:
            at = frame.ts.min(keepdims=True)
            none = np.zeros(1, np.int64)
            clears.extend(
                EventFrame(np.array([Op.CLEAR], np.uint8), none, at, frame.source, tier)
                for tier in sorted(tiers)
            )
            tiers.clear()
            epochs.append(frame.epoch)
        tiers.add(frame.tier)
        return clears


class _EachFrame:
    """Encodes each frame by itself."""

    left_out = 0

    def __init__(self, encode: Callable[[EventFrame], bytes]) -> None:
        self._encode = encode

    def encode(self, frame: EventFrame) -> Iterable[bytes]:
        return (self._encode(frame),)

    def finish(self) -> Iterable[bytes]:
        return ()


class _Wire:
    """Encodes frames as the messages that an engine would have published, numbered."""

    left_out = 0

    def __init__(self) -> None:
        self._batches = KVEventEncoder()
        self._messages = 0

    def encode(self, frame: EventFrame) -> Iterator[bytes]:
        for ts, payload in self._batches.batches(frame):
            yield encode_wire_message(WireMessage(ts, b"", self._messages.to_bytes(8, "big"), payload))
            self._messages += 1

    def finish(self) -> Iterable[bytes]:
        return ()


def _encoder(format: Format, block_tokens: int) -> Encoder:  # noqa: A002
    match format:
        case "jsonl":
            return _EachFrame(lambda frame: encode_lines(frame.to_events()))
        case "kvlog":
            return _EachFrame(encode_record)
        case "wire":
            return _Wire()
        case "mooncake":
            return LookupEncoder(partial(mooncake_row, block_tokens=block_tokens))
        case "libcachesim":
            return LookupEncoder(csv_lines, HEADER)


class RotatingWriter:
    """Writes parts ``NAME-0001.EXT``, ``NAME-0002.EXT`` and so on, or the one file if there are no bounds.

    No part takes the place of one that exists: the first is numbered after all that are there. A single file
    that exists is appended to. Use it as a context manager, or call ``open`` and ``close``.

    Args:
        path: Name of the whole.
        format: Format; by default as the file is named.
        most_bytes: Bytes in a part, about, before compression; None for no bound.
        most_seconds: Seconds between the first frame of a part and that of the next; None for no bound.
        force: Replace a single file that exists.
        keep: Newest parts that are kept, those of earlier recordings under that name included; None for all.
        most_kept_bytes: Bytes that all parts may have on disk together; the oldest are removed, never the one
            that is written. None for no bound.

    Attributes:
        paths: The files written, those that were removed again included.
        size: Bytes written, before compression.
        removed: Files removed.

    Raises:
        ConfigError: If one file is to be bounded that has no parts.
    """

    def __init__(
        self,
        path: str,
        format: Format | None = None,  # noqa: A002
        most_bytes: int | None = None,
        most_seconds: float | None = None,
        force: bool = False,
        keep: int | None = None,
        most_kept_bytes: int | None = None,
    ) -> None:
        if most_bytes is most_seconds is None and (keep, most_kept_bytes) != (None, None):
            raise ConfigError(f"{path} is one file, of which nothing can be removed: have it rotated")
        self._keep, self._most_kept_bytes = keep, most_kept_bytes
        self.removed = 0
        self.paths: list[str] = []
        self.size = 0
        self._path, self._format = path, format
        self._most_bytes, self._most_seconds = most_bytes, most_seconds
        self._force = force

    def open(self) -> None:
        """Open the first part.

        Raises:
            ConfigError: If no format is given and the name does not show one, or the file cannot be appended
                to.
            OSError: If the file cannot be written.
        """
        self._begin()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, frame: EventFrame) -> None:
        """Write one frame, into another part if the last is full."""
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
        """Hand what has been written to the system, and remove the parts that are too old to be kept."""
        self._writer.flush()
        self._remove_oldest()

    def close(self) -> None:
        """Write what is buffered, close the part, and remove those that are too old to be kept."""
        self._writer.close()
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        """Remove the oldest parts until those that are left are within the bounds."""
        if self._keep is None and self._most_kept_bytes is None:
            return
        parts = _parts(*_split(self._path))
        sizes = {path: size for path in parts if (size := _size(path)) is not None}
        kept, total = len(sizes), sum(sizes.values())
        for path, size in sizes.items():
            too_many = self._keep is not None and kept > self._keep
            too_large = self._most_kept_bytes is not None and total > self._most_kept_bytes
            if path == self.paths[-1] or not (too_many or too_large):
                return
            os.unlink(path)
            self.removed += 1
            kept, total = kept - 1, total - size

    def _begin(self) -> None:
        if self._most_bytes is None and self._most_seconds is None:
            path = self._path
            writer = EventLogWriter(path, self._format, "replace" if self._force else "append")
            writer.open()
            self._writer = writer
        else:
            path = self._open_part()
        self._begun, self._part_size = time.monotonic(), 0
        self.paths.append(path)

    def _open_part(self) -> str:
        """Open the part with the first number after all that there are; return its path."""
        folder, stem, endings = _split(self._path)
        parts = _parts(folder, stem, endings)
        number = 1 + (_number(parts[-1], stem, endings) if parts else 0)
        while True:
            path = os.path.join(folder, f"{stem}-{number:04}{endings}")
            writer = EventLogWriter(path, self._format, "refuse")
            try:
                writer.open()
            except FileExistsError:  # of another recording that began just now
                number += 1
            else:
                self._writer = writer
                return path


def _split(path: str) -> tuple[str, str, str]:
    """Return the folder of a file, its name up to the first dot, and the rest."""
    folder, name = os.path.split(path)
    stem, dot, endings = name.partition(".")
    return folder, stem, dot + endings


def _number(path: str, stem: str, endings: str) -> int:
    """Return the number of a part; 0 for what is none."""
    match = re.fullmatch(rf"{re.escape(stem)}-(\d{{4,9}}){re.escape(endings)}", os.path.basename(path))
    return 0 if match is None else int(match[1])


def _parts(folder: str, stem: str, endings: str) -> list[str]:
    """Return the paths of all parts that there are, by number."""
    numbers = {name: _number(name, stem, endings) for name in os.listdir(folder or ".")}
    return [os.path.join(folder, name) for name in sorted(numbers, key=lambda n: numbers[n]) if numbers[name]]


def _size(path: str) -> int | None:
    """Return the bytes of a file; None if it is gone."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


class _Held(NamedTuple):
    """The contents of a file that is appended to."""

    ends_line: bool


_BEGINNINGS: dict[Format, re.Pattern[bytes]] = {
    "jsonl": re.compile(rb"(\xef\xbb\xbf)?\s*(\{|\Z)"),
    "kvlog": re.compile(re.escape(MAGIC)),
}


def inspected(path: str, format: Format) -> _Held | None:  # noqa: A002
    """Look at a file that is to be appended to; None if it is empty.

    A compressed file is read whole: after one that ends too early nothing could be read.

    Raises:
        ConfigError: If it cannot be appended to.
        OSError: If it cannot be read.
    """
    if not os.path.getsize(path):
        return None
    if format not in _BEGINNINGS:
        raise ConfigError(f"{path} exists, and a .{format} file cannot be appended to; --force replaces it")
    plain = Decompressor(path)
    head = last = b""
    with open(path, "rb") as file:
        for piece in plain.read(file):
            if isinstance(piece, Malformed):
                raise ConfigError(
                    f"{path} exists and is damaged, so that it cannot be appended to: {piece.reason}"
                )
            head = (head + piece)[:1024] if len(head) < 1024 else head
            last = piece[-1:] or last
            if not plain.is_compressed:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)
                break
    if plain.is_compressed != path.endswith((".gz", ".zst")) or not _BEGINNINGS[format].match(head):
        raise ConfigError(f"{path} exists and holds something else than {format}; --force replaces it")
    return _Held(last in (b"\n", b""))


def _open(path: str, mode: str) -> BinaryIO:
    if path == "-":
        return sys.stdout.buffer
    if path.endswith(".gz"):
        raw = _open_plain(path, mode)
        # No name and no time in the header: the same events give the same bytes.
        return cast("BinaryIO", _Compressed(gzip.GzipFile("", "wb", fileobj=raw, mtime=0), raw))
    if path.endswith(".zst"):
        try:
            import zstandard
        except ImportError:
            raise MissingExtraError("writing zstd", "zstd") from None
        raw = _open_plain(path, mode)
        compressor = zstandard.ZstdCompressor().stream_writer(raw, closefd=False)
        return cast("BinaryIO", _Compressed(compressor, raw))
    return _open_plain(path, mode)


def _open_plain(path: str, mode: str) -> BinaryIO:
    return cast("BinaryIO", open(path, mode))


class _Compressed:
    """A compressed file, which is closed even if its end cannot be written.

    Args:
        compressor: Writes to ``raw``, and leaves it open.
        raw: The file.
    """

    def __init__(self, compressor: Any, raw: BinaryIO) -> None:
        self._raw = raw
        self.write, self.flush = compressor.write, compressor.flush
        self._compressor = compressor

    @property
    def closed(self) -> bool:
        return self._raw.closed

    def close(self) -> None:
        try:
            self._compressor.close()
        finally:
            self._raw.close()
