"""Metrics for Prometheus: a collector for ``prometheus_client``, and the text of a scrape.

Counts, gauges and vLLM's classic buckets of every source and tier; native histograms where a scrape asks for
OpenMetrics 2.0, the only format in which the client library writes them.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from kvstream.engine.source import SourceMonitor
from kvstream.errors import MissingExtraError
from kvstream.exporters.metric_families import (
    FAMILIES,
    Family,
    Interval,
    LabelValues,
    Reading,
    cache_readings,
    readings,
    readings_in_steps,
)
from kvstream.metrics.buckets import VLLM_BUCKETS_SECONDS
from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.stream import KVStream
from kvstream.streaming.turns import Turns
from kvstream.text.escape import for_prometheus, for_unicode

__all__ = ["PrometheusCollector"]

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
    from prometheus_client.samples import BucketSpan, NativeHistogram, Sample
    from prometheus_client.utils import floatToGoString
except ImportError:
    raise MissingExtraError("metrics for Prometheus", "prometheus") from None

# What the client library understands; the rest of a header can make it raise, or come back in ours.
_ACCEPTED = re.compile(
    r"(application/openmetrics-text|text/plain)"
    r"(;(version=[0-9]{1,3}(\.[0-9]{1,3}){1,2}|escaping=[a-z-]{1,20}|charset=utf-8|q=[0-9.]{1,5}))*"
)


class PrometheusCollector(Collector):
    """A stream's metrics in a registry of ``prometheus_client``.

    Scrape it on the stream's event loop (as an ASGI app does), since state is read as it is.

    Args:
        stream: The stream.
        native: Add native histograms, which only the OpenMetrics 2.0 writer understands.

    Examples:
        ``REGISTRY.register(PrometheusCollector(stream))``
    """

    def __init__(self, stream: KVStream, native: bool = False) -> None:
        self._stream, self._native = stream, native

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering it does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        metrics = _Metrics(self._native)
        metrics.add(readings(self._stream))
        return metrics.collect()


async def exposition(stream: KVStream, accept: str = "") -> tuple[bytes, str]:
    """Return what a scrape answers, while other tasks go on.

    Each source is shown as at some moment meanwhile, the accounts of the stream as at one moment. Cancelling
    it changes nothing.

    Args:
        stream: The stream.
        accept: The ``Accept`` header of the request, whatever it says.

    Returns:
        The body, and its content type.
    """
    content_type = _chosen_format(accept)
    text = _Text("openmetrics" in content_type, native="version=2." in content_type)
    async for some in readings_in_steps(stream):
        text.add(some)
    parts, turns = [], Turns()
    for part in text.parts():
        parts.append(part)
        await turns.give_way()
    return b"".join(parts), content_type


def cache_metrics(sources: Iterable[SourceMonitor]) -> list[Metric]:
    """Return the metrics of the caches of some sources, which must not change meanwhile."""
    metrics = _Metrics(native=False)
    for source in sources:
        metrics.add(cache_readings(source))
    return [metric for metric in metrics.collect() if metric.samples]


def _chosen_format(accept: str) -> str:
    """Return the content type that a header asks for, that of plain text if it asks for nothing known."""
    ranges = "".join(accept.split()).split(",")
    _, content_type = choose_encoder(",".join(filter(_ACCEPTED.fullmatch, ranges)))
    return content_type


class _Metrics(Collector):
    """Readings as the client library has them, each series once."""

    def __init__(self, native: bool) -> None:
        self._native = native
        kinds = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        self._seen: set[tuple[Family, LabelValues]] = set()
        self._metrics = {f: kinds[f.kind](f.name, f.help, labels=f.labels, unit=f.unit) for f in FAMILIES}

    def add(self, readings: Iterable[Reading]) -> None:
        for family, values, reading in readings:
            metric = self._metrics[family]
            values = tuple(map(for_unicode, values))
            if (family, values) in self._seen:
                continue
            self._seen.add((family, values))
            if not isinstance(reading, Interval):
                metric.add_metric(values, reading)
                continue
            buckets = list(zip(_BOUNDS, reading.below, strict=True))
            metric.add_metric(values, buckets, reading.native.sum_ns / 1e9)
            if self._native:
                labels = dict(zip(family.labels, values, strict=True))
                histogram = native_histogram(reading.native)
                metric.samples.append(Sample(family.name, labels, 0.0, native_histogram=histogram))

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics.values())


class _Text:
    """Readings as text, byte for byte as the client library writes it, each series once.

    That takes half a second for a thousand sources; this, a tenth of it.

    Args:
        openmetrics: Write OpenMetrics, not plain text.
        native: Add native histograms, as OpenMetrics 2.0 has them.
    """

    def __init__(self, openmetrics: bool, native: bool = False) -> None:
        self._openmetrics, self._native = openmetrics, native
        self._lines: dict[Family, dict[str, str]] = {family: {} for family in FAMILIES}  # by labels

    def add(self, readings: Iterable[Reading]) -> None:
        for family, values, reading in readings:
            lines, labels = self._lines[family], _labels(family.labels, values)
            if labels in lines:
                continue  # names that only lone surrogates tell apart
            if isinstance(reading, Interval):
                lines[labels] = _buckets(family.name, labels, reading)
                if self._native:
                    lines[labels] += f"{family.name}{{{labels}}} {_native(reading.native)}\n"
            else:
                name = family.sample_name
                lines[labels] = (
                    f"{name}{{{labels}}} {_number(reading)}\n" if labels else f"{name} {_number(reading)}\n"
                )

    def parts(self) -> Iterator[bytes]:
        """Yield the text, a family at a time."""
        for family, lines in self._lines.items():
            name = family.name if self._openmetrics else family.sample_name
            unit = f"# UNIT {name} {family.unit}\n" if family.unit and self._openmetrics else ""
            head = f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n{unit}"
            yield "".join([head, *lines.values()]).encode()
        if self._openmetrics:
            yield b"# EOF\n"


@lru_cache(maxsize=64)
def _labels(names: LabelValues, values: LabelValues) -> str:
    """Return labels in order of name, as the client library writes them."""
    return ",".join(
        f'{name}="{for_prometheus(value)}"' for name, value in sorted(zip(names, values, strict=True))
    )


def _number(value: float) -> str:
    if type(value) is int and -1_000_000 < value < 1_000_000:
        return f"{value}.0"
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


_BOUNDS = [*map(_number, VLLM_BUCKETS_SECONDS), "+Inf"]


def _buckets(name: str, labels: str, interval: Interval) -> str:
    """Return the samples of a classic histogram; ``le`` comes before the labels of a tier."""
    counts = [_number(count) for count in interval.below]
    lines = [
        f'{name}_bucket{{le="{bound}",{labels}}} {count}\n'
        for bound, count in zip(_BOUNDS, counts, strict=True)
    ]
    lines.append(f"{name}_count{{{labels}}} {counts[-1]}\n")
    lines.append(f"{name}_sum{{{labels}}} {_number(interval.native.sum_ns / 1e9)}\n")
    return "".join(lines)


def _native(histogram: ExponentialHistogram) -> str:
    """Return a native histogram as OpenMetrics 2.0 has it."""
    native = native_histogram(histogram)
    fields = [
        f"count:{native.count_value},sum:{native.sum_value},schema:{native.schema}",
        f"zero_threshold:{native.zero_threshold},zero_count:{native.zero_count}",
    ]
    if native.pos_spans and native.pos_deltas:
        spans = ",".join(f"{span.offset}:{span.length}" for span in native.pos_spans)
        fields.append(f"positive_spans:[{spans}],positive_deltas:[{','.join(map(str, native.pos_deltas))}]")
    return f"{{{','.join(fields)}}}"


def native_histogram(histogram: ExponentialHistogram) -> NativeHistogram:
    """Return the same buckets as a Prometheus native histogram.

    Its bucket j holds values of ``base**(j - 1) < v <= base**j``, so that j is ours plus one.

    Source: https://prometheus.io/docs/specs/native_histograms/
    """
    spans: list[BucketSpan] = []
    deltas: list[int] = []
    after, before = 0, 0  # the bucket after the last span, and the count of the last bucket
    counts = histogram.counts
    for at in np.flatnonzero(counts).tolist():
        index, count = histogram.offset + at + 1, int(counts[at])
        if spans and index == after:
            spans[-1] = BucketSpan(spans[-1].offset, spans[-1].length + 1)
        else:
            spans.append(BucketSpan(index - after, 1))
        deltas.append(count - before)
        after, before = index + 1, count
    return NativeHistogram(
        count_value=histogram.count,
        sum_value=histogram.sum_ns / 1e9,
        schema=histogram.scale,
        zero_threshold=0.0,
        zero_count=histogram.zero_count,
        pos_spans=spans or None,
        pos_deltas=deltas or None,
    )
