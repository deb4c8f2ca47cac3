"""ContentSample: when content of one cache, chosen by hash, came in and was evicted.

Caches choose content by the same hash, so that samples of several caches can be compared.

Source: C. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC Construction with SHARDS", FAST 2015
(spatially hashed sampling of a fixed size).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream._core.ids import are_below
from kvstream._core.table import keep_chosen
from kvstream.events.frame import I64
from kvstream.metrics.premature import REMEMBERED_SECONDS
from kvstream.metrics.stays import NOT_ENDED, ContentEvents, ends

WHOLE = 2**64
"""Threshold that follows all content."""

ALWAYS = -(2**63)
"""Stands for a time before all others, ns."""

REMEMBERED_NS = round(REMEMBERED_SECONDS * 1e9)

_KEPT_NS = 2 * REMEMBERED_NS  # so that what came in an hour ago can be compared with the hour before
_CHECKED_NS = REMEMBERED_NS // 8  # between two looks at whether more content can be followed
_FEW = 1 / 8  # of the room: with fewer contents, times are forgotten before contents
_LEAST_NS = (
    30_000_000_000  # of which nothing is forgotten, so that a fast stream costs hardly more than a slow one
)
_FEWEST = 128  # contents that are followed nevertheless


class ContentSample:
    """Follows content chosen by hash, with a bound on what is kept.

    Once it is full, it forgets what ended more than two hours before, then follows less content. Within that
    it is exact.

    Args:
        size: Times of arrivals and evictions kept, 25 bytes each; 0 follows nothing.

    Attributes:
        threshold: Content is followed if its hash is below.
        oldest: Time from which on all is known of this content, ns; ``ALWAYS`` since the start.
        arrivals: Times that any content came in, followed or not; 0 if that is unknown.
    """

    def __init__(self, size: int) -> None:
        self.threshold = WHOLE if size else 0
        self.oldest = ALWAYS
        self._size = size
        self._count = self._era = self.arrivals = 0
        self._newest = ALWAYS
        self._checked = ALWAYS
        self._clears: list[int] = []
        self._hold(0)

    def _hold(self, room: int) -> None:
        self._content = np.empty(room, dtype=np.int64)
        self._ts = np.empty(room, dtype=np.int64)
        self._begins = np.empty(room, dtype=np.bool_)
        self._eras = np.empty(room, dtype=np.int64)

    def __len__(self) -> int:
        return self._count

    def observe(self, content: I64, ts: I64, begins: npt.NDArray[np.bool_]) -> None:
        """Take in content that came into the cache or was evicted, in order.

        Args:
            content: Content keys, int64 (k,).
            ts: Times, ns, int64 (k,).
            begins: Whether it came in, bool (k,).
        """
        self.arrivals += int(np.count_nonzero(begins))
        comes, at = begins.view(np.uint8), 0
        while at < len(content) and self.threshold:
            if not len(self._content):
                self._hold(self._size)
            before, highest = self._count, self.threshold - 1
            columns = self._content, self._ts, self._begins.view(np.uint8)
            at, self._count, self._newest = keep_chosen(
                content, ts, comes, at, highest, columns, before, self._size, self._newest
            )
            self._eras[before : self._count] = self._era
            if self._count == self._size:
                self._make_room()

    def clear(self, ts: int) -> None:
        """Note that the cache was emptied."""
        if self._count and self._eras[self._count - 1] == self._era:
            self._clears.append(ts)
            self._era += 1

    def can_be_due(self, now_ns: int, more: int) -> bool:
        """Return whether ``is_due`` has to be asked, once ``more`` changes that wait are taken in."""
        if now_ns - self._checked < _CHECKED_NS:
            return False
        return self.threshold < WHOLE or self._count + more >= self._size

    def is_due(self, now_ns: int) -> bool:
        """Return whether ``widen`` may follow more content."""
        if self.threshold == WHOLE or not self._size or now_ns - self._checked < _CHECKED_NS:
            return False
        self._checked = now_ns
        self._newest = max(self._newest, now_ns)
        self._forget(self._newest - _KEPT_NS)
        return self._count < _FEW * self._size

    def widen(self, live: I64, births: I64) -> None:
        """Follow twice as much content from now on.

        Args:
            live: Content that is in the cache, int64 (n,).
            births: When it came in, ns, int64 (n,).
        """
        before, self.threshold = self.threshold, min(WHOLE, max(1, 2 * self.threshold))
        self.oldest = self._newest
        new = are_below(live, self.threshold) & ~are_below(live, before)
        order = np.argsort(births[new], kind="stable")
        self.observe(live[new][order], births[new][order], np.ones(len(order), dtype=np.bool_))

    def events(self, threshold: int = WHOLE) -> ContentEvents:
        """Return what is kept of content with a hash below a threshold."""
        content = self._content[: self._count]
        below = are_below(content, min(threshold, self.threshold))
        return ContentEvents(
            content[below],
            self._ts[: self._count][below],
            self._begins[: self._count][below],
            self._eras[: self._count][below],
            np.array(self._clears, dtype=np.int64),
        )

    def _make_room(self) -> None:
        """Forget half of what is kept."""
        self._forget(self._newest - _KEPT_NS)
        while self._count > self._size // 2:
            content = self._content[: self._count]
            different = np.count_nonzero(np.diff(np.sort(content))) + 1
            ended = self._ended() if different <= _FEW * self._size else None
            oldest = None if ended is None else _middle(ended)
            # Few contents that come and go all the time: more of them say more than a longer time does.
            if oldest is not None and (self._newest - oldest > _LEAST_NS or different <= _FEWEST):
                self._forget(oldest, ended)
            else:
                self.threshold //= 2
                self._keep(are_below(content, self.threshold))

    def _forget(self, oldest: int, ended: I64 | None = None) -> None:
        """Forget generations that ended before a time; ``ended`` is when each does, if it is known."""
        if self._ts[: self._count].min(initial=oldest) == oldest:  # nothing began before
            return
        ended = self._ended() if ended is None else ended
        if (ended < oldest).any():
            self.oldest = max(self.oldest, oldest)
            self._keep(ended >= oldest)

    def _ended(self) -> I64:
        """Return, for each arrival and each eviction, when that generation ended, ns."""
        return ends(self.events())

    def _keep(self, which: npt.NDArray[np.bool_]) -> None:
        """Forget all events but some, and the clears before which there is none any more."""
        kept = int(which.sum())
        for column in (self._content, self._ts, self._begins, self._eras):
            column[:kept] = column[: self._count][which]
        self._count = kept
        eras = np.unique(np.append(self._eras[:kept], self._era))
        self._clears = [self._clears[era] for era in eras[:-1].tolist()]
        self._eras[:kept] = eras.searchsorted(self._eras[:kept])
        self._era = len(eras) - 1

    def save(self) -> dict[str, Any]:
        """Return its state."""
        count = self._count
        return {
            "highest": self.threshold - 1,
            "arrivals": self.arrivals,
            "oldest": self.oldest,
            "newest": self._newest,
            "checked": self._checked,
            "content": self._content[:count].copy(),
            "steps": np.diff(self._ts[:count], prepend=0),
            "begins": self._begins[:count].view(np.uint8).copy(),
            "lives": np.diff(self._eras[:count], prepend=0),
            "life": self._era,
            "clears": list(self._clears),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved, by one of the same size or another."""
        content = saved["content"]
        self._hold(max(self._size, len(content) + 1))
        self.threshold, self.oldest = saved["highest"] + 1, saved["oldest"]
        self.arrivals = saved.get("arrivals", 0)  # which snapshots of before do not have
        self._newest, self._checked = saved["newest"], saved["checked"]
        self._era, self._clears = saved["life"], saved["clears"]
        self._count = len(content)
        self._content[: self._count] = content
        self._ts[: self._count] = np.cumsum(saved["steps"])
        self._begins[: self._count] = saved["begins"]
        self._eras[: self._count] = np.cumsum(saved["lives"])
        if self._count >= self._size:
            self._make_room()


def _middle(ended: I64) -> int | None:
    """Return a time before which half of what has ended did, of ends in ns; None if nothing has."""
    past = ended[ended != NOT_ENDED]
    middle = len(past) // 2
    return int(np.partition(past, middle)[middle]) + 1 if len(past) else None
