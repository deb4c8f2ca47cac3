"""Judge: what is found of incidents, when, and what is raised where nothing is wrong."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from kvstream.alerts.rule import Rule
from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.config import MetricsConfig
from kvstream.events.types import Op
from kvstream.monitor import Monitor
from tests.detection.streams import Stream
from tests.detection.traffic import SECOND, START

GRACE_SECONDS = 60.0
CLOSED_SECONDS = 300.0


@dataclass
class Raised:
    """An alert of somebody's rules, in seconds since the start of the stream.

    Attributes:
        source: Whose it is.
        rule: What raised it.
        start: When it began to fire.
        page_at: When it became critical; None if it never was.
        end: When it was over; None if it never was.
    """

    source: str
    rule: str
    start: float
    page_at: float | None = None
    end: float | None = None

    def fires_at(self, t: float) -> bool:
        return self.start <= t and (self.end is None or self.end > t)


@dataclass
class Second:
    """What one source did in one second."""

    second: int
    lookups: int
    hits: int


@dataclass
class Run:
    """A stream gone through once: what was raised, and the seconds for the baselines."""

    raised: dict[str, list[Raised]] = field(default_factory=dict)
    notifications: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


class Collected:
    """Alerts as a subscriber hears of them, gathered to ``Raised``."""

    def __init__(self) -> None:
        self.raised: list[Raised] = []
        self.sent: list[tuple[str, float]] = []
        self._open: dict[str, Raised] = {}

    def add(self, alerts: Iterable[CacheAlert], at: float | None = None) -> None:
        """Takes in alerts; ``at`` is the time in the stream where event time has gone back."""
        for alert in alerts:
            if alert.level is AlertLevel.INFO:
                continue
            t = alert.timestamp - START if at is None else at
            self.sent.append((alert.source, t))
            known = self._open.get(alert.fingerprint)
            if alert.state == "resolved":
                if known is not None:
                    known.end = t
                    del self._open[alert.fingerprint]
                continue
            if known is None:
                known = self._open[alert.fingerprint] = Raised(alert.source, alert.rule, t)
                self.raised.append(known)
            if alert.level is AlertLevel.CRITICAL and known.page_at is None:
                known.page_at = t


def run(stream: Stream, rules: Sequence[Rule] | None = None) -> Run:
    """Sends a stream through kvstream and both baselines."""
    monitor = Monitor(MetricsConfig(capacity=stream.capacity), rules)
    ours = Collected()
    seconds: dict[str, list[Second]] = {}
    newest = 0
    for frame in stream.frames():
        start = int(frame.ts[0])
        newest = max(newest, start)
        stepped = start < newest - 10 * SECOND
        alerts = monitor.process(frame).alerts
        # Event time has gone back with the clock: the place in the stream says when it was.
        ours.add(alerts, stream.onset if stepped else None)
        if not stepped:
            ours.add(monitor.pass_time(start))
        lookups = int(((frame.ops == Op.ALLOC) | (frame.ops == Op.ACCESS)).sum())
        second = Second(start // SECOND - START, lookups, int((frame.ops == Op.ACCESS).sum()))
        seconds.setdefault(frame.source, []).append(second)
    ours.add(monitor.finish(), stream.seconds if stream.kind == "clock step" else None)
    made = Run({"kvstream": ours.raised}, {"kvstream": ours.sent})
    for name, judge in (("PromQL rules", promql), ("CUSUM", cusum)):
        raised = [each for source, of in seconds.items() for each in judge(source, of, stream.seconds)]
        made.raised[name] = raised
        made.notifications[name] = [
            (each.source, t) for each in raised for t in (each.start, each.end) if t is not None
        ]
    return made


# Baselines.


class _Sums:
    """Lookups and hits of the last so many seconds."""

    def __init__(self, span: int) -> None:
        self._span = span
        self._kept: deque[Second] = deque()
        self.lookups = self.hits = 0

    def add(self, second: Second) -> None:
        self._kept.append(second)
        self.lookups += second.lookups
        self.hits += second.hits

    def advance(self, now: int) -> None:
        while self._kept and self._kept[0].second <= now - self._span:
            gone = self._kept.popleft()
            self.lookups -= gone.lookups
            self.hits -= gone.hits

    @property
    def ratio(self) -> float:
        return self.hits / self.lookups if self.lookups else math.nan


def promql(source: str, seconds: list[Second], length: float) -> Iterator[Raised]:
    """Two rules looked at every 15 s.

    The hit ratio of 1 min is below 0.7 of that of 10 min for 2 min; or there are no lookups in 1 min after
    some in 10, for 1 min.
    """
    minute, ten = _Sums(60), _Sums(600)
    waiting = deque(seconds)
    since: dict[str, int | None] = {"drop": None, "stalled": None}
    firing: dict[str, Raised] = {}
    for now in range(15, int(length) + 1, 15):
        while waiting and waiting[0].second <= now:
            second = waiting.popleft()
            minute.add(second)
            ten.add(second)
        minute.advance(now)
        ten.advance(now)
        bad = {
            "drop": minute.ratio < 0.7 * ten.ratio,
            "stalled": minute.lookups == 0 and ten.lookups > 0,
        }
        for name, hold in (("drop", 120), ("stalled", 60)):
            if not bad[name]:
                since[name] = None
                if name in firing:
                    firing.pop(name).end = float(now)
                continue
            began = since[name]
            if began is None:
                since[name] = now
            elif now - began >= hold and name not in firing:
                firing[name] = Raised(source, name, float(now))
                yield firing[name]


def cusum(source: str, seconds: list[Second], length: float) -> Iterator[Raised]:
    """A CUSUM of ten-second hit ratios against a slow average, in units of its own noise, held 40 s."""
    waiting = deque(seconds)
    average: float | None = None
    spread: list[float] = []
    total, seen, held = 0.0, 0, 0
    firing: Raised | None = None
    for now in range(10, int(length) + 1, 10):
        lookups = hits = 0
        while waiting and waiting[0].second < now:
            second = waiting.popleft()
            lookups += second.lookups
            hits += second.hits
        if lookups < 20:
            continue
        ratio = hits / lookups
        seen += 1
        if average is None:
            average = ratio
            continue
        noise = max(0.02, 1.4826 * median(spread)) if len(spread) >= 10 else 0.1
        total = max(0.0, total + (average - ratio) / noise - 0.75)
        bad = seen > 30 and total > 8.0 and ratio < 0.85 * average
        held = held + 1 if bad else 0
        if firing is None and held >= 4:
            firing = Raised(source, "cusum", float(now))
            yield firing
        elif firing is not None and ratio >= 0.9 * average:
            firing.end, firing, total = float(now), None, 0.0
        if firing is None and not bad:
            spread = [*spread[-60:], abs(ratio - average)]
            average += (ratio - average) * (0.2 if seen < 30 else 0.02)


# Scores.


@dataclass
class Score:
    """How one incident was found.

    Attributes:
        found: Whether an alert of its source began between its onset and a minute after its end.
        delay: Seconds from onset to it, infinite if none did.
        covered: Share of the incident in which one fired; None for points in time.
        notifications: From onset to five minutes after the end.
        false_resolves: Alerts that ended more than a minute before the end while no other fired.
        closed: Whether nothing of it fired five minutes after the end.
        paged: Whether it became critical.
        early: Alerts before the onset, or of other sources.
    """

    found: bool
    delay: float
    covered: float | None
    notifications: int
    false_resolves: int
    closed: bool
    paged: bool
    early: int


def score(stream: Stream, raised: list[Raised], sent: list[tuple[str, float]]) -> Score:
    """Scores what was raised in a stream with an incident."""
    assert stream.onset is not None
    onset, end, closing = stream.onset, stream.end, stream.end + CLOSED_SECONDS
    ours = [each for each in raised if each.source == stream.source]
    inside = [each for each in ours if onset - 1 <= each.start <= end + GRACE_SECONDS]
    early = sum(each.start < onset - 1 for each in ours) + len(raised) - len(ours)
    covered: float | None = None
    false_resolves = 0
    if not stream.point:
        covered, reached = 0.0, onset
        for each in sorted(ours, key=lambda one: one.start):
            until = min(end, each.end if each.end is not None else end)
            covered += max(0.0, until - max(reached, each.start))
            reached = max(reached, until)
        covered /= end - onset
        if not stream.recurs:
            false_resolves = sum(
                each.end is not None
                and onset < each.end < end - GRACE_SECONDS
                and not any(other is not each and other.fires_at(each.end) for other in ours)
                for each in ours
            )
    return Score(
        bool(inside),
        min((each.start for each in inside), default=math.inf) - onset,
        covered,
        sum(source == stream.source and onset - 1 <= t <= closing for source, t in sent),
        false_resolves,
        stream.seconds < closing or not any(each.fires_at(closing) for each in ours),
        any(each.page_at is not None for each in inside),
        early,
    )


@dataclass
class Table:
    """Scores of several streams by one set of rules."""

    incidents: list[tuple[Stream, Score]] = field(default_factory=list)
    quiet: list[tuple[Stream, list[Raised]]] = field(default_factory=list)

    def add(self, stream: Stream, made: Run, name: str) -> None:
        if stream.onset is None:
            self.quiet.append((stream, made.raised[name]))
        else:
            self.incidents.append((stream, score(stream, made.raised[name], made.notifications[name])))

    @property
    def found(self) -> float:
        return _share([s.found for _, s in self.incidents])

    @property
    def found_to_page(self) -> float:
        return _share([s.found for stream, s in self.incidents if stream.page])

    @property
    def delay_to_page(self) -> float:
        return median([s.delay for stream, s in self.incidents if stream.page] or [math.nan])

    @property
    def covered(self) -> float:
        return median([s.covered for _, s in self.incidents if s.covered is not None] or [math.nan])

    @property
    def false_resolves(self) -> int:
        return sum(s.false_resolves for _, s in self.incidents)

    @property
    def notifications(self) -> float:
        return median([s.notifications for _, s in self.incidents] or [0])

    @property
    def not_closed(self) -> int:
        return sum(not s.closed for _, s in self.incidents)

    @property
    def quiet_hours(self) -> float:
        return sum(stream.seconds for stream, _ in self.quiet) / 3600

    @property
    def false_alerts(self) -> int:
        return sum(len(raised) for _, raised in self.quiet)

    @property
    def false_pages(self) -> int:
        return sum(each.page_at is not None for _, raised in self.quiet for each in raised)

    def line(self, name: str) -> str:
        """The scores in one line."""
        most = max((s.notifications for _, s in self.incidents), default=0)
        early = sum(s.early for _, s in self.incidents)
        return (
            f"{name:14} found {self.found:.2f} ({self.found_to_page:.2f} of those to page)  "
            f"delay {self.delay_to_page:.0f} s  covered {self.covered:.0%}  "
            f"false resolves {self.false_resolves}  "
            f"notifications {self.notifications:.0f}, at most {most}  not closed {self.not_closed}  "
            f"before the onset {early}  quiet: {self.false_alerts} in {self.quiet_hours:.1f} h, "
            f"{self.false_pages} critical"
        )

    def by_rate(self) -> Iterator[tuple[float, float, float]]:
        """Yields (rate, share found, median share covered)."""
        for rate in sorted({stream.rate for stream, _ in self.incidents}):
            of = [s for stream, s in self.incidents if stream.rate == rate]
            covered = [s.covered for s in of if s.covered is not None]
            yield rate, _share([s.found for s in of]), median(covered or [math.nan])


def _share(which: list[bool]) -> float:
    return sum(which) / len(which) if which else math.nan
