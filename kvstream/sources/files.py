"""Event logs and standard input as frames: any format, whole or as they grow."""

import os
import select
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
from anyio import to_thread

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.reader import EventReader

STDIN = "-"
Items = list[EventFrame | Malformed]

_CHUNK = 4 * 1024 * 1024
_POLL_SECONDS = 0.2


async def read_events(
    path: str,
    *,
    follow: bool = False,
    capacity: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> AsyncIterator[EventFrame | Malformed]:
    """Yields the frames of a file, or of standard input for ``-``, and what was malformed.

    Args:
        path: A file, or ``-``.
        follow: Go on at the end of a file as it grows; starts over when it is replaced or cut.
        capacity: Blocks of the simulated cache that a hash trace runs through.
        on_bytes: Told how many bytes each read brought.

    Raises:
        OSError: If the file cannot be read.
        ConfigError: If it is a hash trace and there is no ``capacity``.
        UnknownFormatError: If it is in no known format.
        MissingExtraError: If reading it needs a package that is not installed.
    """
    while True:
        reader = EventReader(path, capacity)
        async for size, items in _pieces(path, follow, reader):
            if on_bytes is not None:
                on_bytes(size)
            for item in items:
                yield item
        for item in reader.finish():
            yield item
        if not follow or path == STDIN:
            return


async def _pieces(path: str, follow: bool, reader: EventReader) -> AsyncIterator[tuple[int, Items]]:
    """Bytes read and what they held, to the end of input; with ``follow``, until the file is replaced or cut.

    Reading and decoding in one call of a worker thread keeps the event loop free for consumers and
    signals, at one hand-over a piece.
    """

    def read() -> tuple[int, Items]:
        data = os.read(fd, _CHUNK)
        if waits and data:  # a pipe gives little at once
            more = bytearray(data)
            while len(more) < _CHUNK and select.select([fd], [], [], 0)[0] and (data := os.read(fd, _CHUNK)):
                more += data
            data = bytes(more)
        return len(data), list(reader.feed(data)) if data else []

    fd = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY)
    try:
        mode = os.fstat(fd).st_mode
        waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))
        position = 0
        while True:
            if waits:
                # Waiting for readiness, unlike a read in a thread, can be cancelled.
                await anyio.wait_readable(fd)
            size, items = await to_thread.run_sync(read)
            position += size
            if size:
                yield size, items
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
