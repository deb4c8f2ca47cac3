from typing import final

import numpy as np
import numpy.typing as npt

from kvstream._core.columns import Columns
from kvstream.events.frame import I64, U16

class BucketCounts:
    scale: int
    offset: int
    zero_count: int
    count: int
    sum_ns: int
    min_ns: int
    max_ns: int
    @property
    def counts(self) -> I64: ...
    def __init__(self, scale: int = 4) -> None: ...
    def add(
        self, count: int, zero_count: int, offset: int, counts: I64, sum_ns: int, min_ns: int, max_ns: int
    ) -> None: ...
    def merge(self, other: BucketCounts) -> None: ...
    def quantile(self, q: float) -> float: ...
    def count_above(self, power: int) -> int: ...

@final
class IntervalBuckets:
    def __init__(
        self,
        bounds: I64,
        digits: int,
        lowest: npt.NDArray[np.int32],
        exponential: npt.NDArray[np.int32],
        classic: npt.NDArray[np.int32],
    ) -> None: ...
    def count(self, values: I64, exponential_counts: BucketCounts, classic_counts: I64) -> None: ...
    def count_rows(self, values: I64, rows: U16, row_count: int) -> tuple[int, I64, I64, I64, list[int]]: ...

@final
class IntervalCounter:
    def __init__(
        self, buckets: IntervalBuckets, lifetime: I64, idle: I64, first_reuse: I64, reuse_gap: I64
    ) -> None: ...
    def enter(
        self,
        lifetime: BucketCounts,
        idle: BucketCounts,
        first_reuse: BucketCounts,
        reuse_gap: BucketCounts,
        return_time: BucketCounts,
        return_distance: BucketCounts,
    ) -> None: ...
    def count_returns(self, times: I64, distances: I64) -> None: ...
    def count(self, columns: Columns) -> None: ...

def window_runs(ts: I64, window_ns: int, stands: int | None, late: int) -> list[tuple[int, int, int]]: ...
def times_range(ts: I64) -> tuple[int, int]: ...
