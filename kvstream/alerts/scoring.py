"""Scores: how many labelled incidents alerts found, and how many alerts were false."""

import math
from collections.abc import Iterable, Sequence

import msgspec

from kvstream.alerts.types import AlertLevel, CacheAlert

GRACE_SECONDS = 60.0
"""After the end of an incident, in which an alert is still in time, and before it, in which one may end."""
CLOSED_SECONDS = 300.0
"""After the end of an incident, by which nothing of it may fire, and notifications still count as its own."""

_ONSET_SECONDS = 1.0  # by which an alert may begin before its incident, as windows have a length


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """When something was wrong with a source, in seconds.

    Attributes:
        source: Cache instance.
        start: Its onset.
        end: Its end; that of the recording if it never ended.
        tier: Tier; any if empty.
        kind: What it was.
        recurs: Whether it comes and goes, so that alerts may end before it does.
        point: Whether it is a point in time, such as a restart, of which no share can be covered.
    """

    source: str
    start: float
    end: float
    tier: str = ""
    kind: str = ""
    recurs: bool = False
    point: bool = False

    def concerns(self, source: str, tier: str) -> bool:
        """Return whether it is one of a source and tier."""
        return source == self.source and (not self.tier or not tier or tier == self.tier)


class Raised(msgspec.Struct, kw_only=True):
    """A warning or critical alert, from when it fired until it was over.

    Attributes:
        source: Cache instance.
        tier: Tier; empty if that does not matter.
        rule: What raised it.
        start: When it began to fire, seconds.
        page_at: When it became critical; None if it never did.
        end: When it was over; None if it never was.
    """

    source: str
    rule: str
    start: float
    tier: str = ""
    page_at: float | None = None
    end: float | None = None

    def fires_at(self, time: float) -> bool:
        """Return whether it fires at a time."""
        return self.start <= time and (self.end is None or self.end > time)


class Notification(msgspec.Struct, frozen=True):
    """A moment at which a person was notified."""

    source: str
    time: float
    tier: str = ""


class Gathered:
    """Alerts as a subscriber hears of them, gathered to what was raised; those of level info are passed over.

    Attributes:
        raised: What was raised, in order of time.
        notifications: Each time that somebody was notified: it fired, became critical, or was over.
    """

    def __init__(self) -> None:
        self.raised: list[Raised] = []
        self.notifications: list[Notification] = []
        self._open: dict[str, Raised] = {}  # by fingerprint

    def add(self, alerts: Iterable[CacheAlert], at: float | None = None) -> None:
        """Take in alerts; ``at`` is their time where their own is not to be believed."""
        for alert in alerts:
            if alert.level is AlertLevel.INFO:
                continue
            time = alert.timestamp if at is None else at
            self.notifications.append(Notification(alert.source, time, alert.tier))
            known = self._open.get(alert.fingerprint)
            if alert.state == "resolved":
                if known is not None:
                    known.end = time
                    del self._open[alert.fingerprint]
                continue
            if known is None:
                known = Raised(source=alert.source, tier=alert.tier, rule=alert.rule, start=time)
                self._open[alert.fingerprint] = known
                self.raised.append(known)
            if alert.level is AlertLevel.CRITICAL and known.page_at is None:
                known.page_at = time


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How one incident was found.

    Attributes:
        found: Whether an alert of its source began between its onset and a minute after its end.
        delay: Seconds from onset to it; None if none did.
        covered: Share of the incident in which one fired; None for points in time.
        notifications: From onset to five minutes after the end.
        false_resolves: Alerts that ended more than a minute before the end while no other fired.
        closed: Whether nothing of it fired five minutes after the end.
        paged: Whether it became critical.
        rules: Rules that found it.
    """

    found: bool
    delay: float | None
    covered: float | None
    notifications: int
    false_resolves: int
    closed: bool
    paged: bool
    rules: list[str]


def score(
    incident: Incident,
    raised: Sequence[Raised],
    notifications: Iterable[Notification],
    until: float = math.inf,
) -> Score:
    """Score what was raised on an incident.

    Args:
        incident: The incident.
        raised: What was raised, of all sources.
        notifications: When somebody was notified, of all sources.
        until: End of the recording, seconds; later detections are not expected.
    """
    start, end, closing = incident.start, incident.end, incident.end + CLOSED_SECONDS
    ours = [each for each in raised if incident.concerns(each.source, each.tier)]
    inside = [each for each in ours if start - _ONSET_SECONDS <= each.start <= end + GRACE_SECONDS]
    covered = None if incident.point else _share_covered(start, end, ours)
    false_resolves = 0
    if not incident.point and not incident.recurs:
        false_resolves = sum(
            each.end is not None
            and start < each.end < end - GRACE_SECONDS
            and not any(other is not each and other.fires_at(each.end) for other in ours)
            for each in ours
        )
    concerned = (each for each in notifications if incident.concerns(each.source, each.tier))
    return Score(
        found=bool(inside),
        delay=min(each.start for each in inside) - start if inside else None,
        covered=covered,
        notifications=sum(start - _ONSET_SECONDS <= each.time <= closing for each in concerned),
        false_resolves=false_resolves,
        closed=until < closing or not any(each.fires_at(closing) for each in ours),
        paged=any(each.page_at is not None for each in inside),
        rules=sorted({each.rule for each in inside}),
    )


def _share_covered(start: float, end: float, raised: Iterable[Raised]) -> float:
    covered, reached = 0.0, start
    for each in sorted(raised, key=lambda one: one.start):
        until = min(end, end if each.end is None else each.end)
        covered += max(0.0, until - max(reached, each.start))
        reached = max(reached, until)
    return covered / (end - start)


def false_alerts(incidents: Sequence[Incident], raised: Iterable[Raised]) -> list[Raised]:
    """Return what was raised while nothing was wrong with its source."""
    return [
        each
        for each in raised
        if not any(
            incident.concerns(each.source, each.tier)
            and incident.start - _ONSET_SECONDS <= each.start <= incident.end + GRACE_SECONDS
            for incident in incidents
        )
    ]


def quiet_seconds(incidents: Iterable[Incident], source: str, start: float, end: float) -> float:
    """Return for how long nothing was wrong with a source, between two times."""
    quiet, reached = 0.0, start
    for incident in sorted(incidents, key=lambda one: one.start):
        if incident.source == source:
            quiet += max(0.0, min(incident.start, end) - reached)
            reached = max(reached, incident.end + GRACE_SECONDS)
    return quiet + max(0.0, end - reached)
