"""Connections of the HTTP server: what strangers send, and do not send, over real sockets."""

import asyncio
import contextlib
import errno
import logging
import shutil
import socket
import ssl
import struct
import subprocess

import anyio
import httpx2
import pytest

import kvstream.web.connections as connections_module
from kvstream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.web.server import HttpServer
from tests.ports import has_ipv6
from tests.serving import DEADLINE, send_chat, served

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"

HOSTILE = {
    "nothing": b"",
    "TLS": bytes.fromhex("160301020001000bfc0303") + b"\xff" * 300,
    "zeros": b"\x00" * 5000,
    "no HTTP": b"kvstream?\r\n\r\n",
    "a path that is not ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path of escapes": b"GET /%00%ff%ed%a0%80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a file of the null byte": b"GET /static/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long file": b"GET /static/" + b"x" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a file above": b"GET /static/../../app.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a query that is not ASCII": b"GET /api/summary?source=\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a huge query": b"GET /api/summary?source=" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a huge header": GET + b"x: " + b"x" * 200_000 + b"\r\n\r\n",
    "many headers": GET + b"x: y\r\n" * 20_000 + b"\r\n",
    "odd headers": GET + b"accept: \xff\xfe\r\ncookie: \xff=\xff;;=\r\nauthorization: \xff \xff\r\n\r\n",
    "a null byte in a header": GET + b"x: a\x00b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: localhost\r\n\r\n",
    "no host in HTTP/1.0": b"GET /api/summary HTTP/1.0\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "a target with a host": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another method": b"PATCH /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an odd method": b"G!#$%&'*T /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HEAD of what has no end": b"HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
    "a body shorter than it says": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\nx",
    "an odd length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: \xb2\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bad chunks": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an upgrade": GET + b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "expects to go on": GET.replace(b"GET", b"POST") + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    "many at once": (GET + b"\r\n") * 500,
    "nonsense after a request": GET + b"\r\n\xff\xff\xff\r\n\r\n",
    "nonsense while it is answered": b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n\x00\xff\r\n\r\n",
}


GONE = (anyio.BrokenResourceError, anyio.EndOfStream)


def port_of(url):
    return int(url.rstrip("/").rsplit(":", 1)[1])


@contextlib.contextmanager
def connected(url, count):
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port_of(url)))) for _ in range(count)
        ]


def reset(connection):
    """Ends a connection by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.fixture
def quiet(caplog, capfd):
    """Nothing is logged but by kvstream itself, a line a second for each kind, and no traceback."""
    caplog.set_level(logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    yield
    logged = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert {record.name for record in logged} <= {"kvstream"}
    assert all(record.exc_info is None for record in logged)
    assert "Traceback" not in capfd.readouterr().err


async def test_whatever_a_connection_sends_it_ends_alone(quiet):
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream, 500)
        for data in HOSTILE.values():
            for length in (len(data), len(data) // 2):
                async with await anyio.connect_tcp("127.0.0.1", port_of(url)) as connection:
                    with contextlib.suppress(*GONE):
                        await connection.send(data[:length])
                        await connection.send_eof()
                    with anyio.move_on_after(0.02), contextlib.suppress(*GONE):
                        answer = await connection.receive()
                        assert not answer.startswith(b"HTTP/1.1 5")
            raw = socket.create_connection(("127.0.0.1", port_of(url)))
            with contextlib.suppress(OSError):
                raw.setblocking(False)
                raw.send(data)
            reset(raw)
        assert (await client.get("api/summary")).status_code == 200
        assert stream.faults.counts["http", "bad_request"] > 10
        assert ("http", "request_failed") not in stream.faults.counts
        health = (await client.get("healthz")).json()
        assert health["connections"]["accepted"] >= 3 * len(HOSTILE)


async def test_a_request_that_does_not_come_whole_in_time_is_not_waited_for(monkeypatch, quiet):
    monkeypatch.setattr(connections_module, "_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(connections_module, "_SWEEP_SECONDS", 0.05)
    starts = (b"", b"GET", GET, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        with connected(url, len(starts)) as late:
            for connection, start in zip(late, starts, strict=True):
                connection.sendall(start)
            for connection in late:
                with contextlib.suppress(ConnectionError):
                    while await anyio.to_thread.run_sync(connection.recv, 65536):
                        pass
        assert (await client.get("healthz")).json()["connections"]["late"] == len(starts)
        assert stream.faults.counts["http", "late_request"] == len(starts)


async def test_one_that_sends_a_byte_at_a_time_is_not_waited_for_either(monkeypatch):
    monkeypatch.setattr(connections_module, "_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(connections_module, "_SWEEP_SECONDS", 0.05)
    async with served() as (_, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        async with await anyio.connect_tcp("127.0.0.1", port_of(url)) as connection:
            with anyio.fail_after(DEADLINE), contextlib.suppress(*GONE):
                while True:
                    await connection.send(b"x")
                    await anyio.sleep(0.02)
        assert (await client.get("healthz")).json()["connections"]["late"] == 1


async def test_connections_without_a_request_keep_nobody_out():
    async with served(max_connections=8) as (stream, url), httpx2.AsyncClient(timeout=DEADLINE) as client:
        with connected(url, 40):
            for _ in range(5):
                async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as another:
                    assert (await another.get("healthz")).status_code == 200
                    assert (await another.get("")).status_code == 200
            health = (await client.get(f"{url}healthz")).json()["connections"]
            assert health["open"] <= 8
            assert health["displaced"] >= 32
            assert stream.faults.counts["http", "too_many_connections"] == health["displaced"]


async def test_a_connection_that_is_answered_outlives_those_that_ask_nothing():
    async with (
        served(max_connections=8) as (_, url),
        httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client,
    ):
        async with client.stream("GET", "events") as followed:
            lines = followed.aiter_lines()
            with connected(url, 40), anyio.fail_after(DEADLINE):
                for _ in range(2):
                    while "event: state" not in await anext(lines):
                        pass


async def test_answers_that_nobody_takes_are_given_up(monkeypatch):
    monkeypatch.setattr(connections_module, "_STUCK_SECONDS", 0.3)
    monkeypatch.setattr(connections_module, "_SWEEP_SECONDS", 0.05)
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream, 1_000)
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.connect(("127.0.0.1", port_of(url)))
            greedy.setblocking(False)
            request = GET.replace(b"/healthz", b"/metrics") + b"\r\n"
            with anyio.fail_after(DEADLINE):
                while not (await client.get("healthz")).json()["connections"]["stuck"]:
                    with contextlib.suppress(OSError):
                        greedy.send(request * 100)
                    await anyio.sleep(0.01)
        assert (await client.get("metrics")).status_code == 200


async def test_what_waits_to_be_taken_is_bounded_in_all(monkeypatch):
    monkeypatch.setattr(connections_module, "_MOST_UNSENT_BYTES", 100_000)
    monkeypatch.setattr(connections_module, "_SWEEP_SECONDS", 0.05)
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        for number in range(200):
            await send_chat(stream, 50, source=f"vllm-{number}")
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                greedy = stack.enter_context(socket.socket())
                greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                greedy.connect(("127.0.0.1", port_of(url)))
                greedy.sendall((GET.replace(b"/healthz", b"/metrics") + b"\r\n") * 20)
            with anyio.fail_after(DEADLINE):
                while not (await client.get("healthz")).json()["connections"]["stuck"]:  # noqa: ASYNC110
                    await anyio.sleep(0.01)


async def test_without_descriptors_it_waits_and_goes_on(monkeypatch, caplog):
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        loop = asyncio.get_running_loop()
        accept, refused = loop.sock_accept, 5

        async def sock_accept(listener):
            nonlocal refused
            if refused:
                refused -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return await accept(listener)

        monkeypatch.setattr(loop, "sock_accept", sock_accept)
        assert (await client.get("healthz")).status_code == 200  # accepted before
        async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as another:
            assert (await another.get("healthz")).status_code == 200
        assert stream.faults.counts["http", "accept_failed"] == 5
    assert len([m for m in caplog.messages if "Too many open files" in m]) <= 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return folder


@pytest.fixture
def tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


async def test_it_serves_https(certificate, tls, quiet):
    trusted = ssl.create_default_context(cafile=certificate / "cert.pem")
    async with served(tls=tls, token="s3cret") as (stream, url):
        assert url.startswith("https://")
        async with httpx2.AsyncClient(base_url=url, verify=trusted, timeout=DEADLINE) as client:
            welcome = await client.get("", params={"token": "s3cret"})
            assert "Secure" in welcome.headers["set-cookie"]
            assert (await client.get("api/summary")).status_code == 200
            async with client.stream("GET", "events") as followed:
                async for line in followed.aiter_lines():
                    if line == "event: state":
                        break
        for data in HOSTILE.values():
            async with await anyio.connect_tcp("127.0.0.1", port_of(url)) as plain:
                with anyio.move_on_after(0.02), contextlib.suppress(*GONE):
                    await plain.send(data)
                    await plain.receive()
        async with httpx2.AsyncClient(base_url=url, verify=trusted, timeout=DEADLINE) as client:
            assert (await client.get("healthz")).status_code == 200
        assert stream.faults.counts["http", "handshake_failed"] > 0


async def test_handshakes_that_are_not_finished_keep_nobody_out(certificate, tls):
    trusted = ssl.create_default_context(cafile=certificate / "cert.pem")
    async with served(tls=tls, max_connections=8) as (_, url):
        with connected(url, 40):
            async with httpx2.AsyncClient(base_url=url, verify=trusted, timeout=DEADLINE) as client:
                assert (await client.get("healthz")).json()["connections"]["displaced"] >= 32


def test_a_token_that_travels_unencrypted_beyond_this_machine_is_warned_of(caplog):
    server = HttpServer(KVStream(), Endpoint(host="0.0.0.0", port=0), token="s3cret")
    server.bind()
    server._socket.close()
    assert "unencrypted" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize(
    ("listen", "hosts"), [("[::1]", ["[::1]"]), ("[::]", ["[::1]", "127.0.0.1"]), ("0.0.0.0", ["127.0.0.1"])]
)
async def test_it_listens_on_ipv6_and_at_every_address_of_the_machine(listen, hosts):
    stream = KVStream()
    server = HttpServer(stream, Endpoint.parse_address(f"{listen}:0"), insecure=True)
    server.bind()
    assert server.url.startswith(f"http://{listen}:")
    async with stream, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        async with httpx2.AsyncClient(timeout=DEADLINE) as client:
            for host in hosts:
                answer = await client.get(f"http://{host}:{server.endpoint.port}/readyz")
                assert answer.status_code == 200
        tasks.cancel_scope.cancel()
