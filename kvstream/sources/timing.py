"""Recorded time: several recordings merged by it, a replay paced by it, frames cut by it."""

import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing

import anyio
import msgspec
import numpy as np

from kvstream.events.frame import UNNUMBERED, EventFrame
from kvstream.events.sequence import FrameSequence
from kvstream.events.types import Malformed

Items = AsyncGenerator[EventFrame | Malformed, None]

OnEnd = Callable[[Mapping[str, int]], None]
"""Called with the sources of a recording that has ended, and its newest time in ns."""

_PACE_SECONDS = 0.05
_SIDE_BY_SIDE_NS = 5_000_000_000
_STEP_BACK_NS = 10_000_000_000
_MOST_SOURCES = 65_536  # of which a cutter remembers the sequence numbers


async def merge_by_time(inputs: Sequence[Items], on_end: OnEnd | None = None) -> Items:
    """Yield the frames of several recordings by start time.

    Each recording keeps its own order. So the parts of one source's log are read one after the other, in
    whatever order they are given, and logs of several engines side by side. These are cut into frames of at
    most five seconds. After its clock was set back, a recording still stays beside the others. All are closed
    with this generator.

    Args:
        inputs: Recordings.
        on_end: Called when one of several recordings has ended, before any later frame, with those of its
            sources that no open recording contains.
    """
    async with AsyncExitStack() as opened:
        for each in inputs:  # which hold files
            await opened.enter_async_context(aclosing(each))
        merged = inputs[0] if len(inputs) == 1 else _merged(inputs, on_end)
        async for item in await opened.enter_async_context(aclosing(merged)):
            yield item


async def _merged(inputs: Sequence[Items], on_end: OnEnd | None) -> Items:
    heads: list[tuple[int, int, EventFrame]] = []  # start, place of the input, frame
    left: list[Iterator[tuple[int, EventFrame]]] = [iter(()) for _ in inputs]  # parts of its last frame
    reached = [0] * len(inputs)  # time of the last frame, ns, had the clock not been set back
    steps = [0] * len(inputs)  # by which it was set back so far
    cutter = FrameCutter(_SIDE_BY_SIDE_NS)
    ends = _Ends(len(inputs), on_end)

    async def advance(place: int) -> list[Malformed]:
        bad: list[Malformed] = []
        part = next(left[place], None)
        while part is None:
            item = await anext(inputs[place], None)
            if item is None:
                ends.end(place)
                return bad
            if isinstance(item, Malformed):
                bad.append(item)
            else:
                left[place] = cutter.cut(item)
                part = next(left[place], None)
        frame = part[1]
        start = int(frame.ts[0]) + steps[place] if len(frame) else reached[place]
        if start < reached[place] - _STEP_BACK_NS:
            steps[place] += reached[place] - start
            start = reached[place]
        reached[place] = max(reached[place], start)
        heads.append((start, place, frame))
        return bad

    for place in range(len(inputs)):
        for malformed in await advance(place):
            yield malformed
    while heads:
        first = min(heads, key=lambda head: head[:2])
        heads.remove(first)
        ends.add(first[1], first[2])
        yield first[2]
        for malformed in await advance(first[1]):
            yield malformed


class _Ends:
    """The sources of each recording, and the time of its last event."""

    def __init__(self, inputs: int, on_end: OnEnd | None) -> None:
        self._on_end = on_end
        self._sources: list[set[str]] = [set() for _ in range(inputs)]
        self._newest = [0] * inputs  # ns
        self._open: Counter[str] = Counter()  # recordings that go on, by source

    def add(self, place: int, frame: EventFrame) -> None:
        """Take note of a frame of the recording at a place."""
        if len(frame):
            self._newest[place] = max(self._newest[place], int(frame.ts[-1]))
        sources = self._sources[place]
        if frame.source not in sources and len(sources) < _MOST_SOURCES:
            sources.add(frame.source)
            self._open[frame.source] += 1

    def end(self, place: int) -> None:
        """Take note that the recording at a place has ended."""
        sources, self._sources[place] = self._sources[place], set()
        self._open.subtract(sources)
        if self._on_end is not None and sources:
            self._on_end({source: self._newest[place] for source in sources if not self._open[source]})


class Pace:
    """Keeps a replay to recorded time, at a multiple of its speed.

    Args:
        speed: That multiple; 0 does not wait.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._started = time.monotonic()
        self._first: int | None = None

    async def wait(self, at: int) -> None:
        """Wait until a recorded time, in ns, has come; the first one has."""
        self._first = at if self._first is None else self._first
        due = self._started + (at - self._first) / 1e9 / self._speed if self._speed else 0.0
        await anyio.sleep(max(0.0, due - time.monotonic()))


def paced(items: Items, speed: float) -> Items:
    """Return the same events, each no sooner than its recorded time at ``speed`` times; as they are for 0.

    The input is closed with what is returned.
    """
    return _paced(items, speed) if speed else items


async def _paced(items: Items, speed: float) -> Items:
    pace = Pace(speed)
    cutter = FrameCutter(max(1, round(_PACE_SECONDS * speed * 1e9)))
    async with aclosing(items):  # which holds files
        async for item in items:
            if isinstance(item, Malformed):
                yield item
                continue
            for _, part in cutter.cut(item):
                if len(part):
                    await pace.wait(int(part.ts[0]))
                yield part


_LONGEST_STEP_NS = 2**63 - 1  # which all recorded time lies within


class FrameCutter:
    """Cuts frames at multiples of a step of recorded time; a step back in time does not cut.

    The first part keeps the frame's number and the others have none, so that losses stay visible. A
    repeated frame is not cut, so that all of it is recognised as one.

    Args:
        step_ns: Nanoseconds between cuts.
    """

    def __init__(self, step_ns: int) -> None:
        self._step_ns = min(step_ns, _LONGEST_STEP_NS)
        self._sequences: defaultdict[str, FrameSequence] = defaultdict(FrameSequence)

    def cut(self, frame: EventFrame) -> Iterator[tuple[int, EventFrame]]:
        """Yield (multiple of the step, part) for each part, in order."""
        if len(self._sequences) > _MOST_SOURCES:
            del self._sequences[next(iter(self._sequences))]
        if self._sequences[frame.source].arrive(frame).is_dropped or not len(frame):
            yield int(frame.ts[0]) // self._step_ns if len(frame) else 0, frame
            return
        parts = frame.split(np.maximum.accumulate(frame.ts // self._step_ns))
        yield next(parts)
        for number, part in parts:
            yield number, msgspec.structs.replace(part, seq=UNNUMBERED)
