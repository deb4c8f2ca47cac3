"""CacheAlert and its severities: what subscribers receive."""

from enum import StrEnum
from typing import Any, Literal

import msgspec

from kvstream.text.digest import digest


class AlertLevel(StrEnum):
    """Severity of an alert. Severities can be compared: ``INFO < WARNING < CRITICAL``."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def severity(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return list(AlertLevel).index(self)

    def at_least(self, other: "AlertLevel") -> bool:
        """Return whether this is as severe as another, or more."""
        return self >= other

    # Those of text would order the names: critical, info, warning. Names, as in JSON, may stand for levels.

    def __lt__(self, other: str) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return self.severity < AlertLevel(other).severity

    def __le__(self, other: str) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return self.severity <= AlertLevel(other).severity

    def __gt__(self, other: str) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return self.severity > AlertLevel(other).severity

    def __ge__(self, other: str) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return self.severity >= AlertLevel(other).severity


class MetricType(StrEnum):
    """The windowed values that rules look at."""

    __hash__ = str.__hash__  # that of Enum is written in Python, and each window looks some up

    LIFETIME = "lifetime"
    LIFETIME_LOOKUPS = "lifetime_lookups"
    IDLE_TIME = "idle_time"
    REUSE_GAP = "reuse_gap"
    FIRST_REUSE = "first_reuse"
    HIT_RATIO = "hit_ratio"
    EVICTION_RATE = "eviction_rate"
    NEVER_REUSED_RATIO = "never_reused_ratio"
    NEVER_REUSED_PER_LOOKUP = "never_reused_per_lookup"
    PREMATURE_RATIO = "premature_ratio"
    OCCUPANCY = "occupancy"
    EVENT_RATE = "event_rate"
    LOST = "lost"
    RESTARTS = "restarts"
    CLOCK_ERRORS = "clock_errors"
    REFUSED_EVENTS = "refused_events"
    REPEATED_FRAMES = "repeated_frames"
    STALE_FRAMES = "stale_frames"
    CONFLICTING_FRAMES = "conflicting_frames"
    NOT_CONNECTED = "not_connected"
    SHARED_TOPICS = "shared_topics"
    DRIFT = "drift"
    STATE_OVERDUE = "state_overdue"
    HEARTBEAT = "heartbeat"


DROP_METRICS = frozenset(
    {
        MetricType.REFUSED_EVENTS,
        MetricType.REPEATED_FRAMES,
        MetricType.STALE_FRAMES,
        MetricType.CONFLICTING_FRAMES,
    }
)
"""Metrics of what never reaches a cache: of a stream or a source, in windows of the clock."""

INPUT_METRICS = frozenset(
    {
        MetricType.NOT_CONNECTED,
        MetricType.SHARED_TOPICS,
        MetricType.DRIFT,
        MetricType.STATE_OVERDUE,
    }
)
"""Metrics of the inputs of a stream, and of its saved state."""

STREAM_METRICS = DROP_METRICS | INPUT_METRICS | {MetricType.HEARTBEAT}
"""Metrics that rules of caches do not look at."""


class CacheAlert(msgspec.Struct, frozen=True, kw_only=True, tag="alert"):
    """Something that went wrong, or is over.

    Attributes:
        level: Severity.
        state: ``firing`` when the incident begins and when its severity rises, ``resolved`` when it ends;
            in a summary also ``pending``, while it has not lasted long enough to fire.
        rule: Name of the rule.
        metric: The value that it looks at.
        message: What happened, in words.
        value: The metric's value: seconds, a ratio, a rate a second or a count.
        threshold: The value that the rule compares it with.
        source: Cache instance.
        tier: Tier.
        timestamp: Event time of this change, seconds since the Unix epoch.
        started_at: Event time at which the incident began, seconds since the Unix epoch.
        fingerprint: The same for every alert of one rule, source and tier.
        hint: What to try; empty once it is over.
        labels: The rule's labels, to route it by.
        silenced_by: Reason of the silence that covers it; empty if none does.
        incident: Id of the incident, the same from its beginning to its end and in every replay.
        evidence: What it rests on, a line each.
        runbook: Name of the section of docs/alerts.md that explains a built-in rule.
    """

    level: AlertLevel
    state: Literal["pending", "firing", "resolved"]
    rule: str
    metric: MetricType
    message: str
    value: float
    threshold: float
    source: str
    tier: str
    timestamp: float
    started_at: float
    fingerprint: str
    hint: str = ""
    labels: dict[str, str] = {}
    silenced_by: str = ""
    incident: str = ""
    evidence: list[str] = []
    runbook: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def fingerprint(rule: str, source: str, tier: str) -> str:
    """Return sixteen hexadecimal digits that name an alert across incidents and processes."""
    return digest(f"{rule}\0{source}\0{tier}".encode("utf-8", "surrogatepass"))


AlertId = tuple[str, float, str, str]
"""Fingerprint, beginning, state and severity: what names a change of an incident in every replay."""


def alert_id(alert: CacheAlert) -> AlertId:
    """Return what names an alert, whoever says it."""
    return alert.fingerprint, alert.started_at, alert.state, alert.level.value
