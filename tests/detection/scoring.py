"""How well rules find what is wrong: precision, recall and delay, as a table."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from kvstream.alerts.rules import Rule
from kvstream.alerts.types import AlertLevel
from kvstream.monitor import Monitor
from tests.detection.engine import SECOND, Engine
from tests.detection.scenarios import Stream


@dataclass
class Fired:
    """An alert: its rule and level, and when it was told, in seconds since the start of the stream."""

    rule: str
    level: AlertLevel
    at: float


@dataclass
class Score:
    """Counts of alerts and incidents.

    Attributes:
        true: Alerts that tell of what happens.
        false: Alerts that do not.
        found: Incidents of which an expected alert told.
        missed: Incidents of which none did.
        delays: Windows from onset to the first expected alert.
    """

    true: int = 0
    false: int = 0
    found: int = 0
    missed: int = 0
    delays: list[float] = field(default_factory=list)

    @property
    def precision(self) -> float:
        return self.true / (self.true + self.false) if self.true + self.false else 1.0

    @property
    def recall(self) -> float:
        return self.found / (self.found + self.missed) if self.found + self.missed else 1.0

    @property
    def delay(self) -> float:
        return median(self.delays) if self.delays else 0.0


def alerts_of(engine: Engine, rules: Iterable[Rule] | None = None) -> list[Fired]:
    """What fires in a stream."""
    monitor = Monitor(rules=None if rules is None else tuple(rules))
    fired, silent = [], 0
    for t, frame in engine.seconds_of_frames():
        if frame is not None:
            silent = 0
            alerts = monitor.process(frame).alerts
        else:
            # As a stream's clock does, where nothing comes for two windows.
            silent += 1
            tiers = monitor.tiers() if silent > 2 else []
            alerts = [a for tier in tiers for a in tier.pass_time(tier.last_ts + (silent - 1) * SECOND)]
        fired += [Fired(a.rule, a.level, t) for a in alerts if a.state == "firing"]
    return fired


class Scores:
    """Scores by rule, and of incidents by kind and intensity."""

    def __init__(self) -> None:
        self.rules: dict[str, Score] = {}
        self.kinds: dict[tuple[str, str], Score] = {}
        self.wrong: list[tuple[str, str, int, Fired]] = []

    def add(self, stream: Stream, fired: list[Fired]) -> None:
        """Counts what fired in a stream."""
        of_kind = self.kinds.setdefault((stream.kind, stream.intensity), Score())
        told = {}
        for alert in fired:
            rule = self.rules.setdefault(alert.rule, Score())
            ours = stream.onset is not None and stream.onset <= alert.at
            if ours and alert.rule in stream.expected | stream.allowed:
                rule.true += 1
                of_kind.true += 1
                told.setdefault(alert.rule, alert.at)
            else:
                rule.false += 1
                of_kind.false += 1
                self.wrong.append((stream.kind, stream.intensity, stream.engine.seed, alert))
        if stream.onset is None:
            return
        first = min((at for rule, at in told.items() if rule in stream.expected), default=None)
        for name in stream.expected:
            rule = self.rules.setdefault(name, Score())
            if name in told:
                rule.found += 1
                rule.delays.append(told[name] - stream.due)
            else:
                rule.missed += 1
        if first is None:
            of_kind.missed += 1
        else:
            of_kind.found += 1
            of_kind.delays.append(first - stream.due)

    def total(self, intensity: str | None = None) -> Score:
        """All kinds of one intensity together; of all, quiet streams among them, for None."""
        total = Score()
        for (_, of), score in self.kinds.items():
            if intensity in (None, of):
                total.true += score.true
                total.false += score.false
                total.found += score.found
                total.missed += score.missed
                total.delays += score.delays
        return total

    def table(self) -> str:
        """The scores for people."""
        lines = [f"{'kind':24} {'intensity':9} {'found':>9} {'false':>6} {'delay':>6}"]
        for (kind, intensity), score in self.kinds.items():
            found = f"{score.found}/{score.found + score.missed}" if intensity else "–"
            lines.append(f"{kind:24} {intensity:9} {found:>9} {score.false:>6} {score.delay:>6.1f}")
        lines.append("")
        lines.append(f"{'rule':24} {'alerts':>9} {'precision':>10} {'recall':>7} {'delay':>6}")
        for name, score in sorted(self.rules.items()):
            alerts = score.true + score.false
            lines.append(
                f"{name:24} {alerts:>9} {score.precision:>10.2f} {score.recall:>7.2f} {score.delay:>6.1f}"
            )
        lines.append("")
        for intensity in ("clear", "mild"):
            total = self.total(intensity)
            lines.append(f"{intensity}: recall {total.recall:.2f}, median delay {total.delay:.1f} windows")
        total = self.total()
        lines.append(f"precision {total.precision:.3f} of {total.true + total.false} alerts")
        return "\n".join(lines)
