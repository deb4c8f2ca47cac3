"""Miss-ratio curves: what hit ratio an LRU cache of any size would have on the accesses seen.

Source: C. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC Construction with SHARDS", FAST 2015
(fixed-size SHARDS with the adjustment of section 5.4); stack distances after Mattson et al., 1970.
"""

import heapq
import math
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from kvstream.blocks.hashing import mix
from kvstream.events.frame import I64

_SCALE = 64  # buckets a factor of two, so that a size is off by 1.1 % at the most
_BUCKETS = 48 * _SCALE
_WHOLE = 2**64


class MissRatioCurve:
    """Follows a sample of the content, chosen by hash, that never grows beyond a bound.

    Where there is no more content than ``samples``, nothing is left out and the curve is exact but for
    the width of a bucket. Beyond, the share of content followed shrinks; distances are scaled up by it.

    Args:
        samples: Contents followed at once; about 300 bytes each.

    Example:
        >>> curve = MissRatioCurve()
        >>> curve.access(np.array([1, 2, 3, 1, 2, 3]))
        >>> [curve.hit_ratio(blocks) for blocks in (2, 3)]
        [0.0, 0.5]
    """

    def __init__(self, samples: int = 8192) -> None:
        self.samples = samples
        self.accesses = 0
        self._threshold = _WHOLE  # content is followed if its hash is below
        self._clock = 0
        self._last: dict[int, int] = {}  # content followed: time of its last access
        self._again: set[int] = set()  # content followed that was accessed more than once
        self._times: list[int] = []  # these times, ascending
        self._hashes: list[tuple[int, int]] = []  # heap of (-hash, content)
        self._weights = np.zeros(_BUCKETS)  # accesses by distance, in sampled accesses of today's rate
        self._followed = 0.0  # accesses of content followed, in the same

    @property
    def rate(self) -> float:
        """Share of all content that is followed."""
        return self._threshold / _WHOLE

    def access(self, contents: I64) -> None:
        """Takes in accesses, hits and misses alike, int64 of shape (n,), in order."""
        self.accesses += len(contents)
        hashes = mix(contents)
        if self._threshold < _WHOLE:
            chosen = (hashes < np.uint64(self._threshold)).nonzero()[0]
            contents, hashes = contents.take(chosen), hashes.take(chosen)
        for content, hashed in zip(contents.tolist(), hashes.tolist(), strict=True):
            if hashed < self._threshold:
                self._follow(content, hashed)

    def _follow(self, content: int, hashed: int) -> None:
        self._clock += 1
        self._followed += 1.0
        before = self._last.get(content)
        self._last[content] = self._clock
        if before is not None:
            self._again.add(content)
            at = bisect_left(self._times, before)
            others = len(self._times) - at - 1  # contents accessed since
            del self._times[at]
            self._weights[_bucket(others / self.rate + 1.0)] += 1.0
        self._times.append(self._clock)
        if before is None:
            heapq.heappush(self._hashes, (-hashed, content))
            if len(self._last) > self.samples:
                self._shrink()

    def _shrink(self) -> None:
        """Leaves out the content of the highest hash, and from now on all that hash as high."""
        highest = -self._hashes[0][0]
        while self._hashes and -self._hashes[0][0] == highest:
            _, content = heapq.heappop(self._hashes)
            self._again.discard(content)
            del self._times[bisect_left(self._times, self._last.pop(content))]
        scale = highest / self._threshold
        self._weights *= scale
        self._followed *= scale
        self._threshold = highest

    @property
    def asked_once(self) -> float:
        """Share of the content that was accessed only once; 0 without any."""
        return 1.0 - len(self._again) / len(self._last) if self._last else 0.0

    def hit_ratio(self, blocks: float) -> float:
        """The share of all accesses that an LRU cache of so many blocks would have found; 0 without any."""
        if not self.accesses or blocks < 1.0:
            return 0.0
        return float(self._hits()[_bucket(blocks)]) / self._expected()

    def blocks_for(self, hit_ratio: float) -> int | None:
        """The fewest blocks that reach a hit ratio; None where no size does."""
        if not self.accesses:
            return None
        reached = self._hits().searchsorted(hit_ratio * self._expected())
        return None if reached >= _BUCKETS else math.floor(2.0 ** (reached / _SCALE))

    def _expected(self) -> float:
        """Sampled accesses that there should be; too few or many are hot content missed or caught."""
        return self.accesses * self.rate

    def _hits(self) -> npt.NDArray[np.float64]:
        """Sampled hits by bucket of size, with the difference to those expected at distance one."""
        hits: npt.NDArray[np.float64] = self._weights.cumsum()
        hits += self._expected() - self._followed
        return np.clip(hits, 0.0, None)


def _bucket(distance: float) -> int:
    """The bucket of a distance of at least 1, by its upper bound ``2 ** (bucket / 64)``."""
    return min(_BUCKETS - 1, math.ceil(math.log2(distance) * _SCALE - 1e-9))
