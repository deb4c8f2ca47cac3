"""The file of a Unix socket: taken over from a dead server, left alone if another one is there."""

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketListener

from kvstream.errors import ConfigError

_LOCK_SECONDS = 5.0
_LOCK_PAUSE = 0.02


class SocketFile:
    """A Unix socket in the file system, for as long as one server listens at it.

    Args:
        path: Where it is.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None  # device and inode

    async def listen(self) -> SocketListener:
        """Begin to listen, with access for this user only.

        Raises:
            ConfigError: If another server listens there, or something else than a socket is there.
            OSError: If the path cannot be used.
        """
        async with _directory_lock(os.path.split(self.path)[0] or "."):
            if _is_answered(self.path):
                raise ConfigError("another server listens there; stop it, or name another path")
            if _is_other(self.path):
                raise ConfigError("what is there is no socket; name another path")
            listener = await anyio.create_unix_listener(self.path, mode=0o600)
            self._identity = _identity(self.path)
        return listener

    def remove(self) -> None:
        """Remove the file, unless it is gone or another server has put its own in its place.

        Call it before the listener is closed: until then no other file can have the same inode.
        """
        if self._identity is not None and _identity(self.path) == self._identity:
            with suppress(OSError):
                os.unlink(self.path)
        self._identity = None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_answered(path: str) -> bool:
    """Return whether a process listens at a path; one that is too busy to take us does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EINPROGRESS)
    return True


def _is_other(path: str) -> bool:
    """Return whether a path is taken by something that no server has left."""
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


@asynccontextmanager
async def _directory_lock(directory: str) -> AsyncIterator[None]:
    """Keep two servers that start at once from both taking over a dead one's file.

    Where directories cannot be locked, do without.
    """
    import fcntl  # here, as only systems with Unix sockets have it

    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with anyio.move_on_after(_LOCK_SECONDS):
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await anyio.sleep(_LOCK_PAUSE)
                except OSError:
                    break
        yield
    finally:
        os.close(handle)
