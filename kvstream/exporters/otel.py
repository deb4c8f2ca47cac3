"""Metrics and alerts by OpenTelemetry's protocol: OTLP over HTTP (``kvstream[otel]``).

The SDK's own instruments would aggregate every value once more; kvstream's histograms are exponential ones
already, so that they go as they are into the SDK's data model and its exporters.

Source: https://opentelemetry.io/docs/specs/otel/metrics/data-model/
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from anyio import to_thread

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.errors import ConfigError, KVStreamError, MissingExtraError, UndeliveredError
from kvstream.exporters.metric_families import FAMILIES, Family, Interval, LabelValues, readings_in_steps
from kvstream.faults.answers import failed_answer
from kvstream.faults.connecting import connection_failure
from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.stream import KVStream
from kvstream.subscriptions.handler import Batching, Delivery
from kvstream.subscriptions.subscription import Subscription
from kvstream.text.addresses import http_url, without_password
from kvstream.text.escape import for_unicode
from kvstream.version import __version__

try:
    import requests
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
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
_NO_HTTP = "what answers there does not speak HTTP, or broke off its answer"
_TIMEOUT_SECONDS = 10.0  # for one export
_UNITS = {"seconds": "s", "ratio": "1", "bytes": "By"}


class OpenTelemetry:
    """Exports metrics with each summary of a stream, and alerts as log records as they change.

    What the collector does not take now is tried again, as other handlers' alerts are: each alert in its
    newest state, and the metrics as they are then. ``OTEL_RESOURCE_ATTRIBUTES`` says more of who sends them.

    Args:
        endpoint: Base URL of a collector, such as ``http://localhost:4318``.

    Raises:
        ConfigError: If the endpoint is no URL, or has a name and password in it.

    Examples:
        ``OpenTelemetry("http://localhost:4318").attach(stream)``
    """

    def __init__(self, endpoint: str) -> None:
        try:
            parts = http_url(endpoint)
        except ValueError as error:
            raise ConfigError(
                f"{without_password(endpoint)!r} is no OTLP endpoint: {error}; write http://HOST:4318"
            ) from error
        base = endpoint.rstrip("/")
        self._place = f"OTLP {parts.scheme}://{parts.netloc}"
        self._resource = Resource.create({"service.name": "kvstream"})
        self._scope = InstrumentationScope("kvstream", __version__)
        self._metrics_session, self._logs_session = _OneAttempt(), _OneAttempt()
        self._metrics = OTLPMetricExporter(
            f"{base}/v1/metrics", timeout=_TIMEOUT_SECONDS, session=self._metrics_session
        )
        self._logs = _LogExporter(f"{base}/v1/logs", timeout=_TIMEOUT_SECONDS, session=self._logs_session)
        provider = LoggerProvider(self._resource, shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self._logger = provider.get_logger("kvstream", __version__)
        self._start_ns = time.time_ns()
        self._stream: KVStream | None = None

    def attach(self, stream: KVStream) -> None:
        """Make it a handler of the stream's alerts and summaries."""
        self._stream = stream
        stream.on_alert(_To(self._place, self.log_alert))
        stream.on_summary_batch(_To(self._place, self.export), Batching(_newest, lambda summary: (summary,)))

    async def log_alert(self, alert: CacheAlert) -> None:
        """Send an alert as a log record.

        Raises:
            UndeliveredError: If the collector may take it later.
            KVStreamError: If it refuses it.
        """

        def send() -> bool:
            self._emit(alert)
            return self._logs.taken

        await self._send(self._logs_session, send)

    async def _send(self, session: "_OneAttempt", send: Callable[[], bool]) -> None:
        """Call an exporter in a thread; raise why nothing was taken."""
        session.failure = None
        try:
            taken = await to_thread.run_sync(send, abandon_on_cancel=True)
        except _FailedError:  # which older exporters let through
            taken = False
        if session.failure is not None:
            raise session.failure
        if not taken:
            raise KVStreamError("the exporter of OpenTelemetry could not send it")

    def _emit(self, alert: CacheAlert) -> None:
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

    async def export(self, _: CacheMetricsSummary) -> None:
        """Send every metric as it is now.

        Raises:
            UndeliveredError: If the collector may take them later.
            KVStreamError: If it refuses them.
        """
        assert self._stream is not None  # noqa: S101
        readings: dict[Family, list[tuple[LabelValues, float | Interval]]] = {f: [] for f in FAMILIES}
        async for some in readings_in_steps(self._stream):
            for family, values, reading in some:
                readings[family].append((values, reading))
        now = time.time_ns()

        def send() -> bool:
            return self._metrics.export(self._data(readings, now)) is MetricExportResult.SUCCESS

        await self._send(self._metrics_session, send)

    def _data(
        self, readings: Mapping[Family, Sequence[tuple[LabelValues, float | Interval]]], now: int
    ) -> MetricsData:
        """Return the readings of a time in ns; of a thousand sources, that is a second of work."""
        metrics = [self._metric(family, points, now) for family, points in readings.items() if points]
        scope = sdk.ScopeMetrics(self._scope, metrics, "")
        return MetricsData([sdk.ResourceMetrics(self._resource, [scope], "")])

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


class _To(Delivery):
    """What is sent to a collector, one attempt at a time; the stream decides when to try again."""

    def __init__(self, destination: str, send: Callable[[Any], Awaitable[None]]) -> None:
        self.destination, self._send = destination, send
        self.__qualname__ = getattr(send, "__qualname__", destination)

    async def deliver(self, item: Any) -> None:
        await self._send(item)


class _OneAttempt(requests.Session):
    """The exporters' HTTP client; keeps why an export failed, and lets them not try again by themselves.

    Attributes:
        failure: Why the last export failed; None if it did not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: KVStreamError | None = None

    def request(self, *args: Any, **options: Any) -> requests.Response:
        try:
            answer = super().request(*args, **{**options, "allow_redirects": False})
        except requests.RequestException as error:
            failure = connection_failure(error, _TIMEOUT_SECONDS)
            words = failure.words if failure.kind != "other" else _NO_HTTP
            self.failure = UndeliveredError(words)
            raise _FailedError(words) from error
        if not 200 <= answer.status_code < 300:
            after = answer.headers.get("Retry-After", "")
            self.failure = failed_answer(answer.status_code, answer.reason or "", after)
            raise _FailedError(str(self.failure))
        return answer


class _FailedError(requests.RequestException):
    """Raised to an exporter, which takes it for final."""


class _LogExporter(OTLPLogExporter):
    """Keeps whether the last records were taken, which a processor of records does not say."""

    taken = False

    def export(self, batch: Any) -> Any:
        self.taken = False
        try:
            result = super().export(batch)
        except _FailedError:  # which older exporters let through, and a processor logs with its traceback
            return None
        self.taken = result.name == "SUCCESS"
        return result


async def _newest(summaries: Subscription[CacheMetricsSummary]) -> AsyncIterator[CacheMetricsSummary]:
    """Yield the newest summary that waits, as metrics are sent as they are now."""
    while await summaries.wait():
        yield summaries.take_all(lambda _: True)[-1]


def _attributes(family: Family, values: LabelValues) -> dict[str, str]:
    return dict(zip(family.labels, map(for_unicode, values), strict=True))
