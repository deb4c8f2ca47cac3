"""Two servers on the same publishers behind one Alertmanager: high availability without Kafka."""

import json

from kvstream.config import MetricsConfig, StreamConfig
from kvstream.notifiers.alertmanager import Alertmanager
from kvstream.stream import KVStream
from tests.alerting import endpoint
from tests.fleet.partitions import engine
from tests.waiting import DEADLINE

CONFIG = StreamConfig(
    metrics=MetricsConfig(capacity=256, export_interval=0.0),
    shutdown_timeout=DEADLINE,
    delivery_timeout=DEADLINE,
)


def alerts(received):
    """What Alertmanager takes for different alerts: their labels; and when each began."""
    return {
        (tuple(sorted(each["labels"].items())), each["startsAt"])
        for _, _, body in received
        for each in json.loads(body)
    }


async def judge(url, frames):
    stream = KVStream(CONFIG)
    Alertmanager(url).attach(stream)
    async with stream:
        for frame in frames:
            await stream.send(frame)


async def test_two_servers_post_the_alerts_of_one_also_if_either_dies():
    frames = [frame for n in range(4) for frame in engine(f"engine-{n}", 12_000, seed=n)]
    with endpoint(200) as (url, of_one), endpoint(200) as (shared, of_two):
        await judge(url, frames)
        await judge(shared, frames)
        before = alerts(of_two)
        await judge(shared, frames[: len(frames) // 2])  # as one that dies meanwhile
    assert alerts(of_one) == before == alerts(of_two) != set()
