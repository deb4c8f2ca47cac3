"""A real stream behind a real server, and what to put into it."""

from contextlib import asynccontextmanager

import anyio

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType
from kvstream.sources.synthetic import generate
from kvstream.transport.endpoint import Endpoint
from kvstream.web.server import HttpServer
from tests.waiting import DEADLINE as DEADLINE


@asynccontextmanager
async def served(port=0, config=None, rules=None, **options):
    """An open stream, and the URL of its dashboard."""
    stream = KVStream(config or StreamConfig(metrics=MetricsConfig(capacity=512)), rules)
    server = HttpServer(stream, Endpoint(host="127.0.0.1", port=port), **options)
    server.bind()
    async with stream, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        yield stream, server.url
        tasks.cancel_scope.cancel()


async def send_chat(stream, events=20_000, source="vllm-0", **options):
    """Puts a chat workload with prefix reuse into a stream."""
    for frame in generate("chat", events, blocks=512, rate=2_000, source=source, **options):
        await stream.send(frame)
    await stream.flush()


def alert(number, state="firing", level=AlertLevel.WARNING):
    return CacheAlert(
        level=level,
        state=state,
        rule="hit_ratio_drop",
        metric=MetricType.HIT_RATIO,
        message=f"message {number}",
        value=0.1,
        threshold=0.5,
        source="vllm-0",
        tier="gpu",
        timestamp=1_700_000_000.0 + number,
        started_at=1_700_000_000.0,
        fingerprint="0123456789abcdef",
    )


async def publish(stream, *alerts):
    for each in alerts:
        stream._alerts.publish(each)
