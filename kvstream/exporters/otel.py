"""Metrics and alerts by OpenTelemetry's protocol: OTLP over HTTP (``kvstream[otel]``).

The SDK's own instruments would aggregate every value once more; kvstream's histograms are exponential ones
already, so that they go as they are into the SDK's data model and its exporters.

Source: https://opentelemetry.io/docs/specs/otel/metrics/data-model/
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from anyio import to_thread

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.errors import ConfigError, KVStreamError, MissingExtraError
from kvstream.exporters.metric_families import FAMILIES, Family, Interval, LabelValues, readings_in_steps
from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.stream import KVStream
from kvstream.text.escape import for_unicode
from kvstream.version import __version__

try:
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import export as sdk
    from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExportResult, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
except ImportError:
    raise MissingExtraError("OpenTelemetry", "otel") from None

_SEVERITY = {
    AlertLevel.INFO: SeverityNumber.INFO,
    AlertLevel.WARNING: SeverityNumber.WARN,
    AlertLevel.CRITICAL: SeverityNumber.ERROR,
}
_UNITS = {"seconds": "s", "ratio": "1", "bytes": "By"}


class OpenTelemetry:
    """Exports metrics with each summary of a stream, and alerts as log records as they change.

    Args:
        endpoint: Base URL of a collector, such as ``http://localhost:4318``.
        resource: Attributes that say who we are, besides those of ``OTEL_RESOURCE_ATTRIBUTES``.
        timeout: Seconds for one export.

    Raises:
        ConfigError: If the endpoint is no URL.

    Examples:
        ``OpenTelemetry("http://localhost:4318").attach(stream)``
    """

    def __init__(
        self, endpoint: str, *, resource: dict[str, str] | None = None, timeout: float = 10.0
    ) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"{endpoint!r} is no OTLP endpoint; write http://HOST:4318")
        base = endpoint.rstrip("/")
        self._resource = Resource.create({"service.name": "kvstream", **(resource or {})})
        self._scope = InstrumentationScope("kvstream", __version__)
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics", timeout=timeout)
        self._logs = LoggerProvider(self._resource, shutdown_on_exit=False)
        self._logs.add_log_record_processor(
            BatchLogRecordProcessor(OTLPLogExporter(f"{base}/v1/logs", timeout=timeout))
        )
        self._logger = self._logs.get_logger("kvstream", __version__)
        self._start_ns = time.time_ns()
        self._endpoint = base
        self._stream: KVStream | None = None

    def attach(self, stream: KVStream) -> None:
        """Make it a handler of the stream's alerts and summaries."""
        self._stream = stream
        stream.on_alert(self.log_alert)
        stream.on_summary(self.export)

    async def log_alert(self, alert: CacheAlert) -> None:
        """Give an alert to the batch of log records that is sent next."""
        resolved = alert.state == "resolved"
        self._logger.emit(
            timestamp=round(alert.timestamp * 1e9),
            observed_timestamp=time.time_ns(),
            severity_number=SeverityNumber.INFO if resolved else _SEVERITY[alert.level],
            severity_text=alert.level.value,
            event_name=f"kvstream.alert.{alert.state}",
            body=for_unicode(alert.message),
            attributes={
                "rule": for_unicode(alert.rule),
                "state": alert.state,
                "source": for_unicode(alert.source),
                "tier": for_unicode(alert.tier),
                "value": alert.value,
                "threshold": alert.threshold,
                "started_at": alert.started_at,
                "fingerprint": alert.fingerprint,
                "hint": for_unicode(alert.hint),
                **{for_unicode(f"label.{name}"): for_unicode(value) for name, value in alert.labels.items()},
            },
        )

    async def export(self, summary: CacheMetricsSummary) -> None:
        """Send every metric as it is now; after the final summary, what is left of the alerts, too.

        Raises:
            KVStreamError: If the endpoint did not take it.
        """
        assert self._stream is not None  # noqa: S101
        readings: dict[Family, list[tuple[LabelValues, float | Interval]]] = {f: [] for f in FAMILIES}
        async for some in readings_in_steps(self._stream):
            for family, values, reading in some:
                readings[family].append((values, reading))
        taken = await to_thread.run_sync(self._send, readings, time.time_ns(), abandon_on_cancel=True)
        if summary.final:
            await to_thread.run_sync(self._logs.shutdown, abandon_on_cancel=True)
        if taken is not MetricExportResult.SUCCESS:
            raise KVStreamError(f"{self._endpoint} did not take the metrics")

    def _send(
        self, readings: Mapping[Family, Sequence[tuple[LabelValues, float | Interval]]], now: int
    ) -> MetricExportResult:
        """Send readings of a time in ns; of a thousand sources, that is a second of work."""
        metrics = [self._metric(family, points, now) for family, points in readings.items() if points]
        scope = sdk.ScopeMetrics(self._scope, metrics, "")
        return self._metrics.export(MetricsData([sdk.ResourceMetrics(self._resource, [scope], "")]))

    def _metric(
        self, family: Family, points: Sequence[tuple[LabelValues, float | Interval]], now: int
    ) -> sdk.Metric:
        """Return a family as OpenTelemetry has it: ``kvstream.block_lifetime`` in ``s``."""
        name = family.name.removeprefix("kvstream_").removesuffix(f"_{family.unit}")
        data: Any
        if family.kind == "histogram":
            histograms = [
                self._histogram(family, values, reading.native, now)
                for values, reading in points
                if isinstance(reading, Interval)
            ]
            data = sdk.ExponentialHistogram(histograms, AggregationTemporality.CUMULATIVE)
        else:
            numbers = [
                sdk.NumberDataPoint(_attributes(family, values), self._start_ns, now, reading)
                for values, reading in points
                if not isinstance(reading, Interval)
            ]
            if family.kind == "counter":
                data = sdk.Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)
            else:
                data = sdk.Gauge(numbers)
        return sdk.Metric(f"kvstream.{name}", family.help, _UNITS.get(family.unit, "1"), data)

    def _histogram(
        self, family: Family, values: LabelValues, histogram: ExponentialHistogram, now: int
    ) -> sdk.ExponentialHistogramDataPoint:
        """Bucket for bucket what we have, as our buckets are OpenTelemetry's."""
        return sdk.ExponentialHistogramDataPoint(
            attributes=_attributes(family, values),
            start_time_unix_nano=self._start_ns,
            time_unix_nano=now,
            count=histogram.count,
            sum=histogram.sum_ns / 1e9,
            scale=histogram.scale,
            zero_count=histogram.zero_count,
            positive=sdk.Buckets(histogram.offset, histogram.counts.tolist()),
            negative=sdk.Buckets(0, []),
            flags=0,
            min=histogram.min_ns / 1e9,
            max=histogram.max_ns / 1e9,
        )


def _attributes(family: Family, values: LabelValues) -> dict[str, str]:
    return dict(zip(family.labels, map(for_unicode, values), strict=True))
