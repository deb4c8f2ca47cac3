"""DropWatch: alerts on events that never reach a cache, because a limit refuses them or they are repeats.

No window of event time holds them, so they are looked at in windows of the clock.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from kvstream.alerts.rule import Rule, alert_by
from kvstream.alerts.silences import Silences
from kvstream.alerts.standing import StandingAlert
from kvstream.alerts.types import DROP_METRICS, CacheAlert, MetricType
from kvstream.metrics.summary import ALL
from kvstream.text.numbers import time_of_day

_KIND_METRICS = {
    "repeated": MetricType.REPEATED_FRAMES,
    "stale": MetricType.STALE_FRAMES,
    "conflicting": MetricType.CONFLICTING_FRAMES,
}


_SHARE_WINDOWS = 30


class DropWatch:
    """Follows which events a stream refuses, and which sources repeat frames.

    Args:
        rules: The stream's rules; those on other metrics are passed over.
        silences: Alerts not to be published.
        describe_limit: Says which limit a drop reason stands for, with its setting and value.
    """

    def __init__(self, rules: Sequence[Rule], silences: Silences, describe_limit: Mapping[str, str]) -> None:
        self._rules = _by_metric(rules)
        self._silences, self._describe_limit = silences, describe_limit
        self._seen: dict[tuple[str, str], int] = {}  # by source and drop reason or kind of duplicate
        self._drop_rules: dict[tuple[str, str], list[_DropRule]] = {}

    def look(
        self, refused: Mapping[str, int], duplicates: Iterable[tuple[str, Mapping[str, int]]], now: float
    ) -> list[CacheAlert]:
        """Close a window of the clock.

        Args:
            refused: Events refused so far, by drop reason.
            duplicates: For each source, its frames that had come before so far, by kind.
            now: Seconds since the Unix epoch.

        Returns:
            The alerts that fired or resolved.
        """
        new: dict[tuple[str, str], int] = {}
        for (source, kind), count in self._counts(refused, duplicates):
            if (source, kind) not in self._seen:
                self._begin(source, kind)
            new[source, kind] = count - self._seen.get((source, kind), 0)
            self._seen[source, kind] = count
        return [
            alert
            for key, states in self._drop_rules.items()
            for each in states
            if (alert := each.close_window(new.get(key, 0), now)) is not None
        ]

    def replace_rules(self, rules: Sequence[Rule], now: float) -> list[CacheAlert]:
        """Watch by other rules from now on, as ``Evaluator.replace_rules`` does."""
        ended = []
        self._rules = _by_metric(rules)
        for (source, kind), states in self._drop_rules.items():
            kept = {each.rule.name: each for each in states if each.rule in self._rules[each.rule.metric]}
            gone = [each for each in states if each.rule.name not in kept]
            ended += [each.standing.end_with_rule(now) for each in gone]
            self._begin(source, kind)
            fresh = self._drop_rules[source, kind]
            self._drop_rules[source, kind] = [kept.get(each.rule.name, each) for each in fresh]
        return [alert for alert in ended if alert is not None]

    def save(self) -> list[dict[str, Any]]:
        """Return what it remembers of each source and kind of drops, as plain values."""
        return [
            {
                "source": source,
                "kind": kind,
                "seen": self._seen[source, kind],
                "rules": [each.save() for each in states],
            }
            for (source, kind), states in self._drop_rules.items()
        ]

    def restore(self, saved: list[dict[str, Any]], now: float) -> list[CacheAlert]:
        """Go on from what was saved; return the alerts that end as their rule is gone or another one now."""
        ended = []
        for each in saved:
            source, kind = key = each["source"], each["kind"]
            self._seen[key] = each["seen"]
            self._begin(source, kind)
            states = {state.rule.name: state for state in self._drop_rules[key]}
            for of_rule in each["rules"]:
                rule = msgspec.convert(of_rule["rule"], Rule)
                state = states.get(rule.name)
                if state is not None and state.rule == rule:
                    state.restore(of_rule)
                else:
                    gone = StandingAlert(self._silences)
                    gone.restore(of_rule["standing"])
                    ended.append(gone.end_with_rule(now))
        return [alert for alert in ended if alert is not None]

    def look_at_silences(self, now: float) -> Iterator[list[CacheAlert]]:
        """Apply silences that have begun or ended; yield the alerts to publish now, part by part."""
        for key in list(self._drop_rules):
            changes = [each.standing.to_publish(now) for each in self._drop_rules.get(key, ())]
            yield [alert for alert in changes if alert is not None]

    def firing(self) -> list[CacheAlert]:
        """Return the alerts that fire."""
        standing = (each.standing for states in self._drop_rules.values() for each in states)
        return [each.alert for each in standing if each.alert is not None]

    def forget(self, source: str, why: str, now: float) -> list[CacheAlert]:
        """Forget a source; return its alerts, resolved with a message."""
        gone = [key for key in self._seen if key[0] == source]
        ended = [each.standing.end(why, now) for key in gone for each in self._drop_rules.pop(key)]
        for key in gone:
            del self._seen[key]
        return [alert for alert in ended if alert is not None]

    @staticmethod
    def _counts(
        refused: Mapping[str, int], duplicates: Iterable[tuple[str, Mapping[str, int]]]
    ) -> Iterator[tuple[tuple[str, str], int]]:
        yield from (((ALL, reason), events) for reason, events in refused.items())
        for source, frames_by_kind in duplicates:
            yield from (((source, kind), frames) for kind, frames in frames_by_kind.items())

    def _begin(self, source: str, kind: str) -> None:
        limit = self._describe_limit.get(kind, "") if source == ALL else ""
        metric = _KIND_METRICS.get(kind, MetricType.REFUSED_EVENTS)
        self._drop_rules[source, kind] = [
            _DropRule(rule, source, limit, kind, self._silences) for rule in self._rules[metric]
        ]


def _by_metric(rules: Sequence[Rule]) -> dict[MetricType, list[Rule]]:
    return {
        metric: [rule for rule in rules if rule.enabled and rule.metric is metric] for metric in DROP_METRICS
    }


class _DropRule:
    """One rule on one kind of drops, from window to window."""

    def __init__(self, rule: Rule, source: str, limit: str, kind: str, silences: Silences) -> None:
        self.standing = StandingAlert(silences)
        self.rule, self._source, self._limit, self._kind = rule, source, limit, kind
        self._recent: deque[bool] = deque(maxlen=_SHARE_WINDOWS)  # whether there were any in a window
        self._good_since: float | None = None

    def save(self) -> dict[str, Any]:
        """Return the rule and what is remembered, as plain values."""
        return {
            "rule": msgspec.to_builtins(self.rule),
            "recent": list(self._recent),
            "good_since": self._good_since,
            "standing": self.standing.save(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved by the same rule."""
        self._good_since = saved["good_since"]
        self._recent.extend(saved["recent"])
        self.standing.restore(saved["standing"])

    def close_window(self, new: int, now: float) -> CacheAlert | None:
        """Judge a window in which ``new`` were dropped; return the alert if it must be published."""
        self._recent.append(new > 0)
        # Of duplicates it counts in how many windows there were any: a thousand at once, after a reconnect,
        # are normal.
        value = float(new) if self._limit else sum(self._recent) / _SHARE_WINDOWS
        if self.standing.alert is None:
            if value >= self.rule.threshold and (self._limit or len(self._recent) == _SHARE_WINDOWS):
                self.standing.fire(self._alert(value, now))
        elif value > self.rule.clear:
            self._good_since = None
        else:
            self._good_since = now if self._good_since is None else self._good_since
            if now - self._good_since >= self.rule.clear_seconds:
                self._good_since = None
                return self.standing.end_as_over(now)
        return self.standing.to_publish(now)

    def _alert(self, value: float, now: float) -> CacheAlert:
        rule = self.rule
        message = rule.message.format(
            value=value, threshold=rule.threshold, baseline=0.0, since=time_of_day(now)
        )
        alert = alert_by(
            rule,
            f"{message}: {self._limit}" if self._limit else message,
            value=value,
            threshold=rule.threshold,
            source=self._source,
            tier=ALL,
            now=now,
            started_at=now,
            identity=self._kind if self._limit else None,
        )
        return replace(alert, labels={**rule.labels, "limit": self._kind}) if self._limit else alert
