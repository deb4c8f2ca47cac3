"""One producer process of a soak: ``python -m tests.faults.soak_producer '{"endpoint": …}'``.

It records in calls of 1,000 events at a given rate, or as fast as it can, and prints its accounts at the end.
"""

import json
import os
import sys
import time
from typing import Any

import anyio
import msgspec
import numpy as np

from kvstream import StreamConfig, connect
from tests.waiting import DEADLINE

CALL_EVENTS = 1_000
_SLOTS = 8_192


class Order(msgspec.Struct):
    """What a producer is to do.

    Attributes:
        endpoint: The server's frame socket.
        source: Source of the events.
        policy: Overflow policy.
        seconds: For how long.
        rate: Events a second; 0 for as many as there can be.
    """

    endpoint: str
    source: str
    policy: str
    seconds: float
    rate: float = 0.0


async def produce(order: Order) -> dict[str, Any]:
    """Record until the time is over, send what is left, and return the accounts."""
    config = StreamConfig(
        overflow=order.policy, queue_events=65_536, frame_events=CALL_EVENTS, shutdown_timeout=DEADLINE
    )
    calls = 0
    async with connect(order.endpoint, token=os.environ.get("KVSTREAM_TOKEN"), config=config) as remote:
        producer = remote.producer(order.source)
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < order.seconds:
            if order.rate and (ahead := calls * CALL_EVENTS / order.rate - now) > 0.001:
                await anyio.sleep(ahead)
            slots = (np.arange(CALL_EVENTS // 4) + calls * 250) % _SLOTS
            await producer.evicted(slots)
            await producer.allocated(slots)
            await producer.accessed(np.concatenate([slots, slots]))
            calls += 1
        recorded_for = time.monotonic() - begun
        await remote.flush()
        statistics = producer.statistics()
    after = producer.statistics()
    return {
        "source": order.source,
        "policy": order.policy,
        "offered": after.offered,
        "buffered": after.buffered,
        "sent": after.sent,
        "dropped": after.dropped,
        "dropped_while_closing": sum(after.dropped.values()) - sum(statistics.dropped.values()),
        "rate": after.offered / recorded_for,
        "connects": remote.statistics().connects,
        "last_error": remote.statistics().last_error,
    }


if __name__ == "__main__":
    print(json.dumps(anyio.run(produce, msgspec.json.decode(sys.argv[1], type=Order))))
