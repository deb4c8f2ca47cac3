"""Buckets so fine that exponential ones and vLLM's are sums of them: intervals are counted once for both."""

import math
from functools import cache

import msgspec
import numpy as np

from kvstream._core.buckets import IntervalBuckets
from kvstream.events.frame import I64

VLLM_BUCKETS_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
)
"""Upper bounds of vLLM's kv_block_* histograms (vllm/v1/metrics/loggers.py)."""

VLLM_BUCKETS_NS = np.array([math.floor(bound * 1e9) for bound in VLLM_BUCKETS_SECONDS], dtype=np.int64)
"""The same in ns; a whole number of ns is at most a bound exactly if it is at most the one here."""

_POWERS = 53  # of two, up to 104 days, that cells are made for


class Buckets(msgspec.Struct, frozen=True, eq=False):
    """The buckets of one scale.

    Attributes:
        scale: Scale of the exponential buckets.
        bounds: Upper bounds, ns, ascending; the first is 0.
        exponential: Exponential bucket that each is a part of, but for the first, which none is.
        classic: Bucket of vLLM's that each is a part of.
        core: What counts in them.
    """

    scale: int
    bounds: I64
    exponential: I64
    classic: I64
    core: IntervalBuckets


@cache
def buckets(scale: int) -> Buckets:
    """Return the buckets into which exponential ones of a scale and vLLM's are cut."""
    offset, exponential = upper_bounds(scale)
    bounds = np.unique(np.concatenate([[0], exponential, VLLM_BUCKETS_NS]))
    digits = scale + 2
    while True:
        cells = np.arange(_POWERS << digits)
        powers, rest = cells >> digits, cells & (1 << digits) - 1
        starts = np.ceil(np.ldexp(1.0 + rest / (1 << digits), powers)).astype(np.int64)
        lowest = bounds.searchsorted(starts)
        if int(np.diff(lowest).max()) <= 1:
            break
        digits += 1
    exponential_of = offset + exponential.searchsorted(bounds)
    classic_of = VLLM_BUCKETS_NS.searchsorted(bounds)
    of_fine = (column.astype(np.int32) for column in (lowest, exponential_of, classic_of))
    core = IntervalBuckets(bounds, digits, *of_fine)
    return Buckets(scale, bounds, exponential_of, classic_of, core)


@cache
def upper_bounds(scale: int) -> tuple[int, I64]:
    """Return the bucket of 1 ns, and the upper bounds in whole ns of that and all further buckets."""
    lowest = math.ceil(math.log2(1e-9) * 2**scale) - 1
    highest = math.ceil(math.log2(2**63 / 1e9) * 2**scale)
    bounds = np.exp2(np.arange(lowest + 1, highest + 1) / 2**scale) * 1e9
    return lowest, np.append(bounds[bounds < 2**63].astype(np.int64), 2**63 - 1)
