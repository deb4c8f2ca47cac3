"""Labels: known incidents of a recording, and how alerts compare with them."""

import datetime
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from statistics import median

import msgspec

from kvstream.alerts.scoring import (
    Gathered,
    Incident,
    Raised,
    Score,
    false_alerts,
    quiet_seconds,
    score,
)
from kvstream.alerts.types import CacheAlert
from kvstream.errors import ConfigError
from kvstream.text.numbers import time_of_day

_WRONG_SHOWN = 20
_MOST_RELATIVE = 100_000_000  # seconds, three years; numbers beyond are times since the Unix epoch


class ScoredIncident(msgspec.Struct, frozen=True):
    """A labelled incident and how it was found."""

    incident: Incident
    score: Score


class LabelledScores(msgspec.Struct, frozen=True, kw_only=True, tag="scores"):
    """How the alerts on a recording compare with its labels.

    Attributes:
        incidents: Each incident that was labelled.
        false_alerts: What was raised while nothing was wrong.
        quiet_hours: For how long nothing was wrong, all sources together.
        found: Share of the incidents that were found; None where none was labelled.
        delay: Median seconds from onset to alert of those that were found; None where none was.
        covered: Median share of an incident in which an alert fired; None where all are points in time.
        notifications: Times that somebody was notified in the whole recording.
    """

    incidents: list[ScoredIncident]
    false_alerts: list[Raised]
    quiet_hours: float
    found: float | None
    delay: float | None
    covered: float | None
    notifications: int

    def lines(self) -> Iterator[str]:
        """Return the scores in words, a line each."""
        for each in self.incidents:
            yield _incident_line(each)
        by_rule = Counter(each.rule for each in self.false_alerts)
        rules = ", ".join(f"{count} {rule}" for rule, count in by_rule.most_common())
        yield (
            f"false alerts: {len(self.false_alerts)} in {self.quiet_hours:.1f} h of quiet"
            + (f" ({rules})" if rules else "")
        )
        for alert in self.false_alerts:
            yield f"  {time_of_day(alert.start)}  {alert.rule} of {alert.source}/{alert.tier}"
        if self.found is not None:
            found = sum(each.score.found for each in self.incidents)
            parts = [f"found {found} of {len(self.incidents)}"]
            if self.delay is not None:
                parts.append(f"after {self.delay:,.0f} s")
            if self.covered is not None:
                parts.append(f"{self.covered:.0%} of the time covered")
            yield f"{', '.join(parts)} (medians); {_notifications(self.notifications)}"


def _notifications(count: int) -> str:
    return f"{count:,} notification{'s' * (count != 1)}"


def _incident_line(each: ScoredIncident) -> str:
    incident, scored = each.incident, each.score
    where = f"{incident.source}/{incident.tier}" if incident.tier else incident.source
    line = f"{'found ' if scored.found else 'missed'}  {time_of_day(incident.start)}  {where}"
    line += f"  {incident.kind}" if incident.kind else ""
    parts = []
    if scored.delay is not None:
        parts.append(f"after {scored.delay:,.0f} s by {', '.join(scored.rules)}")
    if scored.covered is not None:
        parts.append(f"{scored.covered:.0%} covered")
    parts.append(_notifications(scored.notifications))
    if scored.paged:
        parts.append("critical")
    if scored.false_resolves:
        parts.append(f"resolved {scored.false_resolves} times before its end")
    if not scored.closed:
        parts.append("not closed five minutes after its end")
    return f"{line}: {', '.join(parts)}"


def labelled_scores(
    alerts: Iterable[CacheAlert], labels: Path, start: float, end: float, sources: Collection[str]
) -> LabelledScores:
    """Return how the alerts on a recording compare with its labels.

    Args:
        alerts: The alerts, in order.
        labels: File of the labels, as ``read_labels`` reads it.
        start: Time of the recording's first event, seconds since the Unix epoch.
        end: Time of its last.
        sources: Sources that it has.

    Raises:
        ConfigError: If the labels cannot be used.
    """
    incidents = read_labels(labels, start, end)
    gathered = Gathered()
    gathered.add(alerts)
    scored = [
        ScoredIncident(incident, score(incident, gathered.raised, gathered.notifications, end))
        for incident in incidents
    ]
    delays = [each.score.delay for each in scored if each.score.delay is not None]
    covered = [each.score.covered for each in scored if each.score.covered is not None]
    quiet = sum(quiet_seconds(incidents, source, start, end) for source in sources)
    return LabelledScores(
        incidents=scored,
        false_alerts=false_alerts(incidents, gathered.raised),
        quiet_hours=quiet / 3600,
        found=sum(each.score.found for each in scored) / len(scored) if scored else None,
        delay=median(delays) if delays else None,
        covered=median(covered) if covered else None,
        notifications=len(gathered.notifications),
    )


class _Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a file of labels."""

    source: str
    start: float | datetime.datetime = msgspec.field(name="from")
    until: float | datetime.datetime | None = None
    tier: str = ""
    kind: str = ""
    recurs: bool = False


def read_labels(path: Path, start: float, end: float) -> list[Incident]:
    """Return the incidents that a file of JSON lines names, by onset.

    A line is ``{"source": …, "from": …}``, with ``until``, ``tier``, ``kind`` and ``recurs`` if need be.
    Times are seconds since the beginning of the recording, seconds since the Unix epoch, or ISO times with
    a time zone. What has no ``until`` goes on to the end; a point in time has the same twice.

    Args:
        path: The file.
        start: Time of the recording's first event, seconds since the Unix epoch.
        end: Time of its last.

    Raises:
        ConfigError: If the file cannot be read, or lines are wrong; the first of them, each with its number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not valid UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    incidents, wrong = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            label = msgspec.json.decode(line, type=_Label)
            onset = _seconds(label.start, start)
            until = end if label.until is None else _seconds(label.until, start)
            if until < onset:
                raise ConfigError("it ends before it begins")
        except (msgspec.DecodeError, RecursionError, ConfigError) as error:
            wrong.append(f"{path}:{number}: {error}")
            continue
        incidents.append(
            Incident(
                source=label.source,
                tier=label.tier,
                start=onset,
                end=until,
                kind=label.kind,
                recurs=label.recurs,
                point=until == onset,
            )
        )
    if wrong:
        more = len(wrong) - _WRONG_SHOWN
        raise ConfigError(
            *wrong[:_WRONG_SHOWN],
            *([f"{path}: {more:,} more {'line is' if more == 1 else 'lines are'} wrong"] if more > 0 else []),
        )
    return sorted(incidents, key=lambda incident: incident.start)


def _seconds(time: float | datetime.datetime, start: float) -> float:
    if isinstance(time, datetime.datetime):
        if time.tzinfo is None:
            raise ConfigError(f"the time {time} needs a time zone, such as Z at its end")
        return time.timestamp()
    return start + time if time < _MOST_RELATIVE else float(time)
