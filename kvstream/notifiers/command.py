"""Alerts to a command, one process an alert."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import Process

from kvstream.alerts.types import CacheAlert
from kvstream.errors import ConfigError, KVStreamError
from kvstream.subscriptions.handler import Delivery
from kvstream.text.json import encode_json

__all__ = ["Command"]

_GRACE_SECONDS = 1.5
_POLL_SECONDS = 0.05
_LAST_WORDS_SECONDS = 0.5  # for what a command printed before it ended
_SHOWN_BYTES = 500


class Command(Delivery):
    """An alert handler that runs a command with the alert as JSON on its standard input.

    One process runs at a time, so that alerts keep their order; others wait in the handler's buffer. The
    command is the leader of a session and process group of its own: if it takes too long, or the stream
    ends by cancellation, all processes of that group are asked to end and, 1.5 s later, killed. One that
    fails raises, so that the stream counts the alert as undelivered.

    Args:
        command: The command and its arguments, split as a shell would; no shell runs it.
        timeout: Seconds that it may take.

    Attributes:
        destination: ``command`` and its name.

    Raises:
        ConfigError: If the command is empty, or its quotes are not closed.
    """

    def __init__(self, command: str, *, timeout: float = 30.0) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"{command!r} is no command: {error}") from error
        if not self._command:
            raise ConfigError("the command for alerts is empty")
        self._name = self._command[0]
        self._timeout = timeout
        self.destination = f"command {self._name}"

    def prepare(self) -> None:
        """Look for the command.

        Raises:
            ConfigError: If there is no such command, or it cannot be executed.
        """
        _require_executable(self._name)

    async def __call__(self, alert: CacheAlert) -> None:
        """Run the command, as ``deliver`` does."""
        await self.deliver(alert)

    async def deliver(self, item: CacheAlert) -> None:
        """Run the command.

        Raises:
            KVStreamError: If it fails or takes too long.
            OSError: If it cannot be started.
        """
        printed = bytearray()
        # A file, unlike a pipe, need not be read.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(encode_json(item) + b"\n")
            stdin.seek(0)
            with anyio.move_on_after(self._timeout) as limit:
                code = await _run(self._command, stdin.fileno(), printed)
        if limit.cancelled_caught:
            raise KVStreamError(f"{self._name} took longer than {self._timeout:g} s and was ended")
        if code:
            text = printed.decode(errors="replace").strip()
            raise KVStreamError(f"{self._name} ended with {code}{f': {text}' if text else ''}")


def _require_executable(name: str) -> None:
    if shutil.which(name) is not None:
        return
    if os.sep not in name:
        raise ConfigError(f"no command {name!r} in PATH; check its name, or give its path")
    path = Path(name)
    if not path.exists():
        raise ConfigError(f"no command {name!r}: there is no such file")
    if path.is_dir():
        raise ConfigError(f"{name!r} is a directory, not a command")
    raise ConfigError(f"{name!r} is not executable; run chmod +x on it")


async def _run(command: list[str], stdin: int, printed: bytearray) -> int:
    """Run a command to its end and return its exit code; end its process group if cancelled.

    Args:
        command: The command and its arguments.
        stdin: File descriptor of its standard input.
        printed: Takes the last bytes of its standard error.
    """
    # A pipe of our own: with asyncio's, waiting for the command would be waiting for all that inherited it.
    reading, writing = os.pipe()
    try:
        os.set_blocking(reading, False)
        try:
            process = await anyio.open_process(
                command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=writing, start_new_session=True
            )
        finally:
            os.close(writing)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_last, reading, printed)
            try:
                code = await process.wait()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await _end_group(process)
                raise
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_SECONDS
        return code
    finally:
        os.close(reading)


async def _keep_last(reading: int, printed: bytearray) -> None:
    """Read a pipe to its end and keep its last bytes."""
    while True:
        await anyio.wait_readable(reading)
        some = os.read(reading, 65_536)
        if not some:
            return
        printed += some
        del printed[:-_SHOWN_BYTES]


async def _end_group(process: Process) -> None:
    """End every process of a group: those that go on 1.5 s after SIGTERM are killed."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        end = anyio.current_time() + seconds
        try:
            os.killpg(process.pid, number)
            while anyio.current_time() < end:
                await anyio.sleep(_POLL_SECONDS)
                _ = process.returncode  # trio reaps when asked
                os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):  # none is left, or only what waits to be reaped
            break
    with suppress(ProcessLookupError):
        await process.wait()
