"""Miss-ratio curves: what hit ratio an LRU cache of any size would have on the lookups seen.

Source: C. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC Construction with SHARDS", FAST 2015
(fixed-size SHARDS with the adjustment of section 5.4).
"""

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream._core.ids import are_below
from kvstream._core.reuse import LruStack
from kvstream._core.table import mix
from kvstream.blocks.apply_result import joined
from kvstream.events.frame import I64

SIZES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
"""Sizes of cache that a summary looks at, by the size that there is."""

WANTED = 0.9
"""Hit ratio for which a summary says how many blocks it takes."""

_FEWEST = 128  # contents followed: with fewer a curve says nothing
_SCALE = 64  # buckets a factor of two, so that a size is off by 1.1 % at the most
_BUCKETS = 48 * _SCALE
_NO_WEIGHTS = np.zeros(_BUCKETS)  # of a curve that has seen nothing come back, as most caches are of slots
_NO_WEIGHTS.flags.writeable = False
_WEIGHED_AT_ONCE = 1024
_LEFT_OUT_AT_ONCE = 1 / 64  # of the contents followed, where they become too many
_MOST_WEIGHT = 1024.0
_WHOLE = 2**64
_ANY = 2**62  # contents, more than there can be


class CurvePoint(msgspec.Struct, frozen=True):
    """Hit ratio of a cache of another size.

    Attributes:
        factor: Its size, as a multiple of the current one.
        blocks: Its size, in blocks.
        hit_ratio: Lookups that an LRU cache of that size would have found.
    """

    factor: float
    blocks: int
    hit_ratio: float


class CacheSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Hit ratios that caches of other sizes would have, if content is known and hits are reported.

    Attributes:
        blocks: Capacity in blocks, as given; else the most blocks that were live.
        points: Hit ratios at other sizes, smallest first; empty where they are not known.
        blocks_for_90: The fewest blocks that give a hit ratio of 0.9; None where none would.
        asked_once: Share of the content that was looked up only once; None where that is unknown.
        rate: Share of the content that is followed.
        peak: Most blocks that were live.
        measured: Measured hit ratio of the same lookups; None where unknown. For an LRU cache that reports
            all hits, it equals the point at 1.0.
    """

    blocks: int = 0
    points: list[CurvePoint] = []
    blocks_for_90: int | None = None
    asked_once: float | None = None
    rate: float = 1.0
    peak: int = 0
    measured: float | None = None


class MissRatioCurve:
    """Follows a sample of the content, chosen by hash, that never grows beyond a bound.

    Where there is no more content than ``samples``, nothing is left out and the curve is exact but for
    the width of a bucket. Beyond, the share of content followed shrinks; distances are scaled up by it.

    Args:
        samples: Contents followed at once; about 300 bytes each.
        lookups: Lookups of them in a window; beyond, content is left out, so that a fast stream costs
            hardly more than a slow one. None is no bound.
        half_life: Windows after which what was seen counts half, and a share that shrank may grow again.
            None is for ever.

    Attributes:
        threshold: Content is followed if its hash is below.

    Examples:
        >>> curve = MissRatioCurve()
        >>> curve.access(np.array([1, 2, 3, 1, 2, 3]))
        >>> [curve.hit_ratio(blocks) for blocks in (2, 3)]
        [0.0, 0.5]
    """

    def __init__(
        self, samples: int = 8192, lookups: int | None = None, half_life: float | None = None
    ) -> None:
        self.samples = samples
        self.accesses = 0.0
        self.threshold = _WHOLE
        self._furthest: int | None = None  # largest size of interest, blocks; None is any
        self._lookups, self._half_life = lookups, half_life
        self._followed_now = 0  # in this window, since the threshold last fell
        self._stack = LruStack()
        self._distances: list[I64] = []  # between two accesses of one key, not yet in the weights
        self._distance_weights: list[float] = []  # of an access in each of these
        self._waiting = 0
        self._weights = _NO_WEIGHTS  # accesses by distance, in sampled accesses of today's rate
        # What an access weighs now: to let it grow costs less than to let all weights shrink.
        self._weight = 1.0
        self._followed = 0.0  # accesses of content followed, in the same
        self._found = self._asked = 0.0  # hits, and lookups of any content, as far as they count

    @property
    def rate(self) -> float:
        """Return the share of content keys that is followed."""
        return self.threshold / _WHOLE

    def limit_to(self, blocks: int) -> None:
        """Follow no larger sizes than this from now on; 0 is any size.

        Content beyond it on the stack is forgotten, so that an endless stream is followed at a constant rate.
        """
        self._furthest = blocks or None

    def access(self, contents: I64, lookups: int | None = None) -> None:
        """Take in lookups, hits and misses alike.

        Args:
            contents: What was looked up, in order, int64 (n,).
            lookups: Lookups that these were chosen from by ``threshold`` as it is now, if they were.
        """
        if lookups is None:
            lookups = len(contents)
            contents = contents.compress(are_below(contents, self.threshold))
        self.accesses += lookups
        while len(contents):
            n = len(contents) if self._lookups is None else self._lookups - self._followed_now
            furthest = _ANY if self._furthest is None else math.floor(self._furthest * self.rate) + 1
            taken = self._take_in(contents[:n], furthest)
            contents = contents[taken:]
            self._followed += taken
            self._followed_now += taken
            threshold = self.threshold
            if self._stack.held > self.samples:
                hashes = mix(self._stack.keys())
                left_out = math.ceil(self.samples * _LEFT_OUT_AT_ONCE)
                self._rescale(int(np.partition(hashes, -left_out)[-left_out]))
            if self._followed_now == self._lookups:
                self._followed_now = 0
                self._rescale(max(1, self.threshold // 4))
            if self.threshold < threshold:
                contents = contents.compress(are_below(contents, self.threshold))
        if self._waiting >= _WEIGHED_AT_ONCE:
            self._weigh()

    def _take_in(self, contents: I64, furthest: int) -> int:
        """Put lookups on the stack; return how many of them were taken in."""
        taken, distances = self._stack.access(contents, self.samples, furthest)
        if len(distances):
            self._distances.append(distances)
            self._distance_weights.append(self._weight)
            self._waiting += len(distances)
        return taken

    def observe(self, hits: int, lookups: int) -> None:
        """Take note of how many of some lookups were hits."""
        self._found += hits
        self._asked += lookups

    def pass_windows(self, count: int) -> None:
        """Note that ``count`` windows have ended."""
        if self._half_life is not None:
            kept = 0.5 ** (count / self._half_life)
            if kept * _MOST_WEIGHT < self._weight:
                self._weigh()
                self._weights = self._weights * (kept / self._weight)
                self._weight = 1.0
            else:
                self._weight /= kept
            self._followed *= kept
            self.accesses *= kept
            self._found *= kept
            self._asked *= kept
            idle = self._lookups is None or self._followed_now < self._lookups // 4
            if idle and self.threshold < _WHOLE and self._stack.held < self.samples // 4:
                self._rescale(min(_WHOLE, self.threshold * 2))
        self._followed_now = 0

    def _rescale(self, threshold: int) -> None:
        """Follow content below another threshold from now on, and leave out the rest."""
        self._weigh()
        if threshold < self.threshold:
            self._stack.keep(are_below(self._stack.keys(), threshold))
        scale = threshold / self.threshold
        self._weights = self._weights * scale
        self._followed *= scale
        self.threshold = threshold

    def _weigh(self) -> None:
        """Add the distances seen at today's rate to the weights."""
        if not self._waiting:
            return
        if self._weights is _NO_WEIGHTS:
            self._weights = np.zeros(_BUCKETS)
        buckets = _buckets(joined(self._distances) / self.rate + 1.0)
        weights = np.repeat(self._distance_weights, list(map(len, self._distances)))
        np.add.at(self._weights, buckets, weights)  # one by one: the same sum however often this is called
        self._distances, self._distance_weights, self._waiting = [], [], 0

    def save(self) -> dict[str, Any]:
        """Return its state, including distances not weighed yet."""
        return {
            "stack": self._stack.save(),
            "highest": self.threshold - 1,
            "furthest": self._furthest,
            "followed_now": self._followed_now,
            "distances": joined(self._distances),
            "distance_weights": [list(map(len, self._distances)), list(self._distance_weights)],
            "weights": self._weights.copy(),
            "weight": self._weight,
            "sums": [self.accesses, self._followed, self._found, self._asked],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self._stack.restore(saved["stack"])
        self.threshold = saved["highest"] + 1
        self._furthest, self._followed_now = saved["furthest"], saved["followed_now"]
        self._waiting = len(saved["distances"])
        if self._waiting:
            # Snapshots of before had distances of one weight, and weights that shrank.
            lengths, weights = saved.get("distance_weights", ([self._waiting], [1.0]))
            self._distances = np.split(saved["distances"], np.cumsum(lengths)[:-1])
            self._distance_weights = list(weights)
        self._weights, self._weight = saved["weights"], saved.get("weight", 1.0)
        self.accesses, self._followed, self._found, self._asked = saved["sums"]

    @property
    def asked_once(self) -> float | None:
        """Return the share of content keys accessed only once; None with too few to say."""
        followed = self._stack.held
        if not followed or (followed < _FEWEST and self.rate < 1.0):
            return None
        return 1.0 - self._stack.again / followed

    def hit_ratio(self, blocks: float) -> float:
        """Return the hit ratio that an LRU cache of ``blocks`` blocks would have; 0 without accesses."""
        if not self.accesses or blocks < 1.0:
            return 0.0
        return float(self._hits()[_buckets(np.array([blocks]))[0]]) / self._expected()

    def blocks_for(self, hit_ratio: float) -> int | None:
        """Return the fewest blocks that reach a hit ratio; None where no size does."""
        if not self.accesses:
            return None
        reached = self._hits().searchsorted(hit_ratio * self._expected())
        return None if reached >= _BUCKETS else math.floor(2.0 ** (reached / _SCALE))

    def sizes(self, blocks: int, peak: int = 0) -> CacheSizes:
        """Return what caches of other sizes than today's would do; ``peak`` blocks were live at most."""
        if not blocks or (self._stack.held < _FEWEST and self.rate < 1.0) or not self.accesses:
            return CacheSizes(blocks=blocks, peak=peak)
        sizes = [(factor, max(1, round(blocks * factor))) for factor in SIZES]
        return CacheSizes(
            blocks=blocks,
            points=[CurvePoint(factor, size, self.hit_ratio(size)) for factor, size in sizes],
            blocks_for_90=self.blocks_for(WANTED),
            asked_once=self.asked_once,
            rate=self.rate,
            peak=peak,
            measured=self._found / self._asked if self._asked else None,
        )

    def _expected(self) -> float:
        """Return sampled accesses that there should be; too few or many are hot content missed or caught."""
        return self.accesses * self.rate

    def _hits(self) -> npt.NDArray[np.float64]:
        """Return sampled hits by bucket of size, with the difference to those expected at distance one."""
        self._weigh()
        hits: npt.NDArray[np.float64] = self._weights.cumsum() / self._weight
        hits += self._expected() - self._followed
        return np.clip(hits, 0.0, None)


def _buckets(distances: npt.NDArray[np.float64]) -> I64:
    """Return the buckets of distances of at least 1, by their upper bounds ``2 ** (bucket / 64)``."""
    buckets = np.ceil(np.log2(distances) * _SCALE - 1e-9).astype(np.int64)
    return np.minimum(buckets, _BUCKETS - 1)
