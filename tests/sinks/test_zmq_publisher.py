import socket
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
import zmq
from anyio import to_thread

from kvstream.sinks import zmq_publisher
from kvstream.sinks.zmq_publisher import KVEventPublisher
from kvstream.sources.zmq_address import ZmqAddress
from kvstream.sources.zmq_events import KVEventSubscriber
from kvstream.stream import KVStream
from tests.ports import free_port
from tests.publisher import END, number
from tests.waiting import DEADLINE


def stored(block):
    return msgspec.msgpack.encode([1.7e9, [["BlockStored", [block], None, [], 32, None]]])


@asynccontextmanager
async def publishing(topic="kv"):
    """A publisher that answers replays; yields it and both ports."""
    live, again = free_port(), free_port()
    address = ZmqAddress.parse(f"zmq://*:{live}?topic={topic}&replay=tcp://*:{again}")
    with anyio.fail_after(DEADLINE):
        async with KVEventPublisher(address) as publisher:
            yield publisher, live, again


@pytest.fixture
def asking():
    """Asks a ROUTER and returns what it answers until the end mark."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IPV6, 1)
        dealer.setsockopt(zmq.RCVTIMEO, DEADLINE * 1000)

        def ask(endpoint, *requests):
            dealer.connect(endpoint)
            for request in requests:
                dealer.send_multipart(request)
            answers = [dealer.recv_multipart()]
            while answers[-1][-2] != END:
                answers.append(dealer.recv_multipart())
            return answers

        yield ask


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_replays_are_answered_as_current_engines_do(asking, host):
    async with publishing() as (publisher, _, again):
        for seq in range(5):
            publisher.publish(seq, stored(seq))
        try:
            answers = await to_thread.run_sync(asking, f"tcp://{host}:{again}", [b"", number(3)])
        except zmq.Again:
            pytest.skip("needs IPv6")
        assert answers == [
            [b"", b"kv", number(3), stored(3)],
            [b"", b"kv", number(4), stored(4)],
            [b"", b"", END, b""],
        ]


async def test_requests_that_are_none_are_counted_and_others_are_answered(asking):
    async with publishing() as (publisher, _, again):
        publisher.publish(0, stored(0))
        strange = [[b""], [b"", b"short"], [b"x", number(0)], [b"", number(0), b""], [b""] * 5_000]
        answers = await to_thread.run_sync(asking, f"tcp://127.0.0.1:{again}", *strange, [b"", number(0)])
        assert len(answers) == 2
        assert publisher.faults.counts["zmq_publisher", "request"] == len(strange)


async def test_what_strange_subscribers_send_does_not_stop_the_publisher():
    async with publishing() as (publisher, live, _):
        with zmq.Context() as context, context.socket(zmq.XSUB) as subscriber:
            subscriber.setsockopt(zmq.LINGER, 0)
            subscriber.connect(f"tcp://127.0.0.1:{live}")
            for message in ([b"\x05anything"], [b""], [b"a", b"b"] * 2_000, [b"\x01"]):
                subscriber.send_multipart(message)
            await publisher.subscribed()
            publisher.publish(0, stored(0))
            assert (await to_thread.run_sync(subscriber.recv_multipart))[1] == number(0)


@pytest.mark.parametrize("topic", ["kv", "\udcff"])
async def test_a_subscriber_has_everything_that_was_published_before_it_came(topic):
    async with publishing(topic) as (publisher, live, again):
        for seq in range(200):
            publisher.publish(seq, stored(seq))
        url = f"zmq://127.0.0.1:{live}?topic={topic}&replay=tcp://127.0.0.1:{again}"
        subscriber = KVEventSubscriber(url)
        async with KVStream() as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.feed, subscriber.read())
            while subscriber.statistics().batches < 200:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            await stream.flush()
            assert stream.summary_nowait().blocks_live == 200
            assert subscriber.statistics().malformed == 0
            tasks.cancel_scope.cancel()


async def test_a_replay_endpoint_with_a_name_is_bound_without_waiting_for_who_listens_there(monkeypatch):
    def both(host, port, *_):
        addresses = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        return [(family, socket.SOCK_STREAM, 6, "", (address, int(port))) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    address = ZmqAddress.parse(f"zmq://*:{free_port()}?replay=tcp://localhost:{free_port()}")
    with anyio.fail_after(DEADLINE):
        async with KVEventPublisher(address):
            pass


async def test_names_of_both_endpoints_are_waited_for_no_longer_than_one(monkeypatch):
    now, left = [100.0], []

    async def wait(endpoint, patience, *, bind):
        left.append(patience)
        now[0] += 7.0
        return False

    monkeypatch.setattr(zmq_publisher, "speaks_ipv6", wait)
    monkeypatch.setattr(anyio, "current_time", lambda: now[0])
    address = ZmqAddress.parse(f"zmq://localhost:{free_port()}?replay=tcp://localhost:{free_port()}")
    async with KVEventPublisher(address, 10.0):
        pass
    assert left == [10.0, 3.0]


async def test_what_is_kept_for_replays_is_bounded_in_bytes(monkeypatch, asking):
    monkeypatch.setattr("kvstream.sinks.zmq_publisher._KEPT_BYTES", 10_000)
    async with publishing() as (publisher, _, again):
        for seq in range(50):
            publisher.publish(seq, bytes(1_000))
        answers = await to_thread.run_sync(asking, f"tcp://127.0.0.1:{again}", [b"", number(0)])
        assert [answer[2] for answer in answers[:-1]] == [number(seq) for seq in range(40, 50)]
