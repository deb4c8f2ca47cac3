"""Windows: measurements cut by event time, the last few hundred of them kept."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from kvstream._core.buckets import times_range, window_runs
from kvstream.events.frame import I64, MAX_FRAME_EVENTS, EventFrame, plain_column
from kvstream.metrics.histogram import DEFAULT_SCALE
from kvstream.metrics.measurements import Measurements, restore_measurements, save_measurements
from kvstream.metrics.window_counts import CountsLog, Rows


class Window(msgspec.Struct, eq=False, gc=False):
    """One interval of event time.

    Neither it nor what it holds is in a cycle of references. So the garbage collector, for which the whole
    process waits, is spared the sixty and more that each cache keeps.

    Attributes:
        index: Event time divided by the window's length.
        measurements: What was seen in it.
        live: Blocks live at its end.
        lost: Frames lost, and events dropped unasked, while it was open.
        restarts: Restarts of the source before its first event.
        clock_step: Whether it began with a step back in time.
    """

    index: int
    measurements: Measurements
    live: int = 0
    lost: int = 0
    restarts: int = 0
    clock_step: bool = False

    @property
    def is_empty(self) -> bool:
        """Return whether nothing has happened in it."""
        seen = self.measurements
        # Lookups first, as nearly all windows have some and all that was processed costs more to add up.
        return not (seen.lookups or seen.processed or self.lost or self.restarts or self.clock_step)

    def counts(self) -> tuple[int, ...]:
        """Return the fields of ``WINDOW_COUNTS``."""
        seen = self.measurements
        lifetimes = [0] * len(_PERCENTILES)
        if seen.lifetime.count:
            lifetimes = [min(round(seen.lifetime.quantile(q) * 1e9), _MOST_NS) for q in _PERCENTILES]
        return (
            self.index,
            seen.allocations,
            seen.accesses,
            seen.total_evictions,
            seen.lifetime.count,
            seen.never_accessed,
            self.live,
            self.lost,
            self.is_empty,
            seen.return_time.count,
            *lifetimes,
        )


LATE_WINDOWS = 10
_PERCENTILES = (0.05, 0.5, 0.95)
_MOST_NS = 2**63 - 1  # times of events may lie further apart
_NUMBERS = ("index", "live", "lost", "restarts", "clock_step")


class WindowRing:
    """The open window and those before it.

    A window stays open until an event of a later one arrives, so that events a little out of order
    count where the stream stands. A step back of more than ten windows is one of the clock: windows
    start afresh from there (``clock_steps``). Only events say where the stream stands: where ``advance``
    has gone on without any, events that were on their way meanwhile are not late.

    Args:
        window_ns: Length of a window.
        keep: Windows kept one by one; of older ones counts stay, of several together (``CountsLog``).
        scale: Scale of the histograms.
        detailed: Windows kept with their histograms, seven kilobytes each; of older ones counts stay.
            All of them by default.
    """

    def __init__(
        self, window_ns: int, keep: int, scale: int = DEFAULT_SCALE, detailed: int | None = None
    ) -> None:
        self.window_ns = window_ns
        self.open: Window | None = None
        self._scale = scale
        self._entered: int | None = None  # newest window that events have opened
        self.closed_count = 0  # those no longer kept among them
        self._closed: deque[Window] = deque(maxlen=keep if detailed is None else min(keep, detailed))
        self._counts = CountsLog(keep)  # of all of them

    def cut(self, frame: EventFrame, limit: int = MAX_FRAME_EVENTS) -> Iterator[tuple[int, EventFrame]]:
        """Yield (index, part) for each window that the frame's events fall into, in order.

        A part holds at most ``limit`` events; where they are taken one by one, no step takes longer than
        those of ``limit`` events take.
        """
        ts = plain_column(frame.ts)
        for index, start, end in window_runs(ts, self.window_ns, self._stands(), LATE_WINDOWS):
            if end - start == len(ts) <= limit:
                yield index, frame
                return
            for at in range(start, end, limit):
                yield index, frame.take(slice(at, min(at + limit, end)))

    def steps_back(self, frames: Sequence[EventFrame], ts: I64) -> bool:
        """Return whether one of some frames is a step of the clock.

        Args:
            frames: The frames, of at least one event each.
            ts: The times of all their events, ns, int64 (n,).
        """
        stands = self._stands()
        first, last = (at // self.window_ns for at in times_range(plain_column(ts)))
        if first >= max(last, last if stands is None else stands) - LATE_WINDOWS:  # as of nearly all
            return False
        starts = np.cumsum([0, *(len(frame) for frame in frames[:-1])])
        index = np.maximum.reduceat(ts, starts) // self.window_ns
        reached = np.maximum.accumulate(index)
        if stands is not None:
            reached = np.maximum(reached, stands)
        return bool((index < reached - LATE_WINDOWS).any())

    def enter(self, index: int) -> tuple[Window, Window | None]:
        """Return the window of ``index``, and the one that closes as it opens, if any."""
        closed = None
        stands, self._entered = self._stands(), index
        if self.open is not None and stands is not None and stands <= index < self.open.index:
            self.open.index = index  # it is empty: nothing is late that comes before it
        if self.open is None or self.open.index != index:
            closed = self.close()
            step = closed is not None and index < closed.index
            self.open = Window(index, Measurements.empty(self._scale), clock_step=step)
            if step:
                self.open.measurements.clock_steps = 1
                self._closed.clear()
                self._counts.clear()
        return self.open, closed

    def advance(self, index: int) -> Window | None:
        """Go on to a later window though nothing has come; return the one that closes, if any."""
        if self.open is None or index <= self.open.index:
            return None
        if self.open.is_empty:
            self.open.index = index  # a long silence is one window
            return None
        closed = self.close()
        self.open = Window(index, Measurements.empty(self._scale))
        return closed

    def _stands(self) -> int | None:
        """Return the index of the window that events have reached; None before the first event."""
        if self.open is None or self._entered is None:
            return None
        return self._entered if self.open.index == self._entered else self._entered + 1

    def close(self) -> Window | None:
        """Close the open window, if there is one."""
        closed, self.open = self.open, None
        if closed is not None:
            self._closed.append(closed)
            self._counts.add(closed.counts())
            self.closed_count += 1
        return closed

    def recent(self, windows: int, until: int | None = None) -> Measurements:
        """Return the sum of the last ``windows`` windows up to index ``until`` (the open one by default).

        It reaches back as far as windows are detailed.
        """
        total = Measurements.empty(self._scale)
        until = self.latest if until is None else until
        if until is None:
            return total
        for window in reversed(self._closed):
            if window.index <= until - windows:
                break
            if window.index <= until:
                total.merge(window.measurements)
        if self.open is not None and until - windows < self.open.index <= until:
            total.merge(self.open.measurements)
        return total

    @property
    def latest(self) -> int | None:
        """Index of the newest window."""
        if self.open is not None:
            return self.open.index
        return self._closed[-1].index if self._closed else None

    @property
    def oldest(self) -> int | None:
        """Index of the oldest window kept with its histograms."""
        if self._closed:
            return self._closed[0].index
        return self.open.index if self.open is not None else None

    def closed(self) -> list[Window]:
        """Return the closed windows kept with their histograms, oldest first."""
        return list(self._closed)

    def newest(self, count: int) -> Rows:
        """Return the counts of the newest closed windows, oldest first, as many as are kept one by one."""
        return self._counts.newest(count)

    def since(self, index: int) -> tuple[Rows, int]:
        """Return the counts of the closed windows from an index on, and how many the longest row is of."""
        return self._counts.since(index)

    def save(self) -> dict[str, Any]:
        """Return the windows: numbers, and arrays with a row a window."""
        windows = [*self._closed, *([] if self.open is None else [self.open])]
        numbers = [[getattr(window, name) for name in _NUMBERS] for window in windows]
        return {
            "entered": self._entered,
            "closed_count": self.closed_count,
            "is_open": self.open is not None,
            "numbers": np.array(numbers, dtype=np.int64).reshape(-1, len(_NUMBERS)),
            "measurements": save_measurements([window.measurements for window in windows]),
            "counts": self._counts.save(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved; as many windows are kept as are configured now."""
        self._entered, self.closed_count = saved["entered"], saved["closed_count"]
        measurements = restore_measurements(saved["measurements"], self._scale)
        windows = [
            Window(index, measured, live, lost, restarts, bool(clock_step))
            for (index, live, lost, restarts, clock_step), measured in zip(
                saved["numbers"].tolist(), measurements, strict=True
            )
        ]
        self.open = windows.pop() if saved["is_open"] else None
        self._counts.restore(saved["counts"])
        self._closed.extend(windows)
