"""RecordedTime: what time it is for the silent sources of a recording, as the events of the others say."""

from collections.abc import Iterable, Mapping

from kvstream.alerts.types import CacheAlert
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame

_LOOK_NS = 5_000_000_000  # of event time, after which silent sources are looked at again
_LATE_NS = 10_000_000_000  # by which a source's frames may be behind the others', as its events were buffered
_LEAST_STEP_NS = 100_000_000


class RecordedTime:
    """The event time that a recording has reached, and the silence of its sources by it.

    Nothing depends on a clock, nor on how the recording is cut into frames: silence is judged up to the
    start of what comes next. A source that lags behind the others by more than ten seconds, as its clock is
    wrong or its part of the recording comes late, keeps a time of its own, that much earlier. Where several
    recordings are read side by side and one has ended, so has the time of its sources: that nothing comes of
    them any more is not silence (``input_ended``).

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
        # Newest time, ns, of each recording that has ended and that a source came from, those to come last.
        self._ended: dict[str, list[int]] = {}

    @property
    def now_ns(self) -> int:
        """The time reached, in steps of a window or of a tenth of a second; nothing in order is before it."""
        return self._newest - self._newest % self.step_ns

    def reach(self, frames: Iterable[EventFrame]) -> list[CacheAlert]:
        """Advance to frames of one step, before they are applied; return alerts that change by silence."""
        alerts: list[CacheAlert] = []
        for frame in frames:
            if not len(frame.ts):
                continue
            start = int(frame.ts[0])
            if frame.source in self._ended and start > self._ended[frame.source][0]:
                alerts += self._go_on(frame.source, start)
            self._newest = max(self._newest, start)
            self._end = max(self._end, int(frame.ts[-1]))
            if self._newest - start > _LATE_NS and frame.source in self._monitor.sources:
                self._behind[frame.source] = self._newest - start
            elif self._behind:
                self._behind.pop(frame.source, None)
        if self._newest // _LOOK_NS == self._looked:
            return alerts
        self._looked = self._newest // _LOOK_NS
        return alerts + self._pass_time(self.now_ns)

    def input_ended(self, ends: Mapping[str, int]) -> None:
        """Take note that the recordings have ended which some sources came from.

        It may be called before their frames are applied, but not after those of what comes later are. Of a
        source that comes again, in another recording, nothing is known from the end of the one to the start
        of the other.

        Args:
            ends: The newest time in the recording of each source, ns.
        """
        for source, end_ns in ends.items():
            known = self._ended.setdefault(source, [])
            if not known or end_ns > known[-1]:
                known.append(end_ns)

    def _go_on(self, source: str, start_ns: int) -> list[CacheAlert]:
        """Judge what another recording brings of a source apart from what was before."""
        ends = self._ended.pop(source)
        after_ns = ends[0] + self._monitor.config.window_ns
        if later := [end_ns for end_ns in ends if end_ns >= start_ns]:
            self._ended[source] = later
        known = self._monitor.sources.get(source)
        alerts: list[CacheAlert] = []
        for tier in [] if known is None else known.tiers.values():
            alerts += tier.pass_time(after_ns)  # so that its last window closes before silence is forgotten
            tier.rules.forget_silence()
        return alerts

    def end(self) -> list[CacheAlert]:
        """Go on to the newest event of all; return what changes by silence."""
        return self._pass_time(self._end)

    def _pass_time(self, now_ns: int) -> list[CacheAlert]:
        alerts: list[CacheAlert] = []
        for name, source in self._monitor.sources.items():
            ends = self._ended.get(name)
            at_ns = min(now_ns, ends[0]) if ends else now_ns
            at_ns -= self._behind.get(name, 0)
            for tier in source.tiers.values():
                if tier.rules.due() < at_ns / 1e9:
                    alerts += tier.pass_time(at_ns)
        return sorted(alerts, key=lambda alert: alert.timestamp)
