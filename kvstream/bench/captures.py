"""Batches of KV events as a real engine published them, token ids and all.

``kv_events.wire.gz`` is an excerpt of captures of vLLM 0.32; ``python -m tests.data.make_wire`` makes it.
"""

import gzip
from importlib.resources import files
from itertools import cycle

import msgspec

from kvstream.sources.wire_capture import WireMessage, wire_message_parser


def captured_batches(events: int) -> list[bytes]:
    """Return payloads of the excerpt, over and over, until they have ``events`` events together."""
    data = gzip.decompress(files("kvstream.bench").joinpath("kv_events.wire.gz").read_bytes())
    messages = wire_message_parser("kv_events.wire.gz").feed(data)
    payloads = cycle([message.payload for message in messages if isinstance(message, WireMessage)])
    batches: list[bytes] = []
    while events > 0:
        batches.append(next(payloads))
        events -= len(msgspec.msgpack.decode(batches[-1])[1])
    return batches
