"""What of a live input was malformed, in few reports: no flood of lines, every piece counted at once."""

import time
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed

_SINGLE = 20  # reports of a unit that are passed on one by one, in each second
_SECONDS = 1.0


class ReportLimiter:
    """Passes on the first reports of each unit in a second, and of each later call's reports one.

    The counts add up: a report that stands for others has their number in its ``count``.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = -_SECONDS
        self._passed: dict[str, int] = {}

    @property
    def is_limiting(self) -> bool:
        """Return whether reports are many now, so that the next ones had better be given together."""
        recent = self._clock() - self._began < _SECONDS
        return recent and any(passed > _SINGLE for passed in self._passed.values())

    def limited(self, items: Iterable[EventFrame | Malformed]) -> list[EventFrame | Malformed]:
        """Return the frames and the reports; beyond a limit, one report counts several."""
        passed: list[EventFrame | Malformed] = []
        together: dict[str, Malformed] = {}
        for item in items:
            if isinstance(item, EventFrame) or self._is_one_of_the_first(item.unit):
                passed.append(item)
            elif first := together.get(item.unit):
                together[item.unit] = replace(first, count=first.count + item.count)
            else:
                together[item.unit] = item
        return [*passed, *together.values()]

    def _is_one_of_the_first(self, unit: str) -> bool:
        now = self._clock()
        if now - self._began >= _SECONDS:
            self._began = now
            self._passed.clear()
        self._passed[unit] = self._passed.get(unit, 0) + 1
        return self._passed[unit] <= _SINGLE
