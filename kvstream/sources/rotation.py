"""Log files that are rotated while they are followed: which file is where, and which came in between."""

import os
import re
import stat
import zlib
from contextlib import suppress
from typing import NamedTuple

from kvstream.events.position import Place

_PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4")
_ROTATED = re.compile(r"[.\-_]\S*\d\S*")


_CHECKED_BYTES = 64  # by which a file is recognized


class _Mark(NamedTuple):
    """What is known of a place in a file, to find it again.

    Attributes:
        device: Device of the file.
        inode: The file.
        modified_ns: When it had been written to.
        end: Bytes up to which it was read from there.
        checksum: Of the last of them.
    """

    device: int
    inode: int
    modified_ns: int
    end: int
    checksum: int

    @classmethod
    def parse(cls, text: str) -> "_Mark":
        """Return what ``place_check`` said; of another text, what no file has."""
        parts = text.split(":")
        if len(parts) == len(cls._fields) and all(part.isdecimal() for part in parts):
            return cls(*map(int, parts))
        return cls(-1, -1, 0, 0, -1)


def place_check(descriptor: int, end: int) -> str:
    """Return what a place in an open file is recognized by, also when the file has another name.

    Args:
        descriptor: The file.
        end: Bytes up to which it was read from that place.
    """
    status = os.fstat(descriptor)
    mark = _Mark(status.st_dev, status.st_ino, status.st_mtime_ns, end, _checksum(descriptor, end))
    return ":".join(map(str, mark))


def inode_of(check: str) -> int | None:
    """Return the inode of the file of a place, as ``place_check`` has it; None for another input's."""
    inode = _Mark.parse(check).inode
    return None if inode < 0 else inode


def _checksum(descriptor: int, end: int) -> int:
    first = max(0, end - _CHECKED_BYTES)
    return zlib.crc32(os.pread(descriptor, end - first, first))


class _Finished(NamedTuple):
    device: int
    inode: int
    size: int
    modified_ns: int


class Rotation:
    """Finds the files that a rotated log was renamed to.

    Between two looks a log may have been rotated several times. The files in between are taken to be those
    named like it with a number behind (``NAME.1``, ``NAME-20260101``) that were neither left out nor read
    already and were written after the last one that was read. Rotated files that were removed, packed or
    named otherwise within a fifth of a second cannot be found.

    Args:
        path: Where the log is.
    """

    def __init__(self, path: str) -> None:
        self._folder, self._name = os.path.split(path)
        self._path = path
        self._others: set[tuple[int, int]] = set()
        self._finished: set[_Finished] = set()

    def leave_out_present(self) -> None:
        """Leave out the rotated files that are there now, as they came before the log is read."""
        self._others = {(status.st_dev, status.st_ino) for _, status in self._siblings()}

    def has_replaced(self, descriptor: int) -> bool:
        """Return whether the path now names another file than the open one; False if it names none."""
        try:
            now = os.stat(self._path)
        except OSError:
            return False
        return not os.path.samestat(now, os.fstat(descriptor))

    def finish(self, descriptor: int) -> os.stat_result:
        """Note that an open file was read to its end; return its status."""
        done = os.fstat(descriptor)
        self._finished.add(_Finished(done.st_dev, done.st_ino, done.st_size, done.st_mtime_ns))
        return done

    def between(self, last: os.stat_result, new: os.stat_result) -> list[str]:
        """Return the files that stood at the path after ``last`` and before ``new``, oldest first."""
        return self._after(last.st_mtime_ns, {(last.st_dev, last.st_ino), (new.st_dev, new.st_ino)})

    def find(self, place: Place) -> str | None:
        """Return the file that holds a place, even if it was renamed or copied; None if there is none."""
        mark = _Mark.parse(place.check)
        copies = []
        for path in [self._path, *(path for path, _ in self._siblings())]:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                status = os.fstat(descriptor)
                if status.st_size < mark.end or _checksum(descriptor, mark.end) != mark.checksum:
                    continue
                if (status.st_dev, status.st_ino) == (mark.device, mark.inode):
                    return path
                if mark.end:
                    copies.append(path)
            finally:
                os.close(descriptor)
        return copies[0] if copies else None

    def since(self, place: Place, new: os.stat_result) -> list[str]:
        """Return the files that were at the path before ``new`` and after a removed one, oldest first."""
        mark = _Mark.parse(place.check)
        return self._after(mark.modified_ns + 1, {(mark.device, mark.inode), (new.st_dev, new.st_ino)})

    def _after(self, modified_ns: int, but: set[tuple[int, int]]) -> list[str]:
        found = [
            (status.st_mtime_ns, path)
            for path, status in self._siblings()
            if (status.st_dev, status.st_ino) not in self._others | but
            and status.st_mtime_ns >= modified_ns
            and _Finished(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            not in self._finished
        ]
        return [path for _, path in sorted(found)]

    def _siblings(self) -> list[tuple[str, os.stat_result]]:
        try:
            names = os.listdir(self._folder or ".")
        except OSError:
            return []
        found = []
        for name in filter(self._is_rotated, names):
            path = os.path.join(self._folder, name)
            with suppress(OSError):
                status = os.stat(path)
                if stat.S_ISREG(status.st_mode):
                    found.append((path, status))
        return found

    def _is_rotated(self, name: str) -> bool:
        behind = name[len(self._name) :]
        return (
            name.startswith(self._name)
            and _ROTATED.fullmatch(behind) is not None
            and not behind.endswith(_PACKED)
        )
