"""A connection's accounts, whatever becomes of it, against servers that break the rules too."""

from contextlib import asynccontextmanager

import anyio
import msgspec
import numpy as np
import pytest
from anyio.abc import ByteStream

from kvstream import connect
from kvstream.config import StreamConfig
from kvstream.errors import ClosedStreamError, KVStreamError
from kvstream.events.codec import decode_frame
from kvstream.events.frame import MAX_FRAME_EVENTS, EventFrame
from kvstream.transport.messages import MessageReader, with_length
from kvstream.transport.sender import new_epoch
from tests.transport.test_server import DEADLINE, serving, until


def frame(events, source="engine-0"):
    return EventFrame(np.zeros(events, np.uint8), np.arange(events), np.ones(events, np.int64), source)


def balanced(statistics):
    """Whether every event is in one place."""
    producers, queue = statistics.producers, statistics.queue
    offered = statistics.offered + sum(p.offered for p in producers)
    dropped = sum(statistics.dropped.values()) + sum(sum(p.dropped.values()) for p in producers)
    waiting = queue.events + queue.processing_events + sum(p.buffered for p in producers)
    return offered == statistics.events + waiting + dropped


@asynccontextmanager
async def scripted(path, *answers, received=None):
    """A server that lets everybody in, takes a frame for each answer, and then closes."""

    async def serve(stream):
        async with stream:
            reader = MessageReader(stream, 1 << 24)
            for answer in (0, *answers):
                message = await reader.next()
                if received is not None:
                    received.append(message)
                data = answer if isinstance(answer, bytes) else msgspec.msgpack.encode(answer)
                await stream.send(with_length(data))

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"unix:{path}"
        tasks.cancel_scope.cancel()


async def test_what_send_was_given_is_accounted_for_when_nobody_listens(tmp_path):
    config = StreamConfig(queue_events=100, shutdown_timeout=0.01)
    async with connect(f"unix:{tmp_path}/nobody", config=config) as remote:
        await remote.send(frame(60))
        await until(lambda: remote.statistics().last_error)
        await remote.send(frame(70))
        await until(lambda: remote.statistics().queue.processing_events == 130)
        await remote.send(frame(90))
        with anyio.move_on_after(0.01):
            await remote.send(frame(80))
        statistics = remote.statistics()
        assert (statistics.offered, statistics.dropped, statistics.events) == (300, {"cancelled": 80}, 0)
        assert (statistics.queue.events, statistics.queue.processing_events) == (90, 130)
    statistics = remote.statistics()
    assert statistics.dropped == {"cancelled": 80, "shutdown_timeout": 220}
    assert balanced(statistics)
    with pytest.raises(ClosedStreamError):
        await remote.send(frame(1))
    assert remote.statistics().offered == 300


async def test_leaving_by_an_error_counts_what_is_left_as_cancelled(tmp_path):
    config = StreamConfig(queue_events=100)
    with pytest.raises(ZeroDivisionError):
        async with connect(f"unix:{tmp_path}/nobody", config=config) as remote:
            remote.producer("engine-1").allocated_nowait([1, 2])
            await remote.send(frame(60))
            raise ZeroDivisionError
    statistics = remote.statistics()
    assert statistics.dropped == {"cancelled": 60}
    assert statistics.producers[0].dropped == {"cancelled": 2}
    assert balanced(statistics)


async def test_who_waits_for_room_or_a_flush_while_it_closes_is_let_go_and_counted(tmp_path):
    config = StreamConfig(queue_events=100, shutdown_timeout=0.05)
    closed = []

    async def wait(call, *arguments):
        try:
            await call(*arguments)
        except ClosedStreamError:
            closed.append(call.__name__)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            async with connect(f"unix:{tmp_path}/nobody", config=config) as remote:
                for _ in range(3):
                    tasks.start_soon(wait, remote.send, frame(90))
                tasks.start_soon(wait, remote.flush)
                await until(lambda: remote.statistics().last_error)
    assert sorted(closed)[0] == "flush"
    assert balanced(remote.statistics())


async def test_accounts_balance_at_every_moment(tmp_path):
    async with serving(f"unix:{tmp_path}/kv.sock") as (stream, server):
        async with connect(str(server.endpoint), config=StreamConfig(queue_events=5000)) as remote:
            engine = remote.producer("engine-0")
            for step in range(200):
                engine.allocated_nowait(range(step, step + 30))
                await remote.send(frame(20, "engine-1"))
                assert balanced(remote.statistics())
            await remote.flush()
            assert balanced(remote.statistics())
            assert remote.statistics().events == 10_000
        await stream.flush()
        assert stream.accounts().processed == 10_000


async def test_what_was_acknowledged_before_a_break_is_not_sent_again(tmp_path):
    """Each connection acknowledges one frame and closes in the middle of the next, which is large."""
    received = []
    async with scripted(f"{tmp_path}/kv.sock", 1, received=received) as endpoint:
        async with connect(endpoint, config=StreamConfig(queue_events=10_000_000)) as remote:
            for _ in range(4):
                await remote.send(frame(500_000))
            await remote.flush()
            assert remote.statistics().frames == 4
            assert remote.statistics().events == 2_000_000
        assert balanced(remote.statistics())
    assert [decode_frame(message).seq for message in received if len(message) > 1000] == [0, 1, 2, 3]


class Broken(ByteStream):
    """A connection that breaks at the second write, before it gives what it has received."""

    def __init__(self):
        self._broken = anyio.Event()
        self._writes = 0
        self._answers = [with_length(b"\x00"), with_length(b"\x01")]

    async def send(self, item):
        self._writes += 1
        if self._writes > 1:
            self._broken.set()
            raise anyio.BrokenResourceError

    async def receive(self, max_bytes=65536):
        await anyio.lowlevel.checkpoint()
        if len(self._answers) == 1:
            await self._broken.wait()
            await anyio.wait_all_tasks_blocked()
        if not self._answers:
            raise anyio.EndOfStream
        return self._answers.pop(0)

    async def send_eof(self):
        pass

    async def aclose(self):
        pass


async def test_answers_that_wait_to_be_read_count_when_a_write_fails(tmp_path, monkeypatch):
    async with connect(f"unix:{tmp_path}/nobody", config=StreamConfig(shutdown_timeout=0.01)) as remote:
        streams = [Broken()]

        async def opened(endpoint, tls):
            if not streams:
                raise OSError("nobody is there")
            return streams.pop()

        monkeypatch.setattr("kvstream.transport.sender.open_stream", opened)
        await remote.send(frame(10))
        await remote.send(frame(20))
        await until(lambda: remote.statistics().last_error == "nobody is there")
        assert remote.statistics().events == 10
    assert balanced(remote.statistics())


@pytest.mark.parametrize(
    "answer",
    [7, -1, 2**63, "go away", b"nonsense", b"\x91" * 3000, b"\xa2\xff\xfe", b"\xc0", b""],
)
async def test_a_server_that_breaks_the_rules_does_not_end_the_connection(tmp_path, answer):
    async with scripted(f"{tmp_path}/kv.sock", answer) as endpoint:
        async with connect(endpoint, config=StreamConfig(shutdown_timeout=0.01)) as remote:
            await remote.send(frame(10))
            await until(lambda: remote.statistics().connects > 1)
            assert remote.statistics().events == 0
            assert remote.statistics().last_error
        assert balanced(remote.statistics())


async def test_a_frame_that_cannot_be_encoded_is_dropped_alone(tmp_path):
    async with serving(f"unix:{tmp_path}/kv.sock") as (stream, server):
        async with connect(str(server.endpoint)) as remote:
            await remote.send(frame(3))
            await remote.send(frame(MAX_FRAME_EVENTS + 1))
            await remote.send(frame(5))
            await remote.flush()
            statistics = remote.statistics()
            assert statistics.dropped == {"malformed": MAX_FRAME_EVENTS + 1}
            assert statistics.events == 8
            assert balanced(statistics)
        await stream.flush()
        assert stream.accounts().lost_frames == 0


async def test_who_waits_to_be_accepted_hears_of_a_refusal(tmp_path):
    async with serving(f"unix:{tmp_path}/kv.sock", token="secret") as (_, server):
        for token in ("secret", "wrong"):
            config = StreamConfig(shutdown_timeout=0.01)
            async with connect(str(server.endpoint), token=token, config=config) as remote:
                await remote.send(frame(1))
                if token == "secret":
                    await remote.accepted()
                else:
                    with pytest.raises(KVStreamError, match="wrong token"):
                        await remote.accepted()


def test_epochs_of_processes_that_start_at_once_differ(monkeypatch):
    monkeypatch.setattr("kvstream.transport.sender.time.time_ns", lambda: 1_790_000_000_123_456_789)
    epochs = {new_epoch() for _ in range(100)}
    assert len(epochs) > 95
    assert all(abs(epoch - 1_790_000_000_123_456_789) < 2**24 for epoch in epochs)
    monkeypatch.setattr("kvstream.transport.sender.time.time_ns", lambda: 2**63 - 1)
    assert new_epoch() < 2**63


async def test_what_a_server_says_does_not_reach_a_terminal_as_it_is(tmp_path, caplog):
    async with scripted(f"{tmp_path}/kv.sock", "\x1b[2J\n" + "x" * 3000) as endpoint:
        async with connect(endpoint, config=StreamConfig(shutdown_timeout=0.01)) as remote:
            await remote.send(frame(10))
            await until(lambda: remote.statistics().last_error)
    for text in (remote.statistics().last_error, caplog.text.rstrip("\n")):
        assert "\x1b" not in text
        assert "\n" not in text
        assert len(text) < 500


async def test_a_server_that_only_goes_away_has_not_refused(tmp_path):
    """It is asked again, and who waits to be accepted waits on."""
    path, comings = f"{tmp_path}/kv.sock", []

    async def serve(stream):
        async with stream:
            comings.append(stream)
            if len(comings) > 1:
                await stream.send(with_length(b"\x00"))
                await anyio.sleep_forever()

    with anyio.fail_after(DEADLINE):
        async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            config = StreamConfig(shutdown_timeout=0.01)
            async with connect(f"unix:{path}", config=config) as remote:
                await remote.send(frame(1))
                await remote.accepted()
            tasks.cancel_scope.cancel()
    assert len(comings) == 2


async def test_a_connection_with_nothing_left_to_send_closes_at_once(tmp_path):
    async with serving(f"unix:{tmp_path}/kv.sock") as (_, server):
        with anyio.fail_after(DEADLINE):
            async with connect(
                str(server.endpoint), config=StreamConfig(shutdown_timeout=10 * DEADLINE)
            ) as remote:
                await remote.send(frame(10))
                await remote.flush()
        assert remote.statistics().events == 10


async def test_accounts_are_there_from_the_opening_on(tmp_path):
    remote = connect(f"unix:{tmp_path}/nobody.sock", config=StreamConfig(shutdown_timeout=0.01))
    with pytest.raises(ClosedStreamError, match="not open"):
        remote.statistics()
    async with remote:
        assert remote.statistics().events == 0
        await remote.producer().allocated([1])
    assert remote.statistics().producers[0].dropped == {"shutdown_timeout": 1}
