"""``python -m tests.data.make_state``: writes tests/data/state_v2.kvlog.gz and the snapshots of it.

Once a format is released its snapshots are never written anew: what a later version writes gets files of its
own, and the older ones show that it still goes on from them.

Some thousand events of five sources in small frames, with what a snapshot can hold: slots with keys and
labels, contents, copies on two tiers, losses, repeats, a restart, a clear, a source that was forgotten and
one that found no room, alerts that fire, silences. Sources are saved one after the other while events go on.
"""

import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import numpy as np

from kvstream.alerts.silences import Silence
from kvstream.config import MetricsConfig
from kvstream.events.frame import EventFrame
from kvstream.events.types import Labels, Op
from kvstream.sinks.event_log import EventLogWriter
from kvstream.state.sections import source_section, stream_section
from kvstream.state.snapshot import VERSION, Header, pack
from tests.state.test_sections import Stream

DATA = Path(__file__).parent
CONFIG = MetricsConfig(
    window_seconds=0.5,
    windows=16,
    trend_window=4,
    capacity=24,
    remembered_evictions=64,
    curve_keys=16,
    label_sets=2,
    max_caches=5,
)
SILENCE = Silence(until=datetime(2030, 1, 1, tzinfo=UTC), source="copies", id="until-2030")
LABELS = (Labels(tenant="a"), Labels(tenant="b", lora="x"), Labels(tenant="one too many"))
START, STEP = 1_800_000_000 * 10**9, 4_000_000  # ns
OPS = {
    "slots": [Op.ALLOC, Op.ALLOC, Op.ACCESS, Op.ACCESS, Op.ACCESS, Op.EVICT],
    "contents": [Op.ALLOC, Op.ACCESS, Op.ACCESS, Op.EVICT],
    "copies": [Op.STORE, Op.STORE, Op.PREFIX, Op.EVICT, Op.REMOVE],
    "gone": [Op.ALLOC, Op.EVICT],
    "refused": [Op.ALLOC],
}
FRAMES, SAVED_AT, APART, FORGOTTEN_AT = 240, 150, 3, 90


def made_frames():
    """Frames of all sources, in order."""
    rng = random.Random(20261126)
    numbers = dict.fromkeys(OPS, 0)
    for at in range(FRAMES):
        source = rng.choice([*OPS, "slots", "contents", "copies"])
        if (source == "gone" and at >= FORGOTTEN_AT) or (source == "refused" and at < FORGOTTEN_AT // 2):
            continue
        n = rng.randint(5, 30)
        low = 2**40 if source == "contents" else 0
        ops = np.array(rng.choices(OPS[source], k=n), np.uint8)
        if source == "contents" and at % 60 == 59:
            ops[-1] = Op.CLEAR
        column = {}
        if source == "slots":
            column = {
                "keys": np.array(rng.choices(range(2**50, 2**50 + 60), k=n)),
                "labels": LABELS,
                "label_of": np.array(rng.choices(range(4), k=n), np.uint16),
            }
        numbers[source] += 2 if rng.random() < 0.08 else 1
        yield EventFrame(
            ops,
            low + np.array(rng.choices(range(26), k=n)),
            START + at * 30 * STEP + np.array(sorted(rng.choices(range(30 * STEP), k=n))),
            source,
            rng.choice(["gpu", "cpu"]) if source == "copies" else "gpu",
            reasons=np.array(rng.choices(range(5), k=n), np.uint8),
            epoch=2 if source == "contents" and at > 40 else 1,
            seq=numbers[source] - (rng.random() < 0.05),
            **column,
        )


def begun(consumers):
    """A stream to which nothing has been given yet."""
    stream = Stream(consumers, CONFIG)
    stream.parts.silences.add(SILENCE)
    return stream


def process(stream, each, at):
    """Apply a frame, and what happens beside the frames."""
    alerts = stream.process(each)
    if at == FORGOTTEN_AT:
        stream.forget("gone")
    if at % 10 == 9:
        sources = stream.parts.sources().items()
        duplicates = [(name, source.duplicates) for name, source in sources if source.duplicates]
        alerts += stream.parts.drops.look(stream.parts.limits.refused, duplicates, float(each.ts[-1]) / 1e9)
    return alerts


def sections(frames):
    """The sections of a stream, each source's ``APART`` frames after that of the one before."""
    stream = begun(2)
    made, saved = [], {}
    for at, each in enumerate(frames):
        late = at - SAVED_AT
        names = list(stream.parts.sources())
        if late == APART * len(names):
            return [*made, stream_section(stream.parts, saved)]
        if late >= 0 and late % APART == 0:
            name = names[late // APART]
            saved[name] = stream.parts.sources()[name]
            made.append(source_section(saved[name]))
        process(stream, each, at)
    raise AssertionError("too few frames")


def write():
    """Write the frames and the snapshot, twice: by zlib, which every installation reads, and by zstd."""
    frames = list(made_frames())
    with EventLogWriter(str(DATA / f"state_v{VERSION}.kvlog.gz")) as writer:
        for each in frames:
            writer.write(each)
    header = Header(number=3, taken_at=1_800_000_060.0, writer="0.1.0")
    made = sections(frames)
    for compression, without in (("zlib", {"zstandard": None}), ("zstd", {})):
        with patch.dict(sys.modules, without):
            (DATA / f"state_v{VERSION}.{compression}.kvstate").write_bytes(pack(header, made))


if __name__ == "__main__":
    write()
