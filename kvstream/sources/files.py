"""Event logs and standard input as frames: any format, whole or as they grow."""

import errno
import logging
import os
import select
import stat
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import NamedTuple, Self

import anyio
from anyio import to_thread

from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC
from kvstream.events.position import Place
from kvstream.events.types import Malformed
from kvstream.sources.formats import OnFormat
from kvstream.sources.options import ReadOptions, TimeUnit
from kvstream.sources.reader import EventReader
from kvstream.sources.rotation import Rotation, place_check
from kvstream.state.resumption import InputMarker
from kvstream.text.escape import for_terminal

__all__ = ["read_events"]

STDIN = "-"
Items = list[EventFrame | Malformed]

_CHUNK = 4 * 1024 * 1024
_POLL_SECONDS = 0.2
_QUIET_POLLS = 3  # without growth, after which a renamed file is taken to be complete
_PATIENCE_SECONDS = 5.0
_TAIL_BYTES = 64
_GONE = "the file that was read before the restart is gone or was cut: what was added since then is lost"
# What one hand-over from the reading thread holds at most, about.
_MOST_ITEMS = 1024
_MOST_EVENTS = 262_144
_MOST_SECONDS = 0.05

logger = logging.getLogger("kvstream")


def read_events(
    path: str,
    *,
    follow: bool = False,
    capacity: int | None = None,
    time_unit: TimeUnit | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> AsyncIterator[EventFrame | Malformed]:
    """Yield the frames of a file, or of standard input for ``-``, and what was malformed.

    A named pipe is read until its last writer closes it, or for ever with ``follow``. If a followed file is
    renamed, it is read to its end, then the files that replaced it meanwhile, if their names show it
    (``NAME.1``), then the new one. A truncated file is read from its start again, and reported as a malformed
    piece, as what was written before and not yet read is lost.

    Args:
        path: A file, or ``-``.
        follow: Wait for more at the end of a file, also when it is replaced or truncated.
        capacity: Blocks of the simulated cache that a hash trace runs through.
        time_unit: Unit of the times in a hash trace; by default the one that its format has.
        on_bytes: Called with the number of bytes that each read brought.

    Raises:
        OSError: If the file cannot be read.
        ConfigError: If it is a hash trace and no capacity was given, or there is no such unit of time.
        UnknownFormatError: If it is in no known format.
        UnreadableInputError: At its end, if nothing or nearly nothing of it could be read.
        MissingExtraError: If reading it needs a package that is not installed.
    """
    return read_input(path, follow, ReadOptions(capacity=capacity, time_unit=time_unit), on_bytes)


async def read_input(
    path: str,
    follow: bool = False,
    options: ReadOptions | None = None,
    on_bytes: Callable[[int], None] | None = None,
    on_format: OnFormat | None = None,
    marker: InputMarker | None = None,
    on_open: Callable[[], None] | None = None,
) -> AsyncGenerator[EventFrame | Malformed, None]:
    """As ``read_events``; call ``on_format`` with the format of its lines once they have shown it.

    The frames of a file that is followed are marked by ``marker``, and begin where it says. ``on_open`` is
    called once the input is open.
    """
    if path != STDIN and follow and not waits(os.stat(path).st_mode):
        async with aclosing(_followed(path, options, on_bytes, on_format, marker, on_open)) as followed:
            async for items in followed:
                for item in items:
                    yield item
        return
    file = _OpenFile.open(path, options, follow, on_format)
    try:
        if on_open is not None:
            on_open()
        async for items in file.read(on_bytes):
            for item in items:
                yield item
        for item in await file.finish():
            yield item
    finally:
        file.close()
    file.reader.verify()
    if not file.reader.events and not file.reader.malformed:
        logger.warning("%s: no events%s", for_terminal(path), "" if file.position else ", as it is empty")


async def _followed(
    path: str,
    options: ReadOptions | None,
    on_bytes: Callable[[int], None] | None,
    on_format: OnFormat | None,
    marker: InputMarker | None,
    on_open: Callable[[], None] | None,
) -> AsyncGenerator[Items, None]:
    """Yield the frames of a file and of the files that replace it, without end."""
    start = None if marker is None else marker.start
    rotation = Rotation(path)
    if start is None:  # otherwise those that are there may have come since
        rotation.leave_out_present()
    found = path if start is None else await to_thread.run_sync(rotation.find, start)
    file = _OpenFile.open(found or path, options, True, on_format, marker)
    try:
        if on_open is not None:
            on_open()
        if start is not None and found is not None:
            file.begin_at(start)
        elif start is not None:
            yield [Malformed(path, "byte", start.at, _GONE)]
            names = rotation.since(start, os.fstat(file.descriptor))
            file.life = start.life + len(names) + 1
            async with aclosing(_rotated(names, options, rotation, on_bytes, marker, start.life)) as rotated:
                async for items in rotated:
                    yield items
        while True:
            quiet_polls = 0
            while quiet_polls < _QUIET_POLLS:
                async for items in file.read(on_bytes):
                    quiet_polls = 0
                    yield items
                await anyio.sleep(_POLL_SECONDS)
                if file.is_cut():
                    yield await file.begin_again()
                elif rotation.has_replaced(file.descriptor):
                    quiet_polls += 1  # whoever writes it may not know yet that it was renamed
            yield await file.finish()
            last = rotation.finish(file.descriptor)
            life = file.life
            # Opened before its siblings are looked for, so that it cannot become one of them unseen.
            before, file = file, await _opened_again(path, options, on_format, marker)
            before.close()
            names = rotation.between(last, os.fstat(file.descriptor))
            file.life = life + len(names) + 1
            async with aclosing(_rotated(names, options, rotation, on_bytes, marker, life)) as rotated:
                async for items in rotated:
                    yield items
    finally:
        file.close()


async def _rotated(
    names: Sequence[str],
    options: ReadOptions | None,
    rotation: Rotation,
    on_bytes: Callable[[int], None] | None,
    marker: InputMarker | None,
    life: int,
) -> AsyncGenerator[Items, None]:
    """Return frames of files that were rotated between two polls, except those that were removed."""
    for number, name in enumerate(names, life + 1):
        try:
            file = _OpenFile.open(name, options, marker=marker)
        except FileNotFoundError:
            continue
        try:
            file.life = number
            async for items in file.read(on_bytes):
                yield items
            yield await file.finish()
            rotation.finish(file.descriptor)
        finally:
            file.close()


async def _opened_again(
    path: str, options: ReadOptions | None, on_format: OnFormat | None, marker: InputMarker | None
) -> "_OpenFile":
    """Return the file that took the place of another, once it can be opened."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _OpenFile.open(path, options, True, on_format, marker)
        except FileNotFoundError:
            pass
        except OSError:
            if time.monotonic() > end:
                raise
        await anyio.sleep(_POLL_SECONDS)


def waits(mode: int) -> bool:
    """Return whether reading can wait for a writer."""
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _Opened(NamedTuple):
    """Descriptors of an input.

    Attributes:
        descriptor: What it is read by.
        writer: Keeps a named pipe from ending; None for others.
        waits: Whether reading can wait for a writer.
    """

    descriptor: int
    writer: int | None
    waits: bool


def _opened(path: str, follow: bool) -> _Opened:
    """Open an input; a named pipe that is followed gets a writer, as long as there is one it has no end.

    Raises:
        OSError: If it cannot be read.
    """
    if path == STDIN:
        if sys.stdin is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
        descriptor = sys.stdin.fileno()
    else:
        # Opening a pipe must not wait for its writer, where no signal could interrupt it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        is_waiting = waits(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor))
        keeps_open = is_waiting and follow and path != STDIN
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK) if keeps_open else None
    except BaseException:
        if path != STDIN:
            os.close(descriptor)
        raise
    return _Opened(descriptor, writer, is_waiting)


class _OpenFile:
    """An open input: reads and decodes it in a worker thread, a bounded part at a time.

    Reading and decoding in one call keeps the event loop free for consumers and signals. However much some
    compressed bytes hold, a call ends after 50 ms, 1,024 items or some 262,144 events.

    Args:
        path: A file, or ``-``.
        opened: Its descriptors.
        options: How to read.
        follow: It may grow and be cut; a named pipe goes on when the last of its writers has left.
        on_format: Called with the format of its lines once they show it.
        marker: Marks its frames.

    Attributes:
        descriptor: What it is read by.
        position: Bytes from its start up to which it was read.
        life: Which of the files that followed each other it is.
    """

    def __init__(
        self,
        path: str,
        opened: _Opened,
        options: ReadOptions | None,
        follow: bool,
        on_format: OnFormat | None,
        marker: InputMarker | None,
    ) -> None:
        self.descriptor, self._writer, self._waits = opened
        self.reader = EventReader(path, options, on_format)
        self.position = self.life = 0
        self._marker = marker
        self._start = 0  # where the reader began
        self._path, self._options, self._follow, self._on_format = path, options, follow, on_format
        self._tail = b""  # last bytes read
        self._decoding: Iterator[EventFrame | Malformed | None] | None = None

    @classmethod
    def open(
        cls,
        path: str,
        options: ReadOptions | None,
        follow: bool = False,
        on_format: OnFormat | None = None,
        marker: InputMarker | None = None,
    ) -> Self:
        """Open an input; the arguments are those of the class.

        Raises:
            OSError: If it cannot be read.
        """
        return cls(path, _opened(path, follow), options, follow, on_format, marker)

    def begin_at(self, place: Place) -> None:
        """Begin at a place in it, before anything was read."""
        self.life = place.life
        if place.at == 0:
            return
        if os.pread(self.descriptor, len(MAGIC), 0) == MAGIC:
            list(self.reader.feed(MAGIC))  # by which a reader knows the format, and which stands there alone
        os.lseek(self.descriptor, place.at, os.SEEK_SET)
        self.position = self._start = place.at
        self._tail = os.pread(self.descriptor, min(place.at, _TAIL_BYTES), max(0, place.at - _TAIL_BYTES))

    def close(self) -> None:
        """Close what was opened."""
        if self._path != STDIN:
            os.close(self.descriptor)
        if self._writer is not None:
            os.close(self._writer)

    async def read(self, on_bytes: Callable[[int], None] | None) -> AsyncIterator[Items]:
        """Yield what it holds, to its end as it is now.

        Raises:
            UnreadableInputError: If so much of it is malformed that reading on is of no use.
        """
        while True:
            if self._waits and self._decoding is None:
                # Waiting for readiness, unlike a read in a thread, can be cancelled.
                await anyio.wait_readable(self.descriptor)
            size, items = await to_thread.run_sync(self._step)
            if size == 0:
                return
            if size and on_bytes is not None:
                on_bytes(size)
            if items:
                yield items
            if self.reader.is_hopeless and not (self._waits or self._follow):
                self.reader.verify()

    async def finish(self) -> Items:
        """Return what is left at the end."""
        return await to_thread.run_sync(lambda: list(self._marked(self.reader.finish())))

    def is_cut(self) -> bool:
        """Return whether it became shorter than what was read of it, or was rewritten from its start."""
        size = os.fstat(self.descriptor).st_size
        if size == self.position:
            return False
        return size < self.position or self._tail != os.pread(
            self.descriptor, len(self._tail), self.position - len(self._tail)
        )

    async def begin_again(self) -> Items:
        """Go back to the start of a file that was cut; return what was left, and a piece that says so."""
        left = await self.finish()
        lost = "the file was cut: what was written before and not read yet is lost"
        cut = Malformed(self.reader.origin, "byte", self.position, lost)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self.reader = EventReader(self._path, self._options, self._on_format)
        self.position, self._start, self._tail = 0, 0, b""
        self.life += 1
        return [*left, cut]

    def _step(self) -> tuple[int | None, Items]:
        """Decode the next part of the data, reading more if none is left.

        Returns:
            Bytes read, 0 at the end, None if nothing needed to be or could be; and what was decoded.
        """
        size = None
        if self._decoding is None:
            held = self.reader.held_bytes
            start = self._start if held is None else self.position - held
            data = self._read(start)
            if not data:
                return None if data is None else 0, []
            size = len(data)
            self.position += size
            self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
            if self._marker is not None:
                self._marker.begin(Place(self.life, start, place_check(self.descriptor, self.position)))
            self._decoding = _flat(map(self._marked, self.reader.pieces(data)))
        items: Items = []
        events = 0
        end = time.monotonic() + _MOST_SECONDS
        for item in self._decoding:
            if item is not None:
                items.append(item)
                events += len(item) if isinstance(item, EventFrame) else 1
            if len(items) >= _MOST_ITEMS or events >= _MOST_EVENTS or time.monotonic() > end:
                return size, items
        self._decoding = None
        return size, items

    def _marked(self, items: Iterable[EventFrame | Malformed]) -> Iterator[EventFrame | Malformed]:
        """Yield items, frames with their positions and without what is held already."""
        for item in items:
            if self._marker is None or not isinstance(item, EventFrame):
                yield item
            else:
                yield from self._marker.marked([item], renumber=self.reader.held_bytes is None)

    def _read(self, start: int) -> bytes | None:
        """Return bytes that are there, ``b""`` at the end or of a cut file, None if a pipe has none now.

        Args:
            start: Place of their part of the input, which ends where another one must begin.
        """
        if self._follow and not self._waits and self.is_cut():
            return b""
        try:
            size = _CHUNK
            if self._marker is not None and (end := self._marker.next_place(self.life, start)) is not None:
                size = min(size, max(1, end - self.position))
            data = os.read(self.descriptor, size)
            if self._waits and data:  # a pipe gives little at once
                more = bytearray(data)
                ready = select.poll()
                ready.register(self.descriptor, select.POLLIN)
                while len(more) < _CHUNK and ready.poll(0):
                    data = os.read(self.descriptor, _CHUNK - len(more))
                    if not data:
                        break
                    more += data
                data = bytes(more)
        except BlockingIOError:
            return None
        except OSError as error:
            error.filename = "standard input" if self._path == STDIN else self._path
            raise
        return data


def _flat(
    pieces: Iterator[Iterator[EventFrame | Malformed]],
) -> Iterator[EventFrame | Malformed | None]:
    """Return the items of all pieces, and None after each piece."""
    for items in pieces:
        yield from items
        yield None
