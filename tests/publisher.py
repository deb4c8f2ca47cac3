"""A publisher of KV events over real ZMQ sockets, framed as vLLM's ``ZmqEventPublisher`` frames them."""

import gzip
import threading
from collections import deque
from pathlib import Path

import msgspec
import zmq

from kvstream.sources.wire_capture import wire_message_parser

DATA = Path(__file__).parent / "data"
TOPIC = b"kv-events"
END = (-1).to_bytes(8, "big", signed=True)


def number(seq):
    """A batch's number on the wire."""
    return seq.to_bytes(8, "big")


def captured(name):
    """Payloads of a capture, in order."""
    data = gzip.decompress((DATA / f"{name}.wire.gz").read_bytes())
    return [message.payload for message in wire_message_parser(name).feed(data)]


def stored(*blocks, rank=None):
    """A batch that stores some blocks."""
    return msgspec.msgpack.encode([1.7e9, [["BlockStored", [*blocks], None, [], 32, None]], rank])


def answers_with_topic(start, kept):
    """As vLLM since 0.26, SGLang 0.5.23 and TensorRT-LLM."""
    yield from ((TOPIC, number(seq), payload) for seq, payload in kept if seq >= start)
    yield b"", END, b""


def answers_without(start, kept):
    """As vLLM before 0.26, and SGLang until 0.5.2x."""
    yield from ((number(seq), payload) for seq, payload in kept if seq >= start)
    yield END, b""


class Engine:
    """PUB for batches, ROUTER for replays, on a thread of its own; a context manager.

    Args:
        withhold: Whether the batch of a number is kept from the live socket.
        endpoints: (publish, replay) to bind to again; by default any free ports.
        replay: Answer replays.
        answers: What a replay is answered with, ``answers_with_topic`` or ``answers_without``.
        ipv6: Listen on IPv6 only.
    """

    def __init__(
        self,
        withhold=lambda seq: False,
        endpoints=None,
        replay=True,
        buffer_steps=10_000,
        answers=answers_with_topic,
        ipv6=False,
    ):
        self._context = zmq.Context()
        self._context.setsockopt(zmq.IPV6, int(ipv6))  # of all its sockets
        self._answers = answers
        # As XPUB it also hears of subscribers; on the wire it is a PUB.
        self._live = self._context.socket(zmq.XPUB)
        self._live.set_hwm(100_000)
        self._live.setsockopt(zmq.XPUB_VERBOSE, 1)  # of every subscriber, not only of the first
        self._router = self._context.socket(zmq.ROUTER) if replay else None
        loopback = "[::1]" if ipv6 else "127.0.0.1"
        publish, again = endpoints or (f"tcp://{loopback}:*", f"tcp://{loopback}:*")
        self._live.bind(publish)
        self.endpoint = self._live.getsockopt_string(zmq.LAST_ENDPOINT)
        self.replay_endpoint = None
        if self._router is not None:
            self._router.set_hwm(100_000)
            self._router.bind(again)
            self.replay_endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._withhold = withhold
        self._kept = deque(maxlen=buffer_steps)
        self._wanted = deque()
        self._seq = 0
        self.subscribed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def url(self):
        replay = f"&replay={self.replay_endpoint}" if self.replay_endpoint else ""
        return f"zmq://{self.endpoint.removeprefix('tcp://')}?source=engine{replay}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def publish(self, payloads):
        self._wanted.extend(payloads)

    def _run(self):
        while not self._stop.is_set():
            while self._live.poll(0):
                if self._live.recv().startswith(b"\x01"):
                    self.subscribed.set()
            if self._router is not None and self._router.poll(0):
                client, _, start = self._router.recv_multipart()
                for answer in self._answers(int.from_bytes(start, "big"), self._kept):
                    self._router.send_multipart((client, b"", *answer))
            if not self._wanted:
                self._stop.wait(0.001)
                continue
            payload = self._wanted.popleft()
            self._kept.append((self._seq, payload))
            if not self._withhold(self._seq):
                self._live.send_multipart((TOPIC, number(self._seq), payload))
            self._seq += 1
