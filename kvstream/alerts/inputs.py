"""InputWatch: alerts on the inputs of a stream, which no cache's window shows.

An input that is not connected brings no event at all, so that it is looked at by the clock.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from kvstream.alerts.rule import Rule, alert_by
from kvstream.alerts.silences import Silences
from kvstream.alerts.standing import StandingAlert
from kvstream.alerts.types import INPUT_METRICS, CacheAlert, MetricType
from kvstream.metrics.summary import ALL
from kvstream.text.names import bounded_name
from kvstream.text.numbers import time_of_day


class InputReading(NamedTuple):
    """A metric of an input at one moment.

    Attributes:
        metric: One of ``INPUT_METRICS``.
        name: The input, or the source that it is about.
        value: The value; None if it is not known now, which neither begins an alert nor ends it.
        detail: What is to be added to the message.
    """

    metric: MetricType
    name: str
    value: float | None
    detail: str = ""


class InputWatch:
    """Judges readings of inputs by rules: bad beyond the threshold, good again at ``clear``.

    Args:
        rules: The stream's rules; those on other metrics are passed over.
        silences: Alerts not to be published.
    """

    def __init__(self, rules: Sequence[Rule], silences: Silences) -> None:
        self._silences = silences
        self._rules = _of_inputs(rules)
        self._judged: dict[tuple[str, str], _Judged] = {}  # by rule and name

    def look(self, readings: Iterable[InputReading], now: float) -> list[CacheAlert]:
        """Judge the readings of now, of every input there is.

        Args:
            readings: The readings.
            now: Seconds since the Unix epoch.

        Returns:
            The alerts that fired or resolved.
        """
        seen = set()
        changes = []
        for reading in readings:
            for rule in self._rules:
                if rule.metric is reading.metric:
                    key = (rule.name, reading.name)
                    seen.add(key)
                    judged = self._judged.get(key)
                    if judged is None:
                        judged = self._judged[key] = _Judged(rule, reading.name, self._silences)
                    changes.append(judged.judge(reading, now))
        gone = sorted(self._judged.keys() - seen)
        changes += [self._judged.pop(key).standing.end("it is no longer watched", now) for key in gone]
        return [alert for alert in changes if alert is not None]

    def replace_rules(self, rules: Sequence[Rule], now: float) -> list[CacheAlert]:
        """Use other rules from now on; resolve the alerts of removed and changed rules."""
        self._rules = _of_inputs(rules)
        gone = [key for key, judged in self._judged.items() if judged.rule not in self._rules]
        ended = [self._judged.pop(key).standing.end_with_rule(now) for key in gone]
        return [alert for alert in ended if alert is not None]

    def look_at_silences(self, now: float) -> Iterator[list[CacheAlert]]:
        """Apply silences that have begun or ended; yield the alerts to publish now, part by part."""
        for judged in list(self._judged.values()):
            change = judged.standing.to_publish(now)
            yield [] if change is None else [change]

    def save(self) -> list[dict[str, Any]]:
        """Return what it remembers of each rule and input, as plain values."""
        return [{"name": name, **judged.save()} for (_, name), judged in self._judged.items()]

    def restore(self, saved: list[dict[str, Any]], now: float) -> list[CacheAlert]:
        """Go on from what was saved; return the alerts that end as their rule is gone or another one now."""
        ended = []
        for each in saved:
            rule = msgspec.convert(each["rule"], Rule)
            judged = _Judged(rule, each["name"], self._silences)
            judged.restore(each)
            if rule in self._rules:
                self._judged[rule.name, each["name"]] = judged
            else:
                ended.append(judged.standing.end_with_rule(now))
        return [alert for alert in ended if alert is not None]

    def firing(self) -> list[CacheAlert]:
        """Return the alerts that fire."""
        return [j.standing.alert for j in self._judged.values() if j.standing.alert is not None]


def _of_inputs(rules: Sequence[Rule]) -> list[Rule]:
    return [rule for rule in rules if rule.enabled and rule.metric in INPUT_METRICS]


class _Judged:
    """One rule on one input, from look to look."""

    def __init__(self, rule: Rule, name: str, silences: Silences) -> None:
        self.rule = rule
        self.standing = StandingAlert(silences)
        self._name = name
        self._bad_since: float | None = None
        self._good_since: float | None = None

    def save(self) -> dict[str, Any]:
        """Return the rule and what is remembered, as plain values."""
        return {
            "rule": msgspec.to_builtins(self.rule),
            "bad_since": self._bad_since,
            "good_since": self._good_since,
            "standing": self.standing.save(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved by the same rule."""
        self._bad_since, self._good_since = saved["bad_since"], saved["good_since"]
        self.standing.restore(saved["standing"])

    def judge(self, reading: InputReading, now: float) -> CacheAlert | None:
        if reading.value is not None:
            self._take(reading.value, reading.detail, now)
        fires, good_since = self.standing.alert is not None, self._good_since
        if fires and good_since is not None and now - good_since >= self.rule.clear_seconds:
            self._bad_since = self._good_since = None
            return self.standing.end_as_over(now)
        return self.standing.to_publish(now)

    def _take(self, value: float, detail: str, now: float) -> None:
        if value > self.rule.threshold:
            self._bad_since = now if self._bad_since is None else self._bad_since
            self._good_since = None
            if self.standing.alert is None and now - self._bad_since >= self.rule.for_seconds:
                self.standing.fire(self._alert(value, detail, self._bad_since, now))
        elif value <= self.rule.clear:
            self._good_since = now if self._good_since is None else self._good_since
            if self.standing.alert is None:
                self._bad_since = None
        else:
            self._good_since = None

    def _alert(self, value: float, detail: str, since: float, now: float) -> CacheAlert:
        rule = self.rule
        message = rule.message.format(
            value=value, threshold=rule.threshold, baseline=0.0, since=time_of_day(since)
        )
        return alert_by(
            rule,
            f"{message}: {detail}" if detail else message,
            value=value,
            threshold=rule.threshold,
            source=bounded_name(self._name),
            tier=ALL,
            now=now,
            started_at=now,
        )
