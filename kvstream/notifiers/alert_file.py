"""Alerts to a file, as JSON lines."""

import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

from anyio import to_thread

from kvstream.alerts.types import CacheAlert
from kvstream.errors import UndeliveredError
from kvstream.subscriptions.handler import Delivery
from kvstream.text.json import encode_json

__all__ = ["AlertFile"]

_KEPT = 5


class AlertFile(Delivery):
    """A handler that appends alerts to a file, one a line.

    An existing file is kept. If its last line was cut short, by this process or an earlier one, the line is
    ended before the next is written; in a pipe or a file that may not be read, only if this process cut it.
    If the disk is full, or a pipe is full or has no reader, alerts wait in the stream in their newest state.

    Args:
        path: The file, created if it does not exist.
        most_bytes: Largest size of the file, in bytes. Before it would be exceeded, the file becomes
            ``PATH.1``, the former ``PATH.1`` becomes ``PATH.2``, and so on. None for no bound. Only regular
            files are rotated.
        keep: How many earlier files are kept.

    Attributes:
        destination: The file's name.
    """

    def __init__(self, path: Path, most_bytes: int | None = None, keep: int = _KEPT) -> None:
        self._most_bytes, self._keep = most_bytes, keep
        self._path, self._is_cut = path, False
        self.destination = f"file {path}"

    def prepare(self) -> None:
        """Create the file if there is none, so that it fails now rather than with the first alert.

        Raises:
            OSError: If the file cannot be written.
        """
        self._open().close()

    async def deliver(self, item: CacheAlert) -> None:
        """Append an alert.

        Raises:
            UndeliveredError: If the file cannot be written now.
        """
        await to_thread.run_sync(self._append, encode_json(item) + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            self._rotate(len(line))
            with self._open() as file:
                if self._is_torn():
                    line = b"\n" + line
                written = 0
                try:
                    while written < len(line):
                        written += os.write(file.fileno(), line[written:])
                finally:
                    if written:
                        self._is_cut = line[written - 1 : written] != b"\n"
        except OSError as error:
            raise UndeliveredError(error.strerror or str(error)) from error

    def _open(self) -> FileIO:
        """Open the file without waiting for the reader of a pipe, as such a wait might never end."""
        return FileIO(
            self._path, "ab", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK, 0o666)
        )

    def _rotate(self, more: int) -> None:
        """Put the file aside if ``more`` bytes have no room in it."""
        if self._most_bytes is None or not self._path.is_file():
            return
        size = self._path.stat().st_size
        if not size or size + more <= self._most_bytes:
            return
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")

    def _is_torn(self) -> bool:
        """Return whether the file ends within a line; if it cannot be read, whether the last alert does."""
        if not self._path.is_file():
            return self._is_cut
        try:
            file = self._path.open("rb")
        except PermissionError:
            return self._is_cut
        with file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
