"""Anomalies: windows in which lifetimes were far from the usual."""

from collections.abc import Sequence

import msgspec
import numpy as np

MIN_WINDOWS = 8
"""Windows below which there is nothing to compare one with."""

_SIGMAS_PER_MAD = 1.4826  # of a normal distribution
_SIGMAS_PER_MEAN_DEVIATION = 1.2533
_NANOSECOND = 1e-9


class Anomaly(msgspec.Struct, frozen=True):
    """A window in which lifetimes of evicted blocks were much shorter or longer than usual.

    Attributes:
        window_start: Start of the window, event time in seconds since the Unix epoch.
        median_lifetime_seconds: Median lifetime of the blocks evicted in it.
        z_score: How far that is from the median of all windows, in robust standard deviations; negative
            for shorter lifetimes.
    """

    window_start: float
    median_lifetime_seconds: float
    z_score: float


def lifetime_anomalies(
    starts: Sequence[float], lifetimes: Sequence[float], threshold: float
) -> list[Anomaly]:
    """Return the windows with a robust z-score beyond a threshold, in order.

    Args:
        starts: Starts of windows, seconds since the Unix epoch.
        lifetimes: Their median lifetimes, seconds.
        threshold: Absolute z-score that a window must exceed.

    Returns:
        The anomalies; none below ``MIN_WINDOWS`` windows, or where all windows agree.

    Notes:
        z = (x - median) / (1.4826 MAD), with the mean absolute deviation and 1.2533 in its place where
        more than half of the windows agree.

    Source: Iglewicz and Hoaglin (1993), How to detect and handle outliers.
    """
    if len(lifetimes) < MIN_WINDOWS:
        return []
    values = np.asarray(lifetimes, dtype=np.float64)
    deviations = values - np.median(values)
    distances = np.abs(deviations)
    sigma = _SIGMAS_PER_MAD * np.median(distances) or _SIGMAS_PER_MEAN_DEVIATION * distances.mean()
    if sigma < _NANOSECOND:
        return []
    z_scores = deviations / sigma
    return [
        Anomaly(start, value, z)
        for start, value, z in zip(starts, lifetimes, z_scores.tolist(), strict=True)
        if abs(z) > threshold
    ]
