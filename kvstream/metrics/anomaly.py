"""Anomalies: one window far from those before it, and a level that has shifted for good."""

import math
from collections.abc import Sequence
from statistics import median  # of a few dozen values, at a tenth of what numpy's takes

import msgspec

_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_LEAST_SPREAD = 0.05


def robust_spread(values: Sequence[float]) -> float:
    """1.4826 × the median absolute deviation, but at least 5 % of the median.

    The floor keeps a baseline that hardly moves from making every small step an anomaly.
    """
    middle = median(values)
    spread = _MAD_TO_SIGMA * median([abs(value - middle) for value in values])
    return max(spread, _LEAST_SPREAD * abs(middle))


def robust_z(value: float, baseline: Sequence[float]) -> float:
    """How many robust standard deviations a value lies from the baseline's median.

    Source: Iglewicz and Hoaglin (1993), How to Detect and Handle Outliers.
    """
    if not baseline:
        return 0.0
    distance = value - median(baseline)
    spread = robust_spread(baseline)
    if spread == 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / spread


class PageHinkley(msgspec.Struct):
    """Detects that the mean of a series has shifted, up or down.

    Attributes:
        delta: Change that is tolerated, in the series's own unit.
        threshold: Sum of deviations beyond which a shift is reported.
        mean: Mean since the start or the last shift.
        count: Values since then.

    Source: Page (1954), Continuous inspection schemes; Hinkley (1971).
    """

    delta: float
    threshold: float
    mean: float = 0.0
    count: int = 0
    _up: float = 0.0
    _down: float = 0.0

    def update(self, value: float) -> str | None:
        """Adds a value; ``"up"`` or ``"down"`` when a shift is found, which also starts afresh."""
        self.count += 1
        self.mean += (value - self.mean) / self.count
        self._up = max(0.0, self._up + value - self.mean - self.delta)
        self._down = max(0.0, self._down + self.mean - value - self.delta)
        if self._up <= self.threshold and self._down <= self.threshold:
            return None
        found = "up" if self._up > self._down else "down"
        self.mean, self.count, self._up, self._down = 0.0, 0, 0.0, 0.0
        return found


def last_shift(values: Sequence[float]) -> str | None:
    """``"up"`` or ``"down"`` for the last shift of a series's level; None if it has not shifted.

    Tolerates half a robust standard deviation a value and reports after a sum of eight.
    """
    spread = robust_spread(values) if values else 0.0
    if spread == 0.0:
        return None
    detector = PageHinkley(delta=0.5 * spread, threshold=8.0 * spread)
    shifts = [found for value in values if (found := detector.update(value))]
    return shifts[-1] if shifts else None
