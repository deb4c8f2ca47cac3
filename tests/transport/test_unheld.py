"""Frames to a stream with state: acknowledged once a snapshot holds them, and sent again until then."""

from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from kvstream import KVStream, MetricsConfig, StreamConfig, connect
from kvstream.events.codec import encode_frame
from kvstream.state import saver
from kvstream.state.store import DirectoryStore
from kvstream.stream import keeper_of
from kvstream.transport import unheld
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.messages import HURRY, Hello, MessageReader, with_length
from kvstream.transport.server import FrameServer
from tests.state.power import UnsyncedFiles
from tests.strategies import frame
from tests.waiting import DEADLINE, until

CONFIG = StreamConfig(metrics=MetricsConfig(export_interval=0.0))
BLOCKS = 1000


@pytest.fixture(autouse=True)
def _no_snapshots_unasked(monkeypatch):
    monkeypatch.setattr(saver, "SHORTEST_INTERVAL", 10_000.0)


@asynccontextmanager
async def serving(path, state=None, config=CONFIG):
    """A stream with state and its server at a Unix socket, stopped as by a signal."""
    with anyio.fail_after(DEADLINE):
        stream = KVStream(config, state=state or path / "state")
        stream_saver = keeper_of(stream).saver
        stream_saver.interval = 10_000.0
        async with stream, anyio.create_task_group() as tasks:
            server = FrameServer(stream, Endpoint.parse(f"unix:{path}/kv.sock"))
            await server.bind()
            tasks.start_soon(server.serve)
            yield stream, server
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def dying(path, monkeypatch):
    """The same, but ended as by a crash: with nothing that is saved at the end."""
    monkeypatch.setattr("kvstream.transport.connection._LAST_SNAPSHOT_SECONDS", 0.0)
    with pytest.RaisesGroup(ZeroDivisionError):
        async with serving(path) as (stream, server):
            yield stream, server
            keeper_of(stream).saver.soon = lambda: None
            raise ZeroDivisionError


@asynccontextmanager
async def raw(path):
    """What a producer's side says and hears, after the greeting."""
    async with await anyio.connect_unix(f"{path}/kv.sock") as connection:
        reader = MessageReader(connection, 4096)

        async def hear():
            return msgspec.msgpack.decode(await reader.next())

        async def say(*messages):
            await connection.send(b"".join(map(with_length, messages)))

        await say(msgspec.msgpack.encode(Hello()))
        assert await hear() == 0
        yield say, hear


def encoded(seq, source="s"):
    return encode_frame(frame([(0, seq, seq * 10**9, "")], source, epoch=1, seq=seq))


async def test_frames_are_acknowledged_up_to_the_first_one_that_no_snapshot_holds(tmp_path):
    async with serving(tmp_path) as (stream, server), raw(tmp_path) as (say, hear):
        await say(*(encoded(seq) for seq in range(3)), b"no frame", encoded(0, "other"))
        await until(lambda: server.statistics().frames == 5)
        await stream.flush()
        assert await keeper_of(stream).saver.save()
        assert await hear() == 5
        await say(encoded(3), encoded(1, "other"))
        await until(lambda: server.statistics().frames == 7)
        await stream.flush()
        assert await keeper_of(stream).saver.save()
        assert await hear() == 7


async def test_who_hurries_gets_a_snapshot_soon(tmp_path):
    async with serving(tmp_path) as (stream, _), raw(tmp_path) as (say, hear):
        await say(HURRY, encoded(0), HURRY)
        assert await hear() == 1
        assert stream.statistics().state.snapshots >= 1


async def test_much_that_is_not_acknowledged_leads_to_a_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr(unheld, "_PRESSING_BYTES", 3 * len(encoded(0)))
    async with serving(tmp_path) as (_, server), raw(tmp_path) as (say, hear):
        await say(encoded(0), encoded(1))
        await until(lambda: server.statistics().frames == 2)
        await say(encoded(2))
        taken = 0
        while taken < 3:
            taken = await hear()


def producing(path):
    return connect(f"unix:{path}/kv.sock", config=StreamConfig(flush_seconds=0.01))


async def test_a_crash_loses_nothing_and_counts_nothing_twice(tmp_path, monkeypatch):
    async with producing(tmp_path) as remote:
        engine = remote.producer("engine-0")
        async with dying(tmp_path, monkeypatch) as (stream, _):
            await engine.allocated(range(BLOCKS))
            await remote.flush()  # which a snapshot holds then
            await engine.accessed(range(BLOCKS))
            await engine.evicted(range(10))
            await until(lambda: stream.accounts().processed == 2 * BLOCKS + 10)
        assert remote.statistics().queue.processing_events == BLOCKS + 10
        async with dying(tmp_path, monkeypatch) as (stream, _):
            await until(lambda: stream.accounts().processed == 2 * BLOCKS + 10)
        async with serving(tmp_path) as (stream, _):
            await engine.evicted(range(10, 20))
            await remote.flush()
            accounts = stream.accounts()
        assert (accounts.processed, accounts.live, accounts.evicted) == (2 * BLOCKS + 20, BLOCKS - 20, 20)
        assert accounts.lost_frames == accounts.restarts == accounts.duplicate_frames == 0
        assert remote.statistics().events == 2 * BLOCKS + 20
    assert not remote.statistics().dropped


async def test_a_server_that_stops_acknowledges_by_a_last_snapshot(tmp_path):
    async with producing(tmp_path) as remote:
        async with serving(tmp_path) as (stream, server):
            await remote.producer("engine-0").allocated(range(BLOCKS))
            await until(lambda: server.statistics().frames)
            assert remote.statistics().events == 0
        await until(lambda: remote.statistics().events == BLOCKS)
    assert stream.statistics().state.snapshots >= 1
    async with serving(tmp_path) as (after, _):
        assert after.accounts() == stream.accounts()


async def test_where_no_snapshot_can_be_written_frames_are_acknowledged_all_the_same(tmp_path, caplog):
    files = UnsyncedFiles(None)
    (tmp_path / "state").mkdir()
    store = DirectoryStore(tmp_path / "state", files)
    async with serving(tmp_path, store) as (stream, server), raw(tmp_path) as (say, hear):
        files.fail_at = files.steps
        await say(encoded(0))
        await until(lambda: server.statistics().frames == 1)
        assert not await keeper_of(stream).saver.save()
        await say(encoded(1), HURRY)
        assert await hear() == 2
        state = stream.statistics().state
        assert (state.error, state.unsaved_frames) == ("No space left on device", 2)
        files.fail_at = None
        await say(encoded(2), HURRY)
        assert await hear() == 3
        assert stream.statistics().state.unsaved_frames == 2
    assert "2 frames are acknowledged that no snapshot holds (No space left on device)" in caplog.text


async def test_a_producer_whose_buffer_is_full_asks_for_a_snapshot(tmp_path):
    config = StreamConfig(queue_events=BLOCKS, frame_events=BLOCKS // 10)
    async with (
        serving(tmp_path) as (stream, _),
        connect(f"unix:{tmp_path}/kv.sock", config=config) as remote,
    ):
        await remote.producer("engine-0").allocated(range(5 * BLOCKS))
        await remote.flush()
        assert stream.accounts().processed == 5 * BLOCKS


async def test_waiting_for_a_snapshot_is_no_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("kvstream.transport.connection._SIGN_OF_LIFE_SECONDS", 0.01)
    async with serving(tmp_path) as (_, server), raw(tmp_path) as (say, hear):
        await say(encoded(0))
        await until(lambda: server.statistics().frames == 1)
        assert [await hear() for _ in range(3)] == [0, 0, 0]
