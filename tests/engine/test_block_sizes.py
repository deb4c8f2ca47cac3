"""Tokens and bytes, where events say the size of blocks."""

import msgspec
import numpy as np
import pytest

from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.codec import decode_frame, encode_frame
from kvstream.events.frame import EventFrame
from kvstream.events.types import Op
from kvstream.reports.lines import hit_ratio
from kvstream.sources.kv_events import KVEventDecoder


def stored(hashes, block_size, group=None, parent=1):
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": parent,
        "block_size": block_size,
        "group_idx": group,
    }


def found(hashes, block_size, group=None):
    return {**stored(hashes, block_size, group), "origin": "REUSED"}


def removed(hashes):
    return {"type": "BlockRemoved", "block_hashes": hashes}


def decoded(*batches):
    decoder = KVEventDecoder("engine")
    for second, events in enumerate(batches):
        decoder.add(msgspec.msgpack.encode([1.7e9 + second, events]))
    return decoder.frames()


def summary(frames, **settings):
    monitor = Monitor(MetricsConfig(**settings))
    for frame in frames:
        monitor.process(decode_frame(encode_frame(frame)))
    return monitor.summary()


def test_the_block_size_of_an_engine_gives_hits_in_tokens():
    seen = summary(decoded([stored([1, 2, 3], 32)], [found([1], 32), removed([2])]))
    assert (seen.block_tokens, seen.block_sizes, seen.hit_tokens, seen.lookup_tokens) == (32, [32], 32, 128)
    assert hit_ratio(seen).startswith("0.250, 32 of 128 tokens")


@pytest.mark.parametrize("batches", [1, 2], ids=["in one batch", "in two"])
def test_groups_with_blocks_of_different_size_are_counted_each_by_its_own(batches):
    events = [stored([1, 2], 16, 0), stored([1], 64, 1), found([1], 64, 1), found([1, 2], 16, 0)]
    frames = decoded(*([events] if batches == 1 else [events[:2], events[2:]]))
    assert [frame.block_tokens for frame in frames] == [16, 64, 16]
    assert [frame.seq for frame in frames] == [0, 1, 2]
    together = Monitor()
    together.process_batch(frames)
    for seen in (summary(frames), together.summary()):
        assert (seen.block_tokens, seen.block_sizes) == (None, [16, 64])
        assert (seen.hit_tokens, seen.lookup_tokens) == (16 * 2 + 64, 16 * 4 + 64 * 2)
        assert "tokens in blocks of 16 and 64" in hit_ratio(seen)


def test_a_size_that_changes_counts_from_then_on():
    decoder, frames = KVEventDecoder("engine"), []
    for events in ([stored([1], 16), found([1], 16)], [found([1], 32)], [removed([1])]):
        decoder.add(msgspec.msgpack.encode([1.7e9, events]))
        frames += decoder.frames()
    seen = summary(frames)
    assert (seen.block_sizes, seen.block_tokens) == ([16, 32], None)
    assert (seen.hit_tokens, seen.lookup_tokens) == (48, 64)


@pytest.mark.parametrize("size", [None, 0, -16, 2**40, "16", 1.5, [16]])
def test_what_is_no_size_is_unknown(size):
    frames = decoded([stored([1], size), found([1], size)])
    assert [frame.block_tokens for frame in frames] == [0]
    seen = summary(frames)
    assert (seen.block_tokens, seen.block_sizes, seen.hit_tokens, seen.lookup_tokens) == (
        None,
        [],
        None,
        None,
    )


def test_tokens_are_unknown_where_some_lookups_have_no_size():
    unsized = EventFrame(np.array([Op.ALLOC], np.uint8), np.array([9]), np.array([1]), "engine")
    seen = summary([unsized, *decoded([stored([1], 16), found([1], 16)])])
    assert (seen.hit_tokens, seen.lookup_tokens, seen.block_sizes) == (None, None, [16])


def test_the_size_of_the_events_is_preferred_to_that_of_the_settings():
    frames = decoded([stored([1, 2], 32), found([1], 32)])
    seen = summary(frames, block_tokens=16, block_bytes=1000, capacity=10)
    assert (seen.block_tokens, seen.hit_tokens) == (32, 32)
    assert (seen.block_bytes, seen.live_bytes, seen.capacity_bytes) == (2000, 4000, 20_000)
    alone = summary(frames, block_bytes=1000)  # of a block, whatever is in it
    assert (alone.block_bytes, alone.live_bytes) == (1000, 2000)


def test_bytes_are_unknown_where_blocks_of_different_size_have_them_in_proportion():
    frames = decoded([stored([1], 16, 0), stored([1], 64, 1)])
    in_proportion = summary(frames, block_tokens=16, block_bytes=1000)
    assert (in_proportion.block_bytes, in_proportion.live_bytes) == (None, None)
    pages = summary(frames, block_bytes=1000)  # as vLLM gives all groups pages of one size
    assert (pages.block_bytes, pages.live_bytes) == (1000, 2000)


def test_sizes_of_a_batch_that_is_torn_are_forgotten():
    decoder = KVEventDecoder("engine")
    good = msgspec.msgpack.encode([1.7e9, [stored([1], 16)]])
    torn = msgspec.msgpack.encode([1.7e9, [stored([2], 64), stored([3], 64)]])[:-1]
    for payload in (good, torn, good, torn):
        decoder.add(payload)
    (frame,) = decoder.frames()
    assert (frame.block_tokens, frame.blocks.tolist()) == (16, [1, 1])


@pytest.mark.parametrize("size", [None, -1, 2**31, "16", True])
def test_what_is_no_size_in_a_frame_is_unknown(size):
    (frame,) = decoded([stored([1], 16)])
    fields = msgspec.msgpack.decode(encode_frame(frame))
    assert decode_frame(msgspec.msgpack.encode([*fields[:-1], size])).block_tokens == 0


def test_a_frame_keeps_its_size_on_the_wire_with_and_without_labels():
    (plain,) = decoded([stored([1], 16)])
    (labelled,) = decoded([{**stored([1], 16), "lora_name": "sql"}])
    for frame in (plain, labelled):
        back = decode_frame(encode_frame(frame))
        assert (back.block_tokens, back.labels) == (16, frame.labels)
