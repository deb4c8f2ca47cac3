"""What of a live input was malformed, reported at a bounded rate: no flood of lines, every piece counted."""

import time
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed

_SINGLE = 20  # reports of a unit that are passed on one by one, in each second
_SECONDS = 1.0


class ReportLimiter:
    """Passes on the first reports of each unit in a second, and the others of that second as one.

    The counts add up: a report that stands for others has their number in its ``count``.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = -_SECONDS
        self._passed: dict[str, int] = {}
        self._later: dict[str, Malformed] = {}

    @property
    def due_in(self) -> float | None:
        """Seconds until ``limited`` has something to pass on; None if nothing waits."""
        return self._began + _SECONDS - self._clock() if self._later else None

    def limited(self, items: Iterable[EventFrame | Malformed]) -> list[EventFrame | Malformed]:
        """Return the frames, and those of the reports that are to be passed on now."""
        passed: list[EventFrame | Malformed] = []
        if self._clock() - self._began >= _SECONDS:
            passed.extend(self._later.values())
            self._began = self._clock()
            self._passed.clear()
            self._later.clear()
        for item in items:
            if isinstance(item, EventFrame) or self._is_one_of_the_first(item):
                passed.append(item)
            else:
                first = self._later.get(item.unit)
                count = item.count + (first.count if first else 0)
                self._later[item.unit] = replace(first or item, count=count)
        return passed

    def _is_one_of_the_first(self, item: Malformed) -> bool:
        passed = self._passed.get(item.unit, 0)
        self._passed[item.unit] = passed + 1
        return passed < _SINGLE
