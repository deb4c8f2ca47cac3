"""Heartbeat: an alert that always fires, so that somebody else notices when it does not."""

from collections.abc import Iterable

from kvstream.alerts.rule import Rule, alert_by
from kvstream.alerts.types import CacheAlert, MetricType
from kvstream.metrics.summary import ALL
from kvstream.text.numbers import time_of_day


def heartbeat_rule(rules: Iterable[Rule]) -> Rule | None:
    """Return the rule that asks for a heartbeat; None if none does."""
    return next((rule for rule in rules if rule.enabled and rule.metric is MetricType.HEARTBEAT), None)


def heartbeat_alert(rule: Rule, since: float, now: float) -> CacheAlert:
    """Return the heartbeat.

    Args:
        rule: Its rule.
        since: When the stream was opened, seconds since the Unix epoch.
        now: Time, seconds since the Unix epoch.
    """
    message = rule.message.format(
        value=now - since, threshold=rule.threshold, baseline=0.0, since=time_of_day(since)
    )
    return alert_by(
        rule,
        message,
        value=now - since,
        threshold=rule.threshold,
        source=ALL,
        tier=ALL,
        now=now,
        started_at=since,
    )
