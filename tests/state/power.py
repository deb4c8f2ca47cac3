"""A directory in memory that forgets, when power is lost, what was not synced."""

import errno
import itertools
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


def _lost(synced, written):
    return synced


def _torn(synced, written):
    return written[: (len(synced) + len(written)) // 2]


def _zeros(synced, written):
    return synced + bytes(len(written) - len(synced))


def _kept(synced, written):
    return written


UNSYNCED_BYTES = (_lost, _torn, _zeros, _kept)
"""What may be left of bytes that were not synced, of those that were and all."""


class UnsyncedFiles:
    """Files by inode, and names, each as written and as synced.

    Args:
        fail_at: Number of the step that fails for lack of room; None for none.
    """

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.power_lost_at: int | None = None
        self.steps = 0
        self.written: dict[int, bytes] = {}
        self.synced: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        self._synced_names: dict[str, int] = {}

    def step(self) -> None:
        if self.power_lost_at is not None and self.steps >= self.power_lost_at:
            raise PowerLoss
        if self.steps == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.steps += 1

    def after_power_loss(self):
        """Yield each directory that may be found when power is back, equal ones once.

        A name that was not synced is there as before or as after, whatever the others are; bytes that were
        not synced are lost, torn, zeros or there.
        """
        both = self._names.keys() | self._synced_names.keys()
        changed = sorted(name for name in both if self._names.get(name) != self._synced_names.get(name))
        yielded = set()
        for left, kept in itertools.product(
            UNSYNCED_BYTES, itertools.product([False, True], repeat=len(changed))
        ):
            found = UnsyncedFiles()
            found.written = {
                inode: left(self.synced.get(inode, b""), data) for inode, data in self.written.items()
            }
            found.synced = dict(found.written)
            names = dict(self._synced_names)
            for name in itertools.compress(changed, kept):
                if name in self._names:
                    names[name] = self._names[name]
                else:
                    del names[name]
            found._names, found._synced_names = names, dict(names)
            content = frozenset((name, found.written[inode]) for name, inode in names.items())
            if content not in yielded:
                yielded.add(content)
                yield found

    def names(self) -> list[str]:
        return list(self._names)

    def read(self, name: str) -> bytes:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
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
