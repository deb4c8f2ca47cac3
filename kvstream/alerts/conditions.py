"""Conditions: each reads the evidence of one cache in its own way and says whether it is bad, or good again.

A condition keeps what it needs between two looks, such as the baseline that stands still while an incident
lasts, in its ``memory``, which can be saved and restored. It is asked whenever a window has closed and when
time passes without one.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Callable
from statistics import fmean, median, stdev
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np

from kvstream.alerts.evidence import (
    Baseline,
    Evidence,
    EvidenceLog,
    Measure,
    baseline_of,
    ratio_of,
    values,
)
from kvstream.alerts.points import ClosedWindow, reader_of
from kvstream.alerts.rule import Rule
from kvstream.alerts.types import MetricType

SHORT = 6  # pieces of evidence: a minute, or some thirty requests
MIDDLE = 12
LONG = 30
NOISE_FLOOR = 0.1  # of log odds, and of logarithms of lifetimes
_HALF = math.log(2)
_LEAST_PIECES = 4


class View(msgspec.Struct):
    """Evidence that conditions are judged on.

    Attributes:
        now: Time, seconds; never goes back, unlike event time.
        log: The evidence so far.
        piece: The piece of evidence that has just become complete, if one has.
        closed: The window that has just closed; None if only time has passed.
        lost_cache: Whether the cache was lost just before that window.
        cold_since: When the cache was last lost, or the stream began.
    """

    now: float
    log: EvidenceLog
    piece: Evidence | None = None
    closed: ClosedWindow | None = None
    lost_cache: bool = False
    cold_since: float = 0.0


class Finding(msgspec.Struct, frozen=True):
    """What a condition finds.

    Attributes:
        bad: Whether the condition holds.
        good: Whether the value is back where it should be.
        value: The metric's value.
        limit: The value that it is held against.
        baseline: What was normal; NaN if nothing is compared.
        measure: How bad it is, in the unit of the rule's threshold: the higher, the worse.
        since: When it began, seconds.
        evidence: What the finding rests on, in words.
    """

    bad: bool
    good: bool
    value: float
    limit: float
    measure: float
    since: float
    baseline: float = math.nan
    evidence: str = ""


class NoMemory(msgspec.Struct):
    """Nothing kept between two looks."""


@runtime_checkable
class Condition(Protocol):
    """Judges one rule on one cache.

    Attributes:
        rule: The rule.
        memory: What it keeps between two looks, a Struct of plain values.
        needs_piece: Whether it says something new only where a piece of evidence is complete.
    """

    rule: Rule
    memory: Any
    needs_piece: bool

    def look(self, view: View) -> Finding | None:
        """Judge the evidence; return a finding, or None if there is no new evidence."""

    def over(self, view: View) -> None:
        """Take note that the incident that this condition was part of is over."""


class DropMemory(msgspec.Struct):
    """What ``Drop`` keeps.

    Attributes:
        baseline: Baseline of the incident that is open.
        since: When that began, seconds.
        worst: Its largest fall.
        mostly_since: Since when the value has mostly come back.
        judged_until: End of the last incident.
    """

    baseline: Baseline | None = None
    since: float = 0.0
    worst: float = 0.0
    mostly_since: float | None = None
    judged_until: float = -math.inf


class Drop:
    """Find a hit ratio, or a lifetime, below what is normal for this engine.

    Three windows look at the same time. The median of the last six pieces of evidence must be below the
    baseline by the rule's threshold, of hit ratios five of the six; or, for what is slow or mild, the medians
    of the last thirty *and* of the last six by 0.63 of it; or the mean of twelve hit ratios by 30 % of what
    it was. All must also be several times the engine's own noise. Hit ratios are compared as log odds (0.6 is
    from 0.80 to 0.69, or 0.20 to 0.12), lifetimes as logarithms (0.7 is half).
    The baseline is the median of up to an hour before; it stands still from the beginning of an incident to
    its end. The drop is over when the value, its mean as well as its median, which does not show what comes
    and goes, is within ``clear`` or the noise of it, or has come back by
    four fifths of the worst fall; or when for a minute and a half it has come back by three fifths and would
    begin no incident, as what a restart or a scan took may take long to come back wholly. (Of the incidents
    that numbers were chosen on, none did so while it lasted.) What comes after is judged by evidence from
    after the end.
    """

    _LONG_SHARE = 0.63
    _NEW_SHARE = 2.2  # of the threshold, where the baseline rests on less than five minutes
    _SIGMAS, _LONG_SIGMAS, _NEAR_SIGMAS = 5.5, 3.7, 1.0
    _OF_WORST = 0.6
    _RECOVERED = 0.2
    _MOSTLY_RECOVERED, _MOSTLY_SECONDS = 0.4, 90.0
    _MEAN_SHARE, _MEAN_SIGMAS = 0.3, 6.0
    _LEAST_RELATIVE = 0.12  # of a hit ratio: 0.99 to 0.98 is far in log odds and of no interest
    needs_piece = True

    def __init__(self, rule: Rule, memory: DropMemory) -> None:
        self.rule = rule
        self._is_ratio = rule.metric is MetricType.HIT_RATIO
        self._measure: Measure = "hit_logit" if self._is_ratio else "log_lifetime"
        self.memory = memory

    def over(self, view: View) -> None:
        """Take note that the incident is over."""
        if self.memory.baseline is not None:
            self.memory.judged_until = view.now
        self.memory.baseline = self.memory.mostly_since = None

    def lingers(self, view: View) -> bool:
        """Return whether lifetimes, if this is about them, are below half of what was normal.

        They come back more slowly than a hit ratio after most incidents, and are short at first in a cache
        that fills. But while they are below half, a hit ratio that is back may be so by chance.
        """
        if self._is_ratio:
            return False
        baseline = self.memory.baseline or baseline_of(view.log, self._measure, SHORT)
        lifetimes = values(view.log.last(SHORT, view.cold_since), self._measure)
        return baseline is not None and bool(lifetimes) and baseline.level - median(lifetimes) >= _HALF

    def look(self, view: View) -> Finding | None:
        """Judge the evidence; return a finding, or None if there is no new evidence."""
        if view.piece is None:
            return None
        recent = view.log.last(SHORT, view.cold_since)
        short = values(recent, self._measure)
        if len(short) < _LEAST_PIECES:
            return None
        now = median(short)
        if self.memory.baseline is not None:
            return self._going_on(self.memory.baseline, now, recent, view.now)
        found = self._baseline_if_bad(view, now, recent)
        if found is None:
            return None
        baseline, since = found
        self.memory.baseline, self.memory.since, self.memory.worst = baseline, since, baseline.level - now
        return self._finding(baseline, now, recent, bad=True, good=False, since=since)

    def _baseline_if_bad(
        self, view: View, now: float, recent: list[Evidence]
    ) -> tuple[Baseline, float] | None:
        """Return the baseline that a value is bad against, and since when; None if it is not."""
        log, threshold = view.log, self.rule.threshold
        baseline = baseline_of(log, self._measure, SHORT, now + threshold)
        if baseline is not None:
            needed = threshold if baseline.established else threshold * self._NEW_SHARE
            if self._is_far(baseline, now, needed, self._SIGMAS) and self._stays(baseline, recent, needed):
                return baseline, recent[0].start
        fresh = max(view.cold_since, self.memory.judged_until)
        if len(log.pieces) < LONG or log.pieces[-LONG].start < fresh:
            return None
        needed = self._LONG_SHARE * threshold
        before = baseline_of(log, self._measure, LONG, now + needed)
        if before is not None and before.established and self._is_far(before, now, needed):
            recent = log.last(LONG)
            series = values(recent, self._measure)
            if len(series) == LONG and self._is_far(before, median(series), needed, self._LONG_SIGMAS):
                return before, recent[0].start
        if self._is_ratio and self._is_lower_on_average(log, fresh):
            baseline, before = (baseline_of(log, self._measure, skipped) for skipped in (SHORT, LONG))
            if baseline is not None and before is not None and before.established:
                return baseline, log.last(MIDDLE, fresh)[0].start
        return None

    def _stays(self, baseline: Baseline, recent: list[Evidence], needed: float) -> bool:
        """Return whether a hit ratio is not coming back already, as after a scan of seconds or one document.

        Of lifetimes nothing is asked, as their rule waits.
        """
        pieces = values(recent, self._measure)
        below = sum(piece <= baseline.level - needed for piece in pieces)
        return not self._is_ratio or below >= len(pieces) - 1

    def _is_lower_on_average(self, log: EvidenceLog, since: float) -> bool:
        """Return whether the mean hit ratio of the last pieces is far below that of those before.

        Where few requests come, single pieces find nothing or everything, and no median of log odds says
        much; their mean does. Its standard error allows for pieces that resemble their neighbours.
        """
        after = values(log.last(MIDDLE, since), "hit_ratio")
        before = log.normal("hit_ratio", MIDDLE)
        if len(after) < MIDDLE or len(before) < MIDDLE + LONG // 2:
            return False
        level = float(before.mean())
        fall = level - fmean(after)
        if fall < self._MEAN_SHARE * level:
            return False
        around = before - level
        spread = max(float(np.std(before, ddof=1)), 0.02)
        neighbours = float(around[1:] @ around[:-1]) / (len(before) - 1)
        alike = min(0.9, max(0.0, neighbours / spread**2))
        of_after = max(stdev(after), spread / math.sqrt(2))
        error = math.sqrt((1 + alike) / (1 - alike) * (spread**2 / len(before) + of_after**2 / len(after)))
        return fall >= self._MEAN_SIGMAS * error

    def _is_far(self, baseline: Baseline, now: float, needed: float, sigmas: float = 0.0) -> bool:
        """Return whether a value is below the baseline by ``needed``, and by ``sigmas`` times its noise."""
        if baseline.level < now + needed:
            return False
        if sigmas and baseline.level - now < sigmas * baseline.noise(SHORT, NOISE_FLOOR):
            return False
        return not self._is_ratio or ratio_of(now) <= (1 - self._LEAST_RELATIVE) * ratio_of(baseline.level)

    def _going_on(
        self, baseline: Baseline, value: float, recent: list[Evidence], now_seconds: float
    ) -> Finding:
        memory, fall = self.memory, baseline.level - value
        memory.worst = max(memory.worst, fall)
        near = max(self.rule.clear, self._NEAR_SIGMAS * baseline.noise(SHORT, NOISE_FLOOR))
        near = min(max(near, self._RECOVERED * memory.worst), self._OF_WORST * memory.worst)
        below = max(fall, float(baseline.series.mean()) - fmean(values(recent, self._measure)))
        if below >= min(self._MOSTLY_RECOVERED * memory.worst, self.rule.threshold):
            memory.mostly_since = None
        elif memory.mostly_since is None:
            memory.mostly_since = now_seconds
        mostly = memory.mostly_since is not None and now_seconds - memory.mostly_since >= self._MOSTLY_SECONDS
        return self._finding(
            baseline,
            value,
            recent,
            bad=fall >= self._LONG_SHARE * self.rule.threshold,
            good=below < near or mostly,
            since=memory.since,
        )

    def _finding(
        self, baseline: Baseline, now: float, recent: list[Evidence], *, bad: bool, good: bool, since: float
    ) -> Finding:
        plain = ratio_of if self._is_ratio else math.exp
        evidence = ""
        if bad:
            lookups, seconds = sum(p.lookups for p in recent), recent[-1].end - recent[0].start
            evidence = f"{lookups:,} lookups in {seconds:,.0f} s against {baseline.lookups:,} before"
        return Finding(
            bad=bad,
            good=good,
            value=plain(now),
            limit=plain(baseline.level - self.rule.threshold),
            baseline=plain(baseline.level),
            measure=baseline.level - now,
            since=since,
            evidence=evidence,
        )


class ThresholdMemory(msgspec.Struct):
    """What ``Threshold`` keeps.

    Attributes:
        bad_since: Since when it has been bad without a break, seconds; None while it is not.
    """

    bad_since: float | None = None


class Threshold:
    """Find a window's value above, or below, the rule's threshold; good again beyond ``clear``."""

    needs_piece = False

    def __init__(self, rule: Rule, memory: ThresholdMemory) -> None:
        self.rule = rule
        self.memory = memory
        self._sign = -1.0 if rule.condition == "below" else 1.0
        self._read = reader_of(rule.metric)

    def over(self, view: View) -> None:
        """Keep nothing of an incident."""

    def look(self, view: View) -> Finding | None:
        """Judge the evidence; return a finding, or None if there is no new evidence."""
        point = None if view.closed is None else self._read(view.closed)
        if point is None or not point.weight:
            return None
        value, sign = self._sign * point.value, self._sign
        bad = value >= sign * self.rule.threshold
        since = view.now if self.memory.bad_since is None else self.memory.bad_since
        self.memory.bad_since = since if bad else None
        return Finding(
            bad=bad,
            good=value <= sign * self.rule.clear,
            value=point.value,
            limit=self.rule.threshold,
            measure=value,
            since=since,
        )


class OccursMemory(msgspec.Struct):
    """What ``Occurs`` keeps.

    Attributes:
        total: Occurrences of the incident that is open.
    """

    total: float = 0.0


class Occurs:
    """Find what should not happen at all, such as a lost frame: more than the threshold in a window."""

    needs_piece = False

    def __init__(self, rule: Rule, memory: OccursMemory) -> None:
        self.rule = rule
        self.memory = memory
        self._read = reader_of(rule.metric)

    def over(self, view: View) -> None:
        """Take note that the incident is over."""
        self.memory.total = 0.0

    def look(self, view: View) -> Finding | None:
        """Judge the evidence; return a finding, or None if there is no new evidence."""
        point = None if view.closed is None else self._read(view.closed)
        value = 0.0 if point is None else point.value
        bad = value > self.rule.threshold
        if bad:
            self.memory.total += value
        elif not self.memory.total:  # as in nearly all windows: nothing began that could end
            return None
        return Finding(
            bad=bad,
            good=not bad,
            value=self.memory.total if bad else value,
            limit=self.rule.threshold,
            measure=value,
            since=view.now,
        )


class SilentMemory(msgspec.Struct):
    """What ``Silent`` keeps.

    Attributes:
        pauses: The last pauses between windows with events, seconds, oldest first.
        last: End of the last such window, seconds; None before the first.
    """

    pauses: list[float] = []
    last: float | None = None


class Silent:
    """Find an engine that has been silent for far longer than it usually is.

    An engine's pauses are its own: silence is judged against the largest of the last few hundred pauses
    between windows with events. ``threshold`` is the factor on that, ``clear`` is not used; silence of less
    than half a minute is never reported. Any event ends it.

    Where traffic fades, the longest pause is soon that of a busier time. So silence must also be far beyond
    the last twelve pauses: longer than their mean by fourteen times their standard deviation, and by as much
    again as they have grown, at most twice. Pauses that were incidents count as none.
    """

    _LEAST_SECONDS = 30.0
    _LEAST_PAUSES = 20
    _KEPT = 400
    _MANY = 200  # pauses, of which the very largest is left out
    _RECENT, _BEFORE = 12, 48  # pauses, and those before them that they are compared with
    _SIGMAS, _MOST_GROWN = 14.0, 2.0
    needs_piece = False

    def __init__(self, rule: Rule, memory: SilentMemory) -> None:
        self.rule = rule
        self.memory = memory
        self._ascending = sorted(self.memory.pauses)
        self._limit: float | None = None  # None until it is asked for after another pause

    def over(self, view: View) -> None:
        """Keep nothing of an incident."""

    def look(self, view: View) -> Finding | None:
        """Judge the evidence; return a finding, or None if there is no new evidence."""
        if view.closed is not None:
            last, self.memory.last = self.memory.last, view.now
            silence = 0.0
            if last is not None:
                silence = view.now - last
                if not self._is_due(last, view.now):  # nothing was found that could end
                    self._note_pause(silence)
                    return None
            return Finding(bad=False, good=True, value=silence, limit=0.0, measure=silence, since=view.now)
        if self.memory.last is None or view.now <= self.due():
            return None
        silence = view.now - self.memory.last
        return Finding(
            bad=True,
            good=False,
            value=silence,
            limit=self._limit_seconds(),
            baseline=self._ascending[-1],
            measure=silence,
            since=self.memory.last,
            evidence=f"the longest pause before was {self._ascending[-1]:,.0f} s",
        )

    def forget(self) -> None:
        """Ignore the current pause, as the engine may not be its cause."""
        self.memory.last = None

    def due(self) -> float:
        """When silence will be too long, unless something comes."""
        return math.inf if self.memory.last is None else self._due_after(self.memory.last)

    def is_due(self, now: float) -> bool:
        """Return whether silence is too long at a time, which costs little while it is short."""
        return self.memory.last is not None and self._is_due(self.memory.last, now)

    def _is_due(self, last: float, now: float) -> bool:
        return now - last > self._LEAST_SECONDS and now > self._due_after(last)

    def _due_after(self, last: float) -> float:
        return math.inf if len(self._ascending) < self._LEAST_PAUSES else last + self._limit_seconds()

    def _note_pause(self, seconds: float) -> None:
        pauses, ascending = self.memory.pauses, self._ascending
        gone = pauses.pop(0) if len(pauses) == self._KEPT else None
        pauses.append(seconds)
        self._limit = None
        if gone != seconds:  # as it is where each window has events
            if gone is not None:
                del ascending[bisect_left(ascending, gone)]
            insort(ascending, seconds)

    def _limit_seconds(self) -> float:
        if self._limit is None:
            usual = self._ascending[-2 if len(self._ascending) >= self._MANY else -1]
            self._limit = max(self._LEAST_SECONDS, self.rule.threshold * usual, self._far_beyond_recent())
        return self._limit

    def _far_beyond_recent(self) -> float:
        pauses = self.memory.pauses
        recent, before = pauses[-self._RECENT :], pauses[-self._RECENT - self._BEFORE : -self._RECENT]
        mean, mean_before = fmean(recent), fmean(before)
        deviation = math.sqrt(fmean([(pause - mean) ** 2 for pause in recent]))
        most = self._MOST_GROWN
        grown = most if mean >= most * mean_before else max(1.0, mean / mean_before)
        return grown * (mean + self._SIGMAS * deviation)


class RestartedMemory(msgspec.Struct):
    """What ``Restarted`` keeps.

    Attributes:
        at: When the cache was last lost, seconds; None where no incident is open.
        baseline: What was normal before.
    """

    at: float | None = None
    baseline: Baseline | None = None


class Restarted:
    """Find that the cache was lost, and whether it has become what it was before.

    It is good again once the hit ratio since then is near its baseline of before. So a cache that never
    comes back, as it is smaller or asked for something else, stays an incident. Where there is no baseline,
    it is over after ``clear_seconds``.
    """

    _NEAR_SIGMAS = 1.2
    needs_piece = False

    def __init__(self, rule: Rule, memory: RestartedMemory) -> None:
        self.rule = rule
        self.memory = memory

    def over(self, view: View) -> None:
        """Take note that the incident is over."""
        self.memory.at = self.memory.baseline = None

    def look(self, view: View) -> Finding | None:
        """Judge the evidence; return a finding, or None if there is no new evidence."""
        memory = self.memory
        if view.lost_cache:
            if memory.baseline is None:
                memory.baseline = baseline_of(view.log, "hit_logit", 0)
            memory.at = view.now
            return self._finding(view, view.now, bad=True, good=False)
        if memory.at is None:
            return None
        if memory.baseline is None:
            return self._finding(view, memory.at, bad=False, good=True)
        if view.piece is None:
            return None
        series = values(view.log.last(SHORT, memory.at), "hit_logit")
        if len(series) < SHORT - 1:
            return self._finding(view, memory.at, bad=True, good=False)
        fall = memory.baseline.level - median(series)
        good = fall < max(self.rule.clear, self._NEAR_SIGMAS * memory.baseline.noise(SHORT, NOISE_FLOOR))
        return self._finding(
            view, memory.at, bad=not good, good=good, value=ratio_of(median(series)), fall=fall
        )

    def _finding(
        self, view: View, since: float, *, bad: bool, good: bool, value: float = 0.0, fall: float = 0.0
    ) -> Finding:
        baseline = self.memory.baseline
        before = math.nan if baseline is None else ratio_of(baseline.level)
        evidence = ""
        if baseline is not None and view.closed is not None and view.closed.hits_known:
            evidence = f"hit ratio {value:.2f} since then, {before:.2f} before"
        return Finding(
            bad=bad,
            good=good,
            value=value,
            limit=0.0,
            measure=fall,
            since=since,
            baseline=before,
            evidence=evidence,
        )


class Premature:
    """Find a cache too small for what it is asked for, without any past to compare with.

    In each third of the last thirty pieces of evidence, the share ``threshold`` of evictions was premature,
    and of all lookups 0.75 of that share asked for what had been evicted: where most is found, a large share
    of few evictions means little. Good again where less than ``clear`` of the evictions are premature, or
    half as many lookups ask for what had been evicted: where traffic varies, a little less means nothing.
    Where no hit was ever reported, lookups are not known, and both shares of evictions are 1.2 times as high.
    """

    _LEAST_EVICTIONS = 50  # in a third
    _OF_LOOKUPS = 0.75
    _WITHOUT_HITS = 1.2
    needs_piece = True

    def __init__(self, rule: Rule, memory: NoMemory) -> None:
        self.rule = rule
        self.memory = memory

    def over(self, view: View) -> None:
        """Keep nothing of an incident."""

    def look(self, view: View) -> Finding | None:
        """Judge the evidence; return a finding, or None if there is no new evidence."""
        if view.piece is None:
            return None
        pieces = view.log.last(LONG, view.cold_since)
        evictions = sum(piece.evictions for piece in pieces)
        if len(pieces) < LONG or not evictions:
            return None
        hits_known = view.closed is not None and view.closed.hits_known
        scale = 1.0 if hits_known else self._WITHOUT_HITS
        needed, clear = scale * self.rule.threshold, scale * self.rule.clear
        thirds = [pieces[i : i + LONG // 3] for i in range(0, LONG, LONG // 3)]
        returns = sum(piece.premature for piece in pieces)
        share, lookups = returns / evictions, sum(piece.lookups for piece in pieces)
        if hits_known:
            evidence = (
                f"{returns / lookups:.0%} of {lookups:,} lookups asked for blocks that had been evicted"
            )
        else:
            evidence = (
                f"{returns:,} of {evictions:,} evicted blocks were asked for again; hits are not reported"
            )
        return Finding(
            bad=all(self._is_bad(third, needed) for third in thirds),
            good=share < clear or returns / lookups < self._OF_LOOKUPS * self.rule.threshold / 2,
            value=share,
            limit=needed,
            measure=share,
            since=pieces[0].start,
            evidence=evidence,
        )

    def _is_bad(self, pieces: list[Evidence], needed: float) -> bool:
        evictions, returns = (
            sum(piece.evictions for piece in pieces),
            sum(piece.premature for piece in pieces),
        )
        lookups = sum(piece.lookups for piece in pieces)
        return (
            evictions >= self._LEAST_EVICTIONS
            and returns >= needed * evictions
            and returns >= self._OF_LOOKUPS * self.rule.threshold * lookups
        )


_KINDS: dict[str, tuple[Callable[[Rule, Any], Condition], type[msgspec.Struct]]] = {
    "drop": (Drop, DropMemory),
    "above": (Threshold, ThresholdMemory),
    "below": (Threshold, ThresholdMemory),
    "occurs": (Occurs, OccursMemory),
    "silent": (Silent, SilentMemory),
    "restarted": (Restarted, RestartedMemory),
    "premature": (Premature, NoMemory),
}


def _as_saved(kind: type, array: Any) -> Any:
    return array


def condition_of(rule: Rule, memory: dict[str, Any] | None = None) -> Condition:
    """Return a condition of the kind that a rule names, with the memory of one that was saved, or none."""
    kind, memory_type = _KINDS[rule.condition]
    return kind(rule, msgspec.convert(memory, memory_type, dec_hook=_as_saved) if memory else memory_type())
