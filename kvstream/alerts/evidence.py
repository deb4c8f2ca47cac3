"""Evidence: what closed windows hold, added up until there is enough of it to judge by.

A window is a matter of seconds, and in a second an engine may have served forty requests or none. So windows
are added up to pieces of evidence of about equal weight: each spans ten seconds at least, five windows with
lookups and fifty lookups. At 40 requests a second that is every ten seconds, at 0.3 every seventeen.
"""

import math
from collections import deque
from collections.abc import Collection
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.metrics.measurements import Measurements

MIN_SECONDS = 10.0
MIN_ACTIVE_WINDOWS = 5  # about as many requests: those of one request are not independent
MIN_LOOKUPS = 50
KEPT = 360
"""Pieces of evidence that are kept: an hour at ten seconds each, longer where traffic is slow."""


class Evidence(msgspec.Struct):
    """What was seen in one stretch of time.

    Attributes:
        start: When it begins, seconds.
        end: When it ends, seconds.
        active_windows: Windows with lookups in it.
        lookups: Blocks that were asked for.
        hits: Blocks that were found.
        evictions: Generations ended other than by a clear.
        premature: Evicted content that came back.
        lifetimes: Evicted generations with an observed lifetime.
        lifetime_logs: Sum of the logarithms of their windows' median lifetimes, in lookups.
    """

    start: float
    end: float
    active_windows: int = 0
    lookups: int = 0
    hits: int = 0
    evictions: int = 0
    premature: int = 0
    lifetimes: int = 0
    lifetime_logs: float = 0.0

    @property
    def is_enough(self) -> bool:
        """Return whether it can be judged by."""
        return (
            self.end - self.start >= MIN_SECONDS
            and self.active_windows >= MIN_ACTIVE_WINDOWS
            and self.lookups >= MIN_LOOKUPS
        )

    def add(self, end: float, seen: Measurements, lifetime_lookups: float) -> None:
        """Add a window that ends at ``end`` seconds, its median lifetime in lookups beside it."""
        self.end = end
        lookups = seen.lookups
        self.active_windows += lookups > 0
        self.lookups += lookups
        self.hits += seen.accesses
        self.evictions += seen.total_evictions
        self.premature += seen.return_time.count
        lifetimes = seen.lifetime.count
        self.lifetimes += lifetimes
        self.lifetime_logs += lifetimes * math.log(max(1.0, lifetime_lookups))

    @property
    def hit_ratio(self) -> float:
        """Return the share of the lookups that were hits."""
        return self.hits / self.lookups

    @property
    def hit_logit(self) -> float:
        """Return the logit of the hit ratio: 0.8 to 0.45 is about as far as 0.17 to 0.03.

        A small share of hits and of misses is added: where few requests come, a piece in which nothing was
        found is nothing out of the ordinary.
        """
        prior = _PRIOR_SHARE * self.lookups + 0.5
        return math.log((self.hits + prior) / (self.lookups - self.hits + prior))

    @property
    def log_lifetime(self) -> float:
        """Return the mean logarithm of the lifetime in lookups; NaN where hardly anything was evicted."""
        return self.lifetime_logs / self.lifetimes if self.lifetimes >= 3 else math.nan


F64 = npt.NDArray[np.float64]

Measure = Literal["hit_logit", "log_lifetime", "hit_ratio", "lookups"]
"""A number that a piece of evidence gives; NaN where it says nothing of it."""

_MEASURES: tuple[Measure, ...] = ("hit_logit", "log_lifetime", "hit_ratio", "lookups")

_ROW = {measure: row for row, measure in enumerate(_MEASURES)}

_COUNTS = ("active_windows", "lookups", "hits", "evictions", "premature", "lifetimes")
_TIMES = ("start", "end", "lifetime_logs")


def save_evidence(pieces: Collection[Evidence]) -> dict[str, Any]:
    """Return evidence as two arrays, a row a piece."""
    counts = [[getattr(piece, name) for name in _COUNTS] for piece in pieces]
    times = [[getattr(piece, name) for name in _TIMES] for piece in pieces]
    return {
        "counts": np.array(counts, dtype=np.int64).reshape(-1, len(_COUNTS)),
        "times": np.array(times, dtype=np.float64).reshape(-1, len(_TIMES)),
    }


def restore_evidence(saved: dict[str, Any]) -> list[Evidence]:
    """Return the evidence that was saved."""
    return [
        Evidence(
            **dict(zip(_TIMES, times, strict=True)),
            **dict(zip(_COUNTS, counts, strict=True)),
        )
        for counts, times in zip(saved["counts"].tolist(), saved["times"].tolist(), strict=True)
    ]


_PRIOR_SHARE = 0.03


def _measured(piece: Evidence) -> list[float]:
    return [getattr(piece, measure) for measure in _MEASURES]


def ratio_of(logit: float) -> float:
    """Return the hit ratio that ``hit_logit`` has made a logit of."""
    share = 1.0 / (1.0 + math.exp(-logit))
    return min(1.0, max(0.0, share * (1 + 2 * _PRIOR_SHARE) - _PRIOR_SHARE))


class EvidenceLog:
    """The evidence of one cache, newest last; the last ``KEPT`` pieces are kept.

    Beside the pieces, their measures stand in columns, as what is normal is a matter of hundreds of them.
    """

    def __init__(self) -> None:
        self.pieces: deque[Evidence] = deque(maxlen=KEPT)
        self._open: Evidence | None = None
        # By measure and piece, the newest at the end: what counts as normal, NaN elsewhere.
        self._normal: F64 = np.full((len(_MEASURES), KEPT), np.nan)

    def add(self, start: float, end: float, seen: Measurements, lifetime_lookups: float) -> Evidence | None:
        """Add a window; return the piece of evidence that is complete with it, if one is."""
        piece = self._open
        if piece is None:
            piece = self._open = Evidence(start, end)
        piece.add(end, seen, lifetime_lookups)
        if not piece.is_enough:
            return None
        self._open = None
        self.pieces.append(piece)
        self._normal[:, :-1] = self._normal[:, 1:]
        self._normal[:, -1] = np.nan
        return piece

    def mark_normal(self) -> None:
        """Take the newest piece as one of normal operation: the cache is warm and no incident open."""
        self._normal[:, -1] = _measured(self.pieces[-1])

    def save(self) -> dict[str, Any]:
        """Return the evidence, as arrays."""
        unfinished = [] if self._open is None else [self._open]
        lookups = self._normal[_MEASURES.index("lookups"), KEPT - len(self.pieces) :]
        return {
            "pieces": save_evidence(self.pieces),
            "normal": ~np.isnan(lookups),
            "open": save_evidence(unfinished),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self.pieces = deque(restore_evidence(saved["pieces"]), maxlen=KEPT)
        for back, (piece, is_normal) in enumerate(
            zip(reversed(self.pieces), reversed(saved["normal"].tolist()), strict=True), 1
        ):
            if is_normal:
                self._normal[:, -back] = _measured(piece)
        unfinished = restore_evidence(saved["open"])
        self._open = unfinished[0] if unfinished else None

    def cut(self) -> None:
        """Drop the piece that is not complete, as what comes now is another matter."""
        self._open = None

    def last(self, count: int, since: float = -math.inf) -> list[Evidence]:
        """Return the last pieces that began at ``since`` or later, oldest first, at most ``count``."""
        newest = range(-min(count, len(self.pieces)), 0)
        return [piece for back in newest if (piece := self.pieces[back]).start >= since]

    def normal(self, measure: Measure, before: int) -> F64:
        """Return a measure of the pieces but for the last ``before``, as far as they count as normal."""
        column: F64 = self._normal[_ROW[measure], max(0, KEPT - len(self.pieces)) : KEPT - before]
        return column.compress(column == column)  # NaN equals nothing

    def mark_incident(self, since: float) -> None:
        """Mark evidence from ``since`` on as part of an incident, not of normal operation."""
        for back, piece in enumerate(reversed(self.pieces), 1):
            if piece.end <= since:
                return
            self._normal[:, -back] = np.nan


def values(pieces: list[Evidence], measure: Measure) -> list[float]:
    """Return what is known of a measure, a number a piece."""
    return [value for piece in pieces if not math.isnan(value := getattr(piece, measure))]


class Baseline(msgspec.Struct, frozen=True, eq=False):
    """What is normal for one engine.

    Attributes:
        level: Median of the measure.
        series: The measure, a number a piece of evidence, oldest first, float64 (n,).
        lookups: Lookups that it rests on.
    """

    level: float
    series: F64
    lookups: int

    @property
    def established(self) -> bool:
        """Return whether it rests on five minutes or more."""
        return len(self.series) >= _ESTABLISHED

    def noise(self, span: int, floor: float) -> float:
        """Return the standard deviation of a median over ``span`` pieces, as this engine's own varies.

        It is that of differences between medians ``span`` pieces apart, so that a slow drift, which a spread
        around the level would take for noise, does not hide in it.

        Args:
            span: Pieces of which the median is judged.
            floor: Least noise.
        """
        series = self.series
        medians = np.median(np.lib.stride_tricks.sliding_window_view(series, span), axis=1)
        steps = np.abs(medians[span:] - medians[:-span])
        # Even where medians hardly moved so far, they vary as much as pieces that are independent make them.
        turns = np.diff(series) ** 2
        independent = math.sqrt(float(turns.mean()) / 2) * _MEDIAN_ERROR / math.sqrt(span)
        if len(steps) < span:
            return max(_NOISE_UNKNOWN, independent)
        # The median alone is 0 where a measure takes few values, as that of few requests does.
        step = max(
            _MAD_TO_SIGMA * float(np.median(steps)), _MEAN_SHARE * _MEAN_TO_SIGMA * float(steps.mean())
        )
        return max(floor, _DRIFT * step / math.sqrt(2), _INDEPENDENT_SHARE * independent)


_ESTABLISHED = 30
_PROVISIONAL = 10
_NOISE_UNKNOWN = 0.35
_MAD_TO_SIGMA, _MEAN_TO_SIGMA = 1.4826, 1.2533  # from absolute values of a normal distribution
_MEAN_SHARE = 0.9
_MEDIAN_ERROR = 1.2533  # standard error of a median, in that of a mean
_INDEPENDENT_SHARE = 0.8
_DRIFT = 1.15  # neighbouring pieces are not independent


def baseline_of(log: EvidenceLog, measure: Measure, before: int, least: float = -math.inf) -> Baseline | None:
    """Return what was normal until some pieces ago; None if that is too little evidence.

    Args:
        log: The evidence.
        measure: What is looked at.
        before: Newest pieces that are left out, as they are what is judged.
        least: Level below which the baseline is of no interest: None may be returned then, at a fraction of
            what medians of some hundred values cost.
    """
    series = log.normal(measure, before)
    if len(series) < _PROVISIONAL:
        return None
    # Of the two thirds that are left of a series at least, the upper half reaches the level.
    if 3 * np.count_nonzero(series >= least) < len(series):
        return None
    level = _median(series)
    if len(series) >= 20:  # a cache that is warming up has not reached its level yet
        reached = int((series >= level).argmax())
        if reached:
            series = series[min(reached, len(series) // 3) :]
            level = _median(series)
    return Baseline(level, series, int(log.normal("lookups", before).sum()))


def _median(series: F64) -> float:
    """Return the median, at a third of what ``np.median`` costs for some hundred values."""
    ordered = np.sort(series)
    count = len(ordered)
    return float(ordered[(count - 1) // 2] + ordered[count // 2]) / 2
