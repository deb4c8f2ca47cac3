"""``kvstream serve`` and ``replay`` as processes, against what comes from outside."""

import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager

import anyio
import pytest

from kvstream import StreamConfig, connect
from kvstream.transport.messages import with_length
from tests.cli.conftest import COMMAND, DEADLINE, SCAN, running
from tests.cli.test_serve import listening

NESTED = with_length(b"\x94\xa8kvstream\x01\xc0" + b"\x91" * 3900 + b"\xc0")
WRONG = with_length(b"\x93\xa8kvstream\x01\xa5wrong")
NOT_UTF8 = with_length(b"\x93\xa8kvstream\x01\xa2\xff\xfe")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@contextmanager
def served(endpoint, *options, **pipes):
    """A server, its endpoint, and what it says in the end."""
    arguments = ("serve", "--listen", endpoint, "--json", *options)
    with running(*arguments, stderr=subprocess.PIPE, **pipes) as process:
        yield process, listening(process)


def stop(process):
    """Ends a server as it should be ended; returns its last summary and what it said on the way."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 143, err
    assert b"Traceback" not in err
    return json.loads(out.splitlines()[-1]), err.decode()


def stranger(endpoint):
    if endpoint.startswith("unix:"):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(DEADLINE)
        peer.connect(endpoint.removeprefix("unix:"))
        return peer
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=DEADLINE)


def reset(peer):
    """Closes a connection in the rudest way."""
    if peer.family == socket.AF_INET:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def send(endpoint, blocks, token=None, **options):
    with anyio.fail_after(DEADLINE):
        async with connect(endpoint, token=token, **options) as remote:
            await remote.producer("engine-0").allocated(blocks)
            await remote.flush()
            assert remote.statistics().connects == 1


@pytest.mark.parametrize("at", ["unix", "tcp"])
async def test_a_server_outlives_what_strangers_do(tmp_path, at):
    endpoint = f"unix:{tmp_path}/kv.sock" if at == "unix" else "tcp://127.0.0.1:0"
    with served(endpoint, env={**os.environ, "KVSTREAM_TOKEN": "secret"}) as (process, endpoint):
        for said in (b"", b"\x00\x00", b"GET / HTTP/1.0\r\n\r\n", NESTED, WRONG, NOT_UTF8, b"\xff" * 5000):
            for leave in (socket.socket.close, reset):
                peer = stranger(endpoint)
                try:
                    peer.sendall(said)
                finally:
                    leave(peer)
        await send(endpoint, range(100), "secret")
        summary, err = stop(process)
        assert summary["blocks_live"] == 100
        assert len(err.splitlines()) < 20
        assert "secret" not in err


async def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path):
    with served(f"unix:{tmp_path}/kv.sock") as (process, endpoint):
        with running("serve", "--listen", endpoint, stderr=subprocess.PIPE) as second:
            _, err = second.communicate()
        assert second.returncode == 1
        assert b"another server" in err
        assert len(err.splitlines()) == 1
        await send(endpoint, range(100))
        assert stop(process)[0]["blocks_live"] == 100


async def test_the_file_of_a_killed_server_is_taken_over(tmp_path):
    path = tmp_path / "kv.sock"
    with served(f"unix:{path}") as (process, endpoint):
        process.kill()
        process.communicate(timeout=DEADLINE)
    assert path.exists()
    with served(f"unix:{path}") as (process, endpoint):
        await send(endpoint, range(100))
        assert stop(process)[0]["blocks_live"] == 100
    assert not path.exists()


@pytest.mark.parametrize("then", ["nothing", "another server"])
def test_a_server_without_its_file_ends_as_usual_and_removes_nobody_elses(tmp_path, then):
    path = tmp_path / "kv.sock"
    with served(f"unix:{path}") as (process, _):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            if then == "another server":
                other.bind(str(path))
                other.listen()
            stop(process)
            assert path.exists() == (then == "another server")


async def test_a_server_without_files_left_waits_and_goes_on(tmp_path):
    few = {resource.RLIMIT_NOFILE: 48}
    with served(f"unix:{tmp_path}/kv.sock", limits=few) as (process, endpoint):
        peers = [stranger(endpoint) for _ in range(80)]
        await send(endpoint, range(100))  # the oldest strangers go, so that producers come in
        for peer in peers:
            peer.close()
        summary, err = stop(process)
        assert summary["blocks_live"] == 100
        assert "Too many open files" in err


async def test_over_clean_restarts_every_event_counts_once(tmp_path):
    await restarts(tmp_path, 3)


@pytest.mark.slow
async def test_over_ten_clean_restarts_every_event_counts_once(tmp_path):
    await restarts(tmp_path, 10)


async def restarts(tmp_path, times):
    counted = lost = 0
    endpoint = f"unix:{tmp_path}/kv.sock"
    config = StreamConfig(frame_events=20, queue_events=2000, shutdown_timeout=DEADLINE)
    recording = True
    with anyio.fail_after(DEADLINE * 2):
        async with connect(endpoint, config=config) as remote, anyio.create_task_group() as tasks:

            async def record():
                block = 0
                while recording:
                    await remote.producer("engine-0").allocated(range(block, block + 20))
                    block += 20

            tasks.start_soon(record)
            for time in range(times):
                with served(endpoint) as (process, _):
                    goal = remote.statistics().events + 20_000
                    while remote.statistics().events < goal:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                    if time == times - 1:
                        recording = False
                        await remote.flush()
                    summary, _ = await anyio.to_thread.run_sync(stop, process)
                    counted += summary["accounts"]["allocations"]
                    lost += summary["accounts"]["lost_frames"]
        (producer,) = remote.statistics().producers
    assert producer.offered == remote.statistics().events == counted
    assert lost == 0


async def test_frames_come_over_tls(tmp_path, certificates):
    files = ("--tls-cert", certificates.server, "--tls-key", certificates.server_key)
    (tmp_path / "token").write_text("sécret\n", encoding="utf-8")
    options = (*files, "--token-file", tmp_path / "token")
    with served("tls://127.0.0.1:0", *options) as (process, endpoint):
        await send(endpoint, range(100), "sécret", ca=certificates.root)
        there = ("--to", endpoint, "--tls-ca", certificates.root, "--token-file", tmp_path / "token")
        await anyio.run_process([*COMMAND, "replay", SCAN, "--speed", "0", *map(str, there)])
        summary, _ = stop(process)
        assert summary["accounts"]["processed"] == 150_100
