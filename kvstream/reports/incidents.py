"""Incidents that are open now, those of several caches that began together as one."""

from collections.abc import Iterable
from itertools import groupby

import msgspec

from kvstream.alerts.types import AlertLevel, CacheAlert

_TOGETHER_SECONDS = 60.0
_CACHES_SHOWN = 20


class IncidentCache(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cache of an incident.

    Attributes:
        source: Cache instance, or the input that it is of.
        tier: Tier.
        fingerprint: The alert's, to acknowledge it by.
        started_at: Event time at which it began, seconds since the Unix epoch.
        message: What happened, in words.
        silenced_by: Reason of the silence that covers it; empty if none does.
    """

    source: str
    tier: str
    fingerprint: str
    started_at: float
    message: str
    silenced_by: str = ""


class OpenIncident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An incident that is open: alerts of one rule and severity that began within a minute of each other.

    Attributes:
        rule: Name of the rule.
        level: Severity.
        is_silenced: Whether a silence covers it.
        started_at: Event time at which the first began, seconds since the Unix epoch.
        cache_count: Caches that it is of.
        caches: These; the first 20 where there are more.
        message: What happened, in words, in the first of them.
        hint: What to try.
        evidence: What it rests on, a line each.
        runbook: Where the documentation says why it fires and what to do.
    """

    rule: str
    level: AlertLevel
    is_silenced: bool
    started_at: float
    cache_count: int
    caches: list[IncidentCache]
    message: str
    hint: str = ""
    evidence: list[str] = []
    runbook: str = ""


def open_incidents(alerts: Iterable[CacheAlert], limit: int) -> list[OpenIncident]:
    """Return the incidents of alerts that fire, the most severe and then the newest first.

    Args:
        alerts: The alerts.
        limit: Incidents at most.
    """
    apart = sorted(alerts, key=_kind)
    made = [
        _incident(together)
        for _, same in groupby(apart, key=lambda alert: _kind(alert)[:3])
        for together in _begun_together(list(same))
    ]
    made.sort(key=lambda each: (each.is_silenced, -each.level.severity, -each.started_at))
    return made[:limit]


def _kind(alert: CacheAlert) -> tuple[str, str, bool, float]:
    return alert.rule, alert.level, bool(alert.silenced_by), alert.started_at


def _begun_together(alerts: list[CacheAlert]) -> Iterable[list[CacheAlert]]:
    """Part alerts, in order of their beginning, a minute after the first of each group."""
    group = [alerts[0]]
    for alert in alerts[1:]:
        if alert.started_at - group[0].started_at > _TOGETHER_SECONDS:
            yield group
            group = []
        group.append(alert)
    yield group


def _incident(alerts: list[CacheAlert]) -> OpenIncident:
    first = alerts[0]
    return OpenIncident(
        rule=first.rule,
        level=first.level,
        is_silenced=bool(first.silenced_by),
        started_at=first.started_at,
        cache_count=len(alerts),
        caches=[
            IncidentCache(**{name: getattr(alert, name) for name in IncidentCache.__struct_fields__})
            for alert in alerts[:_CACHES_SHOWN]
        ],
        message=first.message,
        hint=first.hint,
        evidence=first.evidence,
        runbook=first.runbook,
    )
