"""Records of some engines, and what a partition comes to by them."""

from msgspec.structs import replace

from kvstream.alerts.rules_file import default_rules
from kvstream.config import MetricsConfig
from kvstream.events.codec import encode_frame
from kvstream.faults.log import FaultLog
from kvstream.fleet.partition import TICK, Partition, Record
from kvstream.sources.synthetic import START_NS, generate
from tests.engine.test_saved import figures

CONFIG = MetricsConfig(capacity=256, forget_seconds=600.0)
START_MS = START_NS // 10**6


def partition(config=CONFIG, faults=None):
    return Partition("t.frames[0]", config, default_rules(), (), faults or FaultLog())


def engine(source, events=4000, seed=0, rate=400.0, epoch=1):
    """Numbered frames of an engine, some seconds of event time each."""
    frames = generate("incidents", events, blocks=256, rate=rate, seed=seed, source=source, frame_events=128)
    return [replace(frame, epoch=epoch, seq=seq) for seq, frame in enumerate(frames)]


def records(frames, *, first=0, tick_ms=1000, until_ms=None):
    """Frames as they came, in order of time, and the ticks between them."""
    found, now = [], None

    def add(at_ms, value):
        found.append(Record(first + len(found), at_ms, value))

    for frame in sorted(frames, key=lambda frame: int(frame.ts[-1])):
        at_ms = int(frame.ts[-1]) // 10**6
        now = at_ms if now is None else now
        while now + tick_ms <= at_ms:
            now += tick_ms
            add(now, TICK)
        add(at_ms, encode_frame(frame))
    while until_ms is not None and now + tick_ms <= until_ms:
        now += tick_ms
        add(now, TICK)
    return found


def seen(partition):
    """All that can be asked of a partition."""
    return {
        **figures(partition.monitor),
        "offset": partition.offset,
        "malformed": partition.malformed,
        "firing": [alert for cache in partition.monitor.caches() for alert in cache.rules.firing()],
    }
