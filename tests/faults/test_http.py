"""``kvstream serve --http`` as a process among hostile clients."""

import contextlib
import json
import resource
import signal
import socket
import threading
import time
import urllib.request

import pytest

from tests.forked import DEVNULL, PIPE, Kvstream
from tests.waiting import DEADLINE
from tests.web.test_connections import HOSTILE, reset


@contextlib.contextmanager
def serving(folder, **options):
    """A server's port and the lines that it says; afterwards it has ended as asked, and has said little."""
    arguments = ["serve", "--listen", f"unix:{folder}/kv.sock", "--http", "127.0.0.1:0", "--json"]
    with Kvstream(arguments, stdout=DEVNULL, stderr=PIPE, **options) as process:
        assert process.stderr.readline().startswith(b"listening at ")
        port = int(process.stderr.readline().decode().rstrip("/ \n").rsplit(":", 1)[1])
        said = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr))
        reader.start()
        yield port, said
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 143
        reader.join(DEADLINE)
        text = b"".join(said).decode()
        assert "Traceback" not in text
        assert "\x1b" not in text
        assert len(said) < 60, text


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)


def get(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return answer.read()


def test_hostile_requests_end_nothing_but_themselves(tmp_path):
    with serving(tmp_path) as (port, _):
        for data in HOSTILE.values():
            with connect(port) as connection, contextlib.suppress(OSError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(0.02)
                while connection.recv(65536):
                    pass
            gone = connect(port)
            with contextlib.suppress(OSError):
                gone.setblocking(False)
                gone.send(data)
            reset(gone)
            connect(port).close()
        health = json.loads(get(port, "/healthz"))
        assert health["status"] == "ok"
        assert b'kvstream_faults_total{part="http",reason="bad_request"}' in get(port, "/metrics")


def test_descriptors_that_are_used_up_are_waited_for(tmp_path):
    with serving(tmp_path, limits={resource.RLIMIT_NOFILE: 48}) as (port, said):
        with contextlib.ExitStack() as stack:
            for _ in range(80):
                stack.enter_context(connect(port))
            end = time.monotonic() + DEADLINE
            while not any(b"Too many open files" in line for line in said):
                assert time.monotonic() < end
                time.sleep(0.01)
        assert json.loads(get(port, "/healthz"))["status"] == "ok"
        assert b'kvstream_faults_total{part="http",reason="accept_failed"}' in get(port, "/metrics")


def test_followers_that_are_silent_keep_no_browser_out(tmp_path):
    with serving(tmp_path) as (port, _), contextlib.ExitStack() as stack:
        for _ in range(300):
            silent = stack.enter_context(connect(port))
            silent.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        with connect(port) as browser:
            browser.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            seen = b""
            while b"event: state" not in seen:
                piece = browser.recv(65536)
                assert piece
                seen += piece
        assert b" 200 " in seen.splitlines()[0]
        assert json.loads(get(port, "/healthz"))["clients"]["displaced"] > 0


def test_another_name_for_this_machine_is_not_answered(tmp_path):
    with serving(tmp_path) as (port, _):
        with pytest.raises(urllib.error.HTTPError, match="421"):
            get(port, "/api/summary", host="evil.example")
        assert get(port, "/api/summary", host="localhost")
