"""LruStack: contents by the time of their last access, and how many others lie between two accesses of one.

Source: R. Mattson, J. Gecsei, D. Slutz, I. Traiger, "Evaluation techniques for storage hierarchies", 1970.
"""

from bisect import bisect_left
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from kvstream.events.frame import I64


class LruStack:
    """Contents by the time of their last access, about 300 bytes each.

    Example:
        >>> stack = LruStack()
        >>> stack.access(np.array([1, 2, 3, 1]), room=10, furthest=10)
        4
        >>> stack.take_others().tolist()
        [2]
    """

    def __init__(self) -> None:
        self._clock = 0
        self._last: OrderedDict[int, int] = OrderedDict()  # content: time of its last access, oldest first
        self._times: list[int] = []  # these times, ascending
        self._again: set[int] = set()  # content that was accessed more than once
        self._others: list[int] = []

    def __len__(self) -> int:
        return len(self._last)

    @property
    def again(self) -> int:
        """Contents accessed more than once."""
        return len(self._again)

    @property
    def waiting(self) -> int:
        """How much ``take_others`` would give."""
        return len(self._others)

    def access(self, contents: I64, room: int, furthest: int) -> int:
        """Takes in accesses, up to one that leaves more contents than there is room for.

        Args:
            contents: What was accessed, in order, int64 (n,).
            room: Contents that there is room for.
            furthest: With more contents than these, what comes anew takes the place of the oldest.

        Returns:
            How many accesses were taken in, not always all: what is left is to be given again.
        """
        last, times, others = self._last, self._times, self._others
        for taken, content in enumerate(contents.tolist(), 1):
            self._clock += 1
            before = last.get(content)
            last[content] = self._clock
            times.append(self._clock)
            if before is None:
                if len(last) > furthest:
                    self._forget(next(iter(last)))
                if len(last) > room:
                    return taken
                continue
            at = bisect_left(times, before)
            del times[at]
            others.append(len(times) - at - 1)
            last.move_to_end(content)
            self._again.add(content)
        return len(contents)

    def take_others(self) -> I64:
        """How many other contents were accessed between two accesses of one, since the last call, int64."""
        others = np.array(self._others, dtype=np.int64)
        self._others.clear()
        return others

    def contents(self) -> I64:
        """The contents, the one accessed longest ago first, int64."""
        return np.array(list(self._last), dtype=np.int64)

    def keep(self, which: npt.NDArray[np.bool_]) -> None:
        """Forgets all of ``contents()`` but some, bool of the same shape."""
        for content in self.contents().compress(~which).tolist():
            self._forget(content)

    def _forget(self, content: int) -> None:
        self._again.discard(content)
        del self._times[bisect_left(self._times, self._last.pop(content))]
