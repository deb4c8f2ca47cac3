"""Trends: a robust slope, and whether it is more than chance."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import median

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.metrics.anomaly import last_shift

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MIN_POINTS = 8
MOST_POINTS = 240
"""Points that a trend is fitted to, of a longer series means of neighbours."""


class Trend(msgspec.Struct, frozen=True):
    """Where a series is going.

    Attributes:
        direction: ``rising``, ``falling``, or ``flat`` when the slope could be chance.
        slope: Change a second.
        relative_change: Change over the whole span, relative to the series's median.
        p_value: Probability of such an order, or a clearer one, without any trend.
        points: Values that the trend was fitted to.
        shift: ``up`` or ``down`` if the level moved in a step, by Page–Hinkley; the last one counts.
    """

    direction: str = "flat"
    slope: float = 0.0
    relative_change: float = 0.0
    p_value: float = 1.0
    points: int = 0
    shift: str | None = None


@lru_cache(maxsize=8)
def _pairs(n: int) -> tuple[I64, I64]:
    """The places of all pairs of n values, the earlier first, int64 (n (n − 1) / 2,) each."""
    earlier, later = np.triu_indices(n, 1)
    return earlier, later


def theil_sen(x: F64, y: F64) -> float:
    """Median of the slopes between all pairs of points.

    Source: Sen (1968), Estimates of the regression coefficient based on Kendall's tau.
    """
    i, j = _pairs(len(x))
    dx = x[j] - x[i]
    apart = dx != 0
    return float(np.median((y[j] - y[i])[apart] / dx[apart])) if apart.any() else 0.0


def mann_kendall(y: F64) -> tuple[int, float]:
    """Mann–Kendall test for a monotonic trend, corrected for ties and continuity.

    Args:
        y: Values in order of time, shape (n,).

    Returns:
        The statistic S = Σ sign(y_j - y_i) over i < j, and the two-sided p-value of the normal
        approximation.

    Source: Mann (1945); Kendall (1975), Rank Correlation Methods.
    """
    n = len(y)
    i, j = _pairs(n)
    s = int(np.sign(y[j] - y[i]).sum())
    ties = np.unique(y, return_counts=True)[1].astype(np.float64)
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0:
        return s, 1.0
    z = (abs(s) - 1) / math.sqrt(variance) if s else 0.0
    return s, math.erfc(z / math.sqrt(2))


def detect_trend(seconds: Sequence[float], values: Sequence[float], alpha: float = 0.01) -> Trend:
    """The trend of a series of windowed values.

    Args:
        seconds: Times of the values.
        values: The values, without gaps. Of more than 240, means of neighbours are taken.
        alpha: Largest p-value that counts as a trend.

    Returns:
        A ``Trend``; its direction is ``flat`` below eight points or above ``alpha``.
    """
    if len(values) < MIN_POINTS:
        return Trend(points=len(values))
    x, y = _columns(seconds, values)
    slope = theil_sen(x, y)
    p_value = mann_kendall(y)[1]
    direction = "flat"
    if p_value <= alpha and slope:
        direction = "rising" if slope > 0 else "falling"
    return Trend(
        direction, slope, _relative(slope, x, y), p_value, len(values), last_shift([float(v) for v in values])
    )


def significant_change(seconds: Sequence[float], values: Sequence[float], alpha: float = 0.01) -> float:
    """The change over a whole series, as ``Trend.relative_change``; 0 where it could be chance."""
    if len(values) < MIN_POINTS or not median(values):
        return 0.0
    x, y = _columns(seconds, values)
    return _relative(theil_sen(x, y), x, y) if mann_kendall(y)[1] <= alpha else 0.0


def _relative(slope: float, x: F64, y: F64) -> float:
    """The change over the whole span, by the median; 0 where that is 0."""
    level = abs(float(np.median(y)))
    return slope * float(x[-1]) / level if level else 0.0


def _columns(seconds: Sequence[float], values: Sequence[float]) -> tuple[F64, F64]:
    x, y = np.asarray(seconds, dtype=np.float64), np.asarray(values, dtype=np.float64)
    return _thinned(x - x[0]), _thinned(y)


def _thinned(column: F64) -> F64:
    """Means of as many values each as leave at most 240, as the cost grows with the square."""
    each = math.ceil(len(column) / MOST_POINTS)
    if each == 1:
        return column
    means: F64 = column[len(column) % each :].reshape(-1, each).mean(axis=1)
    return means
