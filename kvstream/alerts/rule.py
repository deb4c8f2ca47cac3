"""Rule: what must be so for an alert to begin, to become a page and to end."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import msgspec
from msgspec.structs import replace

from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType, fingerprint
from kvstream.errors import ConfigError

ConditionName = Literal["drop", "above", "below", "occurs", "silent", "restarted", "premature", "always"]

MAX_SECONDS = 7 * 86_400.0
MAX_THRESHOLD = 1e15


class RuleError(ConfigError):
    """Raised when a rule cannot be used.

    Attributes:
        problems: (field, what is wrong with it), all of them.
    """

    def __init__(self, name: str, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(f"rule {name}: " + "; ".join(what for _, what in problems))
        self.problems = problems


class Page(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a firing alert becomes critical, worth waking somebody.

    Attributes:
        after_seconds: How long the alert must have fired.
        threshold: How bad the value must be, in the unit of the rule's threshold.
    """

    after_seconds: float = 150.0
    threshold: float = -math.inf


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to alert.

    Attributes:
        name: The rule's name.
        condition: ``drop``: below what is normal for this engine; ``above`` and ``below`` a threshold;
            ``occurs``: more than the threshold in a window; ``silent``: no event for far longer than
            usual; ``restarted``: an empty cache that is not yet what it was; ``premature``: evicted
            blocks are needed again, whatever was normal; ``always``: fires as long as the stream is open.
        metric: The value that the rule judges.
        threshold: How bad the value must be. For ``drop``, how far below normal: in log odds for a ratio
            (0.6: from 0.80 to 0.69, or from 0.20 to 0.12), else as a logarithm (0.7: half). For ``silent``,
            a multiple of the longest usual pause. Else a value of the metric.
        clear: The alert ends once the value is back at this, in the unit of the threshold.
        cause: Rules of one cause make one incident: what fires while it is open becomes its evidence.
        for_seconds: How long the value must be bad before the alert fires.
        clear_seconds: How long the value must be good before the alert is over.
        level: Severity at which it fires.
        page: When the alert becomes critical; without it, never.
        inhibits: Rules of the same cache that begin no alert while this one fires.
        recovery_seconds: How long they stay inhibited after its end.
        yields_to: Rules that decide when the incident is over, instead of this one, once they are part of it.
            No incident is over while lifetimes are below half, unless all else has been good for ten minutes.
        labels: Labels sent with the alert, to route it by.
        enabled: Whether the rule is used at all.
        message: Text with ``{value}``, ``{threshold}``, ``{baseline}`` and ``{since}``, a time of day.
        hint: What to try.

    Raises:
        ConfigError: If a value cannot be used; a line for each.
    """

    name: str
    metric: MetricType
    condition: ConditionName
    threshold: float
    clear: float
    message: str
    cause: str
    for_seconds: float = 0.0
    clear_seconds: float = 60.0
    level: AlertLevel = AlertLevel.WARNING
    page: Page | None = None
    inhibits: tuple[str, ...] = ()
    recovery_seconds: float = 0.0
    yields_to: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    enabled: bool = True
    hint: str = ""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise RuleError(self.name, problems)

    def _problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong with it)."""
        if self.condition not in get_args(ConditionName):
            yield "condition", f"condition must be one of {', '.join(get_args(ConditionName))}"
        for name in ("for_seconds", "clear_seconds", "recovery_seconds"):
            if not 0.0 <= getattr(self, name) <= MAX_SECONDS:
                yield name, f"{name} must be 0 to {MAX_SECONDS:,.0f} seconds"
        for name in ("threshold", "clear"):
            if not abs(getattr(self, name)) <= MAX_THRESHOLD:  # which NaN is not
                yield name, f"{name} must be a number of at most {MAX_THRESHOLD:g}"
        wrong_side = self.clear < self.threshold if self.condition == "below" else self.clear > self.threshold
        if wrong_side:
            yield "clear", f"clear ({self.clear}) lies beyond the threshold ({self.threshold})"
        if (self.condition == "always") != (self.metric is MetricType.HEARTBEAT):
            yield "condition", "condition always is for the metric heartbeat, and nothing else is"
        if self.page is not None:
            if not 0.0 <= self.page.after_seconds <= MAX_SECONDS or not self.page.threshold <= MAX_THRESHOLD:
                yield (
                    "page",
                    f"page.after_seconds must be 0 to {MAX_SECONDS:,.0f}, "
                    f"page.threshold a number of at most {MAX_THRESHOLD:g}",
                )
            if self.level is AlertLevel.CRITICAL:
                yield "page", "page is of no use to a rule that is critical at once"
        try:
            self.message.format(value=0.0, threshold=0.0, baseline=0.0, since="")
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            yield "message", f"message cannot be filled in: {error!r}"


def alert_by(
    rule: Rule,
    message: str,
    *,
    value: float,
    threshold: float,
    source: str,
    tier: str,
    now: float,
    started_at: float,
    identity: str | None = None,
) -> CacheAlert:
    """Return a firing alert of a rule; its incident is named by what it is of and when it began.

    Args:
        rule: The rule.
        message: What happened.
        value: The metric's value.
        threshold: The value that it is held against.
        source: Cache instance.
        tier: Tier.
        now: Event time, seconds since the Unix epoch.
        started_at: Event time at which it began.
        identity: What distinguishes it from other alerts of the rule and source; by default the tier.
    """
    name = fingerprint(rule.name, source, tier if identity is None else identity)
    return CacheAlert(
        level=rule.level,
        state="firing",
        rule=rule.name,
        metric=rule.metric,
        message=message,
        value=value,
        threshold=threshold,
        source=source,
        tier=tier,
        timestamp=now,
        started_at=started_at,
        fingerprint=name,
        hint=rule.hint,
        labels=rule.labels,
        incident=f"{name}-{round(started_at)}",
        runbook=rule.name,
    )


def resolved(alert: CacheAlert, message: str, now: float) -> CacheAlert:
    """Return a firing alert as resolved.

    Args:
        alert: The alert.
        message: Why it is over.
        now: Event time, seconds since the Unix epoch.
    """
    return replace(alert, state="resolved", message=message, timestamp=now, hint="", silenced_by="")


def lasted(seconds: float) -> str:
    """Return the message of an alert that is over after some seconds."""
    return f"over after {max(0.0, seconds):,.0f} s"
