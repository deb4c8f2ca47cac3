"""Liveness: silent sources are noticed by the clock, or by other events, and forgotten when they are dead."""

from collections.abc import Sequence

import anyio
from anyio.lowlevel import checkpoint

from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame
from kvstream.state.progress import InputProgress
from kvstream.streaming.alerting import StreamAlerts
from kvstream.streaming.consumers import Consumers
from kvstream.streaming.event_times import EventTimes

_LEAST_TICK_SECONDS = 0.1
_STOPPED_SECONDS = 10.0  # by which the loop is late when its process was stopped
_SOONER = 12  # a source may be forgotten after this part of forget_seconds if another needs its place


class Liveness:
    """Advances the event time of silent sources, and forgets dead ones.

    Args:
        config: Length of windows, and after how long a silent source is forgotten.
        consumers: The consumers.
        times: The times of their sources.
        alerts: Where what changes by silence is published.
        progress: How far the inputs have come, of which a forgotten source is no part any more.
    """

    def __init__(
        self,
        config: MetricsConfig,
        consumers: Consumers,
        times: EventTimes,
        alerts: StreamAlerts,
        progress: InputProgress,
    ) -> None:
        self._config, self._consumers, self._times = config, consumers, times
        self._alerts, self._progress = alerts, progress

    async def run(self) -> None:
        """Advance the time of silent sources by the clock, so that silence is noticed and alerts end.

        Only the time since a source's last frame is taken from the clock: a replay has times of its own.
        Events that are on their way meanwhile are not late for that (``WindowRing.advance``).
        """
        tick = max(_LEAST_TICK_SECONDS, self._config.window_seconds)
        while True:
            began = anyio.current_time()
            await anyio.sleep(tick)
            late = anyio.current_time() - began - tick
            if late > _STOPPED_SECONDS:  # the process was stopped: that no source was heard says nothing
                self._times.arrivals.postpone(late)
            self._alerts.publish(self._alerts.look())
            await self._forget_silent()
            async for cache in self._consumers.caches_in_turn():
                if self._consumers.is_followed(cache):
                    self._alerts.publish(cache.pass_silence(self._times.silent_seconds(cache.source)))

    def reach(self, monitor: Monitor, frames: Sequence[EventFrame]) -> None:
        """Make room for frames before they are applied, and advance the time of a recording to them."""
        if not monitor.has_room_for(frames) and self._silent_longest(self._config.forget_seconds / _SOONER):
            self._forget_longest_silent()
        if (recorded := self._times.recorded) is not None:
            before = recorded.now_ns
            self._alerts.publish(recorded.reach(frames))
            if recorded.now_ns > before:
                self._alerts.publish(self._alerts.look())

    async def end(self) -> None:
        """End the windows of every source, while other tasks go on."""
        if self._times.recorded is not None:
            self._alerts.publish(self._times.recorded.end())
        async for source in self._consumers.in_turn(self._consumers.sources()):
            self._alerts.publish(source.finish())

    def forget(self, source: str, why: str) -> None:
        """Forget a source; its alerts end with a message."""
        self._times.arrivals.forget(source)
        self._progress.forget(source)
        self._alerts.forget(source, why)

    async def _forget_silent(self) -> None:
        """Forget sources that have been silent for ``forget_seconds``, as a rule dead ones."""
        while self._silent_longest(self._config.forget_seconds):
            self._forget_longest_silent()
            await checkpoint()  # each takes a part of a millisecond

    def _silent_longest(self, seconds: float) -> bool:
        """Return whether the source silent for longest has been silent for ``seconds``; 0 is never."""
        silent = self._times.arrivals.longest_silent()
        if not seconds or silent is None or silent[0] in self._consumers.of(silent[0]).taken:
            return False
        return silent[1] >= seconds

    def _forget_longest_silent(self) -> None:
        if (silent := self._times.arrivals.longest_silent()) is not None:
            source, seconds = silent
            self.forget(source, f"the source was forgotten after {seconds:,.0f} s without events")
