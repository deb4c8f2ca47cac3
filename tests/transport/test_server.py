"""Server and connection together, over real sockets."""

import errno
import os
import socket
import struct
import sys
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec
import numpy as np
import pytest
from anyio.abc import SocketAttribute

from kvstream import connect
from kvstream.config import StreamConfig
from kvstream.errors import ConfigError
from kvstream.events.codec import encode_frame
from kvstream.events.frame import EventFrame
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.messages import LARGEST_READ, Hello, MessageReader, with_length
from kvstream.transport.receive_budget import ReceiveBudget
from kvstream.transport.server import FrameServer
from tests.ports import free_port, has_ipv6
from tests.waiting import DEADLINE, until


@pytest.fixture(params=["unix", "tcp"])
def endpoint(request, tmp_path):
    return f"unix:{tmp_path}/kv.sock" if request.param == "unix" else "tcp://127.0.0.1:0"


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


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
            engine.accessed_nowait([1, 2])
            remote.producer("engine-1", "cpu").allocated_nowait(5)
            await remote.flush()
            statistics = remote.statistics()
            assert statistics.connected
            assert statistics.frames == server.statistics().frames == 3
            assert [p.sent for p in statistics.producers] == [10_002, 1]
        await stream.flush()
        summary = stream.summary_nowait()
        assert summary.blocks_live == 10_001
        assert summary.accesses == 2
        assert summary.accounts.lost_frames == summary.accounts.duplicate_frames == 0
        assert stream.caches() == [("engine-0", "gpu"), ("engine-1", "cpu")]


async def test_frames_that_do_not_come_fast_gather_in_a_unix_socket(tmp_path):
    turns, taken = 0, []

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def take(frame, encoded):
        taken.append((turns, frame.seq))

    options = {"send": take, "gather_seconds": 0.5}
    async with (
        serving(f"unix:{tmp_path}/kv.sock", **options) as (_, server),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(count_turns)
        async with await raw_connection(server) as connection:
            await say(connection, Hello())
            assert await MessageReader(connection, 100).next() == b"\x00"
            for seq in range(5):
                frame = EventFrame(np.zeros(3, np.uint8), np.arange(3), np.arange(3), seq=seq)
                await say(connection, encode_frame(frame))
            await until(lambda: len(taken) == 5)
        tasks.cancel_scope.cancel()
    assert [seq for _, seq in taken] == [0, 1, 2, 3, 4]
    assert len({turn for turn, _ in taken}) == 1


async def test_a_connection_waits_for_its_server_and_leaving_sends_everything(tmp_path):
    endpoint = f"unix:{tmp_path}/kv.sock"
    with anyio.fail_after(DEADLINE):
        async with KVStream() as stream, anyio.create_task_group() as tasks:
            async with connect(endpoint) as remote:
                remote.producer("engine-0").allocated_nowait([1, 2, 3])
                while not remote.statistics().last_error:  # noqa: ASYNC110 - it has no listeners
                    await anyio.sleep(0.005)
                server = FrameServer(stream, Endpoint.parse(endpoint))
                await server.bind()
                tasks.start_soon(server.serve)
                await remote.flush()
                remote.producer("engine-0").evicted_nowait(1)
            await stream.flush()
            assert stream.summary_nowait().accounts.allocations == 3
            assert stream.summary_nowait().total_evictions == 1
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
            accounts = stream.summary_nowait().accounts
            assert accounts.allocations == accounts.live == 6000
            assert accounts.lost_frames == accounts.restarts == 0
            assert accounts.duplicate_frames == server.statistics().frames - 600
            assert accounts.balanced


async def test_while_nobody_listens_memory_is_bounded_and_drops_are_counted(tmp_path):
    config = StreamConfig(queue_events=1000, frame_events=100, overflow="drop_oldest", shutdown_timeout=0.01)
    async with connect(f"unix:{tmp_path}/nobody", config=config) as remote:
        engine = remote.producer("engine-0")
        for step in range(1000):
            engine.allocated_nowait(range(step * 100, step * 100 + 100))
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
            remote.producer("engine-0").allocated_nowait(1)
            if given != "right":
                await until(lambda: remote.statistics().last_error)
        await stream.flush()
        arrived = stream.summary_nowait().blocks_live == 1
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
        accounts = stream.summary_nowait().accounts
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
        assert (
            b"1 producers are connected already; --max-connections" in await MessageReader(second, 100).next()
        )
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
            return stream.summary_nowait().blocks_live

    assert anyio.run(main, backend="trio") == 10


# Python 3.13 and later go as deep as a hello can, and pass over what is after its fields.
READ_SINCE_3_13 = pytest.mark.skipif(sys.version_info >= (3, 13), reason="a hello with one more field there")
NESTED = b"\x94\xa8kvstream\x01\xc0" + b"\x91" * 3900 + b"\xc0"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "closed_early"),
        (b"\x00\x00", "closed_early"),
        (b"\x00\x00\x00\x40abc", "closed_early"),
        (b"GET / HTTP/1.0\r\n\r\n", "bad_hello"),
        (with_length(b""), "bad_hello"),
        pytest.param(with_length(NESTED), "bad_hello", marks=READ_SINCE_3_13),
        (with_length(b"\x93\xa8kvstream\x01\xa2\xff\xfe"), "bad_hello"),  # a token that is not UTF-8
        (with_length(b"\x93\xa8kvstream\x01\xcf" + b"\xff" * 8), "bad_hello"),  # one that is a number
        (with_length(msgspec.msgpack.encode(Hello(token="wrong"))), "bad_token"),
        (with_length(msgspec.msgpack.encode(Hello())), "bad_token"),
    ],
)
@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_what_a_stranger_does_ends_its_connection_alone(endpoint, said, reason, how):
    async with serving(endpoint, token="secret") as (stream, server):
        connection = await raw_connection(server)
        raw = connection.extra(SocketAttribute.raw_socket)
        if how == "reset" and not server.endpoint.path:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await connection.send(said)
        await connection.aclose()
        await until(lambda: server.statistics().faults and not server.statistics().strangers)
        (found,) = server.statistics().faults
        assert found in (reason, "reset") if how == "reset" else found == reason
        assert stream.faults.counts["frames", found] == 1
        async with connect(str(server.endpoint), token="secret") as remote:
            remote.producer("engine-0").allocated_nowait(1)
            await remote.flush()


async def test_a_connection_lost_within_a_frame_is_counted(endpoint):
    async with serving(endpoint) as (_, server):
        connection = await raw_connection(server)
        await say(connection, Hello())
        assert await MessageReader(connection, 100).next() == b"\x00"
        await connection.send(b"\x00\x00\x10\x00abc")
        await connection.aclose()
        await until(lambda: server.statistics().faults.get("torn_frame"))
        assert server.statistics().connections == 0


async def test_an_error_of_any_kind_ends_one_connection(endpoint, monkeypatch):
    async with serving(endpoint) as (stream, server):
        send = stream.send

        async def fail(frame):
            if frame.source == "odd":
                raise RuntimeError("\x1b[31mout of luck")
            await send(frame)

        monkeypatch.setattr(stream, "send", fail)
        async with connect(str(server.endpoint)) as remote:
            remote.producer("engine-0").allocated_nowait(1)
            await remote.flush()
            odd = await raw_connection(server)
            frame = EventFrame(np.zeros(3, np.uint8), np.arange(3), np.arange(3), "odd")
            await say(odd, Hello(), encode_frame(frame))
            reader = MessageReader(odd, 1000)
            while (answer := await reader.next()) is not None:
                last = answer
            await odd.aclose()
            assert b"the server had an error" in last
            assert stream.faults.counts["frames", "error"] == 1
            remote.producer("engine-0").allocated_nowait(2)
            await remote.flush()
            assert remote.statistics().connects == 1


async def test_a_frame_that_no_decoder_foresaw_is_malformed_and_not_sent_for_ever(endpoint, monkeypatch):
    def fail(data):
        raise RecursionError("too deep")

    monkeypatch.setattr("kvstream.transport.server.decode_frame", fail)
    async with serving(endpoint) as (stream, server):
        async with connect(str(server.endpoint)) as remote:
            remote.producer("engine-0").allocated_nowait(1)
            await remote.flush()
        assert stream.summary_nowait().accounts.malformed == 1


async def test_silent_strangers_take_no_producers_place_and_have_limited_time(endpoint):
    options = {"most_connections": 2, "most_strangers": 4, "hello_seconds": 0.5}
    async with serving(endpoint, **options) as (_, server):
        strangers = [await raw_connection(server) for _ in range(20)]
        async with connect(str(server.endpoint)) as remote:
            remote.producer("engine-0").allocated_nowait(1)
            await remote.flush()
            await until(lambda: server.statistics().faults.get("too_many_strangers", 0) >= 16)
            assert server.statistics().strangers <= 4
            await until(lambda: server.statistics().faults.get("hello_timeout"))
            await until(lambda: server.statistics().strangers == 0)
            assert server.statistics().connections == 1
        for stranger in strangers:
            await stranger.aclose()


async def test_a_peer_that_reads_no_answers_loses_its_place(monkeypatch, tmp_path):
    monkeypatch.setattr("kvstream.transport.connection.ANSWER_SECONDS", 0.2)
    frame = with_length(encode_frame(EventFrame(np.zeros(0, np.uint8), np.zeros(0, int), np.zeros(0, int))))
    async with serving(f"unix:{tmp_path}/kv.sock") as (_, server):
        deaf = await raw_connection(server)
        await say(deaf, Hello())
        with pytest.raises(anyio.BrokenResourceError):
            while True:
                await deaf.send(frame * 1000)
        await deaf.aclose()
        await until(lambda: server.statistics().faults.get("answers_unread"))
        assert server.statistics().connections == 0


async def test_a_frame_that_does_not_go_on_loses_its_place(endpoint, monkeypatch):
    monkeypatch.setattr("kvstream.transport.connection.STALLED_SECONDS", 0.1)
    async with serving(endpoint) as (_, server):
        idle, slow = [await raw_connection(server) for _ in range(2)]
        for connection in (idle, slow):
            await say(connection, Hello())
            assert await MessageReader(connection, 100).next() == b"\x00"
        await slow.send(b"\x00\x00\x10\x00abc")
        await until(lambda: server.statistics().faults.get("stalled"))
        assert server.statistics().connections == 1  # between frames a producer may be silent for ever
        for connection in (idle, slow):
            await connection.aclose()


async def test_unfinished_frames_of_all_connections_together_are_bounded(endpoint):
    budget = ReceiveBudget(1 << 20)
    async with serving(endpoint, budget=budget, longest_frame=600_000) as (_, server):
        greedy = [await raw_connection(server) for _ in range(6)]
        for connection in greedy:
            await say(connection, Hello())
            assert await MessageReader(connection, 100).next() == b"\x00"
            with suppress(anyio.BrokenResourceError):
                await connection.send((590_000).to_bytes(4, "big") + bytes(500_000))
        await until(lambda: server.statistics().faults.get("receive_budget", 0) >= 3)
        assert budget.held <= (1 << 20) + 6 * LARGEST_READ
        async with connect(str(server.endpoint)) as remote:
            await remote.producer("engine-0").allocated(range(10_000))
            await remote.flush()
        for connection in greedy:
            await connection.aclose()
        await until(lambda: budget.held == 0)


async def test_a_connection_that_ends_gives_its_memory_back_at_once(endpoint, monkeypatch):
    readers = []

    def noted(*given):
        readers.append(MessageReader(*given))
        return readers[-1]

    monkeypatch.setattr("kvstream.transport.connection.MessageReader", noted)
    async with serving(endpoint) as (_, server):
        connection = await raw_connection(server)
        await say(connection, Hello())
        assert await MessageReader(connection, 100).next() == b"\x00"
        await connection.send((1 << 20).to_bytes(4, "big") + bytes(300_000))
        await until(lambda: readers[-1].held >= 300_000)
        await connection.aclose()
        await until(lambda: server.statistics().faults.get("torn_frame"))
        assert [(reader.held, len(reader._data)) for reader in readers] == [(0, 0)] * len(readers)


async def test_a_length_alone_takes_no_memory(endpoint):
    budget = ReceiveBudget()
    async with serving(endpoint, budget=budget) as (_, server):
        connection = await raw_connection(server)
        await say(connection, Hello())
        assert await MessageReader(connection, 100).next() == b"\x00"
        await connection.send((64 << 20).to_bytes(4, "big") + b"x")
        await until(lambda: budget.held)
        assert budget.held == 5
        await connection.aclose()


async def test_frames_on_the_queue_are_acknowledged_before_the_server_ends(endpoint):
    """The rest is sent again, so that two servers after one another count every event once."""
    counted = 0
    with anyio.fail_after(DEADLINE):
        config = StreamConfig(frame_events=10, shutdown_timeout=DEADLINE)
        place = endpoint
        if endpoint.startswith("tcp"):
            place = f"tcp://127.0.0.1:{free_port()}"
        async with connect(place, config=config) as remote, anyio.create_task_group() as tasks:

            async def record():
                engine = remote.producer("engine-0")
                for step in range(3000):
                    await engine.allocated(range(step * 10, step * 10 + 10))
                await remote.flush()

            tasks.start_soon(record)
            while remote.statistics().events < 30_000:
                async with KVStream() as stream:
                    server = FrameServer(stream, Endpoint.parse(place))
                    await server.bind()
                    async with anyio.create_task_group() as serving_tasks:
                        serving_tasks.start_soon(server.serve)
                        goal = min(30_000, remote.statistics().events + 4000)
                        await until(lambda goal=goal: remote.statistics().events >= goal)
                        serving_tasks.cancel_scope.cancel()
                    await stream.flush()
                    accounts = stream.summary_nowait().accounts
                    counted += accounts.allocations
                    assert accounts.lost_frames == 0
            assert remote.statistics().connects >= 5
    assert counted == 30_000


async def test_a_frame_whose_way_to_the_queue_was_cancelled_is_not_acknowledged(tmp_path):
    endpoint = f"unix:{tmp_path}/kv.sock"
    with anyio.fail_after(DEADLINE):
        async with KVStream(StreamConfig(queue_events=10)) as stream:
            server = FrameServer(stream, Endpoint.parse(endpoint))
            await server.bind()
            waiting = anyio.Event()

            async def never(frame):
                waiting.set()
                await anyio.sleep_forever()

            stream.send = never
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve)
                connection = await raw_connection(server)
                frame = EventFrame(np.zeros(3, np.uint8), np.arange(3), np.arange(3))
                await say(connection, Hello(), b"nonsense", encode_frame(frame))
                await waiting.wait()
                tasks.cancel_scope.cancel()
            reader, answers = MessageReader(connection, 1000), []
            while (answer := await reader.next()) is not None:
                answers.append(msgspec.msgpack.decode(answer))
            await connection.aclose()
    assert answers == [0, 1, "the server is stopping"]


async def test_accepting_goes_on_after_an_error(endpoint, monkeypatch):
    async with serving(endpoint) as (stream, server):
        pass
    async with KVStream() as stream:
        server = FrameServer(stream, Endpoint.parse(endpoint))
        await server.bind()
        listener = getattr(server._listener, "listeners", [server._listener])[0]
        accept, errors = listener.accept, [errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.ENOBUFS]

        async def fail_at_first():
            if errors:
                raise OSError(number := errors.pop(0), os.strerror(number))
            return await accept()

        monkeypatch.setattr(listener, "accept", fail_at_first)
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve)
                async with connect(str(server.endpoint)) as remote:
                    remote.producer("engine-0").allocated_nowait(1)
                    await remote.flush()
                tasks.cancel_scope.cancel()
        assert stream.faults.counts["frames", "accept"] == 4


def test_a_budget_without_room_for_a_frame_is_refused():
    with pytest.raises(ConfigError, match="no room"):
        FrameServer(KVStream(), Endpoint.parse("tcp://127.0.0.1:0"), budget=ReceiveBudget(1 << 20))


@pytest.mark.parametrize(
    "promise",
    [
        test_silent_strangers_take_no_producers_place_and_have_limited_time,
        test_unfinished_frames_of_all_connections_together_are_bounded,
        test_frames_on_the_queue_are_acknowledged_before_the_server_ends,
        test_a_connection_lost_within_a_frame_is_counted,
    ],
)
def test_promises_hold_on_trio_too(endpoint, promise):
    anyio.run(promise, endpoint, backend="trio")


@needs_ipv6
@pytest.mark.parametrize(
    ("listen", "hosts"), [("[::1]", ["[::1]"]), ("[::]", ["[::1]", "127.0.0.1"]), ("0.0.0.0", ["127.0.0.1"])]
)
async def test_it_listens_on_ipv6_and_at_every_address_of_the_machine(listen, hosts):
    async with serving(f"tcp://{listen}:0", insecure=True) as (stream, server):
        for host in hosts:
            async with connect(f"tcp://{host}:{server.endpoint.port}") as remote:
                await remote.producer(host).allocated([1])
        await stream.flush()
        assert {source for source, _ in stream.caches()} == set(hosts)


async def test_beyond_loopback_ipv6_needs_a_token_as_well():
    async with KVStream() as stream:
        with pytest.raises(ConfigError, match="set a token"):
            FrameServer(stream, Endpoint.parse("tcp://[::]:0"))
