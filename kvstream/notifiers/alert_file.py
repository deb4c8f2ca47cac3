"""Alerts to a file, as JSON lines."""

import os
from pathlib import Path

from anyio import to_thread

from kvstream.alerts.types import CacheAlert
from kvstream.errors import UndeliveredError
from kvstream.subscriptions import Delivery
from kvstream.text.json import encode_json

__all__ = ["AlertFile"]


class AlertFile(Delivery):
    """A handler that appends alerts to a file, one a line.

    What stands in the file is kept. A line that was cut short, by this process or one before it, is ended
    before the next is written. When the disk is full, alerts wait in the stream in their newest state.

    Args:
        path: The file; made if there is none.

    Attributes:
        destination: The file's name.

    Raises:
        OSError: If the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.open("ab").close()  # fails now rather than with the first alert
        self._path = path
        self.destination = f"file {path}"

    async def deliver(self, item: CacheAlert) -> None:
        """Append an alert.

        Raises:
            UndeliveredError: If the file cannot be written now.
        """
        await to_thread.run_sync(self._append, encode_json(item) + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                if self._is_torn():
                    line = b"\n" + line
                written = 0
                while written < len(line):
                    written += os.write(file.fileno(), line[written:])
        except OSError as error:
            raise UndeliveredError(error.strerror or str(error)) from error

    def _is_torn(self) -> bool:
        """Return whether the file ends within a line; what is no regular file never does."""
        if not self._path.is_file():
            return False
        with self._path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
