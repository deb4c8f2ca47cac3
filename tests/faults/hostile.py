"""Hostile clients beside a soak: ``python -m tests.faults.hostile SOCKET HOST PORT SECONDS SEED``.

Each kind runs in a thread of its own, some dozen times a second, so that what it costs is the server's to
bear and not the machine's. Prints how often each kind was tried.
"""

import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress

from tests.faults import mutants

_PAUSE_SECONDS = 0.05
_READER_PAUSE_SECONDS = 0.5  # what these ask for is allowed to cost something
_HELD = 40  # connections that each silent kind keeps open


class Hostile:
    """Clients of all kinds against one server.

    Args:
        path: Its frame socket.
        address: Host and port of its dashboard.
        seconds: For how long.
        seed: What they send.
    """

    def __init__(self, path: str, address: tuple[str, int], seconds: float, seed: int) -> None:
        self._path, self._address = path, address
        self._end, self._seed = time.monotonic() + seconds, seed
        self.tried: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def run(self) -> None:
        """Try all kinds at once until the time is over."""
        kinds = [
            *(self.connect_and_close, self.garbage_hellos, self.half_frames, self.reset),
            *(self.http_garbage, self.silent_events, self.slow_headers, self.slow_readers),
        ]
        threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, kind: Callable[[random.Random, deque[socket.socket]], None]) -> None:
        name, held = kind.__name__, deque()  # type: ignore[var-annotated]
        rng = random.Random(f"{name} {self._seed}")
        while time.monotonic() < self._end:
            self.tried[name] += 1
            try:
                kind(rng, held)
            except OSError:
                self.failed[name] += 1
            while len(held) > _HELD:
                held.popleft().close()
            pause = _READER_PAUSE_SECONDS if name == "slow_readers" else _PAUSE_SECONDS
            time.sleep(pause * rng.uniform(0.5, 1.5))
        for connection in held:
            connection.close()

    def _frames(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5.0)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection

    def _http(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=5.0)

    def connect_and_close(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Go at once, or after a few bytes."""
        with self._frames() as connection:
            connection.sendall(rng.randbytes(rng.choice([0, 0, 1, 3, 20])))

    def garbage_hellos(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Say hello in a form that is none, and stay for a while now and then."""
        connection = self._frames()
        held.append(connection)
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(mutants.hello(rng))
        if rng.randrange(2):
            held.pop().close()

    def half_frames(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Announce a large frame, send a part of it and wait."""
        connection = self._frames()
        held.append(connection)
        token = bytes([0xA0 + len(mutants.TOKEN)]) + mutants.TOKEN.encode()
        hello = b"\x93\xa8kvstream\x01" + token
        connection.sendall(len(hello).to_bytes(4, "big") + hello)
        connection.sendall((32 << 20).to_bytes(4, "big") + rng.randbytes(rng.randrange(60_000)))

    def reset(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Reset a connection in the middle of a request."""
        connection = self._http()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"[: rng.randrange(40)])

    def http_garbage(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Send a request with something wrong in it."""
        with self._http() as connection, suppress(ConnectionError):
            connection.sendall(mutants.request_bytes(rng, mutants.request(rng)))
            connection.settimeout(0.2)
            with suppress(TimeoutError):  # it waits for the rest of the request
                connection.recv(1_000)

    def silent_events(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Open a connection for live events and say nothing."""
        held.append(self._http())

    def slow_headers(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Send the headers of a request a few bytes at a time."""
        held.append(self._http())
        for connection in held:
            with suppress(OSError):
                connection.sendall(rng.choice([b"G", b"X-A: b\r\n", b"GET / HTTP/1.1\r\n", b" "]))

    def slow_readers(self, rng: random.Random, held: deque[socket.socket]) -> None:
        """Ask for much, with the token, and read nothing."""
        connection = self._http()
        held.append(connection)
        path = rng.choice(["/events", "/metrics", "/api/history", "/static/app.js"])
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {mutants.TOKEN}\r\n\r\n"
        connection.sendall(head.encode() * 3)


if __name__ == "__main__":
    clients = Hostile(sys.argv[1], (sys.argv[2], int(sys.argv[3])), float(sys.argv[4]), int(sys.argv[5]))
    clients.run()
    print(json.dumps({"tried": clients.tried, "failed": clients.failed}))
