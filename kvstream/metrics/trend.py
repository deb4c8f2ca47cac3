"""Trends: a robust slope, and whether it is more than chance."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.metrics.anomaly import last_shift

F64 = npt.NDArray[np.float64]

MIN_POINTS = 8


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


def theil_sen(x: F64, y: F64) -> float:
    """Median of the slopes between all pairs of points.

    Source: Sen (1968), Estimates of the regression coefficient based on Kendall's tau.
    """
    i, j = np.triu_indices(len(x), 1)
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
    i, j = np.triu_indices(n, 1)
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
        values: The values, without gaps.
        alpha: Largest p-value that counts as a trend.

    Returns:
        A ``Trend``; its direction is ``flat`` below eight points or above ``alpha``.
    """
    y = np.asarray(values, dtype=np.float64)
    if len(y) < MIN_POINTS:
        return Trend(points=len(y))
    x = np.asarray(seconds, dtype=np.float64)
    x = x - x[0]
    slope = theil_sen(x, y)
    p_value = mann_kendall(y)[1]
    level = abs(float(np.median(y)))
    relative = slope * float(x[-1]) / level if level else 0.0
    direction = "flat"
    if p_value <= alpha and slope:
        direction = "rising" if slope > 0 else "falling"
    return Trend(direction, slope, relative, p_value, len(y), last_shift(y.tolist()))
