"""Figures in lines of text."""

import msgspec
import pytest

from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import frames_from_events
from kvstream.events.types import BlockAccessed, BlockAllocated, BlockStored, PrefixStored
from kvstream.reports.lines import blocks_live, hit_ratio

GIB = 2**30


def summary(events, **settings):
    monitor = Monitor(MetricsConfig(**settings))
    for frame in frames_from_events(events):
        monitor.process(frame)
    return monitor.summary("default", "gpu")


EVENTS = [BlockAllocated(1, 5), BlockAllocated(2, 6), BlockAllocated(3, 7), BlockAccessed(1, 8)]


def test_sizes_are_bytes_and_tokens_where_a_block_is_known():
    found = summary(EVENTS, capacity=4, block_bytes=GIB // 2, block_tokens=16)
    assert (found.live_bytes, found.capacity_bytes) == (3 * GIB // 2, 2 * GIB)
    assert (found.hit_tokens, found.lookup_tokens) == (16, 64)
    assert blocks_live(found) == "3 of 4 (75 %), 1.50 of 2.00 GiB"
    assert hit_ratio(found) == "0.250, 16 of 64 tokens"
    assert blocks_live(summary(EVENTS, block_bytes=GIB)) == "3, 3.00 GiB"


def test_what_is_not_known_is_not_said():
    found = summary(EVENTS, capacity=4)
    unknown = ("block_bytes", "block_tokens", "live_bytes", "capacity_bytes", "hit_tokens", "lookup_tokens")
    assert [msgspec.to_builtins(found)[name] for name in unknown] == [None] * 6
    assert (blocks_live(found), hit_ratio(found)) == ("3 of 4 (75 %)", "0.250")


@pytest.mark.parametrize("tokens", [None, 16])
def test_tokens_of_hits_are_unknown_where_hits_are(tokens):
    found = summary([BlockStored(2**63 + 1, 5)], block_tokens=tokens)
    assert (found.hit_tokens, found.lookup_tokens, hit_ratio(found)) == (None, None, "–")


def test_the_hit_ratio_says_whether_all_hits_are_in_it():
    stored = [BlockStored(2**40 + block, 5) for block in range(1000)]
    assert hit_ratio(summary(stored)) == "– (no hit was reported)"
    found_again = PrefixStored(2**40, 6)  # as vLLM publishes for requests that ask for it
    assert hit_ratio(summary([*stored, found_again])) == "0.001 (only some requests report hits)"
