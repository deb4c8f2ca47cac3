"""Output files: none replaces another unless forced to, and each is written completely or not at all."""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvstream.errors import ConfigError

_LONGEST_ENDING = 40  # characters of a name that its temporary file keeps, so that its format stays known


def is_special(path: str | Path) -> bool:
    """Return whether a path is a device, a pipe or a descriptor, which cannot be replaced like a file.

    A directory is not special: writing to it fails as it should.
    """
    if os.fspath(path).startswith(("/dev/", "/proc/")):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def refuse_overwriting(path: str | Path, force: bool) -> None:
    """Check that writing ``path`` overwrites no file.

    Raises:
        ConfigError: If a file is there and ``force`` is not set.
    """
    if not force and not is_special(path) and os.path.isfile(path):
        raise ConfigError(f"{path} exists; --force replaces it")


def refuse_inputs(output: str | Path | int, inputs: Iterable[str]) -> None:
    """Check that an output is none of the inputs, under another name either.

    Args:
        output: A path, which need not exist, or a descriptor.
        inputs: Paths; what is no file there is passed over.

    Raises:
        ConfigError: If it is the same file as one of them.
    """
    written = _file(output)
    for name in inputs if written is not None else ():
        read = _file(name)
        if read is not None and written is not None and os.path.samestat(written, read):
            where = "standard output" if isinstance(output, int) else output
            raise ConfigError(f"{where} is the input {name}; nothing was written")


def _file(path: str | Path | int) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


@contextmanager
def whole_file(path: str | Path, force: bool) -> Iterator[str]:
    """Yield a name to write a file under; it becomes ``path`` at the end of the block, unless that raises.

    Devices and pipes are written to as they are. A link stays a link: what it leads to is replaced.

    Raises:
        ConfigError: If a file is there and ``force`` is not set.
        OSError: If nothing can be written there.
    """
    if is_special(path):
        yield os.fspath(path)
        return
    refuse_overwriting(path, force)
    with naming(path):  # where the working directory is gone
        target = os.path.realpath(path)
    if os.path.isdir(target):
        raise IsADirectoryError(21, "Is a directory", os.fspath(path))
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".kvstream-{secrets.token_hex(4)}-{name[-_LONGEST_ENDING:]}")
    _create(temporary, target, os.fspath(path))
    try:
        yield temporary
        _place(temporary, target, force)
    except OSError as error:
        if error.filename in (None, temporary):
            error.filename = os.fspath(path)
        raise
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _create(temporary: str, target: str, named: str) -> None:
    """Create the temporary file, with the permissions of the one that it will replace."""
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        error.filename = named
        raise
    with suppress(OSError):
        os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))


def _place(temporary: str, target: str, force: bool) -> None:
    if not force:
        try:
            os.link(temporary, target)  # unlike a rename, replaces nothing that has come meanwhile
        except FileExistsError:
            raise ConfigError(f"{target} exists; --force replaces it") from None
        except OSError:
            pass  # no links on this file system
        else:
            return
    os.replace(temporary, target)


def end_torn_line(descriptor: int) -> None:
    """End the last line of a file that is appended to, if it has no newline; else the next would join it.

    Raises:
        OSError: If it cannot be written.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return
    appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    if not appends and os.lseek(descriptor, 0, os.SEEK_CUR) != status.st_size:
        return
    try:
        with open(f"/dev/fd/{descriptor}", "rb") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
    except OSError:  # may be written and not read
        return
    if last == b"\n":
        return
    with naming("standard output"):
        os.write(descriptor, b"\n")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give errors that are raised in the block the name of the file that they concern."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise
