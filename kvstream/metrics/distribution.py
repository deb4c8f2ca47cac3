"""Distribution: a histogram in few buckets, to be drawn."""

import msgspec

from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.metrics.measurements import Measurements


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """A histogram in buckets that double; zeros count in the lowest.

    Attributes:
        upper_seconds: Upper bound of each bucket, ascending.
        counts: Values in it.
    """

    upper_seconds: list[float]
    counts: list[int]


def distributions(seen: Measurements, hits_are_known: bool) -> dict[str, Distribution]:
    """Return lifetimes, idle times, first reuses and reuse gaps, by name; lifetimes alone without hits."""
    nothing = Measurements.empty()
    return {
        "lifetime": _distribution(seen.lifetime),
        **{
            name: _distribution(getattr(seen if hits_are_known else nothing, name))
            for name in ("idle", "first_reuse", "reuse_gap")
        },
    }


def _distribution(histogram: ExponentialHistogram) -> Distribution:
    """Return the buckets of a histogram, joined as far as they belong to one factor of two."""
    counts: dict[int, int] = {}
    for at, count in enumerate(histogram.counts.tolist()):
        power = (histogram.offset + at) >> histogram.scale
        counts[power] = counts.get(power, 0) + count
    if histogram.zero_count:
        lowest = min(counts, default=0)
        counts[lowest] = counts.get(lowest, 0) + histogram.zero_count
    powers = range(min(counts, default=0), max(counts, default=-1) + 1)
    return Distribution(
        upper_seconds=[2.0 ** (power + 1) for power in powers], counts=[counts.get(p, 0) for p in powers]
    )
