"""EventTimes: what time it is in a stream, and for each of its sources."""

from collections.abc import Callable

from kvstream.alerts.silences import fits
from kvstream.engine.recorded import RecordedTime
from kvstream.events.frame import EventFrame
from kvstream.streaming.arrivals import Arrivals
from kvstream.streaming.consumers import Consumers


class EventTimes:
    """The times of a stream: of live sources by the clock, of a recording by its events.

    Args:
        consumers: The consumers.
        clock: Nanoseconds since the Unix epoch.
        recorded: The time of a recording; None for live sources.

    Attributes:
        recorded: The same.
        arrivals: When the last frame of each live source was applied.
    """

    def __init__(self, consumers: Consumers, clock: Callable[[], int], recorded: RecordedTime | None) -> None:
        self._consumers, self._clock = consumers, clock
        self.recorded = recorded
        self.arrivals = Arrivals()

    def now(self) -> float:
        """Return the time that all of the stream is judged by, seconds since the Unix epoch."""
        return (self._clock() if self.recorded is None else self.recorded.now_ns) / 1e9

    def note(self, frame: EventFrame) -> None:
        """Note that a frame of a source was applied, after others of that source."""
        if self.recorded is None:
            lag = (self._clock() - int(frame.ts[-1])) / 1e9 if len(frame.ts) else None
            self.arrivals.note(frame.source, lag)

    def by_source(self) -> dict[str, float]:
        """Return the event time now of each source, in seconds: it goes on with the clock in a silence."""
        newest = {
            each.source: max((cache.last_ts for cache in each.tiers.values()), default=0)
            for each in self._consumers.sources()
        }
        ages = self.arrivals.ages()
        return {source: ts / 1e9 + ages.get(source, 0.0) for source, ts in newest.items() if ts}

    def newest(self, pattern: str) -> float:
        """Return the event time now, in seconds, of the newest source that a pattern fits, or of all if none.

        Without any source it is the clock's.
        """
        times = self.by_source()
        chosen = [time for source, time in times.items() if fits(pattern, source)]
        return max(chosen or times.values(), default=self._clock() / 1e9)

    def silent_seconds(self, source: str) -> float:
        """Return seconds since a source's last frame was applied; 0 if others may be on their way."""
        consumer = self._consumers.of(source)
        if source in consumer.taken or consumer.queue.fill > 0:
            return 0.0
        return self.arrivals.age(source)
