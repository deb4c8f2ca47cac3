"""kvstream: every KV-cache block, every access, as an asyncio event stream.

What is public is listed in the ``__all__`` of this module and of the others that docs/api.md names; all else
is internal and may change in any release.
"""

from kvstream.faults.interrupt import exit_at_interrupt, is_loading_command, raise_at_interrupt

if is_loading_command():
    exit_at_interrupt()

# isort: split
from kvstream._core.recorder import StepRecorder
from kvstream.alerts.groups import AlertGroup
from kvstream.alerts.rule import Page, Rule
from kvstream.alerts.rules_file import default_rules, load_rules
from kvstream.alerts.silences import Silence
from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType
from kvstream.blocks.apply_result import KVCacheEvictionEvent
from kvstream.blocks.state import BlockMetricsState, HotBlock
from kvstream.collector import (
    BatchMetricsCollector,
    KVCacheMetricsCollector,
    create_metrics_collector,
)
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.engine.inputs import InputStatistics
from kvstream.errors import (
    ClosedStreamError,
    ConfigError,
    KVStreamError,
    MalformedInputError,
    MissingExtraError,
    StateError,
    UndeliveredError,
    UnknownFormatError,
    UnreadableInputError,
)
from kvstream.events.frame import EventFrame
from kvstream.events.position import Place, Position
from kvstream.events.recorded import HasBlockId
from kvstream.events.sequence import Cursor
from kvstream.events.types import (
    BlockAccessed,
    BlockAllocated,
    BlockEvicted,
    BlockRemoved,
    BlockResident,
    BlockStored,
    CacheCleared,
    Labels,
    Malformed,
    Op,
    PrefixStored,
)
from kvstream.metrics.anomalies import Anomaly
from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.marks import Mark
from kvstream.metrics.miss_ratio import CacheSizes, CurvePoint
from kvstream.metrics.misses import MissCauses
from kvstream.metrics.patterns import AccessPatternAnalysis, LifetimeDistribution
from kvstream.metrics.reuse import ReuseByIdle
from kvstream.metrics.sharing import SharedContent
from kvstream.metrics.summary import (
    Accounts,
    CacheMetricsSummary,
    PrematureEvictions,
    RecentMetrics,
    SavedState,
)
from kvstream.metrics.tiers import TierUse
from kvstream.metrics.trend import Trend
from kvstream.metrics.usage import LabelUsage
from kvstream.metrics.working_set import WorkingSet
from kvstream.recording.producer import Producer, ProducerStatistics
from kvstream.recording.queue import QueueStatistics
from kvstream.settings import load_config
from kvstream.stream import KVStream
from kvstream.streaming.accounts import StreamStatistics
from kvstream.subscriptions.handler import Batching, Delivery
from kvstream.subscriptions.subscription import Subscription, SubscriptionStatistics
from kvstream.transport.client import Connection, ConnectionStatistics, connect
from kvstream.version import __version__

__all__ = [
    "AccessPatternAnalysis",
    "Accounts",
    "AlertGroup",
    "AlertLevel",
    "Anomaly",
    "BatchMetricsCollector",
    "Batching",
    "BlockAccessed",
    "BlockAllocated",
    "BlockEvicted",
    "BlockMetricsState",
    "BlockRemoved",
    "BlockResident",
    "BlockStored",
    "CacheAlert",
    "CacheCleared",
    "CacheMetricsSummary",
    "CacheSizes",
    "ClosedStreamError",
    "ConfigError",
    "Connection",
    "ConnectionStatistics",
    "Cursor",
    "CurvePoint",
    "Delivery",
    "EventFrame",
    "HasBlockId",
    "HotBlock",
    "InputStatistics",
    "IntervalStats",
    "KVCacheEvictionEvent",
    "KVCacheMetricsCollector",
    "KVStream",
    "KVStreamError",
    "LabelUsage",
    "Labels",
    "LifetimeDistribution",
    "Malformed",
    "MalformedInputError",
    "Mark",
    "MetricType",
    "MetricsConfig",
    "MissCauses",
    "MissingExtraError",
    "Op",
    "Page",
    "Place",
    "Position",
    "PrefixStored",
    "PrematureEvictions",
    "Producer",
    "ProducerStatistics",
    "QueueStatistics",
    "RecentMetrics",
    "ReuseByIdle",
    "Rule",
    "SavedState",
    "SharedContent",
    "Silence",
    "StateError",
    "StepRecorder",
    "StreamConfig",
    "StreamStatistics",
    "Subscription",
    "SubscriptionStatistics",
    "TierUse",
    "Trend",
    "UndeliveredError",
    "UnknownFormatError",
    "UnreadableInputError",
    "WorkingSet",
    "__version__",
    "connect",
    "create_metrics_collector",
    "default_rules",
    "load_config",
    "load_rules",
]

if is_loading_command():
    raise_at_interrupt()
