import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.errors import MalformedInputError
from kvstream.events.codec import decode_frame, decode_line, decode_lines, encode_frame, encode_lines
from kvstream.events.frame import EventFrame, frames_from_events
from kvstream.events.types import BlockAccessed, BlockAllocated, BlockEvicted, Labels
from tests.strategies import EVENTS


def a_frame(n=3):
    return EventFrame(np.zeros(n, np.uint8), np.arange(n), np.arange(n) + 5, "s")


def lines(text: bytes):
    bad = []
    frames = list(decode_lines(text, lambda number, reason: bad.append((number, reason))))
    return [e for f in frames for e in f.to_events()], bad


@given(st.lists(EVENTS, max_size=30))
def test_events_survive_frames_and_msgpack(events):
    back = [e for f in frames_from_events(events) for e in decode_frame(encode_frame(f)).to_events()]
    key = lambda e: (e.source, e.tier)  # noqa: E731
    assert sorted(back, key=key) == sorted(events, key=key)


@given(st.lists(EVENTS, max_size=30))
def test_events_survive_json_lines(events):
    back, bad = lines(encode_lines(events))
    key = lambda e: (e.source, e.tier)  # noqa: E731
    assert sorted(back, key=key) == sorted(events, key=key)
    assert not bad


def test_frame_columns_are_views_of_the_message():
    data = encode_frame(a_frame(1000))
    frame = decode_frame(data)
    assert not frame.blocks.flags.owndata
    assert not frame.blocks.flags.writeable


def test_unsigned_and_signed_hashes_are_the_same_block():
    events, bad = lines(
        b'{"type":"alloc","block":18446744073709551615,"ts":1}\n{"type":"access","block":-1,"ts":2}\n'
    )
    assert [e.block for e in events] == [-1, -1]
    assert not bad


@pytest.mark.parametrize(
    "change",
    [
        {0: 2},
        {1: ""},
        {1: 5},
        {4: -2},
        {5: b"\x00"},
        {5: b"\x00\x00\x09"},
        {6: b"1234"},
        {7: np.array([-1, 0, 0]).tobytes()},
        {8: b"12345678"},
        {9: b"\x00"},
        {9: "text"},
    ],
    ids=str,
)
def test_inconsistent_frame_is_malformed(change):
    fields = msgspec.msgpack.decode(encode_frame(a_frame()))
    for place, value in change.items():
        fields[place] = value
    with pytest.raises(MalformedInputError):
        decode_frame(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(
    "more", [[], [None], ["more", 5, b"\x00" * 8], [{"nested": [1, {"a": None}]}, -1, 2.5]]
)
def test_fields_of_later_releases_are_ignored(more):
    frame = msgspec.structs.replace(a_frame(), labels=(Labels("a"),), label_of=np.array([0, 1, 0], np.uint16))
    fields = msgspec.msgpack.decode(encode_frame(frame))
    found = decode_frame(msgspec.msgpack.encode([*fields, *more]))
    assert found.to_events() == frame.to_events()


def test_a_frame_of_a_later_version_is_refused_and_says_what_to_do():
    fields = msgspec.msgpack.decode(encode_frame(a_frame()))
    with pytest.raises(MalformedInputError, match="version 2 cannot be read, only 1: update kvstream"):
        decode_frame(msgspec.msgpack.encode([2, *fields[1:], "more"]))


@pytest.mark.parametrize(
    "change",
    [
        {10: b"\x91"},
        {10: msgspec.msgpack.encode([{"tenant": ""}])},
        {10: msgspec.msgpack.encode([])},
        {11: None},
        {11: b"\x01"},
        {11: b"\x02\x00\x00\x00\x00\x00"},
    ],
    ids=str,
)
def test_inconsistent_labels_are_malformed(change):
    frame = frames_from_events([BlockAllocated(1, 5, labels=Labels(tenant="a")), *[BlockAccessed(1, 6)] * 2])
    fields = msgspec.msgpack.decode(encode_frame(frame[0]))
    assert len(fields) == 12
    for place, value in change.items():
        fields[place] = value
    with pytest.raises(MalformedInputError, match="label"):
        decode_frame(msgspec.msgpack.encode(fields))


def test_frame_with_too_many_events_is_malformed():
    n = 1_048_577
    with pytest.raises(MalformedInputError, match="1,048,576"):
        encode_frame(a_frame(n))
    fields = [1, "s", "gpu", 0, 0, bytes(n), bytes(8 * n), bytes(8 * n), None, None]
    with pytest.raises(MalformedInputError, match="1,048,576"):
        decode_frame(msgspec.msgpack.encode(fields))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_malformed(data):
    try:
        decode_frame(data)
    except MalformedInputError:
        return
    assert data[1:2] == b"\x01"


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_a_frame_or_malformed(place, value):
    data = bytearray(encode_frame(a_frame(50)))
    data[place % len(data)] = value
    try:
        frame = decode_frame(bytes(data))
    except MalformedInputError:
        return
    assert len(frame) == 50


def test_bad_lines_are_told_by_number_and_good_neighbours_kept():
    text = b"\n".join(
        [
            b'{"type":"alloc","block":1,"ts":5}',
            b'{"type":"alloc","block":1',
            b"",
            b'{"type":"nonsense","block":1,"ts":5}',
            b'{"type":"access","block":1,"ts":1.5}',
            b'{"type":"access","block":1,"ts":-4}',
            b'{"type":"access","block":99999999999999999999,"ts":6}',
            b"\xff\xfe",
            b'{"type":"access","block":1,"ts":7.0,"extra":{"a":[1]}}',
            b'{"type":"evict","block":1,"ts":8,"reason":"cosmic rays"}',
            b"[" * 5000,
        ]
    )
    events, bad = lines(text)
    assert events == [
        BlockAllocated(1, 5),
        BlockAccessed(1, 7),
        BlockEvicted(1, 8, reason="unknown"),
    ]
    assert [number for number, _ in bad] == [2, 4, 5, 6, 7, 8, 11]
    assert "another unit" in dict(bad)[5]
    assert "64 bits" in dict(bad)[7]


@pytest.mark.parametrize(
    "text", ["", "null", "7", "{}", '{"type":"alloc"}', '{"type":"alloc","block":"7","ts":1}']
)
def test_a_line_that_is_no_event_says_why(text):
    with pytest.raises(MalformedInputError, match=r"\w+"):
        decode_line(text)


def test_names_with_lone_surrogates_are_encoded_escaped():
    labels = (Labels(tenant="t\udcff"),)
    frame = EventFrame(
        *(np.zeros(1, np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64), "a\udcff", "\ud800"),
        labels=labels,
        label_of=np.ones(1, np.uint16),
    )
    found = decode_frame(encode_frame(frame))
    assert (found.source, found.tier, found.labels[0].tenant) == (r"a\udcff", r"\ud800", r"t\udcff")
