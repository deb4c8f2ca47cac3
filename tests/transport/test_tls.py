"""Frames over TLS, and contexts from files that cannot be used."""

import logging
import ssl

import anyio
import pytest

from kvstream import connect
from kvstream.config import StreamConfig
from kvstream.errors import ConfigError
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.server import FrameServer
from kvstream.transport.tls import client_context, server_context
from tests.transport.test_server import say, serving, until

BRIEF = StreamConfig(shutdown_timeout=0.1)


def context_of(certificates, **options):
    return server_context(certificates.server, certificates.server_key, **options)


async def send_one(server, **options):
    """Sends an event; returns why the server could not be reached, if it could not."""
    async with connect(str(server.endpoint), **options) as remote:
        remote.producer("engine-0").allocated_nowait(1)
        await until(lambda: remote.statistics().last_error or remote.statistics().events)
        return remote.statistics().last_error


async def test_frames_arrive_over_tls(certificates):
    async with serving("tls://127.0.0.1:0", tls=context_of(certificates), token="secret") as (stream, server):
        assert str(server.endpoint).startswith("tls://127.0.0.1:")
        async with connect(str(server.endpoint), ca=certificates.root, token="secret") as remote:
            for step in range(50):
                await remote.producer("engine-0").allocated(range(step * 10_000, step * 10_000 + 10_000))
            await remote.flush()
        await stream.flush()
        assert stream.summary_nowait().blocks_live == 500_000
        assert server.statistics().faults == {}


async def test_a_client_does_not_trust_just_any_server(certificates):
    async with serving("tls://127.0.0.1:0", tls=context_of(certificates)) as (stream, server):
        assert "certificate" in await send_one(server, ca=certificates.other_root, config=BRIEF)
        assert "certificate" in await send_one(server, config=BRIEF)
        await until(lambda: server.statistics().faults.get("tls_handshake", 0) >= 2)
        assert await send_one(server, ca=certificates.root) == ""
        assert stream.faults.counts["frames", "tls_handshake"] >= 2


async def test_a_server_can_ask_for_a_certificate_instead_of_a_token(certificates):
    tls = context_of(certificates, client_ca=certificates.root)
    FrameServer(KVStream(), Endpoint.parse("tls://0.0.0.0:1"), tls=tls)
    async with serving("tls://127.0.0.1:0", tls=tls) as (_, server):
        assert await send_one(server, ca=certificates.root, config=BRIEF)
        await until(lambda: server.statistics().faults.get("tls_handshake"))
        own = {"certificate": certificates.client, "key": certificates.client_key}
        assert await send_one(server, ca=certificates.root, **own) == ""


async def test_what_is_no_tls_on_a_tls_port_ends_that_connection_alone(certificates):
    options = {"tls": context_of(certificates), "hello_seconds": 0.2}
    async with serving("tls://127.0.0.1:0", **options) as (_, server):
        host, port = server.endpoint.host, server.endpoint.port
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\x00" * 5000, b"", None):
            stranger = await anyio.connect_tcp(host, port)
            if words is not None:  # which stays silent
                await stranger.send(words)
                await stranger.aclose()
        await until(lambda: server.statistics().strangers == 0)
        await until(lambda: server.statistics().faults.get("hello_timeout"))
        await stranger.aclose()
        assert server.statistics().faults["tls_handshake"] >= 3
        assert await send_one(server, ca=certificates.root) == ""


async def test_tls_in_clear_is_said_to_be_no_server(certificates):
    async with serving("tcp://127.0.0.1:0") as (_, server):
        endpoint = f"tls://127.0.0.1:{server.endpoint.port}"
        async with connect(endpoint, ca=certificates.root, config=BRIEF) as remote:
            remote.producer().allocated_nowait(1)
            await until(lambda: remote.statistics().last_error)
        plain = await anyio.connect_tcp("127.0.0.1", server.endpoint.port)
        await say(plain, b"")
        await plain.aclose()


def test_tls_works_on_trio(certificates):
    async def main():
        async with serving("tls://127.0.0.1:0", tls=context_of(certificates)) as (stream, server):
            async with connect(str(server.endpoint), ca=certificates.root) as remote:
                await remote.producer("engine-0").allocated(range(10))
            await stream.flush()
            return stream.summary_nowait().blocks_live

    assert anyio.run(main, backend="trio") == 10


def test_files_that_cannot_be_used_are_named(certificates, tmp_path):
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("hello")
    missing = tmp_path / "missing.pem"
    for make, name in (
        (lambda: server_context(missing, certificates.server_key), "missing.pem"),
        (lambda: server_context(certificates.server, missing), "missing.pem"),
        (lambda: server_context(certificates.server, certificates.client_key), "server.pem"),
        (lambda: server_context(nonsense, certificates.server_key), "nonsense.pem"),
        (lambda: server_context(certificates.server, certificates.locked_key), "locked.key"),
        (lambda: context_of(certificates, client_ca=nonsense), "nonsense.pem"),
        (lambda: client_context(ca=missing), "missing.pem"),
        (lambda: client_context(ca=tmp_path), str(tmp_path)),
        (lambda: connect("tls://h:1", certificate=certificates.client), "key"),
    ):
        with pytest.raises(ConfigError, match=name):
            make()


def test_endpoint_and_context_must_agree(certificates):
    tls = context_of(certificates)
    with pytest.raises(ConfigError, match="certificate"):
        FrameServer(KVStream(), Endpoint.parse("tls://127.0.0.1:0"))
    with pytest.raises(ConfigError, match="tls://"):
        FrameServer(KVStream(), Endpoint.parse("tcp://127.0.0.1:0"), tls=tls)
    with pytest.raises(ConfigError, match="tls://"):
        connect("tcp://127.0.0.1:1", ca=certificates.root)
    assert tls.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_token_in_clear_beyond_this_machine_is_warned_of_once(caplog):
    caplog.set_level(logging.WARNING)
    async with connect("tcp://192.0.2.1:1", token="secret"):
        pass
    server = FrameServer(KVStream(), Endpoint.parse("tcp://0.0.0.0:0"), token="secret")
    await server.bind()
    await server.aclose()
    assert [r.message.count("unencrypted") for r in caplog.records] == [1, 1]
    assert "secret" not in caplog.text
