"""The synchronous face: collectors to call from an engine's own code, without an event loop."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream._core.ids import below_rate, generation_hash, source_seed
from kvstream._core.recorder import CallRecorder, with_own_methods
from kvstream.alerts.rule import Rule
from kvstream.alerts.types import CacheAlert
from kvstream.blocks.apply_result import EvictionBatch, KVCacheEvictionEvent
from kvstream.config import MetricsConfig
from kvstream.engine.gathering import total_measurements
from kvstream.engine.monitor import Monitor
from kvstream.errors import ClosedStreamError, ConfigError
from kvstream.events.clock import Clock
from kvstream.events.counters import CacheCounts, counts_of
from kvstream.events.frame import MAX_FRAME_EVENTS, as_int64
from kvstream.events.recorded import HasBlockId, recorded_frame
from kvstream.events.types import DEFAULT_SOURCE, DEFAULT_TIER, Labels, Op
from kvstream.faults.fork import close_in_children
from kvstream.metrics.anomalies import Anomaly
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.patterns import (
    AccessPatternAnalysis,
    LifetimeDistribution,
    analyze_access_pattern,
    lifetime_distribution,
)
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.metrics.trend import Trend

_BATCH_EVENTS = 8192

logger = logging.getLogger("kvstream")


@with_own_methods
class KVCacheMetricsCollector(CallRecorder):
    """Follows the blocks of one cache as its engine records them, from any thread.

    ``on_block_allocated``, ``on_block_accessed`` and ``on_block_evicted`` are other names of
    ``allocated_nowait``, ``accessed_nowait`` and ``evicted_nowait``, for callers of ``kv_cache_metrics``. A
    block is a 64-bit integer, signed or not, or has one as its ``block_id``; several are a sequence of
    integers or a numpy array. With the content key of each allocation, physical block numbers have premature
    evictions and a miss-ratio curve: ``on_block_allocated(17, key)``.

    A call reads the clock and records; invalid blocks, keys and labels raise ``MalformedInputError`` and
    record nothing. The state is updated every few thousand events, and whenever it is read.

    In a forked child the copy is closed until ``reset``: events recorded there are dropped, with one warning
    in the log, and every query raises ``ClosedStreamError``.

    Args:
        config: What is measured.
        source: Name of the cache instance.
        tier: Where its blocks live.
        rules: Alert rules; the built-in ones by default.
        clock: Nanoseconds since the Unix epoch.

    Examples:
        >>> collector = KVCacheMetricsCollector()
        >>> collector.on_block_allocated(7)
        >>> collector.on_block_accessed(7)
        >>> collector.on_block_evicted(7)
        >>> [event.access_count for event in collector.drain_events()]
        [1]
    """

    on_block_allocated = CallRecorder.allocated_nowait
    on_block_accessed = CallRecorder.accessed_nowait
    on_block_evicted = CallRecorder.evicted_nowait

    def __init__(
        self,
        config: MetricsConfig | None = None,
        *,
        source: str = DEFAULT_SOURCE,
        tier: str = DEFAULT_TIER,
        rules: Sequence[Rule] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.config = config or MetricsConfig()
        self._source, self._tier = source, tier
        self._rules = rules
        self._clock = clock or Clock()
        super().__init__(self._clock, _BATCH_EVENTS)
        self._lock = threading.Lock()
        self._start()
        close_in_children(self)

    def close_after_fork(self) -> None:
        """Close the copy in a forked child."""
        self._lock = threading.Lock()  # another thread may have held it, in the middle of a change
        self._forked = True
        self._record_after_fork()

    def _start(self) -> None:
        self._forked = self._said_forked = False
        self._monitor = Monitor(self.config, self._rules)
        self._take_recorded()  # and forget it
        self._evicted: deque[EvictionBatch] = deque()
        self._evicted_count = 0
        self._alerts: deque[CacheAlert] = deque(maxlen=self.config.history_size)

    def should_sample_block(self, block: int | HasBlockId, ts_ns: int | None = None) -> bool:
        """Return whether a generation of the block that starts at ``ts_ns`` (now) is measured in full.

        A fixed hash of source, tier, block and start decides, so that every process agrees.
        """
        ids = as_int64([_block_id(block)])
        birth = np.array([self._clock() if ts_ns is None else ts_ns], dtype=np.int64)
        hashes = generation_hash(source_seed(self._source, self._tier), ids, birth)
        return bool(below_rate(hashes, self.config.sample_rate)[0])

    def _apply_recorded(self) -> None:
        with self._lock:
            if self._forked:
                self._take_recorded()
                self._say_forked()
            elif self._is_full():  # no other thread has just applied it
                self._flush()

    def flush(self) -> None:
        """Apply everything recorded to the state."""
        with self._lock:
            self._flush()

    def _say_forked(self) -> None:
        if not self._said_forked:
            self._said_forked = True
            logger.warning(
                "events recorded after a fork are dropped: call reset() on the collector, or make one"
            )

    def _flush(self) -> None:
        if self._forked:
            raise ClosedStreamError("the collector was copied by a fork: call reset() on it, or make another")
        recorded = recorded_frame(self._take_recorded(), self._source, self._tier)
        for frame in recorded.cut(MAX_FRAME_EVENTS):
            outcome = self._monitor.process(frame, records=self.config.enable_detailed)
            self._alerts.extend(outcome.alerts)
            self._keep(outcome.evicted)

    def _keep(self, evicted: list[EvictionBatch]) -> None:
        """Keep evictions in columns, and only as many batches as ``history_size`` needs."""
        self._evicted.extend(evicted)
        self._evicted_count += sum(map(len, evicted))
        while self._evicted and self._evicted_count - len(self._evicted[0]) >= self.config.history_size:
            self._evicted_count -= len(self._evicted.popleft())

    def get_summary(self) -> CacheMetricsSummary:
        """Return the summary now."""
        with self._lock:
            self._flush()
            return self._monitor.summary()

    def get_lifetime_distribution(self) -> LifetimeDistribution:
        """Return the distribution of the lifetimes of evicted blocks."""
        return lifetime_distribution(self._measurements())

    def get_access_pattern_analysis(self) -> AccessPatternAnalysis:
        """Return how evicted blocks were used before."""
        return analyze_access_pattern(self._measurements())

    def detect_trends(self) -> dict[str, Trend]:
        """Return the trend of each windowed metric, by name; empty before the first event."""
        with self._lock:
            self._flush()
            return {name: trend for cache in self._monitor.caches() for name, trend in cache.trends().items()}

    def detect_anomalies(self) -> list[Anomaly]:
        """Return the windows with lifetimes far from those of the others, oldest first.

        ``anomaly_threshold`` sets how far, as a robust z-score. Windows of the last minute, or of
        ``trend_window``, are compared.
        """
        with self._lock:
            self._flush()
            return [anomaly for cache in self._monitor.caches() for anomaly in cache.anomalies()]

    def drain_events(self) -> list[KVCacheEvictionEvent]:
        """Return the evictions since the last call, at most ``history_size``."""
        with self._lock:
            self._flush()
            events = [e for batch in self._evicted for e in batch.to_events(self._source, self._tier)]
            self._evicted.clear()
            self._evicted_count = 0
            return events[-self.config.history_size :]

    def drain_alerts(self) -> list[CacheAlert]:
        """Return the alerts that fired or resolved since the last call, at most ``history_size``."""
        with self._lock:
            self._flush()
            alerts = list(self._alerts)
            self._alerts.clear()
            return alerts

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            forked = self._forked
            self._start()
        if forked:
            close_in_children(self)  # of this process

    def export_to_dict(self) -> dict[str, Any]:
        """Return config, counters, summary, distributions, trends and anomalies as plain values.

        The counters are since the start or the last ``reset``: ``total_allocations``, ``total_accesses`` and
        ``total_evictions``, as ``kv_cache_metrics`` names them, and the other counts of the summary.
        """
        summary = self.get_summary()
        return {
            "config": msgspec.to_builtins(self.config),
            "counters": _counters(summary),
            "summary": summary.to_dict(),
            "lifetime_distribution": self.get_lifetime_distribution().to_dict(),
            "access_patterns": self.get_access_pattern_analysis().to_dict(),
            "trends": msgspec.to_builtins(self.detect_trends()),
            "anomalies": msgspec.to_builtins(self.detect_anomalies()),
        }

    def _measurements(self) -> Measurements:
        with self._lock:
            self._flush()
            return total_measurements(self._monitor.caches())


class BatchMetricsCollector:
    """Records the blocks of a scheduler step at once; order across kinds of events is kept.

    Time is stamped at each call, not when the batch is processed.

    Args:
        config: What is measured.
        **options: As for ``KVCacheMetricsCollector``.

    Examples:
        >>> collector = BatchMetricsCollector()
        >>> collector.batch_allocate([1, 2, 3])
        >>> collector.batch_evict([1, 2])
        >>> collector.get_summary().blocks_live
        1
    """

    def __init__(self, config: MetricsConfig | None = None, **options: Any) -> None:
        self.collector = KVCacheMetricsCollector(config, **options)

    def batch_allocate(
        self,
        blocks: Sequence[int] | npt.NDArray[Any],
        keys: Sequence[int | None] | npt.NDArray[Any] | None = None,
        labels: Labels | None = None,
    ) -> None:
        """Record that blocks were allocated, with a content key for each and labels for all, if any.

        Raises:
            MalformedInputError: If a block or key is no 64-bit integer, there are not as many keys as blocks,
                or the labels are no ``Labels`` or hold an invalid name; nothing is recorded then.
        """
        self.collector.allocated_nowait(blocks, keys, labels)

    def batch_access(self, blocks: Sequence[int] | npt.NDArray[Any]) -> None:
        """Record that live blocks were found by a request."""
        self.collector.record(Op.ACCESS, blocks)

    def batch_evict(self, blocks: Sequence[int] | npt.NDArray[Any], reason: str = "capacity") -> None:
        """Record that blocks were evicted."""
        self.collector.record(Op.EVICT, blocks, reason)

    def flush_all(self) -> list[KVCacheEvictionEvent]:
        """Apply everything recorded; return the evictions since the last call."""
        return self.collector.drain_events()

    def get_summary(self) -> CacheMetricsSummary:
        """Return the summary now."""
        return self.collector.get_summary()


@overload
def create_metrics_collector(
    sample_rate: float = 1.0, batch_mode: Literal[False] = False, **config: Any
) -> KVCacheMetricsCollector: ...


@overload
def create_metrics_collector(
    sample_rate: float = 1.0, *, batch_mode: Literal[True], **config: Any
) -> BatchMetricsCollector: ...


@overload
def create_metrics_collector(
    sample_rate: float, batch_mode: bool, **config: Any
) -> KVCacheMetricsCollector | BatchMetricsCollector: ...


def create_metrics_collector(
    sample_rate: float = 1.0, batch_mode: bool = False, **config: Any
) -> KVCacheMetricsCollector | BatchMetricsCollector:
    """Return a collector with these settings.

    Args:
        sample_rate: Share of generations measured in full.
        batch_mode: Make a ``BatchMetricsCollector``.
        **config: Further fields of ``MetricsConfig``.

    Raises:
        ConfigError: If a field does not exist or its value cannot be used.
    """
    unknown = sorted(set(config) - set(MetricsConfig.__struct_fields__))
    if unknown:
        raise ConfigError(f"MetricsConfig has no field {', '.join(unknown)}")
    settings = MetricsConfig(sample_rate=sample_rate, **config)
    return BatchMetricsCollector(settings) if batch_mode else KVCacheMetricsCollector(settings)


def _counters(summary: CacheMetricsSummary) -> dict[str, int]:
    accounts = summary.accounts
    return {
        "total_events": accounts.processed,
        "total_allocations": accounts.allocations,
        "total_accesses": summary.accesses,
        "total_evictions": summary.total_evictions,
        "total_cleared": accounts.cleared,
        "total_blocks_sampled": summary.total_blocks_sampled,
        "total_premature_evictions": summary.premature.count,
        **{
            name: getattr(accounts, name)
            for name, count in counts_of(CacheCounts).items()
            if count.is_problem
        },
        "blocks_live": summary.blocks_live,
    }


def _block_id(block: int | HasBlockId) -> int:
    if type(block) is int:
        return block
    return block.block_id if hasattr(block, "block_id") else block
