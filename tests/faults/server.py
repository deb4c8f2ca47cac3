"""A real ``kvstream serve`` in a process of its own, and what can be seen of it from outside."""

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests.forked import Kvstream
from tests.waiting import DEADLINE

HELLO = b"\x93\xa8kvstream\x01"


def rss_mb(pid: int | None = None) -> int:
    """Return the resident memory of a process, MiB; of this one by default."""
    return _status_mb("VmRSS", pid)


def peak_rss_mb(pid: int | None = None) -> int:
    """Return the most resident memory that a process has had, MiB."""
    return _status_mb("VmHWM", pid)


def _status_mb(field: str, pid: int | None) -> int:
    text = Path(f"/proc/{pid or 'self'}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith(field))


class RunningServer:
    """``kvstream serve`` on a Unix socket, with its dashboard; a context manager.

    Args:
        arguments: Further ones of the command.
        token: What producers and browsers must bring, if anything.
    """

    def __init__(self, *arguments: str, token: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = f"{self._folder.name}/kv.sock"
        self.url = ""
        self._arguments, self.token = arguments, token
        self._errors = Path(self._folder.name) / "stderr"
        self._output = Path(self._folder.name) / "stdout"

    def __enter__(self) -> Self:
        arguments = ["serve", "--listen", f"unix:{self.path}", "--http", "127.0.0.1:0", "--json"]
        env = {**os.environ, **({"KVSTREAM_TOKEN": self.token} if self.token else {})}
        with self._errors.open("wb") as errors, self._output.open("wb") as output:
            self.process = Kvstream([*arguments, *self._arguments], stdout=output, stderr=errors, env=env)
        try:
            self.url = self._dashboard()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()

    def _dashboard(self) -> str:
        """Wait until it listens, and return where the dashboard is."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            for line in self.stderr().splitlines():
                if line.startswith("dashboard at "):
                    return line.removeprefix("dashboard at ").split()[0]
            time.sleep(0.02)
        raise RuntimeError(f"kvstream serve did not start: {self.stderr()[-2000:]}")

    def stderr(self) -> str:
        """Return what it has written to standard error."""
        return self._errors.read_text(errors="replace") if self._errors.exists() else ""

    def last_words(self) -> str:
        """Return the last line of standard error that names an error, or else the last line."""
        lines = [line.strip("|+ ") for line in self.stderr().splitlines() if line.strip("|+- ")]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return (named or lines or [""])[-1]

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the dashboard."""
        host, _, port = self.url.removeprefix("http://").rstrip("/").rpartition(":")
        return host, int(port)

    def get(self, path: str) -> bytes:
        """Return the body of a page.

        Raises:
            OSError: If it cannot be had.
        """
        request = urllib.request.Request(self.url + path)
        if self.token:
            request.add_header("authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.read()

    def accounts(self) -> dict[str, Any]:
        """Return the accounts of all sources."""
        accounts: dict[str, Any] = json.loads(self.get("api/summary"))["accounts"]
        return accounts

    def stop(self) -> dict[str, Any]:
        """End it by SIGTERM and return its last summary."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DEADLINE)
        summary: dict[str, Any] = json.loads(self._output.read_bytes().splitlines()[-1])
        return summary

    def connect(self) -> socket.socket:
        """Return a new connection to its frame socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        try:
            connection.connect(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def deliver(self, frames: list[bytes]) -> int:
        """Send frames as a producer does; return how many the server says that it has taken."""
        fields = (b"\xc0" if self.token is None else bytes([0xA0 + len(self.token)]) + self.token.encode(),)
        messages = [HELLO + fields[0], *frames]
        data = b"".join(len(message).to_bytes(4, "big") + message for message in messages)
        with self.connect() as connection:
            connection.setblocking(False)
            return _exchange(connection, data, len(frames))


def _exchange(connection: socket.socket, data: bytes, frames: int) -> int:
    """Send and read at once, as either side may wait for the other; the last number that was answered."""
    view, answers, taken = memoryview(data), bytearray(), -1
    end = time.monotonic() + DEADLINE
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while taken < frames and time.monotonic() < end:
            for _, event in selector.select(1.0):
                if event & selectors.EVENT_WRITE:
                    with contextlib.suppress(BlockingIOError):
                        view = view[connection.send(view[: 1 << 18]) :]
                    if not view:
                        selector.modify(connection, selectors.EVENT_READ)
                if event & selectors.EVENT_READ:
                    piece = connection.recv(65_536)
                    if not piece:
                        return taken
                    answers += piece
            taken = _last_answer(answers, taken)
    return taken


def _last_answer(answers: bytearray, taken: int) -> int:
    """Take whole answers out of what has been read."""
    while len(answers) >= 4 and len(answers) >= 4 + (length := int.from_bytes(answers[:4], "big")):
        body = bytes(answers[4 : 4 + length])
        del answers[: 4 + length]
        if body[0] <= 0x7F:
            taken = body[0]
        elif body[0] in (0xCC, 0xCD, 0xCE, 0xCF):
            taken = int.from_bytes(body[1:], "big")
    return taken
