"""Trends: a slope, and whether it is more than chance in an autocorrelated series."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

MIN_POINTS = 12
_LEAST_EFFECTIVE = 10.0  # independent points that as many dependent ones must be worth
_BLOCK = 20  # values that are averaged to see how a series wanders
_LEAST_BLOCKS = 6


class Trend(msgspec.Struct, frozen=True):
    """The direction and slope of a series.

    Attributes:
        direction: ``rising``, ``falling``, or ``flat`` when the slope could be chance.
        slope: Change a second.
        relative_change: Change over the whole span, relative to the series's median.
        p_value: Probability of such a slope, or a steeper one, without any trend.
        points: Values that the trend was fitted to.
    """

    direction: str = "flat"
    slope: float = 0.0
    relative_change: float = 0.0
    p_value: float = 1.0
    points: int = 0


def detect_trend(
    seconds: Sequence[float],
    values: Sequence[float],
    alpha: float = 0.01,
    before: Sequence[float] = (),
) -> Trend:
    """Fit a line to a series of windowed values, and test its slope.

    Neighbouring windows resemble each other, so that a series wanders without going anywhere. The errors
    of the line are taken as an AR(1) process, with a coefficient estimated on the safe side
    (``autocorrelation``); the line is fitted by generalised least squares (``fit_line``). What wanders so
    slowly that neighbours hardly show it shows in values of before, if there are any (``wander``): the error
    is then at least what follows from that.

    Args:
        seconds: Times of the values, ascending.
        values: The values, without gaps.
        alpha: Largest p-value that counts as a trend.
        before: Values before these, oldest first, at about the same intervals.

    Returns:
        A ``Trend``. Its direction is ``flat`` below twelve points, where so much autocorrelation leaves
        fewer than ten independent points, and above ``alpha``.
    """
    n = len(values)
    if n < MIN_POINTS:
        return Trend(points=n)
    y = np.asarray(values, dtype=np.float64)
    x = np.asarray(seconds, dtype=np.float64)
    span = float(x[-1] - x[0])
    if span <= 0.0 or float(np.ptp(y)) == 0.0:
        return Trend(points=n)
    x -= x.mean()
    rho = autocorrelation(x, y)
    slope, error = fit_line(x, y, rho)
    if before:
        error = max(error, math.sqrt(wander(np.concatenate([before, y])) / float(x @ x)))
    p_value = math.erfc(abs(slope) / error / math.sqrt(2)) if error else 0.0
    is_known = n * (1.0 - rho) / (1.0 + rho) >= _LEAST_EFFECTIVE
    direction = "flat"
    if is_known and p_value <= alpha and slope:
        direction = "rising" if slope > 0 else "falling"
    level = abs(float(np.median(y)))
    return Trend(direction, slope, slope * span / level if level else 0.0, p_value, n)


def autocorrelation(x: F64, y: F64) -> float:
    """Estimate the first-order autocorrelation around a line, on the safe side, in [0, 0.99].

    Args:
        x: Times around their mean, shape (n,).
        y: Values, shape (n,).

    Returns:
        The r of which the residuals of ordinary least squares would show r - (2 + 4 r) / n on average,
        plus one standard error √((1 - r²) / n).

    Source: the bias is that of Kendall (1954), Note on bias in the estimation of autocorrelation, for a
    series with a line taken off.
    """
    n = len(y)
    centred = y - y.mean()
    residuals = centred - x * (x @ centred) / (x @ x)
    power = residuals @ residuals
    if power <= 1e-24 * (centred @ centred):  # a line without noise
        return 0.0
    r = float(residuals[1:] @ residuals[:-1] / power)
    r = (n * r + 2.0) / (n - 4.0)
    r += math.sqrt(max(0.0, 1.0 - r * r) / n)
    return min(max(r, 0.0), 0.99)


def wander(values: F64) -> float:
    """Estimate the long-run variance of a series: that of the mean of n values, times n.

    It is that of second differences between means of twenty values each, so that a line does not count.

    Args:
        values: The series, shape (n,).

    Returns:
        The variance; 0 below 120 values.

    Source: von Neumann and others (1941), The mean square successive difference, applied to batch means.
    """
    blocks = len(values) // _BLOCK
    if blocks < _LEAST_BLOCKS:
        return 0.0
    means = values[len(values) - blocks * _BLOCK :].reshape(blocks, _BLOCK).mean(axis=1)
    return _BLOCK * float(np.mean(np.diff(means, 2) ** 2)) / 6.0


def fit_line(x: F64, y: F64, rho: float) -> tuple[float, float]:
    """Fit a line by generalised least squares to values with AR(1) errors.

    Args:
        x: Times around their mean, shape (n,).
        y: Values, shape (n,).
        rho: Autocorrelation of neighbours.

    Returns:
        The slope and its standard error.

    Source: Prais and Winsten (1954), Trend estimators and serial correlation.
    """
    columns = np.stack([np.ones(len(x)), x, y])
    white = columns.copy()
    white[:, 0] *= math.sqrt(1.0 - rho * rho)
    white[:, 1:] -= rho * columns[:, :-1]
    one, time, value = white
    oo, ot, tt = float(one @ one), float(one @ time), float(time @ time)
    ov, tv = float(one @ value), float(time @ value)
    determinant = oo * tt - ot * ot
    slope = (oo * tv - ot * ov) / determinant
    level = (tt * ov - ot * tv) / determinant
    errors = value - level * one - slope * time
    return slope, math.sqrt(float(errors @ errors) / (len(x) - 2) * oo / determinant)
