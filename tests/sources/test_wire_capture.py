import struct
from pathlib import Path

import msgspec
import pytest

from kvstream.errors import MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.wire_capture import WireCaptureParser, decode_wire_message, encode_wire_message

DATA = Path(__file__).parent.parent / "data"
RECEIVED = 2**60  # ns


def record(seq, *blocks, topic=b"kv", payload=None):
    batch = msgspec.msgpack.encode([1.7e9, [["BlockStored", [*blocks], None, [], 32, None]]])
    number = seq if isinstance(seq, bytes) else seq.to_bytes(8, "big")
    return encode_wire_message([RECEIVED, topic, number, batch if payload is None else payload])


def read(*records):
    parser = WireCaptureParser("x", "x")
    items = [*parser.feed(b"".join(records)), *parser.finish()]
    frames = [item for item in items if isinstance(item, EventFrame)]
    return frames, [item for item in items if isinstance(item, Malformed)]


def test_hostile_records_are_counted_and_good_ones_beside_them_are_read():
    frames, malformed = read(
        record(0, 1),
        record(b"\xff" * 8, 99),
        record(b"\x7f" * 8, 99),
        record(2**40, 99),
        record(b"short", 99),
        record(1, payload=b"\x91" * 5_000),
        record(2, 2),
        record(3, 3),
    )
    assert [block for frame in frames for block in frame.blocks.tolist()] == [1, 2, 3]
    assert sum(item.count for item in malformed) == 5


def test_topics_are_sources_of_their_own_and_long_ones_too():
    frames, malformed = read(
        record(7, 1), record(0, 2, topic=b"t" * 100_000), record(8, 3), record(1, 4, topic=b"t" * 100_000)
    )
    assert not malformed
    blocks = {}
    for frame in frames:
        blocks.setdefault(frame.source, []).extend(frame.blocks.tolist())
        assert frame.seq < 2  # no hole between them
    first, second = sorted(blocks)
    assert blocks == {first: [1, 3], second: [2, 4]}
    assert first == "x"
    assert len(second) <= 256


def test_two_publishers_under_one_topic_are_told_apart_by_their_numbers(caplog):
    (frames, malformed) = read((DATA / "shared_topic.wire").read_bytes())
    assert not malformed
    blocks = {}
    for frame in frames:
        blocks.setdefault(frame.source, []).extend(frame.blocks.tolist())
    assert blocks == {"x/dp0": [100, 200, 201, 202, 203], "x/2/dp0": [101, 102, 103]}
    assert [record.getMessage() for record in caplog.records] == [
        "x: several publishers send under the topic '', each with its own numbers; give each a topic"
    ]


@pytest.mark.parametrize("received", [-1, 2**63, 2**64 - 1])
def test_a_time_of_receipt_that_is_none_is_refused(received):
    with pytest.raises(MalformedInputError):
        decode_wire_message(msgspec.msgpack.encode([received, b"", bytes(8), b""]))


def test_records_that_claim_all_that_follows_do_not_cost_its_length_again_each():
    records = 40_000
    head = b"\x94\xcf" + bytes(8) + b"\xc6"
    claims = [head + struct.pack(">I", 15 * left + 10) for left in reversed(range(records))]
    _, malformed = read(*claims, bytes(64))
    assert len(malformed) == 2


def test_many_large_records_are_decoded_in_portions():
    parser = WireCaptureParser("x", "x")
    token_ids = [7] * 900_000
    batch = msgspec.msgpack.encode([1.7e9, [["BlockStored", [1], None, token_ids, 32, None]]])
    frames = [item for seq in range(40) for item in parser.feed(record(seq, payload=batch))]
    assert sum(map(len, frames)) == 40
