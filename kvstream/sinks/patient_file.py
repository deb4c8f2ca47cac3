"""PatientFile: an output that a service writes to for weeks, while disks fill up and readers stall."""

import errno
import fcntl
import os
import select
import stat
import time
from collections import deque
from typing import Self

from kvstream.faults.log import FaultLog

_MOST_WAITING_BYTES = 1024 * 1024
_PIPE_SLICE = 4096  # a pipe that is ready takes so much without blocking (PIPE_BUF)
_END_SECONDS = 2.0
_NO_LONGER_READ = (errno.EPIPE, errno.EBADF)


class PatientFile:
    """Writes whole lines to a descriptor, without ever waiting for it.

    Where a disk is full or a pipe's reader is slow, up to 1 MiB of lines wait and are tried again at each
    call; further ones are lost and counted. A line that was written in part is completed before the next
    one, so that what is in the file stays readable. It is for one thread.

    Args:
        descriptor: Where to; it stays open.
        faults: Counts and logs failed writes and lost lines.
        may_block: Whether writing to it can wait, as to a pipe.

    Attributes:
        lost: Lines that were not written, for lack of room to wait.
    """

    def __init__(self, descriptor: int, faults: FaultLog, *, may_block: bool) -> None:
        self.lost = 0
        self._descriptor, self._faults, self._may_block = descriptor, faults, may_block
        self._lines: deque[bytes] = deque()  # the first of them without what is written of it
        self._waiting_bytes = 0

    @classmethod
    def on(cls, descriptor: int, faults: FaultLog) -> Self:
        """Return a file that writes to a descriptor: that of a file, a pipe or a terminal.

        Raises:
            OSError: If the descriptor is not open for writing.
        """
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
        mode = os.fstat(descriptor).st_mode
        return cls(descriptor, faults, may_block=not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)))

    @property
    def waiting(self) -> int:
        """Return lines that wait to be written."""
        return len(self._lines)

    def write(self, line: bytes) -> int:
        """Take a line, ended by a newline; it is written by ``flush``."""
        if self._waiting_bytes + len(line) > _MOST_WAITING_BYTES and self._lines:
            self.lost += 1
            self._faults.note_standing(
                "output", "lost_line", "standard output takes no more lines: lines are lost until it does"
            )
        else:
            self._lines.append(line)
            self._waiting_bytes += len(line)
        return len(line)

    def flush(self) -> None:
        """Write what the descriptor takes now.

        Raises:
            BrokenPipeError: If whoever read it has left.
        """
        try:
            while self._lines and self._is_ready(0.0):
                self._write_some()
        except BlockingIOError:
            return  # a non-blocking pipe that is full
        except OSError as error:
            if error.errno in _NO_LONGER_READ:
                raise
            self._faults.note_standing(
                "output",
                "write_failed",
                f"standard output: {error.strerror}; trying again until it is written",
            )
            return
        if not self._lines:
            self._faults.note_over("output", "write_failed", "standard output: written again")
            self._faults.note_over(
                "output", "lost_line", f"standard output takes lines again; {self.lost:,} were lost"
            )

    def close(self) -> None:
        """Write what still waits, for up to two seconds.

        Raises:
            OSError: If lines were lost or could not be written.
        """
        end = time.monotonic() + _END_SECONDS
        while self._lines and (left := end - time.monotonic()) > 0 and self._is_ready(left):
            try:
                self._write_some()
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _NO_LONGER_READ:
                    raise
                break
        self.lost += len(self._lines)
        self._lines.clear()
        if self.lost:
            raise OSError(errno.EIO, f"{self.lost:,} lines could not be written", "standard output")

    def _is_ready(self, seconds: float) -> bool:
        return not self._may_block or bool(select.select([], [self._descriptor], [], seconds)[1])

    def _write_some(self) -> None:
        line = self._lines[0]
        count = os.write(self._descriptor, line[:_PIPE_SLICE] if self._may_block else line)
        self._waiting_bytes -= count
        if count == len(line):
            self._lines.popleft()
        else:
            self._lines[0] = line[count:]
