"""Rounds of mutated ZMQ messages: live ones, and answers to replays in every layout and none."""

import random
import threading
from typing import Any, Self

import anyio
import zmq

from kvstream import KVStream
from kvstream.sources.zmq_events import KVEventSubscriber
from tests.faults import mutants
from tests.faults.in_process import check_accounts, quiet_config, seeded
from tests.faults.tally import Tally
from tests.waiting import until

_END = b"\xff" * 8


class HostilePublisher:
    """A publisher that sends messages and answers replays as it pleases; a context manager.

    Args:
        rng: What it pleases.
        messages: Live messages, in parts.
    """

    def __init__(self, rng: random.Random, messages: list[list[bytes]]) -> None:
        self._rng, self._messages = rng, messages
        self._context = zmq.Context()
        self._live = self._context.socket(zmq.XPUB)
        self._live.set_hwm(0)
        self._router = self._context.socket(zmq.ROUTER)
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (self._live, self._router)]
        self.url = f"zmq://127.0.0.1:{ports[0]}?source=publisher&replay=tcp://127.0.0.1:{ports[1]}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._stop.is_set() and not self._live.poll(10):
            pass
        waiting = iter(self._messages)
        while not self._stop.is_set():
            while self._router.poll(0):
                client = self._router.recv_multipart()[0]
                for parts in self._answer():
                    self._router.send_multipart([client, *parts])
            if (message := next(waiting, None)) is not None:
                self._live.send_multipart(message)
            else:
                self._stop.wait(0.001)

    def _answer(self) -> list[list[bytes]]:
        """Some batches, then mostly an end, in a layout with or without topics."""
        rng = self._rng
        topic = rng.choice([[], [b"kv-events"]])
        start = rng.randrange(50)
        answers = [
            [b"", *topic, (start + n).to_bytes(8, "big"), mutants.payload(rng)]
            for n in range(rng.randrange(6))
        ]
        if rng.randrange(4):
            answers.append([b"", *(b"" for _ in topic), _END, b""])
        return [altered_parts(rng, parts) if rng.randrange(5) == 0 else parts for parts in answers]


def altered_parts(rng: random.Random, parts: list[bytes]) -> list[bytes]:
    """Return the parts of a message with one missing, one more, or one changed."""
    parts, at = list(parts), rng.randrange(len(parts))
    change = rng.randrange(4)
    if change == 0 and len(parts) > 1:
        del parts[at]
    elif change == 1:
        parts.insert(at, rng.choice([b"", b"\xff" * 8, b"x" * 300, bytes(8)]))
    elif change == 2:
        parts[at] = rng.choice([b"", b"\xff\xfe", b"\x80" + bytes(7), b"\x7f" + b"\xff" * 7, b"n" * 5_000])
    else:
        parts[at] = parts[at][:-1]
    return parts


def live_messages(rng: random.Random, count: int) -> list[list[bytes]]:
    """Return messages as a publisher sends them; of some, numbers or parts are odd."""
    messages, seq = [], 0
    for _ in range(count):
        seq += 1 if rng.random() < 0.95 else rng.choice([-3, 0, 2, 30])
        seq = max(0, seq) if rng.random() < 0.995 else 0
        parts = [b"kv-events", seq.to_bytes(8, "big"), mutants.payload(rng)]
        messages.append(altered_parts(rng, parts) if rng.randrange(6) == 0 else parts)
    return messages


async def messages(tally: Tally, seed: int, count: int) -> None:
    """Try messages of a seed."""
    rng = seeded("messages", seed)
    sent = live_messages(rng, count)
    with HostilePublisher(rng, sent) as publisher:
        subscriber = KVEventSubscriber(publisher.url)
        async with KVStream(quiet_config()) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(_feed, stream, subscriber)
            await until(lambda: subscriber.statistics().messages >= count)
            tasks.cancel_scope.cancel()
    for parts in sent:
        whole = len(parts) == 3 and len(parts[1]) == 8
        tally.count("a message by its form" if whole else "not a message", whole)
    check_accounts(tally, seed, stream)


async def _feed(stream: KVStream, subscriber: Any) -> None:
    await stream.feed(subscriber.read())
