"""What understanding costs: ``python -m tests.bench.understanding [EVENTS]``.

Whole streams are measured with all of it on and off in turns; the ratio is the median over pairs. On is what
a stream does by default; labels are in the events or not, and never where all is off.
"""

import statistics
import sys
import time
from unittest import mock

import anyio

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.bench.streams import busy, filling, keyed, labelled
from kvstream.engine.joining import joined_frames
from kvstream.events.codec import decode_lines, encode_lines
from kvstream.metrics.working_set import WorkingSetHistory

SLOTS, CONTENTS, SOURCES = 16_384, 200_000, 64
PAIRS = 7
ON = StreamConfig()
OFF = StreamConfig(
    metrics=MetricsConfig(label_sets=0, remembered_evictions=0, curve_keys=0, content_sample=0)
)


def stream(events, live, content=False, source="bench"):
    """A cache that fills, and is busy then."""
    parts = [filling(live, content=content, source=source)]
    parts.append(busy(live, events, content=content, source=source))
    return joined_frames(parts)


def small_frames(events):
    """Frames of 64 events, from many sources by turns."""
    each = events // SOURCES
    cut = [stream(each, 1024, source=f"engine-{n}").cut(64) for n in range(SOURCES)]
    return [frame for turn in zip(*cut, strict=True) for frame in turn]


async def consume(frames, config):
    async with KVStream(config) as running:
        for frame in frames:
            await running.send(frame)
    running.summary_nowait()


async def consume_lines(chunks, config):
    async with KVStream(config) as running:
        for chunk in chunks:
            for frame in decode_lines(chunk, print):
                await running.send(frame)
    running.summary_nowait()


def uncounted(history, index, used):
    """In place of working sets where all is off: they have no setting of their own; a mock costs too much."""


def seconds(work, given, config):
    begun = time.perf_counter()
    anyio.run(work, given, config)
    return time.perf_counter() - begun


def compare(name, events, without, given, work=consume):
    """Prints what a stream costs off and on, of which ``without`` is the same without labels."""
    pairs = []
    for _ in range(PAIRS):
        with mock.patch.object(WorkingSetHistory, "add", uncounted):
            off = seconds(work, without, OFF)
        pairs.append((off, seconds(work, given, ON)))
    off, on = (statistics.median(times) / events * 1e9 for times in zip(*pairs, strict=True))
    ratio = statistics.median(with_all / without for without, with_all in pairs)
    print(f"{name:28} {off:8.1f} {on:8.1f}  {ratio:.2f}", flush=True)


def main():
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000
    print(f"{'stream':28} {'off':>8} {'on':>8}  ns/event")
    slots = stream(events, SLOTS)
    for kind, frame in (
        ("slots", slots),
        ("keyed slots", keyed(slots)),
        ("content", stream(events, CONTENTS, content=True)),
    ):
        plain = frame.cut(4_096)
        compare(kind, len(frame), plain, plain)
        compare(f"{kind}, labelled", len(frame), plain, labelled(frame).cut(4_096))
    small = small_frames(events)
    compare("frames of 64, 64 sources", sum(map(len, small)), small, small)
    lines = [encode_lines(frame.to_events()) for frame in slots.cut(4_096)[: events // 32_768]]
    compare("JSON lines", 4_096 * len(lines), lines, lines, consume_lines)


if __name__ == "__main__":
    main()
