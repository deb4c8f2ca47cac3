"""Standard input, output and error made safe to use: any of them may be closed, full, slow or not UTF-8."""

import io
import os
import select
import sys
from collections.abc import Iterable
from typing import Any

from kvstream.text.json import encode_json

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def open_standard_streams() -> None:
    """Replace the standard streams of ``sys`` by some with known behaviour in every state.

    A closed descriptor is taken by the null device, so that no file that is opened later stands in for it:
    using closed input or output fails as it would have, and closed standard error swallows what it gets.
    Text that the encoding of the terminal cannot hold is escaped. Errors of standard output name it; those of
    standard error end nothing.
    """
    _take(_STDIN, os.O_WRONLY)  # reading it fails: "Bad file descriptor"
    _take(_STDOUT, os.O_RDONLY)  # so does writing
    _take(_STDERR, os.O_WRONLY)
    if sys.stdin is None:
        sys.stdin = open(_STDIN, closefd=False)  # noqa: SIM115
    sys.stdout = _text(sys.stdout, _StandardOutput(_STDOUT, "w", closefd=False))
    sys.stderr = _text(sys.stderr, _StandardError(_STDERR, "w", closefd=False))


def drop_standard_output() -> None:
    """Send what is still buffered for standard output nowhere, so that the flush at exit cannot fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)


def write_lines(values: Iterable[Any]) -> None:
    """Write values to standard output as JSON, a line for each.

    Raises:
        OSError: If they cannot be written.
    """
    write_document("".join(encode_json(value).decode() + "\n" for value in values))


def write_document(text: str) -> None:
    """Write a whole document to standard output, in UTF-8 whatever the terminal's encoding is.

    Raises:
        OSError: If it cannot be written.
    """
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def _take(descriptor: int, flags: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, flags)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)


def _text(replaced: Any, raw: io.FileIO) -> io.TextIOWrapper:
    encoding = getattr(replaced, "encoding", None)
    if replaced is not None:
        replaced.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=raw.fileno() == _STDERR or raw.isatty(),
    )


class _StandardOutput(io.FileIO):
    """Standard output; waits where it is non-blocking and its reader is slow."""

    def write(self, data: Any, /) -> int:
        while True:
            try:
                count: int | None = super().write(data)
            except OSError as error:
                error.filename = "standard output"
                raise
            if count is not None:
                return count
            select.select([], [self], [])


class _StandardError(io.FileIO):
    """Standard error; what cannot be written there is lost."""

    def write(self, data: Any, /) -> int:
        try:
            count: int | None = super().write(data)
        except OSError:
            count = None
        return len(data) if count is None else count
