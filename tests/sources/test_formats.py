"""Which format an input is of."""

import json
from pathlib import Path

import pytest

from kvstream.errors import ConfigError, UnknownFormatError
from kvstream.events.codec import encode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.types import BlockAllocated, Malformed
from kvstream.sources.formats import LINE_FORMATS, line_format
from kvstream.sources.options import ReadOptions
from kvstream.sources.reader import EventReader

DATA = Path(__file__).parent.parent / "data"
ROWS = {
    "events": {"type": "alloc", "block": 1, "ts": 5},
    "TensorRT-LLM events": {"event_id": 0, "data": {"type": "removed", "block_hashes": [1]}, "ts": 5},
    "Dynamo recording": {
        "timestamp": 5,
        "event": {"worker_id": 1, "event": {"event_id": 0, "data": {"removed": {"block_hashes": [1]}}}},
    },
    "LMCache lookup log": {"timestamp": 5.0, "chunk_size": 256, "chunk_hashes": ["0x1"]},
    "Qwen-Bailian trace": {"chat_id": 1, "type": "text", "timestamp": 5.0, "hash_ids": [1]},
    "Mooncake trace": {"timestamp": 5, "hash_ids": [1]},
}


def read(data, pieces=1 << 20):
    """The number of events, the lines that were malformed, and the format that was found."""
    found = []
    reader = EventReader("x", ReadOptions(capacity=9), lambda known, source: found.append(known.name))
    items = [item for at in range(0, len(data), pieces) for item in reader.feed(data[at : at + pieces])]
    items += reader.finish()
    events = sum(len(item) for item in items if isinstance(item, EventFrame))
    return events, [item.position for item in items if isinstance(item, Malformed)], found


def test_every_format_of_lines_has_a_case_here():
    assert [known.name for known in LINE_FORMATS] == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_line_tells_its_format_alone_or_in_an_array(name):
    row = json.dumps(ROWS[name]).encode()
    assert line_format(row).name == line_format(b"[" + row + b"]").name == name


@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
@pytest.mark.parametrize("before", [b"", b"{}\n", b"null\n[]\n", b"\n"])
@pytest.mark.parametrize("name", ROWS)
def test_empty_polls_before_the_first_line_are_passed_over(name, before, pieces):
    assert read(before + json.dumps(ROWS[name]).encode(), pieces) == (1, [], [name])


@pytest.mark.parametrize("before", [b"some words\n", b"time,block\n", b'{"trace": "header"}\n', b"{broken\n"])
@pytest.mark.parametrize("name", ROWS)
def test_a_header_before_the_first_line_is_a_bad_line_and_no_more(name, before):
    assert read(before + json.dumps(ROWS[name]).encode() + b"\n", 5) == (1, [1], [name])


def test_elements_of_arrays_are_events_of_the_line_that_they_stand_in():
    row = json.dumps(ROWS["events"]).encode()
    assert read(b"[%s,%s]\n[]\n[%s,{}]\n[%s,7]\n[{]" % (row, row, row, row)) == (4, [4, 5], ["events"])


def test_lines_that_tell_nothing_are_taken_for_events_after_a_hundred():
    events, bad, found = read(b'{"a":1}\n' * 100 + json.dumps(ROWS["Mooncake trace"]).encode())
    assert (events, len(bad), found) == (0, 101, ["events"])


def test_a_trace_needs_a_capacity():
    reader = EventReader("day.jsonl")
    with pytest.raises(ConfigError, match=r"day.jsonl: a hash trace needs --capacity"):
        list(reader.feed(json.dumps(ROWS["Mooncake trace"]).encode() + b"\n"))


@pytest.mark.parametrize("pieces", [3, 1 << 20])
def test_a_git_lfs_pointer_is_called_one(pieces):
    with pytest.raises(UnknownFormatError, match="x: a Git LFS pointer"):
        read((DATA / "lfs_pointer.jsonl").read_bytes(), pieces)


@pytest.mark.parametrize("name", ["trt_polls.jsonl", "trt_empty_first.jsonl"])
def test_polls_of_tensorrt_llm_are_read(name):
    events, bad, found = read((DATA / name).read_bytes(), 100)
    assert (events, bad, found) == (4 if "polls" in name else 3, [], ["TensorRT-LLM events"])


@pytest.mark.parametrize("pieces", [70_001, 1 << 20, 1 << 25])
def test_long_lines_are_read_whatever_the_read_boundaries(pieces):
    prompt = json.dumps([{"type": "unique_token", "token_id": 0}] * 60_000)
    block = '{"type":"stored_block","block_hash":%d,"cache_level":0,"tokens":%s}'
    stored = '{"event_id":%d,"data":{"type":"stored","blocks":[%s]},"ts":5}\n'
    text = "".join(stored % (number, block % (number, prompt)) for number in range(4)).encode()
    assert len(text) > 4 * 2**20
    assert read(text, pieces) == (4, [], ["TensorRT-LLM events"])


def test_lines_beyond_the_bound_are_skipped_and_counted_once(monkeypatch):
    monkeypatch.setattr("kvstream.sources.lines.MAX_LINE_BYTES", 1000)
    row = encode_lines([BlockAllocated(1, 5)])
    long = b'{"x":"%s"}\n' % (b"y" * 5000)
    for pieces in (1, 333, 1 << 20):
        assert read(row + long + row + long + row, pieces) == (3, [2, 4], ["events"])
