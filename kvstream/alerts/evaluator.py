"""Evaluator: from closed windows of one cache to incidents, notified once as they begin and once as they end.

A rule is idle, pending (bad, but not for long enough), firing, or part of an incident that another rule
began. Rules of one cause share an incident: the first to fire is what people are notified of, the others
become its evidence. Severity may rise to critical after minutes. What recurs soon must stay good for longer
before it counts as over.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from kvstream.alerts.conditions import Condition, Drop, Finding, Restarted, Silent, View, condition_of
from kvstream.alerts.evidence import EvidenceLog
from kvstream.alerts.points import ClosedWindow
from kvstream.alerts.rule import Rule, alert_by, lasted, resolved
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.metrics.lookup_clock import LookupHistory
from kvstream.metrics.window import Window
from kvstream.text.numbers import time_of_day

_WARM_UP_SECONDS = 90.0
_RECURS_SECONDS = 600.0  # after which an incident of the same rule is another one
_RECURRING_CLEAR_SECONDS = (180.0, 270.0)
_LONGER_THAN_BEFORE = 1.1  # times the longest good stretch before it recurred
_LINGERS_SECONDS = 600.0  # in which a hit ratio is back though lifetimes are not
_FOLLOWS_SECONDS = 420.0  # after an incident in which its evidence may still show
_SAVED = ("_index", "_judged_at", "_shift", "_cold_since", "_live", "_hits_known")
_CLEARED_SHARE = 0.5  # of the live blocks: a clear of at least this share is a restart


class _State(msgspec.Struct):
    """What one rule remembers of one cache.

    Attributes:
        rule: The rule.
        condition: Its condition.
        bad_since: Since when it has been bad without a break; None while it is not.
        good_since: Since when it has been good again, while it fires.
        alert: What is firing; None while it is idle, pending or part of another's incident.
        pending_since: Event time since which it has been pending; None while it is not.
        joined: Whether it is part of the incident that another rule of its cause began.
        fired_at: When it fired, or was bad again after as long as would have ended what does not recur: from
            then on counts how long it lasts before it is critical.
        worst: The worst finding.
        finding: The last finding.
        notified: Level that was notified; None if nobody was.
        ended_at: When the last incident that it was part of ended.
        recurred: Whether that was only minutes before this one began.
        was_good_since: Since when that incident had been good when it ended.
        longest_good: Seconds of the longest stretch in which it was good and yet recurred.
    """

    rule: Rule
    condition: Condition
    bad_since: float | None = None
    good_since: float | None = None
    alert: CacheAlert | None = None
    pending_since: float | None = None
    joined: bool = False
    fired_at: float = 0.0
    worst: Finding | None = None
    finding: Finding | None = None
    notified: AlertLevel | None = None
    ended_at: float = -math.inf
    recurred: bool = False
    was_good_since: float = -math.inf
    longest_good: float = 0.0

    @property
    def is_idle(self) -> bool:
        return self.alert is None and not self.joined and self.pending_since is None

    @property
    def fires(self) -> bool:
        return self.alert is not None


class Evaluator:
    """Judges one cache by rules, as its windows close and as time passes.

    Memory is bounded: a state a rule, and an hour of evidence.

    Args:
        rules: The rules; those that are off are left out.
        source: Cache instance.
        tier: Tier.
        window_seconds: Length of a window.
        capacity: Blocks that the cache has room for, if known.
        silences: Alerts that nobody is to be notified of.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        source: str,
        tier: str,
        window_seconds: float,
        capacity: int | None,
        silences: Silences | None = None,
    ) -> None:
        self._source, self._tier = source, tier
        self._window_seconds, self._capacity = window_seconds, capacity
        self._silences = Silences() if silences is None else silences
        self._arrange({rule.name: _State(rule, condition_of(rule)) for rule in rules if rule.enabled})
        self._load = LookupHistory(window_seconds)
        self._log = EvidenceLog()
        self._index: int | None = None  # of the last window
        self._judged_at = -math.inf  # seconds
        self._shift = 0.0  # seconds that a clock was set back so far
        self._cold_since: float | None = None
        self._live = 0  # blocks at the end of the last window
        self._hits_known = False

    def _arrange(self, states: dict[str, _State]) -> None:
        self._states = states
        self._inhibitors: dict[str, list[_State]] = {name: [] for name in states}
        for by in states.values():
            for name in states.keys() & by.rule.inhibits:
                self._inhibitors[name].append(by)
        self._silent = [(s, s.condition) for s in states.values() if isinstance(s.condition, Silent)]
        drops = {s.rule.name: s.rule.cause for s in states.values() if isinstance(s.condition, Drop)}
        self._unusual_while = {  # alerts of other matters, such as occupancy, say nothing of what is normal
            s.rule.name
            for s in states.values()
            if s.rule.level is not AlertLevel.INFO
            and (s.rule.cause in drops.values() or not drops.keys().isdisjoint(s.rule.inhibits))
        }
        self._at_each_window = [s for s in states.values() if not s.condition.needs_piece]
        self._note_active()

    def _note_active(self) -> None:
        """Take note of which rules are bad or part of an incident: most windows change none."""
        self._active = [state for state in self._states.values() if not state.is_idle]

    def replace_rules(self, rules: Sequence[Rule]) -> list[CacheAlert]:
        """Judge by other rules from now on; return the alerts that end with their rule.

        A rule that is the same as before goes on with all that it remembers, so that what fires by it goes
        on. One that is gone or changed ends, with what belonged to its incident; a changed one begins anew.
        """
        kept = {
            rule.name: state
            for rule in rules
            if rule.enabled and (state := self._states.get(rule.name)) is not None and state.rule == rule
        }
        gone = [state for name, state in self._states.items() if name not in kept]
        names = {rule.name for rule in rules if rule.enabled}
        view, ended = View(self._judged_at, self._log), []
        for state in gone:
            if state.fires:
                for member in self._joined(state.rule.cause):
                    self._reset(member, view)
            if state.alert is not None and state.notified is not None:
                what = "changed" if state.rule.name in names else "removed"
                ended.append(self._ended(state.alert, f"its rule was {what}"))
        self._arrange(
            {
                rule.name: kept.get(rule.name) or _State(rule, condition_of(rule))
                for rule in rules
                if rule.enabled
            }
        )
        return ended

    def save(self) -> dict[str, Any]:
        """Return all that it remembers of its cache: scalars, lists and arrays."""
        return {
            "log": self._log.save(),
            "load": self._load.save(),
            **{name: getattr(self, name) for name in _SAVED},
            "states": msgspec.to_builtins(
                list(self._states.values()), enc_hook=_save_condition, builtin_types=[np.ndarray]
            ),
        }

    def restore(self, saved: dict[str, Any]) -> list[CacheAlert]:
        """Go on from what was saved; return the alerts that end as their rule is gone or another one now.

        Whoever was notified of an alert that goes on is not notified again.
        """
        rules = [state.rule for state in self._states.values()]
        self._log.restore(saved["log"])
        self._load.restore(saved["load"])
        for name in _SAVED:
            setattr(self, name, saved[name])
        states = msgspec.convert(saved["states"], list[_State], dec_hook=_restore_condition)
        for state in states:  # snapshots of before have an alert of what is pending
            if state.alert is not None and state.alert.state == "pending":
                state.pending_since, state.alert = state.alert.started_at, None
        self._arrange({state.rule.name: state for state in states})
        return self.replace_rules(rules)

    def look_at_silences(self) -> list[CacheAlert]:
        """Apply silences that have begun or ended; return the alerts to notify of now."""
        if self._index is None:
            return []
        return self._to_notify()

    def firing(self) -> list[CacheAlert]:
        """Return the firing alerts, silenced ones too."""
        return [state.alert for state in self._active if state.alert is not None]

    def pending(self) -> list[CacheAlert]:
        """Return what is bad, but not for long enough to fire."""
        return [
            replace(self._alert(state, state.finding), state="pending")
            for state in self._active
            if state.pending_since is not None and state.finding is not None
        ]

    def close(self, window: Window) -> list[CacheAlert]:
        """Judge a closed window; return the alerts that fired, became critical or resolved, to notify of."""
        if window.is_empty:
            return self.pass_time(window.index + 1)
        changes = self.pass_time(window.index)
        if self._index is not None and window.index <= self._index:
            self._shift += (self._index + 1 - window.index) * self._window_seconds
        self._index = window.index
        start = window.index * self._window_seconds + self._shift
        end = start + self._window_seconds
        lost_cache = bool(window.restarts) or self._was_cleared(window)
        if lost_cache or self._cold_since is None:
            self._cold_since = start
            self._log.cut()
        self._live = window.live
        seen = window.measurements
        self._load.add(window.index, seen.lookups)
        in_lookups = self._load.lookups_in(seen.lifetime.quantile(0.5))
        self._hits_known |= seen.accesses > 0
        closed = ClosedWindow(window, self._window_seconds, self._hits_known, self._capacity, in_lookups)
        piece = self._log.add(start, end, seen, in_lookups)
        if piece is not None and piece.start >= self._cold_since + _WARM_UP_SECONDS and not self._unusual():
            self._log.mark_normal()
        # Silence may have been judged up to a later time while the window's events were on their way.
        now = self._judged_at = max(end, self._judged_at)
        return changes + self._judge(View(now, self._log, piece, closed, lost_cache, self._cold_since))

    def pass_time(self, until: int) -> list[CacheAlert]:
        """Judge the silence before window ``until``, in which nothing happened; its length costs nothing.

        Only the moments are looked at when something can change: silence becomes too long, an alert
        critical, or has been good for long enough, or a person's silence ends.
        """
        changes: list[CacheAlert] = []
        if self._index is None:
            return changes
        now = until * self._window_seconds + self._shift
        if now <= self._judged_at or not (self._active or any(c.is_due(now) for _, c in self._silent)):
            return changes
        while (moment := self._next_moment()) <= now:
            self._judged_at = moment
            changes += self._judge(View(moment, self._log, cold_since=self._cold_since or 0.0))
        return changes

    def forget_silence(self) -> None:
        """Treat the time since the last event as not recorded, not as a silence of the engine."""
        for _, condition in self._silent:
            condition.forget()

    def due(self) -> float:
        """Return the event time in seconds at which something can change though nothing comes."""
        return self._next_moment() - self._shift

    def end(self, message: str) -> list[CacheAlert]:
        """Resolve every alert that was notified, as no window will come; return those."""
        known = [s.alert for s in self._states.values() if s.alert is not None and s.notified is not None]
        view = View(self._judged_at, self._log)
        for state in self._states.values():
            self._reset(state, view)
        self._active = []
        return [self._ended(alert, message) for alert in known]

    def _ended(self, alert: CacheAlert, message: str) -> CacheAlert:
        return resolved(alert, message, self._now)

    @property
    def _now(self) -> float:
        """Event time that has been judged up to, seconds."""
        return self._judged_at - self._shift

    def _joined(self, cause: str) -> list[_State]:
        """Return the rules that are part of the incident of a cause which another rule began."""
        return [state for state in self._states.values() if state.joined and state.rule.cause == cause]

    def _next_moment(self) -> float:
        """Return the end of the next window in which something can change, infinite if there is none."""
        moments = [self._silent_at()]
        for state in self._active:
            if state.fires and state.rule.page is not None and state.notified is not AlertLevel.CRITICAL:
                moments.append(state.fired_at + state.rule.page.after_seconds)
            if (state.fires or state.joined) and state.good_since is not None:
                moments += (
                    state.good_since + self._clear_seconds(state),
                    state.good_since + _LINGERS_SECONDS,
                )
            if state.alert is not None and state.alert.silenced_by:
                moments.append(self._silences.next_end(self._now) + self._shift)
        ends = (math.ceil(m / self._window_seconds) * self._window_seconds for m in moments if m < math.inf)
        return min((end for end in ends if end > self._judged_at), default=math.inf)

    def _silent_at(self) -> float:
        """Return when silence that is not yet known will be too long."""
        due = math.inf
        for state, condition in self._silent:
            if not state.fires and not state.joined:
                due = min(due, condition.due())
        return math.nextafter(due, math.inf)

    def _was_cleared(self, window: Window) -> bool:
        gone = window.measurements.cleared
        return bool(window.measurements.clears) and gone > _CLEARED_SHARE * max(1, self._live)

    def _unusual(self) -> bool:
        """Return whether the current values do not count as normal."""
        return any(state.fires and state.rule.name in self._unusual_while for state in self._active)

    def _judge(self, view: View) -> list[CacheAlert]:
        found: list[tuple[_State, Finding]] = []
        for state in self._at_each_window if view.piece is None else self._states.values():
            finding = state.condition.look(view)
            if finding is None:
                continue
            if finding.bad or not state.is_idle:
                self._take_in(state, finding, view.now)
                found.append((state, finding))
            elif finding.good:  # what was bad, if anything, began no incident, as it was inhibited
                state.condition.over(view)
        if not found and not self._active:
            return []
        # What begins joins an incident before that could end.
        for state, finding in found:
            if not state.fires and not state.joined:
                self._begin(state, finding, view)
        self._note_active()
        firing = [state for state in self._active if state.fires]
        if not firing:
            return []
        changes = []
        for state in firing:
            self._rise(state, view)
            over = self._end(state, view)
            if over is not None:
                changes.append(over)
        self._note_active()
        return changes + self._to_notify()

    def _take_in(self, state: _State, finding: Finding, now: float) -> None:
        """Take note of what a condition found."""
        state.finding = finding
        if not finding.good:
            if state.fires and state.good_since is not None:
                good = now - state.good_since
                state.longest_good = max(state.longest_good, good)
                if good >= state.rule.clear_seconds:
                    state.fired_at = now
            state.good_since = None
        elif state.good_since is None:
            state.good_since = now
        if not finding.bad:
            return
        if state.bad_since is None:
            state.bad_since = now
        if state.worst is None or finding.measure > state.worst.measure:
            state.worst = finding

    def _begin(self, state: _State, finding: Finding, view: View) -> None:
        """Let an idle or pending rule fire, or join the incident of its cause."""
        rule = state.rule
        follows = rule.yields_to and view.now - self._last_end(rule.cause) < _FOLLOWS_SECONDS
        if not finding.bad or follows or self._is_inhibited(state, view.now):
            self._reset(state, view)
            return
        if state.bad_since is not None and view.now - state.bad_since < rule.for_seconds:
            if state.pending_since is None:
                state.pending_since = self._now - self._window_seconds
            return
        self._log.mark_incident(finding.since)
        state.good_since = None
        # That nothing comes any more is another matter than what an engine that works is open for.
        is_silent = isinstance(state.condition, Silent)
        if self._open_incident(rule.cause) is not None and not is_silent:
            state.joined, state.pending_since = True, None
            return
        state.recurred = view.now - state.ended_at < _RECURS_SECONDS
        good = view.now - state.was_good_since
        state.longest_good = max(state.longest_good, good) if state.recurred else 0.0
        state.fired_at = view.now
        state.alert = self._alert(state, finding)
        state.pending_since = None

    def _rise(self, state: _State, view: View) -> None:
        page, alert = state.rule.page, state.alert
        if (
            alert is None
            or page is None
            or alert.level is AlertLevel.CRITICAL
            or state.good_since is not None
        ):
            return
        finding = state.finding
        if (
            finding is None
            or view.now - state.fired_at < page.after_seconds
            or finding.measure < page.threshold
        ):
            return
        state.alert = replace(self._alert(state, finding), level=AlertLevel.CRITICAL)

    def _end(self, state: _State, view: View) -> CacheAlert | None:
        """End the incident of a firing rule once all that decide it are good again for long enough."""
        members = [state, *self._joined(state.rule.cause)]
        deciding = [s for s in members if not any(m.rule.name in s.rule.yields_to for m in members)]
        if not all(self._is_over(each, view) for each in deciding):
            return None
        good_since = max(view.now if each.good_since is None else each.good_since for each in deciding)
        if view.now - good_since < _LINGERS_SECONDS and self._lingers(members, view):
            return None
        alert, finding = state.alert, state.finding
        assert alert is not None  # noqa: S101 - it fires
        notified, worst = state.notified, state.worst
        if finding is not None and worst is not None and finding.measure > worst.measure:
            worst = finding
        good_since = view.now if state.good_since is None else state.good_since
        for each in members:
            self._reset(each, view)
            each.ended_at, each.was_good_since = view.now, good_since
        if notified is None:
            return None
        at_worst = ""
        is_figure = not isinstance(state.condition, (Silent,) if self._hits_known else (Silent, Restarted))
        if is_figure and worst is not None and not math.isnan(worst.value):
            at_worst = f"; at its worst {_figure(worst.value)}"
        ended = self._ended(alert, f"{lasted(self._now - alert.started_at)}{at_worst}")
        return ended if finding is None else replace(ended, value=finding.value)

    def _lingers(self, members: list[_State], view: View) -> bool:
        """Return whether an incident goes on, as lifetimes are still far below those of before it.

        That of a restart too, as a cache that came back smaller shows so.
        """
        causes = {each.rule.cause for each in members}
        inhibited = {n for m in members if isinstance(m.condition, Restarted) for n in m.rule.inhibits}
        return any(
            isinstance(each.condition, Drop)
            and (each.rule.cause in causes or each.rule.name in inhibited)
            and each.condition.lingers(view)
            for each in self._states.values()
        )

    def _is_over(self, state: _State, view: View) -> bool:
        if state.good_since is None:
            return False
        return view.now - state.good_since >= self._clear_seconds(state)

    @staticmethod
    def _clear_seconds(state: _State) -> float:
        seconds = state.rule.clear_seconds
        if not state.recurred or not seconds:
            return seconds
        # What comes and goes is over once it has been good for longer than it ever was before it came back.
        shortest, longest = _RECURRING_CLEAR_SECONDS
        return max(seconds, shortest, min(longest, _LONGER_THAN_BEFORE * state.longest_good))

    def _reset(self, state: _State, view: View) -> None:
        if not state.is_idle:
            state.condition.over(view)
        state.alert = state.pending_since = state.bad_since = state.good_since = None
        state.worst = state.notified = None
        state.joined = state.recurred = False

    def _is_inhibited(self, state: _State, now: float) -> bool:
        return any(
            by.fires or by.joined or now < by.ended_at + by.rule.recovery_seconds
            for by in self._inhibitors[state.rule.name]
        )

    def _open_incident(self, cause: str) -> _State | None:
        return next((s for s in self._states.values() if s.fires and s.rule.cause == cause), None)

    def _last_end(self, cause: str) -> float:
        return max(s.ended_at for s in self._states.values() if s.rule.cause == cause)

    def _to_notify(self) -> list[CacheAlert]:
        """Return the firing alerts with a severity that has not been notified yet."""
        changes = []
        now = self._now
        for state in self._active:
            alert = state.alert
            if alert is None:
                continue
            evidence = self._evidence(state)
            silenced_by = self._silences.reason(alert, now)
            if silenced_by != alert.silenced_by or evidence != alert.evidence:
                alert = state.alert = replace(alert, silenced_by=silenced_by, evidence=evidence)
            if not silenced_by and state.notified != alert.level:
                state.notified = alert.level
                state.alert = replace(alert, timestamp=now)
                changes.append(state.alert)
        return changes

    def _evidence(self, state: _State) -> list[str]:
        """Return what an incident rests on: its own figures, and what else is out of line, in words."""
        own = [] if state.worst is None or not state.worst.evidence else [state.worst.evidence]
        others = self._joined(state.rule.cause)
        return own + [self._message(s.rule, s.worst) for s in others if s.worst is not None]

    def _message(self, rule: Rule, finding: Finding) -> str:
        return rule.message.format(
            value=finding.value,
            threshold=finding.limit,
            baseline=finding.baseline,
            since=time_of_day(finding.since - self._shift),
        )

    def _alert(self, state: _State, finding: Finding) -> CacheAlert:
        rule, now = state.rule, self._now
        if state.alert is not None:
            started = state.alert.started_at
        elif state.pending_since is not None:
            started = state.pending_since
        else:
            started = now - self._window_seconds if rule.for_seconds else finding.since - self._shift
        return alert_by(
            rule,
            self._message(rule, finding),
            value=finding.value,
            threshold=finding.limit,
            source=self._source,
            tier=self._tier,
            now=now,
            started_at=min(started, now),
        )


def _save_condition(condition: Condition) -> dict[str, Any]:
    return {"rule": condition.rule, "memory": condition.memory}


def _restore_condition(kind: type, saved: dict[str, Any]) -> Condition:
    return condition_of(msgspec.convert(saved["rule"], Rule), saved["memory"])


def _figure(value: float) -> str:
    """Return a number in three digits or more, without an exponent where it is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
