"""Rounds of mutants against a real ``kvstream serve``, over its sockets."""

import json
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress

import msgspec

from kvstream.errors import MalformedInputError
from kvstream.events.codec import decode_frame
from kvstream.metrics.summary import Accounts
from tests.faults import mutants
from tests.faults.in_process import boot_of, is_hello, said, seeded
from tests.faults.server import RunningServer, peak_rss_mb, rss_mb
from tests.faults.tally import Tally, kind_of

Attempt = Callable[[Tally, RunningServer, int, int], None]


class Served:
    """Rounds against one ``kvstream serve``, which is begun again if a round ends it."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._server: RunningServer | None = None
        self.first_mb = self.last_mb = self.peak_mb = 0

    def __call__(self, tally: Tally, seed: int, count: int) -> None:
        if self._server is None:
            self._server = RunningServer(token=mutants.TOKEN).__enter__()
        server = self._server
        try:
            self._attempt(tally, server, seed, count)
        except OSError as error:
            tally.crash(seed, f"the server answers no more: {error!r}")
            with suppress(subprocess.TimeoutExpired):  # it may be about to end
                server.process.wait(10)
        self._look(tally, seed, server)

    def _look(self, tally: Tally, seed: int, server: RunningServer) -> None:
        try:
            healthy = json.loads(server.get("healthz"))["status"] == "ok"
            accounts = msgspec.convert(server.accounts(), Accounts)
            if not healthy or not accounts.balanced:
                tally.crash(seed, f"not healthy, or accounts do not add up: {accounts}")
            self.last_mb, self.peak_mb = rss_mb(server.process.pid), peak_rss_mb(server.process.pid)
            self.first_mb = self.first_mb or self.last_mb
        except OSError as error:
            tally.crash(seed, f"/healthz does not answer: {error!r}")
        if not server.alive:
            tally.crash(seed, f"the server ended, status {server.process.returncode}: {server.last_words()}")
            self.close()

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.__exit__()
            self._server = None


def served_frames(tally: Tally, server: RunningServer, seed: int, count: int) -> None:
    rng = seeded("served frames", seed)
    frames = [mutants.frame(rng) for _ in range(count)]
    taken = server.deliver(frames)
    if taken != count:
        tally.crash(seed, f"only {taken} of {count} frames were acknowledged")
    for data in frames:
        try:
            decode_frame(data)
            past, outcome = True, "decoded"
        except MalformedInputError as error:
            past, outcome = not str(error).startswith(("not a frame", "frame version")), kind_of(str(error))
        tally.count(outcome, past)


def served_hellos(tally: Tally, server: RunningServer, seed: int, count: int) -> None:
    rng = seeded("served hellos", seed)
    for _ in range(count):
        data, leaves = mutants.hello(rng, mutants.TOKEN), rng.randrange(4) == 0
        answers = bytearray()
        with server.connect() as connection, suppress(ConnectionError, BrokenPipeError):
            connection.sendall(data)
            if not leaves:
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65_536):
                    answers += piece
        tally.count(said(answers, leaves), is_hello(data))


def served_requests(tally: Tally, server: RunningServer, seed: int, count: int) -> None:
    rng, boot = seeded("served requests", seed), boot_of(server.get("api/alerts"))
    for _ in range(count):
        data = mutants.request_bytes(rng, mutants.request(rng).of_run(boot))
        data = data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        answer = bytearray()
        with socket.create_connection(server.address, timeout=2.0) as connection, suppress(OSError):
            connection.sendall(data)
            if b"\r\n\r\n" in data:  # for a request that has no end there is no answer
                while (piece := connection.recv(65_536)) and b"text/event-stream" not in answer:
                    answer += piece
        words = bytes(answer[:16]).split()
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        tally.count(f"status {status}", status not in (0, 400, 401, 403, 404, 405, 421))
        if status >= 500 and status != 503:
            tally.crash(seed, f"status {status}", data)
