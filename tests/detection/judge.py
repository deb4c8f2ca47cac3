"""Judge: what is found of incidents, when, and what is raised where nothing is wrong."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from kvstream.alerts.rule import Rule
from kvstream.alerts.scoring import Gathered, Incident, Notification, Raised, Score, score
from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.types import Op
from tests.detection.streams import Stream
from tests.detection.traffic import SECOND, START


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
    notifications: dict[str, list[Notification]] = field(default_factory=dict)


def run(stream: Stream, rules: Sequence[Rule] | None = None) -> Run:
    """Sends a stream through kvstream and both baselines."""
    monitor = Monitor(MetricsConfig(capacity=stream.capacity), rules)
    ours = Gathered()
    seconds: dict[str, list[Second]] = {}
    newest = 0
    for frame in stream.frames():
        start = int(frame.ts[0])
        newest = max(newest, start)
        stepped = start < newest - 10 * SECOND
        alerts = monitor.process(frame).alerts
        # Event time has gone back with the clock: the place in the stream says when it was.
        ours.add(alerts, START + stream.onset if stepped else None)
        if not stepped:
            ours.add(monitor.pass_time(start))
        lookups = int(((frame.ops == Op.ALLOC) | (frame.ops == Op.ACCESS)).sum())
        second = Second(start // SECOND - START, lookups, int((frame.ops == Op.ACCESS).sum()))
        seconds.setdefault(frame.source, []).append(second)
    ours.add(monitor.finish(), START + stream.seconds if stream.kind == "clock step" else None)
    for each in ours.raised:
        each.start -= START
        each.end = None if each.end is None else each.end - START
        each.page_at = None if each.page_at is None else each.page_at - START
    notifications = [Notification(each.source, each.time - START) for each in ours.notifications]
    made = Run({"kvstream": ours.raised}, {"kvstream": notifications})
    for name, judge in (("PromQL rules", promql), ("CUSUM", cusum)):
        raised = [each for source, of in seconds.items() for each in judge(source, of, stream.seconds)]
        made.raised[name] = raised
        made.notifications[name] = [
            Notification(each.source, t) for each in raised for t in (each.start, each.end) if t is not None
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
                firing[name] = Raised(source=source, rule=name, start=float(now))
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
            firing = Raised(source=source, rule="cusum", start=float(now))
            yield firing
        elif firing is not None and ratio >= 0.9 * average:
            firing.end, firing, total = float(now), None, 0.0
        if firing is None and not bad:
            spread = [*spread[-60:], abs(ratio - average)]
            average += (ratio - average) * (0.2 if seen < 30 else 0.02)


# Scores.


def scored(stream: Stream, raised: list[Raised], sent: list[Notification]) -> Score:
    """Scores what was raised in a stream with an incident."""
    assert stream.onset is not None
    incident = Incident(
        source=stream.source,
        start=stream.onset,
        end=stream.end,
        recurs=stream.recurs,
        point=stream.point,
    )
    return score(incident, raised, sent, stream.seconds)


def early(stream: Stream, raised: list[Raised]) -> int:
    """Alerts before the onset, or of other sources."""
    return sum(each.source != stream.source or each.start < stream.onset - 1 for each in raised)


@dataclass
class Table:
    """Scores of several streams by one set of rules."""

    incidents: list[tuple[Stream, Score]] = field(default_factory=list)
    quiet: list[tuple[Stream, list[Raised]]] = field(default_factory=list)
    early: int = 0  # alerts before an onset, or of other sources

    @property
    def found(self) -> float:
        return _share([s.found for _, s in self.incidents])

    @property
    def found_to_page(self) -> float:
        return _share([s.found for stream, s in self.incidents if stream.page])

    @property
    def delay_to_page(self) -> float:
        delays = [s.delay for stream, s in self.incidents if stream.page]
        return median([math.inf if delay is None else delay for delay in delays] or [math.nan])

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
        return (
            f"{name:14} found {self.found:.2f} ({self.found_to_page:.2f} of those to page)  "
            f"delay {self.delay_to_page:.0f} s  covered {self.covered:.0%}  "
            f"false resolves {self.false_resolves}  "
            f"notifications {self.notifications:.0f}, at most {most}  not closed {self.not_closed}  "
            f"before the onset {self.early}  quiet: {self.false_alerts} in {self.quiet_hours:.1f} h, "
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
