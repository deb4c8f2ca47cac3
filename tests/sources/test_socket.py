"""Server and connection together, over real sockets."""

from contextlib import asynccontextmanager

import anyio
import msgspec
import numpy as np
import pytest

from kvstream import connect
from kvstream.config import StreamConfig
from kvstream.errors import ConfigError
from kvstream.events.codec import encode_frame
from kvstream.events.frame import EventFrame
from kvstream.link import Endpoint, Hello, MessageReader, with_length
from kvstream.sources.socket import FrameServer
from kvstream.stream import KVStream
from tests.waiting import DEADLINE, until


@pytest.fixture(params=["unix", "tcp"])
def endpoint(request, tmp_path):
    return f"unix:{tmp_path}/kv.sock" if request.param == "unix" else "tcp://127.0.0.1:0"


@asynccontextmanager
async def serving(endpoint, **options):
    """A stream and its server."""
    with anyio.fail_after(DEADLINE):
        async with KVStream() as stream, anyio.create_task_group() as tasks:
            server = FrameServer(stream, Endpoint.parse(endpoint), **options)
            await server.bind()
            tasks.start_soon(server.serve)
            yield stream, server
            tasks.cancel_scope.cancel()


async def raw_connection(server):
    if server.endpoint.path:
        return await anyio.connect_unix(server.endpoint.path)
    return await anyio.connect_tcp(server.endpoint.host, server.endpoint.port)


async def say(connection, *messages):

    for message in messages:
        data = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
        await connection.send(with_length(data))


async def test_events_of_a_remote_producer_arrive(endpoint):
    async with serving(endpoint) as (stream, server):
        async with connect(str(server.endpoint)) as remote:
            engine = remote.producer("engine-0")
            await engine.allocated(range(10_000))
            engine.record_accessed([1, 2])
            remote.producer("engine-1", "cpu").record_allocated(5)
            await remote.flush()
            statistics = remote.statistics()
            assert statistics.connected
            assert statistics.frames == server.statistics().frames == 3
            assert [p.sent for p in statistics.producers] == [10_002, 1]
        await stream.flush()
        summary = stream.summary()
        assert summary.blocks_live == 10_001
        assert summary.accesses == 2
        assert summary.accounts.lost_frames == summary.accounts.duplicate_frames == 0
        assert stream.places() == [("engine-0", "gpu"), ("engine-1", "cpu")]


async def test_a_connection_waits_for_its_server_and_leaving_sends_everything(tmp_path):
    endpoint = f"unix:{tmp_path}/kv.sock"
    with anyio.fail_after(DEADLINE):
        async with KVStream() as stream, anyio.create_task_group() as tasks:
            async with connect(endpoint) as remote:
                remote.producer("engine-0").record_allocated([1, 2, 3])
                while not remote.statistics().last_error:  # noqa: ASYNC110 - it has no listeners
                    await anyio.sleep(0.005)
                server = FrameServer(stream, Endpoint.parse(endpoint))
                await server.bind()
                tasks.start_soon(server.serve)
                await remote.flush()
                remote.producer("engine-0").record_evicted(1)
            await stream.flush()
            assert stream.summary().accounts.allocations == 3
            assert stream.summary().total_evictions == 1
            tasks.cancel_scope.cancel()


async def test_what_was_not_acknowledged_comes_again_and_counts_once(endpoint):
    """The server breaks every connection after some frames, at random places."""
    rng = np.random.default_rng(5)

    class Breaking(FrameServer):
        async def _serve(self, connection):
            with anyio.CancelScope() as scope:
                frames = self._frames + int(rng.integers(20, 60))

                async def watch():
                    while self._frames < frames:
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watch)
                    await super()._serve(connection)
                    tasks.cancel_scope.cancel()
            await anyio.aclose_forcefully(connection)

    with anyio.fail_after(DEADLINE):
        async with KVStream() as stream:
            server = Breaking(stream, Endpoint.parse(endpoint))
            await server.bind()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve)
                config = StreamConfig(frame_events=10, shutdown_timeout=DEADLINE)
                async with connect(str(server.endpoint), config=config) as remote:
                    engine = remote.producer("engine-0")
                    for step in range(600):
                        await engine.allocated(range(step * 10, step * 10 + 10))
                    await remote.flush()
                    assert remote.statistics().connects > 5
                tasks.cancel_scope.cancel()
            await stream.flush()
            accounts = stream.summary().accounts
            assert accounts.allocations == accounts.live == 6000
            assert accounts.lost_frames == accounts.restarts == 0
            assert accounts.duplicate_frames == server.statistics().frames - 600
            assert accounts.balanced


async def test_while_nobody_listens_memory_is_bounded_and_drops_are_counted(tmp_path):
    config = StreamConfig(queue_events=1000, frame_events=100, overflow="drop_oldest", shutdown_timeout=0.01)
    async with connect(f"unix:{tmp_path}/nobody", config=config) as remote:
        engine = remote.producer("engine-0")
        for step in range(1000):
            engine.record_allocated(range(step * 100, step * 100 + 100))
        statistics = remote.statistics()
        assert statistics.queue.events + statistics.queue.processing_events <= 2000
        (of,) = statistics.producers
        assert of.dropped["displaced"] >= 98_000
        assert of.offered == of.sent + of.buffered + sum(of.dropped.values()) == 100_000
    (of,) = remote.statistics().producers
    assert of.sent == 0
    assert sum(of.dropped.values()) == 100_000


@pytest.mark.parametrize("given", [None, "wrong", "right"])
async def test_a_token_is_asked_for(endpoint, given):
    async with serving(endpoint, token="right") as (stream, server):
        config = StreamConfig(shutdown_timeout=DEADLINE if given == "right" else 0.2)
        async with connect(str(server.endpoint), token=given, config=config) as remote:
            remote.producer("engine-0").record_allocated(1)
            if given != "right":
                await until(lambda: remote.statistics().last_error)
        await stream.flush()
        arrived = stream.summary().blocks_live == 1
        assert arrived == (given == "right")
        assert (server.statistics().refused > 0) == (given != "right")
        if given != "right":
            assert "token" in remote.statistics().last_error


def test_beyond_this_machine_a_token_is_needed():
    stream, everywhere = KVStream(), Endpoint.parse("tcp://0.0.0.0:1")
    with pytest.raises(ConfigError, match="token"):
        FrameServer(stream, everywhere)
    FrameServer(stream, everywhere, token="t")
    FrameServer(stream, everywhere, insecure=True)


async def test_a_malformed_frame_is_counted_and_its_neighbours_are_kept(endpoint):
    frame = encode_frame(EventFrame(np.zeros(3, np.uint8), np.arange(3), np.arange(3)))
    async with serving(endpoint) as (stream, server):
        connection = await raw_connection(server)
        await say(connection, Hello(), frame, b"nonsense", frame)
        reader = MessageReader(connection, 100)
        while await reader.next() != b"\x03":
            pass
        await connection.aclose()
        await stream.flush()
        accounts = stream.summary().accounts
        assert (accounts.processed, accounts.malformed) == (6, 1)
        assert stream.malformed[0].unit == "frame"
        assert stream.malformed[0].position == 2


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"GET / HTTP/1.1"], "no kvstream producer"),
        ([Hello(version=9)], "kvstream 9 is not kvstream 1"),
        ([b"x" * 5000], "longer than 4,096"),
        ([Hello(), b"x" * 300], "longer than 200"),
    ],
)
async def test_who_breaks_the_rules_is_told_why_and_cut_off(endpoint, messages, reason):
    async with serving(endpoint, longest_frame=200) as (_, server):
        connection = await raw_connection(server)
        await say(connection, *messages)
        reader = MessageReader(connection, 1000)
        answers = []
        while (answer := await reader.next()) is not None:
            answers.append(answer)
        assert reason in answers[-1].decode(errors="replace")
        assert server.statistics().refused == 1
        assert server.statistics().connections == 0
        await connection.aclose()


async def test_connections_are_limited(endpoint):
    async with serving(endpoint, most_connections=1) as (_, server):
        first = await raw_connection(server)
        await say(first, Hello())
        assert await MessageReader(first, 100).next() == b"\x00"
        second = await raw_connection(server)
        assert b"1 producers" in await MessageReader(second, 100).next()
        for connection in (first, second):
            await connection.aclose()


async def test_a_socket_in_use_is_not_taken_over_and_a_dead_one_is(tmp_path):
    endpoint = Endpoint.parse(f"unix:{tmp_path}/kv.sock")
    async with serving(str(endpoint)) as (stream, _):
        with pytest.raises(ConfigError, match="another server"):
            await FrameServer(stream, endpoint).bind()
    (tmp_path / "kv.sock").touch()
    async with KVStream() as stream:
        with pytest.raises(ConfigError, match="cannot listen"):
            await FrameServer(stream, endpoint).bind()


def test_it_works_on_trio(tmp_path):
    async def main():
        async with serving(f"unix:{tmp_path}/kv.sock") as (stream, server):
            async with connect(str(server.endpoint)) as remote:
                await remote.producer("engine-0").allocated(range(10))
            await stream.flush()
            return stream.summary().blocks_live

    assert anyio.run(main, backend="trio") == 10
