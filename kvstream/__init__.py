"""kvstream: every KV-cache block, every access, as an asyncio event stream."""

from kvstream.alerts.groups import AlertGroup
from kvstream.alerts.rule import Rule
from kvstream.alerts.rules_file import default_rules, load_rules
from kvstream.alerts.silences import Silence
from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType
from kvstream.blocks.apply_result import KVCacheEvictionEvent
from kvstream.blocks.state import BlockMetricsState
from kvstream.collector import (
    BatchMetricsCollector,
    KVCacheMetricsCollector,
    create_metrics_collector,
)
from kvstream.config import MetricsConfig, StreamConfig, load_config
from kvstream.engine.monitor import Monitor
from kvstream.errors import (
    ClosedStreamError,
    ConfigError,
    KVStreamError,
    MalformedInputError,
    MissingExtraError,
    UnknownFormatError,
)
from kvstream.events.frame import EventFrame
from kvstream.events.types import (
    BlockAccessed,
    BlockAllocated,
    BlockEvicted,
    BlockStored,
    CacheCleared,
    Labels,
    Malformed,
)
from kvstream.metrics.anomalies import Anomaly
from kvstream.metrics.patterns import AccessPatternAnalysis, LifetimeDistribution
from kvstream.metrics.summary import Accounts, CacheMetricsSummary
from kvstream.metrics.trend import Trend
from kvstream.recording.producer import Producer
from kvstream.stream import KVStream
from kvstream.subscriptions import Subscription
from kvstream.transport.client import connect

__all__ = [
    "AccessPatternAnalysis",
    "Accounts",
    "AlertGroup",
    "AlertLevel",
    "Anomaly",
    "BatchMetricsCollector",
    "BlockAccessed",
    "BlockAllocated",
    "BlockEvicted",
    "BlockMetricsState",
    "BlockStored",
    "CacheAlert",
    "CacheCleared",
    "CacheMetricsSummary",
    "ClosedStreamError",
    "ConfigError",
    "EventFrame",
    "KVCacheEvictionEvent",
    "KVCacheMetricsCollector",
    "KVStream",
    "KVStreamError",
    "Labels",
    "LifetimeDistribution",
    "Malformed",
    "MalformedInputError",
    "MetricType",
    "MetricsConfig",
    "MissingExtraError",
    "Monitor",
    "Producer",
    "Rule",
    "Silence",
    "StreamConfig",
    "Subscription",
    "Trend",
    "UnknownFormatError",
    "connect",
    "create_metrics_collector",
    "default_rules",
    "load_config",
    "load_rules",
]
