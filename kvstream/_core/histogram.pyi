from kvstream.events.frame import I64

class BucketCounts:
    scale: int
    offset: int
    zero_count: int
    count: int
    sum_ns: int
    min_ns: int
    max_ns: int
    counts: I64
    def __init__(self, scale: int = 4) -> None: ...
    def add(
        self, count: int, zero_count: int, offset: int, counts: I64, sum_ns: int, min_ns: int, max_ns: int
    ) -> None: ...
    def merge(self, other: BucketCounts) -> None: ...
    def quantile(self, q: float) -> float: ...
    def count_above(self, power: int) -> int: ...
