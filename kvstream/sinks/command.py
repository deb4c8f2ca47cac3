"""Alerts to a command, one process an alert."""

import shlex
import subprocess
import tempfile

import anyio
import msgspec

from kvstream.alerts.types import CacheAlert
from kvstream.errors import ConfigError, KVStreamError


class Command:
    """An alert handler that runs a command with the alert as JSON on its standard input.

    One process runs at a time, so that alerts keep their order; others wait in the handler's bounded
    buffer. One that fails, or takes too long and is killed, raises, so that the stream counts it.

    Args:
        command: The command and its arguments, split as a shell would; no shell runs it.
        timeout: Seconds that it may take.

    Raises:
        ConfigError: If there is no command in it.
    """

    def __init__(self, command: str, *, timeout: float = 30.0) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"{command!r} is no command: {error}") from error
        if not self._command:
            raise ConfigError("the command for alerts is empty")
        self._timeout = timeout

    async def __call__(self, alert: CacheAlert) -> None:
        """Runs the command.

        Raises:
            KVStreamError: If it fails or takes too long.
            OSError: If it cannot be started.
        """
        name = self._command[0]
        try:
            # A file, unlike a pipe, need not be read.
            with tempfile.TemporaryFile() as told, anyio.fail_after(self._timeout):
                told.write(msgspec.json.encode(alert) + b"\n")
                told.seek(0)
                done = await anyio.run_process(
                    self._command,
                    stdin=told,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    check=False,
                )
        except TimeoutError:
            raise KVStreamError(f"{name} took longer than {self._timeout:g} s") from None
        if done.returncode:
            said = (done.stderr or b"").decode(errors="replace").strip()
            raise KVStreamError(f"{name} ended with {done.returncode}: {said[-500:]}")
