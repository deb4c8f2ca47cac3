from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
import zmq
from anyio import to_thread

from kvstream.config import StreamConfig
from kvstream.errors import ConfigError
from kvstream.sources.zmq_events import KVEventSubscriber, ZmqAddress
from kvstream.stream import KVStream
from tests.ports import free_port
from tests.publisher import Engine, captured
from tests.waiting import DEADLINE, until

CHAT = {"allocations": 17_430, "evicted": 17_181, "cleared": 0, "live": 249}
SCAN = {"allocations": 51_698, "evicted": 50_993, "cleared": 690, "live": 15}


@asynccontextmanager
async def subscribed(*engines, config=None):
    """A stream fed by subscribers of the engines; everybody is connected."""
    subscribers = [KVEventSubscriber(engine.url) for engine in engines]
    with anyio.fail_after(DEADLINE):
        async with KVStream(config or StreamConfig()) as stream, anyio.create_task_group() as tasks:
            for subscriber in subscribers:
                tasks.start_soon(stream.feed, subscriber.read())
            for engine in engines:
                assert await to_thread.run_sync(engine.subscribed.wait, DEADLINE)
            yield stream, subscribers
            tasks.cancel_scope.cancel()


def counts(stream):
    accounts = stream.summary().accounts
    return {name: getattr(accounts, name) for name in CHAT}


async def settled(stream, subscriber, batches):
    await until(lambda: subscriber.statistics().batches + subscriber.statistics().lost_batches == batches)
    await stream.flush()


@pytest.mark.parametrize(("name", "expected"), [("chat", CHAT), ("scan", SCAN)])
async def test_a_capture_arrives_with_exact_counts(name, expected):
    payloads = captured(name)
    with Engine() as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish(payloads)
            await settled(stream, subscriber, len(payloads))
            assert counts(stream) == expected
            summary = stream.summary()
            assert summary.accounts.balanced
            assert summary.accounts.unknown_evictions == summary.accounts.lost_frames == 0
            statistics = subscriber.statistics()
            assert (statistics.batches, statistics.lost_batches) == (len(payloads), 0)
            assert stream.places() == [("engine/dp0", "gpu")]


@pytest.mark.parametrize(("name", "expected"), [("chat", CHAT), ("scan", SCAN)])
@pytest.mark.parametrize("first", [0, 9])
async def test_every_tenth_batch_withheld_is_had_by_replay(name, expected, first):
    payloads = captured(name)
    with Engine(withhold=lambda seq: seq % 10 == first) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish([*payloads, msgspec.msgpack.encode([2e9, [], 0])])
            # The empty batch at the end shows that the one before it is missing, if it is.
            await settled(stream, subscriber, len(payloads) + 1)
            assert counts(stream) == expected
            statistics = subscriber.statistics()
            assert statistics.lost_batches == 0
            assert statistics.replayed >= len(payloads) // 10


@pytest.mark.parametrize("first", [0, 9])
async def test_without_a_replay_the_loss_is_exact_and_alerts(first):
    payloads = captured("chat")
    withheld = len([seq for seq in range(len(payloads)) if seq % 10 == first])
    with Engine(withhold=lambda seq: seq % 10 == first, replay=False) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            alerts = []
            stream.on_alert(alerts.append)
            engine.publish([*payloads, msgspec.msgpack.encode([2e9, [["BlockRemoved", [1]]], 0])])
            await settled(stream, subscriber, len(payloads) + 1)
            assert subscriber.statistics().lost_batches == withheld
            assert stream.summary().accounts.lost_frames == withheld
            await until(lambda: any(a.rule == "lost_frames" and a.state == "firing" for a in alerts))


@pytest.mark.parametrize("unnoticed", [0, 3000], ids=["from its first batch on", "after many batches"])
async def test_a_publisher_killed_and_restarted_mid_stream_starts_over(unnoticed):
    first, second = captured("chat")[:1000], captured("scan")
    with Engine() as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish(first)
            await settled(stream, subscriber, len(first))
            engine.__exit__()
            with Engine(endpoints=(engine.endpoint, engine.replay_endpoint)) as again:
                again.publish(second[:unnoticed])
                assert await to_thread.run_sync(again.subscribed.wait, DEADLINE)
                again.publish(second[unnoticed:])
                await settled(stream, subscriber, len(first) + len(second))
                accounts = stream.summary().accounts
                assert subscriber.statistics().restarts == accounts.restarts == 1
                assert (accounts.live, accounts.lost_frames) == (SCAN["live"], 0)
                assert accounts.allocations == accounts.live + accounts.evicted + accounts.cleared


async def test_a_consumer_killed_and_started_again_mid_stream_catches_up():
    payloads = captured("scan")
    with Engine() as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish(payloads[:2000])
            await until(lambda: subscriber.statistics().batches > 500)
        engine.subscribed.clear()
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish(payloads[2000:])
            await settled(stream, subscriber, len(payloads))
            assert counts(stream) == SCAN


async def test_several_engines_at_once_are_sources_of_their_own():
    with Engine() as one, Engine() as other:
        urls = [one.url.replace("=engine", "=one"), other.url.replace("=engine", "=other")]
        subscribers = [KVEventSubscriber(url) for url in urls]
        with anyio.fail_after(DEADLINE):
            async with KVStream(StreamConfig()) as stream, anyio.create_task_group() as tasks:
                for subscriber in subscribers:
                    tasks.start_soon(stream.feed, subscriber.read())
                one.publish(captured("chat"))
                other.publish(captured("scan"))
                await until(lambda: [s.statistics().batches for s in subscribers] == [3952, 3201])
                await stream.flush()
                assert stream.summary("one/dp0").accounts.live == 249
                assert stream.summary("other/dp0").accounts.live == 15
                tasks.cancel_scope.cancel()


async def test_what_is_no_message_is_reported_between_good_ones():
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    try:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        subscriber = KVEventSubscriber(f"zmq://127.0.0.1:{port}")
        with anyio.fail_after(DEADLINE):
            async with KVStream() as stream, anyio.create_task_group() as tasks:
                tasks.start_soon(stream.feed, subscriber.read())
                await to_thread.run_sync(socket.recv)
                good = msgspec.msgpack.encode([1.7e9, [["BlockStored", [1], None, [], 32, None]]])
                socket.send_multipart([b"", (0).to_bytes(8, "big"), good])
                socket.send_multipart([b"", b"short", good])
                socket.send_multipart([b"only one"])
                socket.send_multipart([b"", (1).to_bytes(8, "big"), b"\xc1"])
                socket.send_multipart([b"", (2).to_bytes(8, "big"), good])
                await until(lambda: subscriber.statistics().messages == 5)
                await stream.flush()
                accounts = stream.summary().accounts
                assert (accounts.allocations, accounts.live, accounts.malformed) == (1, 1, 3)
                assert stream.summary().accesses == 1
                assert subscriber.statistics().malformed == 3
                assert [m.unit for m in stream.malformed] == ["message"] * 3
                tasks.cancel_scope.cancel()
    finally:
        context.destroy(linger=0)


async def test_publishers_that_connect_to_us_are_told_apart_by_their_topics():
    port = free_port()
    subscriber = KVEventSubscriber(f"zmq://*:{port}")
    context = zmq.Context()
    try:
        with anyio.fail_after(DEADLINE):
            async with KVStream() as stream, anyio.create_task_group() as tasks:
                tasks.start_soon(stream.feed, subscriber.read())
                sockets = [context.socket(zmq.XPUB) for _ in range(2)]
                for topic, socket in zip((b"pod-a", b"pod-b"), sockets, strict=True):
                    socket.connect(f"tcp://127.0.0.1:{port}")
                    await to_thread.run_sync(socket.recv)
                    batch = msgspec.msgpack.encode([1.7e9, [["BlockStored", [1, 2], None, [], 32, None]]])
                    socket.send_multipart([topic, (0).to_bytes(8, "big"), batch])
                await until(lambda: subscriber.statistics().batches == 2)
                await stream.flush()
                assert [source for source, _ in stream.places()] == ["pod-a", "pod-b"]
                tasks.cancel_scope.cancel()
    finally:
        context.destroy(linger=0)


def test_addresses():
    assert ZmqAddress.parse("zmq://h:5557?topic=kv&replay=tcp://h:5558&source=a") == ZmqAddress(
        "tcp://h:5557", "kv", "tcp://h:5558", "a"
    )
    assert ZmqAddress.parse("zmq+ipc:///run/kv").endpoint == "ipc:///run/kv"
    assert ZmqAddress.parse("zmq://*:5557").binds
    for wrong in ("zmq://host", "zmq:", "http://h:1", "zmq://h:1?topics=x", "zmq://h:1?replay=h:2"):
        with pytest.raises(ConfigError):
            ZmqAddress.parse(wrong)


@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
def test_it_works_on_trio():
    async def main():
        with Engine() as engine:
            async with subscribed(engine) as (stream, (subscriber,)):
                engine.publish(captured("chat"))
                await settled(stream, subscriber, 3952)
                return counts(stream)

    assert anyio.run(main, backend="trio") == CHAT
