import itertools
import zlib

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvstream.events.codec import encode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC, LogParser, encode_record
from kvstream.events.types import Labels, Malformed


def frames(count, events=7):
    """Frames, every other one with labels."""
    label_of = np.ones(events, np.uint16)
    return [
        EventFrame(
            np.zeros(events, np.uint8),
            np.full(events, i),
            np.full(events, 10 + i),
            "s",
            seq=i,
            labels=(Labels(tenant="a"),) if i % 2 else (),
            label_of=label_of if i % 2 else None,
        )
        for i in range(count)
    ]


def written(many):
    """Return a log of frames, and where each of its records starts."""
    records = [encode_record(frame) for frame in many]
    starts = list(itertools.accumulate(map(len, records[:-1]), initial=len(MAGIC)))
    return MAGIC + b"".join(records), starts


def parse(parser, data, pieces=1):
    size = max(1, len(data) // pieces)
    items = [item for i in range(0, len(data), size) for item in parser.feed(data[i : i + size])]
    items.extend(parser.finish())
    return [i for i in items if isinstance(i, EventFrame)], [i for i in items if isinstance(i, Malformed)]


@given(st.integers(1, 500))
def test_log_reads_back_in_pieces_of_any_size(pieces):
    data, _ = written(frames(5))
    good, bad = parse(LogParser("x"), data, pieces)
    assert [f.seq for f in good] == [0, 1, 2, 3, 4]
    assert not bad


@given(st.data())
def test_damaged_bytes_of_records_cost_only_those_records(data):
    log, starts = written(frames(12))
    damaged = data.draw(st.sets(st.integers(0, 11), max_size=4))
    # Payload bytes: the length still tells where the next record starts.
    text = bytearray(log)
    for i in damaged:
        end = starts[i + 1] if i + 1 < len(starts) else len(log)
        place = data.draw(st.integers(starts[i] + 10, end - 1))
        text[place] ^= data.draw(st.integers(1, 255))
    good, bad = parse(LogParser("x"), bytes(text), data.draw(st.integers(1, 40)))
    assert [f.seq for f in good] == [i for i in range(12) if i not in damaged]
    assert [m.position for m in bad] == [starts[i] for i in sorted(damaged)]


@given(st.data())
def test_a_damaged_length_costs_only_its_record(data):
    log, starts = written(frames(12))
    i = data.draw(st.integers(0, 11))
    text = bytearray(log)
    text[starts[i] + data.draw(st.integers(0, 7))] ^= data.draw(st.integers(1, 255))
    good, bad = parse(LogParser("x"), bytes(text), data.draw(st.integers(1, 40)))
    assert [f.seq for f in good] == [j for j in range(12) if j != i]
    assert [m.position for m in bad] == [starts[i]]


@given(st.integers(1, 150))
def test_torn_tail_is_reported_and_ignored(cut):
    log, starts = written(frames(3))
    torn = log[: -min(cut, len(log) - starts[2] - 1)]
    good, bad = parse(LogParser("x"), torn, 5)
    assert [f.seq for f in good] == [0, 1]
    assert [m.position for m in bad] == [starts[2]]


def record(payload):
    return len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload


def test_records_of_later_releases_are_read_as_far_as_they_are_known():
    fields = msgspec.msgpack.decode(encode_frame(frames(1)[0]))
    labelled = [*fields, msgspec.msgpack.encode([{"tenant": "a", "region": "eu"}]), bytes(2 * len(fields[5]))]
    payloads = [[*labelled, "more"], [2, *fields[1:]], [*labelled, None, {"a": [1]}], fields]
    data = MAGIC + b"".join(record(msgspec.msgpack.encode(payload)) for payload in payloads)
    good, bad = parse(LogParser("x"), data, 7)
    assert [f.blocks.tolist() for f in good] == [frames(1)[0].blocks.tolist()] * 3
    assert [m.reason for m in bad] == ["frame version 2 cannot be read, only 1: update kvstream"]


@given(st.binary(max_size=400), st.integers(1, 20))
def test_no_bytes_upset_the_parser(junk, pieces):
    _, bad = parse(LogParser("x"), MAGIC + junk, pieces)
    ends = [m.position for m in bad]
    assert ends == sorted(ends)
