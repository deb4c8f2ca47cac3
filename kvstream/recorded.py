"""RecordedTime: what time it is for the silent sources of a recording, as the events of the others say."""

from collections.abc import Iterable

from kvstream.alerts.types import CacheAlert
from kvstream.events.frame import EventFrame
from kvstream.monitor import Monitor

_LOOK_NS = 5_000_000_000  # of event time, after which silent sources are looked at again
_LATE_NS = 10_000_000_000  # by which a source's frames may be behind the others', as its events were buffered
_LEAST_STEP_NS = 100_000_000


class RecordedTime:
    """The event time that a recording has reached, and the silence of its sources by it.

    Nothing depends on a clock, nor on how the recording is cut into frames: silence is judged up to the
    start of what comes next. A source that lags behind the others by more than ten seconds, as its clock is
    wrong or its part of the recording comes late, keeps a time of its own, that much earlier.

    Args:
        monitor: What the recording is read into.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.step_ns = max(_LEAST_STEP_NS, monitor.config.window_ns)
        self._newest = 0  # start of a frame, ns
        self._end = 0  # newest event, ns
        self._looked = 0
        self._behind: dict[str, int] = {}  # of sources that lag, ns

    @property
    def now_ns(self) -> int:
        """The time reached, in steps of a window or of a tenth of a second; nothing in order is before it."""
        return self._newest - self._newest % self.step_ns

    def reach(self, frames: Iterable[EventFrame]) -> list[CacheAlert]:
        """Go on to frames of one step, which are to be applied now; return what changes by silence."""
        for frame in frames:
            if not len(frame.ts):
                continue
            start = int(frame.ts[0])
            self._newest = max(self._newest, start)
            self._end = max(self._end, int(frame.ts[-1]))
            if self._newest - start > _LATE_NS and frame.source in self._monitor.sources:
                self._behind[frame.source] = self._newest - start
            elif self._behind:
                self._behind.pop(frame.source, None)
        if self._newest // _LOOK_NS == self._looked:
            return []
        self._looked = self._newest // _LOOK_NS
        return self._pass_time(self.now_ns)

    def end(self) -> list[CacheAlert]:
        """Go on to the newest event of all; return what changes by silence."""
        return self._pass_time(self._end)

    def _pass_time(self, now_ns: int) -> list[CacheAlert]:
        alerts: list[CacheAlert] = []
        for name, source in self._monitor.sources.items():
            at_ns = now_ns - self._behind.get(name, 0)
            for tier in source.tiers.values():
                if tier.rules.due() < at_ns / 1e9:
                    alerts += tier.pass_time(at_ns)
        return sorted(alerts, key=lambda alert: alert.timestamp)
