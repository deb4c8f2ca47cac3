import os
import socket
import time
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
import zmq
from anyio import to_thread
from anyio.abc import SocketAttribute

from kvstream.config import StreamConfig
from kvstream.errors import ConfigError
from kvstream.sources.zmq_events import KVEventSubscriber
from kvstream.stream import KVStream
from tests.ports import free_port
from tests.publisher import END, TOPIC, Engine, answers_with_topic, answers_without, captured, number, stored
from tests.waiting import DEADLINE, until

LAYOUTS = [answers_with_topic, answers_without]
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
    accounts = stream.summary_nowait().accounts
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
            summary = stream.summary_nowait()
            assert summary.accounts.balanced
            assert summary.accounts.unknown_evictions == summary.accounts.lost_frames == 0
            statistics = subscriber.statistics()
            assert (statistics.batches, statistics.lost_batches) == (len(payloads), 0)
            assert stream.caches() == [("engine/dp0", "gpu")]


@pytest.mark.parametrize(("name", "expected"), [("chat", CHAT), ("scan", SCAN)])
@pytest.mark.parametrize(("first", "answers"), [(0, answers_with_topic), (9, answers_without)])
async def test_every_tenth_batch_withheld_is_had_by_replay(name, expected, first, answers):
    payloads = captured(name)
    with Engine(withhold=lambda seq: seq % 10 == first, answers=answers) as engine:
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
    # What comes first sets the number: nobody can know that there was a batch before it.
    withheld = len([seq for seq in range(1, len(payloads)) if seq % 10 == first])
    with Engine(withhold=lambda seq: seq % 10 == first, replay=False) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            alerts = []
            stream.on_alert(alerts.append)
            engine.publish([*payloads, msgspec.msgpack.encode([2e9, [["BlockRemoved", [1]]], 0])])
            await settled(stream, subscriber, len(payloads) + 1 if first else len(payloads))
            assert subscriber.statistics().lost_batches == withheld
            assert stream.summary_nowait().accounts.lost_frames == withheld
            await until(lambda: any(a.rule == "lost_frames" and a.state == "firing" for a in alerts))


@pytest.mark.parametrize("unnoticed", [0, 3000], ids=["from its first batch on", "after many batches"])
@pytest.mark.parametrize("answers", LAYOUTS)
async def test_a_publisher_killed_and_restarted_mid_stream_starts_over(unnoticed, answers):
    first, second = captured("chat")[:1000], captured("scan")
    with Engine(answers=answers) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish(first)
            await settled(stream, subscriber, len(first))
            engine.__exit__()
            with Engine(endpoints=(engine.endpoint, engine.replay_endpoint), answers=answers) as again:
                again.publish(second[:unnoticed])
                assert await to_thread.run_sync(again.subscribed.wait, DEADLINE)
                again.publish(second[unnoticed:])
                await settled(stream, subscriber, len(first) + len(second))
                accounts = stream.summary_nowait().accounts
                assert subscriber.statistics().restarts == accounts.restarts == 1
                assert (accounts.live, accounts.lost_frames) == (SCAN["live"], 0)
                assert accounts.allocations == accounts.live + accounts.evicted + accounts.cleared


@pytest.mark.parametrize("answers", LAYOUTS)
async def test_a_consumer_killed_and_started_again_mid_stream_catches_up(answers):
    payloads = captured("scan")
    with Engine(answers=answers) as engine:
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
                assert stream.summary_nowait("one/dp0").accounts.live == 249
                assert stream.summary_nowait("other/dp0").accounts.live == 15
                tasks.cancel_scope.cancel()


async def test_what_is_no_message_is_reported_between_good_ones():
    context = zmq.Context()
    live = context.socket(zmq.XPUB)
    try:
        port = live.bind_to_random_port("tcp://127.0.0.1")
        subscriber = KVEventSubscriber(f"zmq://127.0.0.1:{port}")
        with anyio.fail_after(DEADLINE):
            async with KVStream() as stream, anyio.create_task_group() as tasks:
                tasks.start_soon(stream.feed, subscriber.read())
                await to_thread.run_sync(live.recv)
                good = msgspec.msgpack.encode([1.7e9, [["BlockStored", [1], None, [], 32, None]]])
                live.send_multipart([b"", (0).to_bytes(8, "big"), good])
                live.send_multipart([b"", b"short", good])
                live.send_multipart([b"only one"])
                live.send_multipart([b"", (1).to_bytes(8, "big"), b"\xc1"])
                live.send_multipart([b"", (2).to_bytes(8, "big"), good])
                await until(lambda: subscriber.statistics().messages == 5)
                await stream.flush()
                accounts = stream.summary_nowait().accounts
                assert (accounts.allocations, accounts.live, accounts.malformed) == (1, 1, 3)
                assert accounts.processed == 2
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
                for topic, publisher in zip((b"pod-a", b"pod-b"), sockets, strict=True):
                    publisher.connect(f"tcp://127.0.0.1:{port}")
                    await to_thread.run_sync(publisher.recv)
                    batch = msgspec.msgpack.encode([1.7e9, [["BlockStored", [1, 2], None, [], 32, None]]])
                    publisher.send_multipart([topic, (0).to_bytes(8, "big"), batch])
                await until(lambda: subscriber.statistics().batches == 2)
                await stream.flush()
                assert [source for source, _ in stream.caches()] == ["pod-a", "pod-b"]
                tasks.cancel_scope.cancel()
    finally:
        context.destroy(linger=0)


@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
def test_it_works_on_trio():
    async def main():
        with Engine() as engine:
            async with subscribed(engine) as (stream, (subscriber,)):
                engine.publish(captured("chat"))
                await settled(stream, subscriber, 3952)
                return counts(stream)

    assert anyio.run(main, backend="trio") == CHAT


@asynccontextmanager
async def listening(url, **settings):
    """A stream fed by a subscriber; yields both."""
    subscriber = KVEventSubscriber(url, **settings)
    with anyio.fail_after(DEADLINE):
        async with KVStream() as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.feed, subscriber.read())
            yield stream, subscriber
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def connected(*, sockets=1, **settings):
    """A subscriber at a port of its own, and publishers' sockets that are connected to it."""
    port = free_port()
    context = zmq.Context()
    try:
        async with listening(f"zmq://*:{port}", **settings) as (stream, subscriber):
            publishers = [context.socket(zmq.XPUB) for _ in range(sockets)]
            for publisher in publishers:
                publisher.connect(f"tcp://127.0.0.1:{port}")
                await to_thread.run_sync(publisher.recv)
            yield stream, subscriber, publishers
    finally:
        context.destroy(linger=0)


def answers_in_no_layout(start, kept):
    yield from ((b"five", b"parts", b"or", b"six"),) * 5_000
    yield from ((b"short", b""),) * 5_000


def answers_with_bounds_at_the_end(start, kept):
    """As ATOM."""
    *batches, _ = answers_without(start, kept)
    yield from batches
    yield END, msgspec.msgpack.encode([kept[0][0], kept[-1][0]] if kept else None)


async def test_answers_in_no_layout_are_counted_once_a_replay_and_hold_nothing_up():
    with Engine(withhold=lambda seq: seq == 1, answers=answers_in_no_layout) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish([stored(block) for block in range(4)])
            await settled(stream, subscriber, 4)
            statistics = subscriber.statistics()
            assert (statistics.batches, statistics.lost_batches) == (3, 1)
            replays = 2  # at the start, and for what was withheld
            assert 1 <= statistics.malformed == statistics.refused["replay"] <= replays
            assert stream.summary_nowait().blocks_live == 3
            assert len(stream.malformed) == statistics.malformed


async def test_answers_in_no_layout_among_good_ones_lose_nothing():
    def answers(start, kept):
        for number_of, payload in kept:
            yield b"not", b"an answer"
            if number_of >= start:
                yield b"", number(number_of), payload
        yield b"", END, b""

    with Engine(withhold=lambda seq: seq == 1, answers=answers) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish([stored(block) for block in range(4)])
            await settled(stream, subscriber, 4)
            assert stream.summary_nowait().blocks_live == 4
            assert subscriber.statistics().lost_batches == 0


async def test_a_replay_endpoint_that_never_answers_delays_live_batches_by_a_second():
    with Engine(withhold=lambda seq: seq == 1, answers=lambda start, kept: ()) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish([stored(block) for block in range(4)])
            await settled(stream, subscriber, 4)
            assert subscriber.statistics().lost_batches == 1
            assert subscriber.faults.counts["zmq", "replay"] >= 1


async def test_a_replay_endpoint_that_refuses_connections_delays_live_batches_by_a_second():
    with Engine(withhold=lambda seq: seq == 1, replay=False) as engine:
        async with listening(f"{engine.url}&replay=tcp://127.0.0.1:{free_port()}") as (stream, subscriber):
            assert await to_thread.run_sync(engine.subscribed.wait, DEADLINE)
            engine.publish([stored(block) for block in range(4)])
            await settled(stream, subscriber, 4)
            assert stream.summary_nowait().blocks_live == 3


async def test_an_end_of_a_replay_may_have_a_payload():
    with Engine(withhold=lambda seq: seq == 1, answers=answers_with_bounds_at_the_end) as engine:
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish([stored(block) for block in range(4)])
            await settled(stream, subscriber, 4)
            assert (subscriber.statistics().lost_batches, subscriber.statistics().malformed) == (0, 0)


@pytest.mark.parametrize("topic", [(), (TOPIC,)], ids=["without topic", "with topic"])
async def test_a_snapshot_stands_for_batches_that_are_no_longer_kept(topic):
    """As TensorRT-LLM's KvZmqPublisher answers: a header of its own, a clear, all blocks under one number."""

    def answers(start, kept):
        newest = number(kept[-1][0])
        yield *topic, (-2).to_bytes(8, "big", signed=True), newest
        yield *topic, newest, msgspec.msgpack.encode([1.7e9, [{"type": "AllBlocksCleared"}], 0])
        yield *topic, newest, stored(*range(100, 107))
        yield *(b"" for _ in topic), END, b""

    with Engine(withhold=lambda seq: seq < 5, answers=answers) as engine:
        engine.publish([stored(block) for block in range(5)])
        await until(lambda: not engine._wanted)
        async with subscribed(engine) as (stream, (subscriber,)):
            await until(lambda: subscriber.statistics().batches == 2)
            engine.publish([stored(5)])
            await until(lambda: subscriber.statistics().batches == 3)
            await stream.flush()
            summary = stream.summary_nowait()
            assert summary.blocks_live == 8
            accounts = summary.accounts
            assert (accounts.unknown_births, accounts.allocations) == (7, 1), "stored nobody knows when"
            assert (subscriber.statistics().lost_batches, subscriber.statistics().malformed) == (0, 0)


async def test_an_endpoint_where_nobody_listens_is_not_connected_and_says_since_when():
    before = time.time()
    async with listening(f"zmq://127.0.0.1:{free_port()}") as (_, subscriber):
        assert subscriber.statistics().state == "connecting"
        await until(lambda: subscriber.statistics().state == "not connected")
        statistics = subscriber.statistics()
        assert before <= statistics.since <= time.time()
        assert statistics.error == "nobody answers there"


async def test_an_endpoint_that_speaks_something_else_says_so():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:

        async def greet(stream):
            async with stream:
                await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 4)

        port = listener.extra(SocketAttribute.local_port)
        async with (
            listening(f"zmq://127.0.0.1:{port}") as (_, subscriber),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, greet)
            await until(lambda: "does not speak ZMQ" in subscriber.statistics().error)
            assert subscriber.statistics().state == "not connected"
            tasks.cancel_scope.cancel()


async def test_an_engine_that_goes_and_comes_back_is_not_connected_meanwhile():
    with Engine() as engine:
        async with subscribed(engine) as (_, (subscriber,)):
            await until(lambda: subscriber.statistics().state == "connected")
            first = subscriber.statistics().since
            engine.__exit__()
            await until(lambda: subscriber.statistics().state == "not connected")
            assert subscriber.statistics().since >= first
            with Engine(endpoints=(engine.endpoint, engine.replay_endpoint)):
                await until(lambda: subscriber.statistics().state == "connected")
                assert subscriber.statistics().error == ""


async def test_where_publishers_connect_to_us_it_is_connected_while_one_is():
    port = free_port()
    with zmq.Context() as context:
        async with listening(f"zmq://[::]:{port}") as (_, subscriber):
            with context.socket(zmq.PUB) as one, context.socket(zmq.PUB) as other:
                for publisher in (one, other):
                    publisher.setsockopt(zmq.LINGER, 0)
                    publisher.connect(f"tcp://127.0.0.1:{port}")
                await until(lambda: subscriber.statistics().state == "connected")
                other.close()
                one.send_multipart([b"a", number(0), stored(1)])
                assert subscriber.statistics().state == "connected"
            await until(lambda: subscriber.statistics().state == "not connected")


def test_an_endpoint_for_replays_that_is_none_is_an_error_at_the_start():
    async def main():
        async for _ in KVEventSubscriber("zmq://127.0.0.1:1?replay=tcp://nowhere").read():
            pass

    with pytest.raises(ConfigError):
        anyio.run(main)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_engines_that_listen_on_ipv6_only_are_heard():
    try:
        engine = Engine(withhold=lambda seq: seq == 1, ipv6=True)
    except zmq.ZMQError:
        pytest.skip("needs IPv6")
    with engine:
        assert engine.url.startswith("zmq://[::1]:")
        async with subscribed(engine) as (stream, (subscriber,)):
            engine.publish([stored(block) for block in range(4)])
            await settled(stream, subscriber, 4)
            assert stream.summary_nowait().blocks_live == 4
            assert subscriber.statistics().replayed >= 1


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_publishers_connect_to_us_over_ipv4_and_ipv6(host):
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.setsockopt(zmq.IPV6, 1)
        async with listening(f"zmq://*:{port}") as (stream, subscriber):
            publisher.connect(f"tcp://{host}:{port}")
            if not await to_thread.run_sync(publisher.poll, 5_000) and host == "[::1]":
                pytest.skip("needs IPv6")
            publisher.send_multipart([b"pod", number(0), stored(1)])
            await settled(stream, subscriber, 1)


async def test_numbers_that_no_publisher_reaches_are_refused_and_harm_none_after_them():
    async with connected() as (stream, subscriber, (publisher,)):
        wrong = [b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7), b"", bytes(9)]
        for seq, block in enumerate((1, 2, 3, 4, 5)):
            publisher.send_multipart([TOPIC, wrong[seq], stored(99)])
            publisher.send_multipart([TOPIC, number(2**40 + seq * 2**30), stored(98)])
            publisher.send_multipart([TOPIC, number(seq), stored(block)])
        # The very first one sets the number, so that the true one after it is a restart.
        await until(lambda: subscriber.statistics().messages == 15)
        await settled(stream, subscriber, 6)
        statistics = subscriber.statistics()
        assert statistics.refused == {"number": 5, "jump": 4}
        assert (statistics.lost_batches, statistics.restarts) == (0, 1)
        assert stream.summary_nowait().blocks_live == 5


async def test_messages_of_too_many_parts_are_refused():
    async with connected() as (stream, subscriber, (publisher,)):
        for parts in (1, 2, 4, 5, 6, 5_000):
            publisher.send_multipart([b""] * parts)
        publisher.send_multipart([TOPIC, number(0), stored(1)])
        await settled(stream, subscriber, 1)
        assert subscriber.statistics().refused == {"parts": 6}


async def test_more_publishers_than_are_allowed_are_refused_and_those_before_go_on():
    async with connected(most_publishers=3) as (stream, subscriber, (publisher,)):
        for turn in range(2):
            for topic in range(10):
                publisher.send_multipart([b"pod-%d" % topic, number(turn), stored(topic)])
        await until(lambda: subscriber.statistics().messages == 20)
        await settled(stream, subscriber, 6)
        statistics = subscriber.statistics()
        assert (statistics.publishers, statistics.refused) == (3, {"too_many_publishers": 14})
        assert statistics.malformed == 0
        assert subscriber.faults.counts["zmq", "too_many_publishers"] == 14
        assert sorted(source for source, _ in stream.caches()) == ["pod-0", "pod-1", "pod-2"]


async def test_publishers_that_are_silent_make_room_and_their_accounts_stay():
    async with connected(most_publishers=2, forget_seconds=0.05) as (stream, subscriber, (publisher,)):
        for topic in (b"gone-1", b"gone-2"):
            publisher.send_multipart([topic, b"short", b""])
            publisher.send_multipart([topic, number(0), stored(1)])
            publisher.send_multipart([topic, number(3), b"\xc1"])
        await settled(stream, subscriber, 6)
        before = subscriber.statistics()
        sent = 0
        while not subscriber.statistics().forgotten_publishers:
            publisher.send_multipart([b"new", number(sent), stored(2)])
            sent += 1
            await anyio.sleep(0.05)
        await until(lambda: subscriber.statistics().messages == 6 + sent)
        await stream.flush()
        statistics = subscriber.statistics()
        assert statistics.forgotten_publishers == 2
        assert statistics.batches > before.batches
        assert statistics.lost_batches == before.lost_batches == 4
        assert statistics.refused["batch"] == 2
        assert "new" in {source for source, _ in stream.caches()}


async def test_topics_become_valid_names_that_stay_apart():
    topics = [b"x" * 1000, b"x" * 999, b"\xff\xfe", b"\xff\xfd", "\u00e9\u00e9".encode(), b"", b"y" * 5000]
    async with connected() as (stream, subscriber, (publisher,)):
        for topic in topics:
            publisher.send_multipart([topic, number(0), stored(1, rank=4095)])
        await until(lambda: subscriber.statistics().messages == len(topics))
        await settled(stream, subscriber, len(topics) - 1)
        sources = {source for source, _ in stream.caches()}
        assert len(sources) == len(topics) - 1
        assert "\u00e9\u00e9/dp4095" in sources
        assert all(len(source) <= 256 and source.encode() for source in sources)
        assert subscriber.statistics().refused == {"topic": 1}


async def test_publishers_of_one_given_source_are_sources_of_their_own():
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.LINGER, 0)
        async with listening(f"zmq://*:{port}?source=fleet") as (stream, subscriber):
            publisher.connect(f"tcp://127.0.0.1:{port}")
            await to_thread.run_sync(publisher.recv)
            for topic in (b"a", b"b"):
                for seq in range(3):
                    publisher.send_multipart([topic, number(seq), stored(seq)])
            await settled(stream, subscriber, 6)
            assert {source for source, _ in stream.caches()} == {"fleet", "fleet/b"}
            assert stream.summary_nowait().accounts.duplicate_frames == 0


async def test_a_socket_that_fails_is_opened_again():
    with Engine() as engine:
        subscriber = KVEventSubscriber(engine.url)
        items = subscriber.read()
        with anyio.fail_after(DEADLINE):
            engine.publish([stored(1)])
            first = await anext(items)
            # Now the generator waits for us, and will find its socket closed.
            subscriber._context.destroy(linger=0)
            engine.publish([stored(2)])
            second = await anext(items)
            assert [first.blocks.tolist(), second.blocks.tolist()] == [[1], [2]]
            assert subscriber.faults.counts["zmq", "socket"] == 1
            await items.aclose()


async def test_nothing_stays_open_after_reading_was_cancelled():
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    with Engine() as engine:
        for _ in range(2):
            async with subscribed(engine) as (_, (subscriber,)):
                engine.publish([stored(1)])
                await until(lambda: subscriber.statistics().batches)
                during = open_files()
            assert open_files() < during
        assert subscriber._context is None
