"""Files of a directory, as a store writes them: what is synced survives a loss of power, all else may not."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO, Protocol

from kvstream.errors import StateError

_LOCK = "lock"


class Output(Protocol):
    """A file being written."""

    def write(self, data: bytes, /) -> int:
        """Append bytes."""

    def sync(self) -> None:
        """Return once all that was written is on the disk."""

    def close(self) -> None:
        """Close the file."""


class Files(Protocol):
    """What a store needs of a directory. Each call may raise OSError."""

    def names(self) -> list[str]:
        """Return the names of the files there."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""

    def create(self, name: str) -> Output:
        """Begin a file, in the place of one with the same name."""

    def rename(self, name: str, to: str) -> None:
        """Give a file another name, in the place of one that has it."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def sync(self) -> None:
        """Return once the directory's names are on the disk."""


class _SyncedFile:
    """A file of the local disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes, /) -> int:
        return self._file.write(data)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class LocalFiles:
    """A directory of the local disk.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Return the names of the files there."""
        return [entry.name for entry in os.scandir(self._path) if entry.is_file()]

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self._path / name).read_bytes()

    def create(self, name: str) -> Output:
        """Begin a file that only this user can read; it replaces one of the same name."""
        descriptor = os.open(self._path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        return _SyncedFile(os.fdopen(descriptor, "wb"))

    def rename(self, name: str, to: str) -> None:
        """Give a file another name, in the place of one that has it."""
        (self._path / name).replace(self._path / to)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._path / name).unlink(missing_ok=True)

    def sync(self) -> None:
        """Return once the directory's names are on the disk."""
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class DirectoryLock:
    """Keeps other processes out of a directory, until it is released or the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StateError: If another process has it.
            OSError: If the lock cannot be made.
        """
        descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            by = f"process {holder}" if holder.isdigit() else "another process"
            raise StateError(
                f"{self._path} is in use by {by}: end it first, or name another directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have the directory."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
