"""OpenTelemetry, to a real receiver of OTLP over HTTP."""

import threading
from contextlib import contextmanager

import msgspec
import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from kvstream import AlertLevel, KVStream, Labels, MetricsConfig, StreamConfig
from kvstream.errors import ConfigError, UndeliveredError
from kvstream.exporters.otel import OpenTelemetry
from kvstream.stream import consumers_of
from tests.ports import free_port, posted_to
from tests.serving import alert, publish, send_chat
from tests.waiting import until


class Received:
    """What a receiver was sent, decoded."""

    def __init__(self):
        self.metrics, self.logs = [], []

    def of_last_export(self):
        """Metrics by name."""
        (resource,) = self.metrics[-1].resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def records(self):
        return [
            record
            for request in self.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


@contextmanager
def receiver(status=200):
    """A collector's OTLP endpoint; its URL and what it received."""
    received = Received()

    def take(path, headers, body):
        if path == "/v1/metrics":
            received.metrics.append(ExportMetricsServiceRequest.FromString(body))
        elif path == "/v1/logs":
            received.logs.append(ExportLogsServiceRequest.FromString(body))
        return status

    with posted_to(take) as url:
        yield url, received


def attributes(of):
    return {pair.key: pair.value.string_value or pair.value.double_value for pair in of.attributes}


def of_source(points, source):
    return next(point for point in points if attributes(point).get("source") == source)


async def test_metrics_and_alerts_arrive_as_they_are(monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment=test")
    with receiver() as (url, received):
        config = StreamConfig(metrics=MetricsConfig(capacity=512, export_interval=0.0))
        async with KVStream(config) as stream:
            OpenTelemetry(url).attach(stream)
            await send_chat(stream, 20_000)
            await stream.producer("vllm-1").allocated([1, 2], labels=Labels(tenant="acme"))
            await publish(stream, alert(1, level=AlertLevel.CRITICAL), alert(2, state="resolved"))
        summary = stream.summary_nowait("vllm-0", "gpu")
        metrics = received.of_last_export()
        (resource,) = received.metrics[-1].resource_metrics
        assert attributes(resource.resource)["service.name"] == "kvstream"
        assert attributes(resource.resource)["deployment"] == "test"

        lifetime = metrics["kvstream.block_lifetime"]
        assert lifetime.unit == "s"
        point = of_source(lifetime.exponential_histogram.data_points, "vllm-0")
        ours = consumers_of(stream).sources()[0].tiers["gpu"].measurements().lifetime
        assert (point.count, point.scale, point.zero_count) == (ours.count, 4, ours.zero_count)
        assert (point.positive.offset, list(point.positive.bucket_counts)) == (
            ours.offset,
            ours.counts.tolist(),
        )
        assert point.sum == pytest.approx(ours.sum_ns / 1e9)
        assert (point.min, point.max) == (ours.min_ns / 1e9, ours.max_ns / 1e9)
        assert lifetime.exponential_histogram.aggregation_temporality == 2, "cumulative"

        allocations = metrics["kvstream.allocations"].sum
        assert allocations.is_monotonic
        assert of_source(allocations.data_points, "vllm-0").as_int == summary.accounts.allocations
        assert of_source(metrics["kvstream.blocks"].gauge.data_points, "vllm-0").as_int == 512
        (point,) = metrics["kvstream.label_blocks"].gauge.data_points
        assert attributes(point) == {"source": "vllm-1", "tier": "gpu", "label": "tenant", "value": "acme"}
        assert metrics["kvstream.events_processed"].sum.data_points[0].as_int == 20_002

        records = {record.body.string_value: record for record in received.records()}
        firing, resolved = records["message 1"], records["message 2"]
        assert firing.severity_text == "critical"
        assert firing.severity_number == 17, "ERROR"
        assert firing.event_name == "kvstream.alert.firing"
        assert firing.time_unix_nano == 1_700_000_001 * 10**9
        assert attributes(firing)["rule"] == "hit_ratio_drop"
        assert resolved.event_name == "kvstream.alert.resolved"
        assert resolved.severity_number == 9, "INFO"


async def test_text_that_no_encoding_holds_arrives_escaped():
    with receiver() as (url, received):
        config = StreamConfig(metrics=MetricsConfig(export_interval=0.0))
        async with KVStream(config) as stream:

            async def named_handler(alert):
                pass

            named_handler.__qualname__ = "a\udcff"
            stream.on_alert(named_handler)
            OpenTelemetry(url).attach(stream)
            odd = {"message": "b\udcff", "rule": "b\udcff", "source": "b\udcff", "tier": "b\udcff"}
            await publish(stream, msgspec.structs.replace(alert(1), **odd, labels={"c\udcff": "d\udcff"}))
        (record,) = received.records()
        assert record.body.string_value == "b\\udcff"
        assert attributes(record)["label.c\\udcff"] == "d\\udcff"
        dropped = received.of_last_export()["kvstream.subscriber_dropped"].sum.data_points
        assert {attributes(point)["subscriber"] for point in dropped} >= {"OpenTelemetry.export"}
    assert {subscriber.failures for subscriber in stream.statistics().subscribers} == {0}


async def test_a_collector_that_refuses_is_counted_and_delays_nothing(caplog):
    with receiver(status=400) as (url, received):
        async with KVStream(StreamConfig(metrics=MetricsConfig(export_interval=0.0))) as stream:
            OpenTelemetry(url).attach(stream)
            await send_chat(stream, 1_000)
        assert len(received.metrics) == 1
    failures = {subscriber.name: subscriber.failures for subscriber in stream.statistics().subscribers}
    assert failures["OpenTelemetry.export"] == 1
    assert f"OTLP {url}: not delivered: answered 400 Bad Request" in caplog.text


async def test_an_export_is_put_together_in_a_thread(monkeypatch):
    threads = set()
    metric = OpenTelemetry._metric

    def noted(*args):
        threads.add(threading.get_ident())
        return metric(*args)

    monkeypatch.setattr(OpenTelemetry, "_metric", noted)
    with receiver() as (url, received):
        async with KVStream(StreamConfig(metrics=MetricsConfig(export_interval=0.0))) as stream:
            OpenTelemetry(url).attach(stream)
            await send_chat(stream, 100)
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert "kvstream.blocks" in received.of_last_export()


async def test_a_collector_that_refuses_every_export_is_logged_once(caplog):
    with receiver(status=403) as (url, received):
        async with KVStream(StreamConfig(metrics=MetricsConfig(export_interval=0.01))) as stream:
            OpenTelemetry(url).attach(stream)
            await until(lambda: len(received.metrics) > 3)
    assert sum("answered 403" in line for line in of_kvstream(caplog)) == 1


async def test_metrics_and_alerts_wait_for_a_collector_that_is_away():
    status = 503
    received = {"/v1/metrics": [], "/v1/logs": []}

    def take(path, headers, body):
        received[path].append(body)
        return status

    with posted_to(take) as url:
        async with KVStream(StreamConfig(metrics=MetricsConfig(export_interval=0.0))) as stream:
            OpenTelemetry(url).attach(stream)
            await publish(stream, alert(1))
            await until(lambda: received["/v1/logs"])
            status = 200
        assert len(received["/v1/logs"]) >= 2
    assert {subscriber.undelivered for subscriber in stream.statistics().subscribers} == {0}


async def test_what_a_collector_never_takes_is_undelivered_and_logged_once_in_plain_words(caplog):
    url = f"http://127.0.0.1:{free_port()}"
    config = StreamConfig(delivery_timeout=0.1, metrics=MetricsConfig(export_interval=0.0))
    async with KVStream(config) as stream:
        OpenTelemetry(url).attach(stream)
        await publish(stream, alert(1))
    undelivered = {subscriber.topic: subscriber.undelivered for subscriber in stream.statistics().subscribers}
    assert undelivered == {"alerts": 1, "summaries": 1}
    wanted = f"OTLP {url}: not delivered, will be tried again: connection refused: nothing listens there"
    assert set(of_kvstream(caplog)) == {wanted}


async def test_an_exporter_that_lets_the_error_of_its_client_through_is_tried_again_too():
    url = f"http://127.0.0.1:{free_port()}"
    collector = OpenTelemetry(url)
    session = collector._metrics_session
    with pytest.raises(UndeliveredError, match="connection refused"):
        await collector._send(session, lambda: session.post(url).ok)


async def test_a_log_exporter_that_lets_the_error_through_logs_no_traceback(caplog, monkeypatch):
    url = f"http://127.0.0.1:{free_port()}"
    collector = OpenTelemetry(url)
    monkeypatch.setattr(OTLPLogExporter, "export", lambda exporter, batch: collector._logs_session.post(url))
    with pytest.raises(UndeliveredError, match="connection refused"):
        await collector.log_alert(alert(1))
    assert [record.message for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize(
    ("endpoint", "wrong"),
    [
        ("localhost:4318", "4318"),
        ("http://", "no host"),
        ("http://[::1", "IPv6"),
        ("http://collector:99999", "its port is not one of 1 to 65535"),
        ("http://user:pass@collector:4318", "a name and password cannot be given"),
    ],
)
def test_what_is_no_url_is_refused(endpoint, wrong):
    with pytest.raises(ConfigError, match=wrong) as refused:
        OpenTelemetry(endpoint)
    assert "pass@" not in str(refused.value)


def of_kvstream(caplog):
    return [record.message for record in caplog.records if record.name == "kvstream"]
