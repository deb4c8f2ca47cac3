"""Real processes of kvstream, and whatever may come over a ZMQ socket."""

import json
import random
import signal
import socket
import threading
from contextlib import contextmanager

import msgspec
import pytest
import zmq

from tests.forked import DEVNULL, PIPE, Kvstream
from tests.ports import free_port
from tests.publisher import Engine, answers_with_topic, answers_without, number
from tests.sources.fuzz_wire import mutant, payloads
from tests.waiting import DEADLINE

LAST = 777


def stored(*blocks):
    return msgspec.msgpack.encode([1.7e9, [["BlockStored", [*blocks], None, [], 32, None]]])


def last():
    """A batch that stores the last block and evicts it."""
    stored_last = ["BlockStored", [LAST], None, [], 32, None]
    return msgspec.msgpack.encode([1.7e9, [stored_last, ["BlockRemoved", [LAST]]]])


@contextmanager
def running(url):
    """``kvstream run`` on a publisher; ended by whoever has what is to be seen."""
    with Kvstream(["run", "--json", "--evictions", url], stdout=PIPE, stderr=DEVNULL) as process:
        yield process


def stopped(process):
    """The summary that a process ends with once it is interrupted."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    return [json.loads(line) for line in output.splitlines()][-1]


def until_last(process):
    """Waits until the eviction of the last block is shown, so that all before it was processed."""
    timer = threading.Timer(DEADLINE, process.kill)
    timer.start()
    seen = any(json.loads(line).get("block_id") == LAST for line in process.stdout)
    timer.cancel()
    assert seen, "the process has ended"


@contextmanager
def connected_to(port):
    """A publisher's socket that is connected and subscribed to."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.LINGER, 10_000)
        publisher.setsockopt(zmq.SNDHWM, 0)
        publisher.connect(f"tcp://127.0.0.1:{port}")
        assert publisher.poll(DEADLINE * 1000)
        yield publisher


@pytest.mark.parametrize("answers", [answers_with_topic, answers_without])
def test_what_was_published_before_is_had_by_replay_in_both_layouts(answers):
    with Engine(withhold=lambda seq: seq < 8, answers=answers) as engine:
        engine.publish([stored(block) for block in range(8)])
        with running(engine.url) as process:
            assert engine.subscribed.wait(DEADLINE)
            engine.publish([*[stored(block) for block in range(8, 12)], last()])
            until_last(process)
            summary = stopped(process)
    assert summary["blocks_live"] == 12
    assert (summary["accounts"]["lost_frames"], summary["accounts"]["malformed"]) == (0, 0)


def test_hostile_messages_end_nothing_and_are_counted():
    rng, seeds, port = random.Random(5), payloads(), free_port()
    with running(f"zmq://*:{port}") as process, connected_to(port) as publisher:
        good = 0
        for turn in range(2_000):
            topic = b"pod" if turn % 3 else rng.randbytes(rng.randrange(300))
            hostile = [
                [topic, rng.randbytes(8), stored(1)],
                [rng.randbytes(3)] * rng.randrange(1, 9),
                [b"fuzz", number(turn), mutant(rng, seeds)],
                [b"jump", number(rng.getrandbits(63)), b""],
            ]
            publisher.send_multipart(hostile[turn % 4])
            if turn % 10 == 0:
                publisher.send_multipart([b"good", number(good), stored(good)])
                good += 1
        publisher.send_multipart([b"good", number(good), last()])
        until_last(process)
        summary = stopped(process)
    accounts = summary["accounts"]
    assert accounts["malformed"] > 500
    accounted = accounts["processed"] + accounts["malformed"] + sum(accounts["dropped"].values())
    assert accounts["offered"] == accounted


def test_what_is_not_zmq_at_all_harms_nobody():
    port = free_port()
    with running(f"zmq://*:{port}") as process, connected_to(port) as publisher:
        for opening in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 64,
            b"\xff" + bytes(8) + b"\x7f\x03" + b"x" * 500,
        ):
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(opening)
                    if opening:
                        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0" + bytes(4))
        publisher.send_multipart([b"good", number(0), stored(1, 2, 3)])
        publisher.send_multipart([b"good", number(1), last()])
        until_last(process)
        assert stopped(process)["blocks_live"] == 3
