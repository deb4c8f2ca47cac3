"""Evidence: what closed windows hold, added up until there is enough of it to judge by.

A window is a matter of seconds, and in a second an engine may have served forty requests or none. So windows
are added up to pieces of evidence of about equal weight: each spans ten seconds at least, five windows with
lookups and fifty lookups. At 40 requests a second that is every ten seconds, at 0.3 every seventeen.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from statistics import mean, median

import msgspec

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
        never_reused: Evicted generations without a hit.
        lifetimes: Evicted generations whose lifetime was observed.
        lifetime_logs: Sum of the logarithms of their windows' median lifetimes, in lookups.
        calm: Whether it counts as normal: the cache was warm and no incident open.
    """

    start: float
    end: float
    active_windows: int = 0
    lookups: int = 0
    hits: int = 0
    evictions: int = 0
    premature: int = 0
    never_reused: int = 0
    lifetimes: int = 0
    lifetime_logs: float = 0.0
    calm: bool = True

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
        self.active_windows += seen.lookups > 0
        self.lookups += seen.lookups
        self.hits += seen.accesses
        self.evictions += seen.total_evictions
        self.premature += seen.return_time.count
        self.never_reused += seen.never_accessed
        self.lifetimes += seen.lifetime.count
        self.lifetime_logs += seen.lifetime.count * math.log(max(1.0, lifetime_lookups))


_PRIOR_SHARE = 0.03

Measure = Callable[[Evidence], float | None]
"""Reads a number off a piece of evidence; None where it says nothing of it."""


def hit_logit(evidence: Evidence) -> float:
    """Return the logit of the hit ratio: 0.8 to 0.45 is about as far as 0.17 to 0.03.

    A small share of hits and of misses is added: where few requests come, a piece in which nothing was found
    is nothing out of the ordinary.
    """
    prior = _PRIOR_SHARE * evidence.lookups + 0.5
    return math.log((evidence.hits + prior) / (evidence.lookups - evidence.hits + prior))


def ratio_of(logit: float) -> float:
    """Return the hit ratio that ``hit_logit`` has made a logit of."""
    share = 1.0 / (1.0 + math.exp(-logit))
    return min(1.0, max(0.0, share * (1 + 2 * _PRIOR_SHARE) - _PRIOR_SHARE))


def log_lifetime(evidence: Evidence) -> float | None:
    """Return the mean logarithm of the lifetime in lookups; None where hardly anything was evicted."""
    return evidence.lifetime_logs / evidence.lifetimes if evidence.lifetimes >= 3 else None


class EvidenceLog:
    """The evidence of one cache, newest last; the last ``KEPT`` pieces are kept."""

    def __init__(self) -> None:
        self.pieces: deque[Evidence] = deque(maxlen=KEPT)
        self._open: Evidence | None = None

    def add(self, start: float, end: float, seen: Measurements, lifetime_lookups: float) -> Evidence | None:
        """Add a window; return the piece of evidence that is complete with it, if one is."""
        if self._open is None:
            self._open = Evidence(start, end)
        piece = self._open
        piece.add(end, seen, lifetime_lookups)
        if not piece.is_enough:
            return None
        self._open = None
        self.pieces.append(piece)
        return piece

    def cut(self) -> None:
        """Drop the piece that is not complete, as what comes now is another matter."""
        self._open = None

    def last(self, count: int, since: float = -math.inf) -> list[Evidence]:
        """Return the last pieces that began at ``since`` or later, oldest first, at most ``count``."""
        newest = list(islice(reversed(self.pieces), count))
        return [piece for piece in reversed(newest) if piece.start >= since]

    def before(self, last: int) -> list[Evidence]:
        """Return all pieces but the ``last`` ones, oldest first."""
        return list(islice(self.pieces, max(0, len(self.pieces) - last)))

    def mark_incident(self, since: float) -> None:
        """Take evidence from ``since`` on as that of an incident, not of normal operation."""
        for piece in reversed(self.pieces):
            if piece.end <= since:
                return
            piece.calm = False


def values(pieces: Iterable[Evidence], measure: Measure) -> list[float]:
    """Return what is known of a measure, a number a piece."""
    return [value for piece in pieces if (value := measure(piece)) is not None]


class Baseline(msgspec.Struct, frozen=True):
    """What is normal for one engine.

    Attributes:
        level: Median of the measure.
        noise: Standard deviation of a median over ``span`` pieces, as this engine's own varies.
        established: Whether it rests on five minutes or more.
        lookups: Lookups that it rests on.
    """

    level: float
    noise: float
    established: bool
    lookups: int


_ESTABLISHED = 30
_PROVISIONAL = 10
_NOISE_UNKNOWN = 0.35
_MAD_TO_SIGMA, _MEAN_TO_SIGMA = 1.4826, 1.2533  # from absolute values of a normal distribution
_MEAN_SHARE = 0.9
_MEDIAN_ERROR = 1.2533  # standard error of a median, in that of a mean
_INDEPENDENT_SHARE = 0.8
_DRIFT = 1.15  # neighbouring pieces are not independent


def baseline_of(pieces: list[Evidence], measure: Measure, span: int, floor: float) -> Baseline | None:
    """Return what was normal in some evidence, oldest first; None if it is too little.

    The noise is that of differences between medians ``span`` pieces apart, so that a slow drift, which a
    spread around the level would take for noise, does not hide in it.

    Args:
        pieces: Evidence from before what is to be judged.
        measure: What is looked at.
        span: Pieces whose median is judged.
        floor: Least noise.
    """
    calm = [piece for piece in pieces if piece.calm]
    series = values(calm, measure)
    if len(series) < _PROVISIONAL:
        return None
    if len(series) >= 20:  # a cache that is warming up has not reached its level yet
        level = median(series)
        reached = next(place for place, value in enumerate(series) if value >= level)
        series = series[min(reached, len(series) // 3) :]
    medians = [median(series[i : i + span]) for i in range(len(series) - span + 1)]
    steps = [abs(after - before) for before, after in zip(medians, medians[span:], strict=False)]
    # Even where medians hardly moved so far, they vary as much as pieces that are independent make them.
    turns = [(after - before) ** 2 for before, after in pairwise(series)]
    independent = math.sqrt(mean(turns) / 2) * _MEDIAN_ERROR / math.sqrt(span)
    noise = max(_NOISE_UNKNOWN, independent)
    if len(steps) >= span:
        # The median alone is 0 where a measure takes few values, as that of few requests does.
        step = max(_MAD_TO_SIGMA * median(steps), _MEAN_SHARE * _MEAN_TO_SIGMA * mean(steps))
        noise = max(floor, _DRIFT * step / math.sqrt(2), _INDEPENDENT_SHARE * independent)
    return Baseline(median(series), noise, len(series) >= _ESTABLISHED, sum(piece.lookups for piece in calm))
