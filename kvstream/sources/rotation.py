"""Log files that are rotated while they are followed: which file stands where, and which came between."""

import os
import re
import stat
from contextlib import suppress
from typing import NamedTuple

_PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4")
_ROTATED = re.compile(r"[.\-_]\S*\d\S*")


class _Finished(NamedTuple):
    device: int
    inode: int
    size: int
    modified_ns: int


class Rotation:
    """Finds the files that a rotated log was renamed to.

    Between two looks a log may have been rotated several times. The files in between are taken to be those
    named like it with a number behind (``NAME.1``, ``NAME-20260101``) that were neither there at the start
    nor read already and were written after the last one that was read. Rotated files that were removed,
    packed or named otherwise within a fifth of a second cannot be found.

    Args:
        path: Where the log is.
    """

    def __init__(self, path: str) -> None:
        self._folder, self._name = os.path.split(path)
        self._path = path
        self._others = {(found.st_dev, found.st_ino) for _, found in self._siblings()}
        self._finished: set[_Finished] = set()

    def has_replaced(self, descriptor: int) -> bool:
        """Return whether another file stands at the path than the open one; False while none does."""
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
        ends = {(last.st_dev, last.st_ino), (new.st_dev, new.st_ino)}
        found = [
            (status.st_mtime_ns, path)
            for path, status in self._siblings()
            if (status.st_dev, status.st_ino) not in self._others | ends
            and status.st_mtime_ns >= last.st_mtime_ns
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
