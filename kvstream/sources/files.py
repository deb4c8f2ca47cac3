"""Event logs and standard input as frames: any format, whole or as they grow."""

import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
from anyio import to_thread

from kvstream.events.frame import EventFrame
from kvstream.events.reader import EventReader
from kvstream.events.types import Malformed

STDIN = "-"
_CHUNK = 1024 * 1024
_POLL_SECONDS = 0.2


async def read_events(
    path: str, *, follow: bool = False, on_bytes: Callable[[int], None] | None = None
) -> AsyncIterator[EventFrame | Malformed]:
    """Yields the frames of a file, or of standard input for ``-``, and what was malformed.

    Args:
        path: A file, or ``-``.
        follow: Go on at the end of a file as it grows; starts over when it is replaced or cut.
        on_bytes: Told how many bytes each read brought.

    Raises:
        OSError: If the file cannot be read.
        UnknownFormatError: If it is in no known format.
        MissingExtraError: If reading it needs a package that is not installed.
    """
    while True:
        reader = EventReader(path)
        async for chunk in _chunks(path, follow):
            if on_bytes is not None:
                on_bytes(len(chunk))
            # Decoding in a worker thread keeps the event loop free for consumers and signals.
            for item in await to_thread.run_sync(_decode, reader, chunk):
                yield item
        for item in reader.finish():
            yield item
        if not follow or path == STDIN:
            return


def _decode(reader: EventReader, chunk: bytes) -> list[EventFrame | Malformed]:
    return list(reader.feed(chunk))


async def _chunks(path: str, follow: bool) -> AsyncIterator[bytes]:
    """Bytes until the end of input; with ``follow``, until the file is replaced or cut."""
    fd = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY)
    try:
        mode = os.fstat(fd).st_mode
        waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))
        position = 0
        while True:
            if waits:
                # Waiting for readiness, unlike a read in a thread, can be cancelled.
                await anyio.wait_readable(fd)
                data = os.read(fd, _CHUNK)
            else:
                data = await to_thread.run_sync(os.read, fd, _CHUNK)
            position += len(data)
            if data:
                yield data
            elif follow and not waits:
                await anyio.sleep(_POLL_SECONDS)
                if _replaced(fd, path, position):
                    return
            else:
                return
    finally:
        if path != STDIN:
            os.close(fd)


def _replaced(fd: int, path: str, position: int) -> bool:
    try:
        now = Path(path).stat()
    except FileNotFoundError:
        return False  # between the removal and the new file
    return now.st_size < position or now.st_ino != os.fstat(fd).st_ino
