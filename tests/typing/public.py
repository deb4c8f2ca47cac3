"""The public face as its users have it: mypy and pyright read this strictly, nothing runs it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from kvstream import (
    Accounts,
    AlertGroup,
    AlertLevel,
    Anomaly,
    BatchMetricsCollector,
    CacheAlert,
    CacheMetricsSummary,
    Connection,
    Cursor,
    Delivery,
    EventFrame,
    HotBlock,
    InputStatistics,
    KVCacheEvictionEvent,
    KVCacheMetricsCollector,
    KVStream,
    Labels,
    LifetimeDistribution,
    Malformed,
    Mark,
    MetricsConfig,
    Producer,
    RecentMetrics,
    Rule,
    Silence,
    StepRecorder,
    StreamConfig,
    StreamStatistics,
    Subscription,
    Trend,
    UndeliveredError,
    connect,
    create_metrics_collector,
    default_rules,
    load_config,
    load_rules,
)
from kvstream.exporters.prometheus import PrometheusCollector, exposition
from kvstream.notifiers.alert_file import AlertFile
from kvstream.notifiers.alertmanager import Alertmanager
from kvstream.notifiers.apprise import Apprise
from kvstream.notifiers.command import Command
from kvstream.notifiers.webhook import Webhook, slack_payload
from kvstream.sinks.event_log import EventLogWriter
from kvstream.sources.files import read_events
from kvstream.testing import CapturedAlerts, FakeClock, ScriptedSource
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.server import FrameServer
from kvstream.web import create_app


def settings() -> StreamConfig:
    metrics = MetricsConfig(capacity=4096, sample_rate=0.5)
    assert_type(metrics.capacity, int | None)
    assert_type(load_config(MetricsConfig, "kvstream.toml", capacity=10), MetricsConfig)
    assert_type(load_config(StreamConfig, environ={}), StreamConfig)
    assert_type(default_rules(), tuple[Rule, ...])
    rules, silences = load_rules(Path("rules.toml"), default_rules())
    assert_type(rules, tuple[Rule, ...])
    assert_type(silences, tuple[Silence, ...])
    return StreamConfig(metrics=metrics, consumers=2)


async def producing(stream: KVStream, keys: npt.NDArray[np.int64]) -> None:
    producer = stream.producer("engine-0", tier="gpu")
    assert_type(producer, Producer)
    assert_type(await producer.allocated(17), None)
    await producer.allocated([1, 2, 3], keys=[4, 5, 6], labels=Labels(tenant="acme"))
    await producer.allocated(keys, keys=keys)
    await producer.accessed(np.array([1, 2]), ts=1_000)
    await producer.evicted((1, 2), reason="preempted")
    producer.cleared_nowait()
    recorder = producer.recorder()
    assert_type(recorder, StepRecorder)
    recorder.begin_step()
    recorder.allocated_nowait(17)
    recorder.end_step()


async def streaming(config: StreamConfig) -> None:
    async with KVStream(config, rules=default_rules(), state=Path("state")) as stream:
        assert_type(stream, KVStream)
        assert_type(stream.alerts(min_severity=AlertLevel.WARNING), Subscription[CacheAlert])
        async for alert in stream.alerts():
            assert_type(alert, CacheAlert)
            assert_type(alert.level, AlertLevel)
            assert_type(alert.labels, dict[str, str])
        async for summary in stream.summaries(buffer=2, policy="drop_newest"):
            assert_type(summary, CacheMetricsSummary)
        async for eviction in stream.evictions():
            assert_type(eviction, KVCacheEvictionEvent)
            assert_type(eviction.lifetime_seconds, float | None)
        assert_type(await stream.summary("engine-0"), CacheMetricsSummary)
        summary = stream.summary_nowait()
        assert_type(summary.accounts, Accounts)
        assert_type(summary.recent, RecentMetrics)
        assert_type(summary.recent.hit_ratio, float | None)
        assert_type(summary.to_dict(), dict[str, Any])
        assert_type(stream.statistics(), StreamStatistics)
        assert_type(stream.inputs(), list[InputStatistics])
        assert_type(stream.hottest("engine-0"), list[HotBlock])
        assert_type(stream.firing(), list[CacheAlert])
        assert_type(stream.cursors()["engine-0"], Cursor)
        assert_type(stream.mark("deploy"), Mark)
        silence = await stream.silence(Silence(incident="hit_ratio_drop-1"))
        assert_type(silence, Silence)
        assert_type(await stream.unsilence(silence.id), bool)
        assert_type(await stream.acknowledge("0123456789abcdef"), Silence | None)


def handlers(stream: KVStream) -> None:
    @stream.on_alert
    async def page(alert: CacheAlert) -> None: ...

    @stream.on_alert
    def log(alert: CacheAlert) -> str:
        return alert.message

    @stream.on_alert_group
    async def post(group: AlertGroup) -> None: ...

    @stream.on_summary
    def keep(summary: CacheMetricsSummary) -> None: ...

    @stream.on_eviction
    async def count(event: KVCacheEvictionEvent) -> None: ...

    class Pager(Delivery):
        destination = "pager"

        async def deliver(self, item: CacheAlert) -> None:
            raise UndeliveredError("busy", 5.0)

    assert_type(stream.on_alert(Pager(), AlertLevel.CRITICAL), Pager)
    assert_type(log(stream.firing()[0]), str)
    stream.on_alert(Webhook("https://ops.example/hook", secret=None), AlertLevel.WARNING)
    stream.on_alert_group(Webhook("https://ops.example/hook", slack_payload), wait_seconds=2.0)
    stream.on_alert(Apprise("json://ops.example"))
    stream.on_alert(Command("cat"))
    stream.on_alert(AlertFile(Path("alerts.jsonl")))
    stream.on_alert(CapturedAlerts())
    Alertmanager("http://alertmanager:9093").attach(stream)


async def between_processes(stream: KVStream) -> None:
    async with connect("unix:/run/kvstream.sock", token="secret") as connection:
        assert_type(connection, Connection)
        assert_type(connection.producer("engine-0"), Producer)
    server = FrameServer(stream, Endpoint.parse("tcp://127.0.0.1:0"))
    assert_type(await server.serve(), None)


async def files(stream: KVStream) -> None:
    items = read_events("day.kvlog")
    assert_type(items, AsyncIterator[EventFrame | Malformed])
    with EventLogWriter("copy.kvlog") as writer:
        async for item in items:
            if isinstance(item, EventFrame):
                writer.write(item)
                assert_type(len(item), int)
    await stream.feed(read_events("day.kvlog"))


def collecting() -> None:
    collector = create_metrics_collector(sample_rate=0.5, capacity=4096)
    assert_type(collector, KVCacheMetricsCollector)
    collector.on_block_allocated(17)
    assert_type(collector.get_summary(), CacheMetricsSummary)
    assert_type(collector.get_lifetime_distribution(), LifetimeDistribution)
    assert_type(collector.detect_trends(), dict[str, Trend])
    assert_type(collector.detect_anomalies(), list[Anomaly])
    assert_type(collector.drain_events(), list[KVCacheEvictionEvent])
    batch = create_metrics_collector(batch_mode=True)
    assert_type(batch, BatchMetricsCollector)
    batch.batch_allocate([1, 2])
    assert_type(batch.flush_all(), list[KVCacheEvictionEvent])


async def exporting(stream: KVStream) -> None:
    assert_type(await exposition(stream), tuple[bytes, str])
    metrics: Iterator[object] = PrometheusCollector(stream).collect()
    next(metrics)
    create_app(stream, token="secret", allowed_hosts=["kv.example.org"])


async def testing() -> None:
    clock = FakeClock()
    async with KVStream(clock=clock) as stream:
        await ScriptedSource("engine-0").allocated([1], at=0.0).evicted([1], at=2.0).play(stream)
        clock.advance(1.0)
