"""DirectoryStore: the last snapshots of a stream in a directory, each written completely or not at all.

A snapshot is written under a temporary name, synced, renamed, and the directory synced; then those before the
last two whole ones go. Whatever that is interrupted by, the newest whole snapshot is a true one, with the
cursors of its inputs in it: no pointer to it is needed. The process that writes holds a lock.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from kvstream.errors import StateError
from kvstream.state.files import DirectoryLock, Files, LocalFiles, Output
from kvstream.state.snapshot import Header, Section, pack_end, pack_header, pack_section, unpack

KEPT = 2
"""Snapshots that are kept: the newest, and one to fall back to."""

_NAME = re.compile(r"snapshot-(\d{12})\.kvstate")
_UNFINISHED = "unfinished.tmp"


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a store.

    Attributes:
        name: Its name.
        number: Its number, ascending.
        bytes: Its length.
        damage: What is wrong with it; empty where it is whole.
        header: Its header; None where it is damaged.
        sections: Its sections; none where it is damaged.
    """

    name: str
    number: int
    bytes: int
    damage: str = ""
    header: Header | None = None
    sections: list[Section] = []


class DirectoryStore:
    """Keeps snapshots in a directory, for one process at a time.

    Args:
        path: The directory, made where there is none.
        files: How its files are read and written; by default those of the local disk.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory, DirectoryStore(directory) as store:
        ...     with store.begin(Header(number=store.next_number(), taken_at=0.0, writer="x")) as snapshot:
        ...         snapshot.add(Section("source", "engine-0", {"live": 3}))
        ...         snapshot.finish()
        ...     store.newest().sections[0].body
        {'live': 3}
    """

    def __init__(self, path: str | os.PathLike[str], files: Files | None = None) -> None:
        self.path = Path(path)
        self._files = LocalFiles(self.path) if files is None else files
        self._lock = DirectoryLock(self.path)
        self._damaged: set[int] = set()  # numbers of snapshots that were seen to be

    def open(self) -> None:
        """Create the directory if needed, and lock it against other processes.

        Raises:
            StateError: If it cannot be used, or another process uses it.
        """
        try:
            with suppress(FileExistsError):  # that it is no directory, the lock says
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._files.remove(_UNFINISHED)
        except OSError as error:
            raise StateError(f"cannot keep state in {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Release the directory for other processes."""
        self._lock.release()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def next_number(self) -> int:
        """Return the number of the next snapshot."""
        return max(self._numbered(), default=-1) + 1

    def begin(self, header: Header) -> "SnapshotWriter":
        """Begin a snapshot.

        Raises:
            OSError: If its file cannot be written.
        """
        writer = SnapshotWriter(self, self._files, header.number, self._files.create(_UNFINISHED))
        writer.begin(header)
        return writer

    def look(self) -> list[SnapshotFile]:
        """Return all snapshots, newest first, each read completely.

        Raises:
            StateError: If the directory cannot be read.
        """
        return list(self.newest_first())

    def newest_first(self) -> Iterator[SnapshotFile]:
        """Yield all snapshots, newest first, each read completely when its turn comes.

        Raises:
            StateError: If the directory cannot be read.
        """
        for number in sorted(self._numbered(), reverse=True):
            if (found := self._look(number)) is not None:
                if found.damage:
                    self._damaged.add(number)
                yield found

    def newest(self) -> SnapshotFile | None:
        """Return the newest whole snapshot; None if there is none.

        Raises:
            StateError: If the directory cannot be read.
        """
        return next((found for found in self.newest_first() if not found.damage), None)

    def prune(self) -> None:
        """Remove what is older than the last snapshots that are not known to be damaged.

        Raises:
            OSError: If one cannot be removed.
        """
        numbers = self._numbered()
        kept = sorted(set(numbers) - self._damaged, reverse=True)[:KEPT]
        for number in numbers if len(kept) == KEPT else ():
            if number < kept[-1]:
                self._files.remove(_name(number))

    def _numbered(self) -> list[int]:
        try:
            names = self._files.names()
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror or error}") from error
        return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]

    def _look(self, number: int) -> SnapshotFile | None:
        """Return a snapshot; None if the process that writes them has removed it meanwhile."""
        name = _name(number)
        try:
            data = self._files.read(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            return SnapshotFile(name=name, number=number, bytes=0, damage=error.strerror or str(error))
        try:
            header, sections = unpack(data)
        except StateError as error:
            return SnapshotFile(name=name, number=number, bytes=len(data), damage=str(error))
        return SnapshotFile(name=name, number=number, bytes=len(data), header=header, sections=sections)


class SnapshotWriter:
    """A snapshot in the making: nothing of it counts until ``finish`` has returned.

    Attributes:
        bytes: Bytes written so far.
    """

    def __init__(self, store: DirectoryStore, files: Files, number: int, file: Output) -> None:
        self.bytes = 0
        self._store, self._files, self._number = store, files, number
        self._sections = 0
        self._file: Output | None = file

    def begin(self, header: Header) -> None:
        """Write the header; if that fails, close the file.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            self._write(pack_header(header))
        except BaseException:
            self.__exit__()
            raise

    def add(self, section: Section) -> None:
        """Pack and write a section; takes some milliseconds a megabyte, and may run in a thread.

        Raises:
            OSError: If it cannot be written.
        """
        for piece in pack_section(section):
            self._write(piece)
        self._sections += 1

    def finish(self) -> None:
        """Return once the snapshot is on disk under its name, and older ones than the last two are removed.

        Raises:
            OSError: If that fails; what was there before is there still.
        """
        self._write(pack_end(self._sections))
        assert self._file is not None  # noqa: S101
        self._file.sync()
        self._file.close()
        self._file = None
        self._files.rename(_UNFINISHED, _name(self._number))
        self._files.sync()
        self._store.prune()

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101
        self._file.write(data)
        self.bytes += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _name(number: int) -> str:
    return f"snapshot-{number:012d}.kvstate"
