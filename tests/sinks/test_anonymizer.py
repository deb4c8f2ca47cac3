"""Recordings that say nothing of their origin, and the same of what the cache did."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.codec import encode_frame
from kvstream.events.frame import EventFrame, frames_from_events
from kvstream.events.types import BlockAllocated, BlockEvicted, Labels
from kvstream.sinks.anonymizer import Anonymizer
from kvstream.sources.reader import EventReader
from kvstream.sources.synthetic import generate

ROOT = Path(__file__).parents[2]


def read(path):
    reader = EventReader(path.name)
    return [*reader.feed(path.read_bytes()), *reader.finish()]


def summary(frames):
    monitor = Monitor(MetricsConfig(capacity=2048))
    for frame in frames:
        monitor.process(frame)
    return monitor.summary()


def figures(frames):
    """All figures of a summary, without times of day, names, and estimates that go by hashes of contents."""
    found = summary(frames)
    values = msgspec.to_builtins(found)
    estimated = ("working_set", "sizes", "misses", "tiers")
    for name in ("timestamp", "alerts", "pending", "labels", *estimated):
        del values[name]
    labels = {
        name: sorted(msgspec.json.encode(msgspec.structs.replace(each, value=None)) for each in usages)
        for name, usages in found.labels.items()
    }
    return values, labels


def order_of_content(frames):
    """A number for each block and key, by when it came first: which of them are equal, and nothing else."""
    numbers = {}
    columns = [column for frame in frames for column in (frame.blocks, frame.keys) if column is not None]
    return [numbers.setdefault(each, len(numbers)) for column in columns for each in column.tolist()]


STREAMS = {
    "engine": lambda: read(ROOT / "tests" / "data" / "chat.wire.gz"),
    "hooks": lambda: read(ROOT / "examples" / "data" / "chat.kvlog.gz"),
    "keys and labels": lambda: list(generate("mixed", 40_000, blocks=512, seed=3)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_figures_stay_the_same(name):
    frames, anonymizer = STREAMS[name](), Anonymizer()
    made = [anonymizer.frame(frame) for frame in frames]
    assert figures(made) == figures(frames)
    assert figures(frames)[0]["accounts"]["allocations"] > 1_000
    assert order_of_content(made) == order_of_content(frames)  # of which curves are estimated


def secret_frames():
    labels = Labels(tenant="acme-corp", lora="secret-adapter")
    events = [
        BlockAllocated(
            1, 1_767_225_600_123_456_789, "prod-eu-7/dp3", "gpu", key=0x1234567890ABCDEF, labels=labels
        ),
        BlockAllocated(0x7EADBEEF12345678, 1_767_225_601_000_000_000, "prod-eu-7/dp3", "acme-tape"),
        BlockEvicted(1, 1_767_225_603_123_456_789, "prod-eu-7/dp3", "gpu"),
    ]
    return [msgspec.structs.replace(frame, epoch=1_767_225_599) for frame in frames_from_events(events)]


def test_nothing_of_the_origin_is_left():
    anonymizer = Anonymizer()
    made = [anonymizer.frame(frame) for frame in secret_frames()]
    text = json.dumps([msgspec.to_builtins(frame.to_events()) for frame in made])
    data = b"".join(map(encode_frame, made))
    for secret in ("acme", "secret", "prod", str(0x1234567890ABCDEF), str(0x7EADBEEF12345678), "17672256"):
        assert secret not in text
        assert secret.encode() not in data
    for number in (0x1234567890ABCDEF, 0x7EADBEEF12345678, 1_767_225_599):
        assert number.to_bytes(8, "little") not in data
        assert number.to_bytes(8, "big") not in data
    assert all(frame.source.endswith("/dp3") for frame in made)
    gpu, _ = made
    assert gpu.blocks.tolist() == [1, 1]
    assert (gpu.ts[1] - gpu.ts[0], gpu.ts[0] % 60_000_000_000) == (3_000_000_000, 123_456_789)
    assert gpu.ts[0] < 946_684_860_000_000_000


def test_equal_things_are_equal_in_one_run_and_not_in_two():
    one, other = Anonymizer(), Anonymizer()
    (frame, _) = secret_frames()
    first, again, elsewhere = one.frame(frame), one.frame(frame), other.frame(frame)
    assert encode_frame(first) == encode_frame(again)
    assert first.keys.tolist() != elsewhere.keys.tolist()
    assert first.source != elsewhere.source
    assert first.labels != elsewhere.labels
    assert encode_frame(Anonymizer(b"k").frame(frame)) == encode_frame(Anonymizer(b"k").frame(frame))


def test_a_missing_key_stays_missing():
    frame = EventFrame(np.zeros(2, np.uint8), np.array([1, 2]), np.array([5, 6]), keys=np.array([0, 9]))
    assert Anonymizer().frame(frame).keys.tolist()[0] == 0
