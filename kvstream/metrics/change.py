"""Whether a ratio of sums differs between two spans by more than chance."""

import math

import msgspec
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

MIN_BINS = 20
"""Intervals with evidence that a span needs to be judged."""
_LEAST_EFFECTIVE = 16.0  # independent intervals that a span must be worth
_WINDOW = 5.0  # autocorrelation times that autocorrelations are summed over
_CONFIDENCE = 1.959964  # standard errors to each side: 95 %


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """How a figure differs between two spans.

    Attributes:
        before: The figure of the first span; None if it is not known.
        after: That of the second.
        low: Lower end of the 95 % confidence interval of ``after - before``; None without enough evidence.
        high: Its upper end.
        p_value: Probability of such a difference, or a larger one, by chance; None likewise.
    """

    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def ratio_change(before: tuple[F64, F64], after: tuple[F64, F64]) -> Change:
    """Compare Σ numerator / Σ denominator of two spans, by a z-test.

    Neighbouring intervals resemble each other, and bursts follow each other, so that intervals cannot be
    taken as independent: n of them are worth n / τ, with τ their integrated autocorrelation time.

    Args:
        before: Numerators and denominators of the first span's intervals, each of shape (n,).
        after: Those of the second span, each of shape (m,).

    Source: the variance of a ratio as by Cochran (1977), Sampling Techniques, chapter 6, times τ.
    """
    first, second = _ratio(*before), _ratio(*after)
    errors = [_standard_error(*span) for span in (before, after)]
    if first is None or second is None or errors[0] is None or errors[1] is None:
        return Change(before=first, after=second)
    difference, error = second - first, math.hypot(errors[0], errors[1])
    away = abs(difference) / error if error else (math.inf if difference else 0.0)  # in standard errors
    return Change(
        before=first,
        after=second,
        low=difference - _CONFIDENCE * error,
        high=difference + _CONFIDENCE * error,
        p_value=math.erfc(away / math.sqrt(2)),
    )


def autocorrelation_time(values: F64) -> float:
    """Estimate the integrated autocorrelation time of a series, on the safe side; 1 or more.

    Returns:
        τ = 1 + 2 Σ ρ(k) for k up to the first K ≥ 5 τ(K), plus one standard error of it,
        τ √(2 (2 K + 1) / n).

    Source: Sokal (1997), Monte Carlo methods in statistical mechanics, section 3, after Madras and Sokal
    (1988), The pivot algorithm, Journal of Statistical Physics 50.
    """
    n = len(values)
    centred = values - values.mean()
    power = np.fft.rfft(centred, 2 * n)  # padded, so that the end does not meet the beginning
    correlations = np.fft.irfft(power * np.conj(power))[:n]
    if correlations[0] <= 0.0:
        return 1.0
    times = 2.0 * np.cumsum(correlations / correlations[0]) - 1.0
    enough = np.flatnonzero(np.arange(n) >= _WINDOW * times)
    window = int(enough[0]) if len(enough) else n - 1
    time = max(1.0, float(times[window]))
    return time * (1.0 + math.sqrt(2.0 * (2 * window + 1) / n))


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for their number, in their order.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6.

    Example:
        >>> holm([0.01, 0.04])
        [0.02, 0.04]
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _ratio(numerators: F64, denominators: F64) -> float | None:
    total = float(denominators.sum())
    return float(numerators.sum()) / total if total else None


def _standard_error(numerators: F64, denominators: F64) -> float | None:
    """Return the standard error of the ratio of sums; None without enough evidence."""
    n, ratio = len(denominators), _ratio(numerators, denominators)
    if ratio is None or np.count_nonzero(denominators) < MIN_BINS:
        return None
    residuals = numerators - ratio * denominators
    if float(residuals @ residuals) <= 1e-24 * float(numerators @ numerators):  # no noise at all
        return 0.0
    time = autocorrelation_time(residuals)
    if n / time < _LEAST_EFFECTIVE:
        return None
    return float(residuals.std(ddof=1)) * math.sqrt(n * time) / float(denominators.sum())
