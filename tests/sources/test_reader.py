import gzip
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvstream.errors import UnknownFormatError
from kvstream.events.codec import encode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC, encode_record
from kvstream.events.types import Malformed
from kvstream.sources.reader import EventReader

DATA = Path(__file__).parent.parent / "data"


def frame(n=100, first=0):
    return EventFrame(np.zeros(n, np.uint8), np.arange(first, first + n), np.arange(n) + 1, "s")


def as_jsonl(f):
    return encode_lines(f.to_events())


def as_kvlog(f):
    return MAGIC + encode_record(f)


FORMATS = {"jsonl": as_jsonl, "kvlog": as_kvlog}
PACKINGS = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip in two parts": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),
    "zstd": zstandard.ZstdCompressor().compress,
}


def read(data, size=1 << 20, origin="x"):
    reader = EventReader(origin)
    items = [item for i in range(0, len(data), size) for item in reader.feed(data[i : i + size])]
    items.extend(reader.finish())
    blocks = [b for i in items if isinstance(i, EventFrame) for b in i.blocks.tolist()]
    return blocks, [i for i in items if isinstance(i, Malformed)]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised(name, packing, size):
    blocks, bad = read(PACKINGS[packing](FORMATS[name](frame())), size)
    assert blocks == list(range(100))
    assert not bad


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_compressed_input_that_ends_early_is_reported(packing):
    data = PACKINGS[packing](as_jsonl(frame(5000)))
    blocks, bad = read(data[:-9], 1000)
    assert blocks == list(range(len(blocks)))
    assert any("too early" in m.reason for m in bad)


def test_damaged_compressed_input_is_reported():
    data = bytearray(gzip.compress(as_jsonl(frame(5000))))
    data[len(data) // 2] ^= 0xFF
    _, bad = read(bytes(data), 1000)
    assert bad


@pytest.mark.parametrize("data", [b"\x7fELF\x02\x01\x01\x00" * 4, b"PK\x03\x04\x00\x00", b"KVLOG\x00\x09\n"])
def test_unknown_format_says_what_it_starts_with(data):
    with pytest.raises(UnknownFormatError, match=r"x: "):
        read(data)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"  "])
def test_empty_input_is_no_error(data):
    assert read(data) == ([], [])


def test_a_first_line_of_damaged_text_is_only_a_bad_line():
    blocks, bad = read(b"oops\n" + as_jsonl(frame(3)))
    assert blocks == [0, 1, 2]
    assert [m.position for m in bad] == [1]


def test_a_long_line_that_is_no_event_is_counted_once():
    data = as_jsonl(frame(3)) + b'{"x":"' + b"y" * 3_000_000 + b'"}\n' + as_jsonl(frame(2, 50))
    blocks, bad = read(data, 100_000)
    assert blocks == [0, 1, 2, 50, 51]
    assert [(m.unit, m.position) for m in bad] == [("line", 4)]


@given(st.binary(max_size=300), st.integers(1, 64))
def test_no_bytes_upset_the_reader(data, size):
    try:
        read(data, size)
    except UnknownFormatError:
        return


@pytest.mark.parametrize("events", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_lines_of_which_one_percent_is_damaged_keep_every_good_event(events):
    rng = random.Random(3)
    lines = as_jsonl(frame(events)).split(b"\n")[:-1]
    damaged = sorted(rng.sample(range(len(lines)), events // 100))
    for i in damaged:
        line = bytearray(lines[i])
        line[rng.choice([0, len(line) - 1])] = 0x01
        lines[i] = bytes(line)
    blocks, bad = read(b"\n".join(lines) + b"\n")
    assert [m.position for m in bad] == [i + 1 for i in damaged]
    gone = set(damaged)
    assert blocks == [i for i in range(events) if i not in gone]


@pytest.mark.parametrize("frames", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_frames_of_which_one_percent_is_damaged_keep_every_good_one(frames):
    rng = random.Random(4)
    records = [encode_record(frame(100, i * 100)) for i in range(frames)]
    starts = list(itertools.accumulate(map(len, records), initial=len(MAGIC)))
    data = bytearray(MAGIC + b"".join(records))
    damaged = sorted(rng.sample(range(frames), frames // 100))
    for i in damaged:
        data[rng.randrange(starts[i], starts[i + 1])] ^= rng.randrange(1, 256)
    blocks, bad = read(bytes(data), 1 << 16)
    assert [m.position for m in bad] == [starts[i] for i in damaged]
    gone = set(damaged)
    assert blocks == [b for i in range(frames) if i not in gone for b in range(i * 100, i * 100 + 100)]


def test_a_byte_order_mark_and_carriage_returns_are_no_error():
    text = as_jsonl(frame(3)).replace(b"\n", b"\r\n")
    assert read(b"\xef\xbb\xbf" + text) == ([0, 1, 2], [])


def test_a_source_without_a_name_has_that_of_the_file():
    reader = EventReader("folder/engine-3.jsonl")
    line = b'{"event_id":0,"data":{"type":"removed","block_hashes":[7]},"ts":5}\n'
    (frame,) = reader.feed(line)
    assert (frame.source, frame.blocks.tolist(), frame.ts.tolist()) == ("engine-3", [7], [5])


def test_a_capture_is_read_as_frames():
    reader = EventReader("chat.wire.gz")
    items = [*reader.feed((DATA / "chat.wire.gz").read_bytes()), *reader.finish()]
    assert sum(len(frame) for frame in items) == 17_430 + 17_181
    assert {frame.source for frame in items} == {"chat/dp0"}
    assert [frame.seq for frame in items] == list(range(len(items)))


def test_a_log_of_a_later_version_is_refused_and_says_what_to_do():
    for head in (b"KVLOG\x00\x02\n" + bytes(100), b"KVLOG\x01"):
        with pytest.raises(UnknownFormatError, match=r"not a \.kvlog of version 1; update kvstream if"):
            read(head)
