"""A directory in memory that forgets, when power is lost, what was not synced."""

import errno
import os


class PowerLoss(BaseException):
    """Raised at the step at which power is lost: no code of the process runs after it."""


class _Output:
    def __init__(self, files: "UnsyncedFiles", inode: int) -> None:
        self._files, self._inode = files, inode

    def write(self, data: bytes, /) -> int:
        self._files.step()
        self._files.written[self._inode] += data
        return len(data)

    def sync(self) -> None:
        self._files.step()
        self._files.synced[self._inode] = self._files.written[self._inode]

    def close(self) -> None:
        pass


class UnsyncedFiles:
    """Files by inode, and names, each as written and as synced.

    Args:
        fail_at: Number of the step that fails for lack of room; None for none.
    """

    def __init__(self, fail_at: int | None) -> None:
        self.fail_at = fail_at
        self.power_lost_at: int | None = None
        self.steps = 0
        self.written: dict[int, bytes] = {}
        self.synced: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        self._synced_names: dict[str, int] = {}

    def step(self) -> None:
        if self.steps == self.power_lost_at:
            raise PowerLoss
        if self.steps == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.steps += 1

    def reboot(self, keep_unsynced: bool) -> None:
        """Lose what was not synced; or, as may happen too, half of the unsynced bytes and no name."""
        for inode, data in self.written.items():
            kept = self.synced.get(inode, b"")
            self.written[inode] = data[: (len(kept) + len(data)) // 2] if keep_unsynced else kept
        self._names = dict(self._names if keep_unsynced else self._synced_names)
        self.power_lost_at = None

    def names(self) -> list[str]:
        return list(self._names)

    def read(self, name: str) -> bytes:
        return self.written[self._names[name]]

    def create(self, name: str) -> _Output:
        self.step()
        inode = len(self.written)
        self.written[inode] = b""
        self._names[name] = inode
        return _Output(self, inode)

    def rename(self, name: str, to: str) -> None:
        self.step()
        self._names[to] = self._names.pop(name)

    def remove(self, name: str) -> None:
        self.step()
        self._names.pop(name, None)

    def sync(self) -> None:
        self.step()
        self._synced_names = dict(self._names)
