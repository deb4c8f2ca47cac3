"""What understanding costs: ``python -m tests.bench.understanding [EVENTS]``.

Streams are measured with all of it on and off in turns; the ratio is the median over pairs. On is what a
monitor does by default; labels are in the stream or not, and never where all is off.
"""

import statistics
import sys
import time

import msgspec
import numpy as np

from kvstream.bench.streams import busy, filling
from kvstream.blocks.grouping import RUN_EVENTS
from kvstream.blocks.hashing import mix
from kvstream.config import MetricsConfig
from kvstream.events.types import Labels, Op
from kvstream.monitor import Monitor, compile_loops

SLOTS, CONTENTS = 16_384, 200_000  # live
KEYS, ZIPF = 200_000, 1.1  # different ones, and how unequally they are asked for
TENANTS = tuple(Labels(tenant=f"tenant-{number}") for number in range(8))
FRAME_EVENTS, PAIRS = 4_096, 7
OFF = MetricsConfig(owners=0, ghost_blocks=0, curve_contents=0)


def keyed(frame, seed):
    keys = np.random.default_rng(seed).zipf(ZIPF, len(frame)) % KEYS
    return msgspec.structs.replace(frame, keys=np.where(frame.ops == Op.ALLOC, mix(keys).view(np.int64), 0))


def labelled(frame, seed):
    of = np.random.default_rng(seed).integers(1, len(TENANTS) + 1, len(frame))
    of[frame.ops != Op.ALLOC] = 0
    return msgspec.structs.replace(frame, labels=TENANTS, label_of=of.astype(np.uint16))


def stream(kind, events):
    """The frame that fills a cache, and one of a busy one."""
    live = CONTENTS if kind == "content" else SLOTS
    fill = filling(live, content=kind == "content")
    then = busy(live, events, content=kind == "content")
    return (keyed(fill, 1), keyed(then, 2)) if kind == "keyed slots" else (fill, then)


def seconds(fill, then, config):
    """How long a monitor takes for the second frame, cut into small ones, and its summary."""
    monitor = Monitor(config)
    monitor.process(fill)
    if config is OFF:  # what has no setting of its own
        for tier in monitor.tiers():
            tier.working_set.add = lambda index, used: None
    frames = then.cut(FRAME_EVENTS)
    at_once = RUN_EVENTS // FRAME_EVENTS
    begun = time.perf_counter()
    for at in range(0, len(frames), at_once):
        monitor.process_batch(frames[at : at + at_once])
    monitor.summary()
    return time.perf_counter() - begun


def main():
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000
    compile_loops()
    print(f"{'stream':28} {'off':>8} {'on':>8}  ns/event, {events:,} events")
    for kind in ("slots", "keyed slots", "content"):
        fill, then = stream(kind, events)
        for name, on in ((kind, (fill, then)), (f"{kind}, labelled", (labelled(fill, 3), labelled(then, 4)))):
            pairs = [(seconds(fill, then, OFF), seconds(*on, MetricsConfig())) for _ in range(PAIRS)]
            off, with_all = (statistics.median(times) / events * 1e9 for times in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"{name:28} {off:8.1f} {with_all:8.1f}  {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
