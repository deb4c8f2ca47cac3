"""Metrics for Prometheus: a collector for ``prometheus_client``, and the text of a scrape.

Counts, gauges and vLLM's classic buckets of every source and tier; native histograms where a scrape asks for
OpenMetrics 2.0, the only format in which the client library writes them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from anyio import to_thread
from anyio.lowlevel import checkpoint

from kvstream.errors import MissingExtraError
from kvstream.events.types import REASONS
from kvstream.metrics.histogram import ClassicHistogram, ExponentialHistogram
from kvstream.metrics.usage import usage_by_label
from kvstream.monitor import SourceMonitor
from kvstream.stream import KVStream
from kvstream.tier import TierMonitor

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
    from prometheus_client.samples import BucketSpan, NativeHistogram, Sample
    from prometheus_client.utils import floatToGoString
except ImportError:
    raise MissingExtraError("metrics for Prometheus", "prometheus") from None

TIER = ("source", "tier")

LabelValues = tuple[str, ...]


class Interval(NamedTuple):
    """A distribution: vLLM's buckets, and those of a native histogram."""

    classic: ClassicHistogram
    native: ExponentialHistogram


class Family(NamedTuple):
    """One metric; the name of a counter is without ``_total``."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def sample_name(self) -> str:
        """The name of its samples."""
        return self.name + ("_total" if self.kind == "counter" else "")


Reading = tuple[Family, LabelValues, "float | Interval"]
"""A family, label values, and the value now."""


_BLOCKS = Family("gauge", "kvstream_blocks", "Blocks live.", TIER)
_CAPACITY = Family("gauge", "kvstream_capacity_blocks", "Blocks there is room for.", TIER)
_LAST_EVENT = Family(
    "gauge", "kvstream_last_event_timestamp_seconds", "Time of the last event.", TIER, "seconds"
)
_ALLOCATIONS = Family("counter", "kvstream_allocations", "Blocks allocated.", TIER)
_ACCESSES = Family("counter", "kvstream_accesses", "Hits on live blocks.", TIER)
_EVICTIONS = Family("counter", "kvstream_evictions", "Blocks that went, by reason.", (*TIER, "reason"))
_UNUSED = Family("counter", "kvstream_unused_evictions", "Evicted blocks that were never accessed.", TIER)
_PREMATURE = Family("counter", "kvstream_premature_evictions", "Evicted content that was wanted again.", TIER)
_UNKNOWN_ACCESSES = Family("counter", "kvstream_unknown_accesses", "Accesses of blocks not live.", TIER)
_UNKNOWN_EVICTIONS = Family("counter", "kvstream_unknown_evictions", "Evictions of blocks not live.", TIER)
_REGRESSIONS = Family("counter", "kvstream_time_regressions", "Negative intervals, taken as 0.", TIER)
_CLOCK_STEPS = Family("counter", "kvstream_clock_steps", "Steps back in time.", TIER)
_LIFETIME = Family("histogram", "kvstream_block_lifetime_seconds", "Allocation to eviction.", TIER, "seconds")
_IDLE = Family(
    "histogram", "kvstream_block_idle_before_evict_seconds", "Last access to eviction.", TIER, "seconds"
)
_REUSE_GAP = Family("histogram", "kvstream_block_reuse_gap_seconds", "Access to access.", TIER, "seconds")
_LOST = Family("counter", "kvstream_lost_frames", "Frames missing by their numbers.", ("source",))
_DUPLICATES = Family("counter", "kvstream_duplicate_frames", "Frames seen before.", ("source",))
_RESTARTS = Family("counter", "kvstream_source_restarts", "Times that a source began anew.", ("source",))
_FIRING = Family("gauge", "kvstream_alert_firing", "1 for each alert that fires.", (*TIER, "rule", "level"))
_OWNED = (*TIER, "label", "value")
_OWNED_BLOCKS = Family("gauge", "kvstream_label_blocks", "Blocks live, by label of allocation.", _OWNED)
_OWNED_ALLOCATIONS = Family("counter", "kvstream_label_allocations", "Blocks allocated, by label.", _OWNED)
_OWNED_ACCESSES = Family("counter", "kvstream_label_accesses", "Hits on blocks, by their label.", _OWNED)
_OWNED_EVICTIONS = Family("counter", "kvstream_label_evictions", "Blocks evicted, by their label.", _OWNED)
_OWNED_SHARE = Family(
    "gauge", "kvstream_label_residency_ratio", "Share of all block seconds, by label.", _OWNED, "ratio"
)
_OFFERED = Family("counter", "kvstream_events_offered", "Events that came.")
_PROCESSED = Family("counter", "kvstream_events_processed", "Events applied to block state.")
_DROPPED = Family("counter", "kvstream_events_dropped", "Events dropped, by cause.", ("cause",))
_MALFORMED = Family("counter", "kvstream_malformed", "Lines and frames that could not be decoded.")
_IN_FLIGHT = Family("gauge", "kvstream_events_in_flight", "Events in buffers and queues.")
_UNDELIVERED = Family(
    "counter", "kvstream_subscriber_dropped", "Items that a subscriber did not take in time.", ("subscriber",)
)
_FAILURES = Family("counter", "kvstream_subscriber_failures", "Times that a handler raised.", ("subscriber",))

FAMILIES = (
    *(_BLOCKS, _CAPACITY, _LAST_EVENT, _ALLOCATIONS, _ACCESSES, _EVICTIONS, _UNUSED, _PREMATURE),
    *(_LIFETIME, _IDLE, _REUSE_GAP, _UNKNOWN_ACCESSES, _UNKNOWN_EVICTIONS, _REGRESSIONS, _CLOCK_STEPS),
    *(_LOST, _DUPLICATES, _RESTARTS, _FIRING),
    *(_OWNED_BLOCKS, _OWNED_SHARE, _OWNED_ALLOCATIONS, _OWNED_ACCESSES, _OWNED_EVICTIONS),
    *(_OFFERED, _PROCESSED, _DROPPED, _MALFORMED, _IN_FLIGHT, _UNDELIVERED, _FAILURES),
)
"""Every metric, in the order of the exposition."""


class PrometheusCollector(Collector):
    """A stream's metrics in a registry of ``prometheus_client``.

    Scrape it on the stream's event loop (as an ASGI app does), since state is read as it is.

    Args:
        stream: The stream.
        native: Add native histograms, which only the OpenMetrics 2.0 writer understands.

    Example:
        ``REGISTRY.register(PrometheusCollector(stream))``
    """

    def __init__(self, stream: KVStream, native: bool = False) -> None:
        self._stream, self._native = stream, native

    def describe(self) -> list[Metric]:
        """Nothing: that it is registered does not mean that it is scraped."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        metrics = _Metrics(self._native)
        for source in self._stream.sources():
            metrics.add(source_samples(source))
        metrics.add(stream_samples(self._stream))
        return metrics.collect()


async def exposition(stream: KVStream, accept: str = "") -> tuple[bytes, str]:
    """What a scrape answers, while the loop goes on.

    Args:
        stream: The stream.
        accept: The ``Accept`` header of the request.

    Returns:
        The body, and its content type.
    """
    encoder, content_type = choose_encoder(accept)
    native = "version=2." in content_type
    answer = _Metrics(native=True) if native else _Text("openmetrics" in content_type)
    for source in stream.sources():
        answer.add(source_samples(source))
        await checkpoint()
    answer.add(stream_samples(stream))
    if isinstance(answer, _Metrics):
        return await to_thread.run_sync(encoder, answer), content_type
    return answer.encode(), content_type


def source_samples(source: SourceMonitor) -> Iterator[Reading]:
    """Every value of a source and of its tiers."""
    of_source = (source.source,)
    yield _LOST, of_source, source.lost_frames
    yield _DUPLICATES, of_source, source.duplicate_frames
    yield _RESTARTS, of_source, source.restarts
    for tier in source.tiers.values():
        yield from _tier_samples(tier)


def _tier_samples(tier: TierMonitor) -> Iterator[Reading]:
    labels = (tier.source, tier.tier)
    seen = tier.measurements()
    yield _BLOCKS, labels, tier.table.live_count
    if tier.config.capacity:
        yield _CAPACITY, labels, tier.config.capacity
    yield _LAST_EVENT, labels, tier.last_ts / 1e9
    yield _ALLOCATIONS, labels, seen.allocations
    yield _ACCESSES, labels, seen.accesses
    for reason, count in zip(REASONS, seen.evictions.tolist(), strict=True):
        yield _EVICTIONS, (*labels, reason), count + (seen.cleared if reason == "cleared" else 0)
    yield _UNUSED, labels, seen.never_accessed
    yield _PREMATURE, labels, seen.return_time.count
    yield _UNKNOWN_ACCESSES, labels, seen.unknown_accesses
    yield _UNKNOWN_EVICTIONS, labels, seen.unknown_evictions
    yield _REGRESSIONS, labels, seen.time_regressions
    yield _CLOCK_STEPS, labels, tier.ring.clock_steps
    yield _LIFETIME, labels, Interval(tier.classic.lifetime, seen.lifetime)
    yield _IDLE, labels, Interval(tier.classic.idle, seen.idle)
    yield _REUSE_GAP, labels, Interval(tier.classic.reuse_gap, seen.reuse_gap)
    for alert in tier.rules.firing():
        yield _FIRING, (*labels, alert.rule, alert.level.value), 1
    for name, owners in usage_by_label(tier.usage(), tier.config.histogram_scale).items():
        for owner in owners:
            of_owner = (*labels, name, owner.value or "")
            yield _OWNED_BLOCKS, of_owner, owner.blocks_live
            yield _OWNED_SHARE, of_owner, owner.residency_share
            yield _OWNED_ALLOCATIONS, of_owner, owner.allocations
            yield _OWNED_ACCESSES, of_owner, owner.accesses
            yield _OWNED_EVICTIONS, of_owner, owner.evictions


def stream_samples(stream: KVStream) -> Iterator[Reading]:
    """What only the stream as a whole knows."""
    inside = stream.statistics()
    accounts = inside.accounts
    yield _OFFERED, (), accounts.offered
    yield _PROCESSED, (), accounts.processed
    yield _MALFORMED, (), accounts.malformed
    yield _IN_FLIGHT, (), accounts.in_flight
    for cause, count in sorted(accounts.dropped.items()):
        yield _DROPPED, (cause,), count
    dropped: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for subscriber in inside.subscribers:
        dropped[subscriber.name] += subscriber.dropped
        failures[subscriber.name] += subscriber.failures
    for name in dropped:
        yield _UNDELIVERED, (name,), dropped[name]
        yield _FAILURES, (name,), failures[name]


class _Metrics(Collector):
    """Readings as the client library has them."""

    def __init__(self, native: bool) -> None:
        self._native = native
        kinds = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        self._metrics = {f: kinds[f.kind](f.name, f.help, labels=f.labels, unit=f.unit) for f in FAMILIES}

    def add(self, readings: Iterable[Reading]) -> None:
        for family, values, reading in readings:
            metric = self._metrics[family]
            if not isinstance(reading, Interval):
                metric.add_metric(values, reading)
                continue
            buckets = list(zip(_BOUNDS, reading.classic.cumulative(), strict=True))
            metric.add_metric(values, buckets, reading.native.sum_ns / 1e9)
            if self._native:
                labels = dict(zip(family.labels, values, strict=True))
                histogram = native_histogram(reading.native)
                metric.samples.append(Sample(family.name, labels, 0.0, native_histogram=histogram))

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics.values())


class _Text:
    """Readings as text, byte for byte as the client library writes it.

    That takes half a second for a thousand sources; this, a tenth of it.
    """

    def __init__(self, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._lines: dict[Family, list[str]] = {family: [] for family in FAMILIES}

    def add(self, readings: Iterable[Reading]) -> None:
        for family, values, reading in readings:
            lines, labels = self._lines[family], _labels(family.labels, values)
            if isinstance(reading, Interval):
                lines.append(_buckets(family.name, labels, reading))
            else:
                name = family.sample_name
                lines.append(
                    f"{name}{{{labels}}} {_number(reading)}\n" if labels else f"{name} {_number(reading)}\n"
                )

    def encode(self) -> bytes:
        parts = []
        for family, lines in self._lines.items():
            name = family.name if self._openmetrics else family.sample_name
            unit = f"# UNIT {name} {family.unit}\n" if family.unit and self._openmetrics else ""
            parts.append(f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n{unit}")
            parts += lines
        return "".join([*parts, "# EOF\n"] if self._openmetrics else parts).encode()


@lru_cache(maxsize=64)
def _labels(names: LabelValues, values: LabelValues) -> str:
    """Labels in order of name, as the client library writes them."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if type(value) is int and -1_000_000 < value < 1_000_000:
        return f"{value}.0"
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


_BOUNDS = [*map(_number, ClassicHistogram().bounds_seconds), "+Inf"]


def _buckets(name: str, labels: str, interval: Interval) -> str:
    """The samples of a classic histogram; ``le`` comes before the labels of a tier."""
    counts = [_number(count) for count in interval.classic.cumulative()]
    lines = [
        f'{name}_bucket{{le="{bound}",{labels}}} {count}\n'
        for bound, count in zip(_BOUNDS, counts, strict=True)
    ]
    lines.append(f"{name}_count{{{labels}}} {counts[-1]}\n")
    lines.append(f"{name}_sum{{{labels}}} {_number(interval.native.sum_ns / 1e9)}\n")
    return "".join(lines)


def native_histogram(histogram: ExponentialHistogram) -> NativeHistogram:
    """The same buckets as a Prometheus native histogram.

    Its bucket j holds values of ``base**(j - 1) < v <= base**j``, so that j is ours plus one.

    Source: https://prometheus.io/docs/specs/native_histograms/
    """
    spans: list[BucketSpan] = []
    deltas: list[int] = []
    after, before = 0, 0  # the bucket after the last span, and the count of the last bucket
    for at in np.flatnonzero(histogram.counts).tolist():
        index, count = histogram.offset + at + 1, int(histogram.counts[at])
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
