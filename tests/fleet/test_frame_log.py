"""Frames into a topic, and what becomes of them while the broker is away."""

import signal
from contextlib import asynccontextmanager
from functools import partial

import anyio
import msgspec
import numpy as np
import pytest

from kvstream import connect
from kvstream.config import StreamConfig
from kvstream.errors import ClosedStreamError, ConfigError
from kvstream.events.codec import decode_frame, encode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.types import Op
from kvstream.fleet import frame_log
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.frame_log import FrameLog, UnwrittenFrames
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.server import FrameServer
from tests.fleet.brokers import tansu
from tests.ports import free_port
from tests.waiting import DEADLINE, until

GONE = "kafka://127.0.0.1:{port}/gone"


def frame(source="engine-0", seq=0, events=4):
    blocks = np.arange(events, dtype=np.int64) + seq * events
    return EventFrame(
        np.full(events, Op.ALLOC, dtype=np.uint8), blocks, blocks + 10**18, source, epoch=7, seq=seq
    )


@asynccontextmanager
async def writing(url, settings=None, **config):
    log = FrameLog(KafkaAddress.parse(url), settings or {}, StreamConfig(**config))
    log.connect()
    log.open()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run)
            yield log
            tasks.cancel_scope.cancel()


async def test_what_is_settled_is_in_the_topic_under_its_source(broker):
    url = broker.url()
    async with writing(url) as log:
        for seq in range(3):
            for source in ("engine-0", "engine-1"):
                await log.send(frame(source, seq))
        await log.settled()
        records = broker.records(KafkaAddress.parse(url).frames)
        assert log.statistics().written == log.statistics().offered == 24
    for source in ("engine-0", "engine-1"):
        of_source = [record for record in records if record[2] == source.encode()]
        assert len({partition for partition, *_ in of_source}) == 1
        frames = [decode_frame(value) for _, _, _, value, _ in of_source]
        assert [(each.epoch, each.seq, each.source) for each in frames] == [
            (7, seq, source) for seq in range(3)
        ]
        assert frames[2].blocks.tolist() == [8, 9, 10, 11]


async def test_closing_writes_what_waits(broker):
    url = broker.url()
    async with writing(url) as log:
        for seq in range(50):
            await log.send(frame(seq=seq))
        log.close()
        await log.settled()
        with pytest.raises(ClosedStreamError):
            await log.send(frame(seq=50))
    assert len(broker.records(KafkaAddress.parse(url).frames)) == 50


async def test_a_producer_hears_of_a_frame_once_the_broker_has_it(broker, tmp_path):
    url = broker.url()
    async with writing(url) as log, anyio.create_task_group() as tasks:
        server = FrameServer(log, Endpoint(path=f"{tmp_path}/kv.sock"), unheld=partial(UnwrittenFrames, log))
        await server.bind()
        tasks.start_soon(server.serve)
        async with connect(f"unix:{tmp_path}/kv.sock") as remote:
            await remote.producer("engine-0").allocated(range(100))
            await remote.flush()
            in_topic = [decode_frame(r[3]) for r in broker.records(KafkaAddress.parse(url).frames)]
            assert remote.statistics().events == sum(map(len, in_topic)) == 100
        tasks.cancel_scope.cancel()


async def test_who_waits_hears_at_once_of_what_the_broker_has(broker, monkeypatch):
    monkeypatch.setattr(frame_log, "GATHER_SECONDS", 3600.0)
    async with writing(broker.url()) as log:
        await log.send(frame())

        def is_settled():
            log.hurry()
            return log.is_settled(log.position)

        await until(is_settled)
        assert log.statistics().written == 4


async def test_a_producer_hears_nothing_while_no_broker_has_its_frames(tmp_path):
    async with writing(GONE.format(port=free_port())) as log, anyio.create_task_group() as tasks:
        server = FrameServer(log, Endpoint(path=f"{tmp_path}/kv.sock"), unheld=partial(UnwrittenFrames, log))
        await server.bind()
        tasks.start_soon(server.serve)
        config = StreamConfig(shutdown_timeout=0.2)
        async with connect(f"unix:{tmp_path}/kv.sock", config=config) as remote:
            await remote.producer("engine-0").allocated(range(100))
            await until(lambda: log.statistics().waiting == 100)
        assert remote.statistics().frames == 0
        assert log.statistics().written == 0
        tasks.cancel_scope.cancel()
    assert log.statistics().dropped == {"shutdown_timeout": 100}


@pytest.mark.parametrize(
    ("policy", "reasons"),
    [("drop_newest", {"queue_full"}), ("drop_oldest", {"displaced"}), ("sample", {"sampled", "queue_full"})],
)
async def test_a_full_queue_drops_by_its_policy_and_counts(policy, reasons):
    async with writing(GONE.format(port=free_port()), overflow=policy, queue_events=64) as log:
        log._ahead_bytes = 2**40  # as if the client held all it may
        for seq in range(100):
            await log.send(frame(seq=seq))
            await anyio.lowlevel.checkpoint()
        counted = log.statistics()
        assert set(counted.dropped) <= reasons
        assert counted.dropped
        assert counted.offered == 400 == counted.waiting + sum(counted.dropped.values())


async def test_a_full_queue_makes_senders_wait_under_block():
    async with writing(GONE.format(port=free_port()), queue_events=64) as log:
        log._ahead_bytes = 2**40
        with anyio.move_on_after(0.2) as waiting:
            for seq in range(100):
                await log.send(frame(seq=seq))
        assert waiting.cancelled_caught
        assert log.statistics().dropped == {"cancelled": 4}
        assert log.statistics().waiting <= 2 * 64


async def test_frames_wait_while_the_broker_stands_still():
    """Those sent meanwhile are there in order, each once."""
    with tansu() as broker:
        url = broker.url()
        async with writing(url, queue_events=1000) as log:
            await log.send(frame(seq=0))
            await log.settled()
            broker.process.send_signal(signal.SIGSTOP)
            for seq in range(1, 100):
                await log.send(frame(seq=seq))
            with anyio.move_on_after(1.0) as waiting:
                await log.settled()
            assert waiting.cancelled_caught
            broker.process.send_signal(signal.SIGCONT)
            await log.settled()
            assert log.statistics().written == 400
        records = broker.records(KafkaAddress.parse(url).frames)
        assert [decode_frame(record[3]).seq for record in records] == list(range(100))


async def test_a_frame_that_is_too_long_is_counted_and_ends_nothing(broker):
    url = broker.url()
    async with writing(url, {"message.max.bytes": "1000"}) as log:
        await log.send(frame(events=1000))
        await log.send(frame(seq=1))
        await log.settled()
        assert log.statistics().dropped == {"refused_by_broker": 1000}
        assert log.statistics().written == 4
    assert log.faults.counts["kafka", "refused"] == 1
    assert len(broker.records(KafkaAddress.parse(url).frames)) == 1


def test_a_setting_that_cannot_be_used_is_an_error_in_words():
    with pytest.raises(ConfigError, match=r"no\.such\.setting"):
        FrameLog(KafkaAddress.parse("kafka://x:1/p"), {"no.such.setting": "1"}, StreamConfig()).connect()


async def test_what_was_received_is_written_as_it_came_in_order_with_what_waits(broker):
    url = broker.url()
    later_field = msgspec.msgpack.encode(
        [*msgspec.msgpack.decode(encode_frame(frame(seq=0))), None, None, 0, 9]
    )
    async with writing(url) as log:
        await log.send(decode_frame(later_field), later_field)
        log._is_handing = True  # as while frames go from the queue to the client
        await log.send(frame(seq=1))
        log._is_handing = False
        await log.send(frame(seq=2))
        await log.settled()
    values = [record[3] for record in broker.records(KafkaAddress.parse(url).frames)]
    assert values[0] == later_field
    assert [decode_frame(value).seq for value in values] == [0, 1, 2]
