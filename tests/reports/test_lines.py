"""Figures in lines of text."""

import msgspec
import pytest
from msgspec.structs import replace

from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import frames_from_events
from kvstream.events.types import BlockAccessed, BlockAllocated, BlockStored, PrefixStored
from kvstream.metrics.misses import MissCauses
from kvstream.metrics.sharing import SharedContent
from kvstream.metrics.tiers import TierUse
from kvstream.reports.lines import blocks_live, hit_ratio, misses, shared, tier_use

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
    assert blocks_live(found) == "3 of 4 (75%), 1.50 of 2.00 GiB"
    assert hit_ratio(found) == "0.250, 16 of 64 tokens"
    assert blocks_live(summary(EVENTS, block_bytes=GIB)) == "3, 3.00 GiB"


def test_what_is_not_known_is_not_said():
    found = summary(EVENTS, capacity=4)
    unknown = ("block_bytes", "block_tokens", "live_bytes", "capacity_bytes", "hit_tokens", "lookup_tokens")
    assert [msgspec.to_builtins(found)[name] for name in unknown] == [None] * 6
    assert (blocks_live(found), hit_ratio(found)) == ("3 of 4 (75%)", "0.250")


@pytest.mark.parametrize("tokens", [None, 16])
def test_tokens_of_hits_are_unknown_where_hits_are(tokens):
    found = summary([BlockStored(2**63 + 1, 5)], block_tokens=tokens)
    assert (found.hit_tokens, found.lookup_tokens, hit_ratio(found)) == (None, None, "–")


def test_the_hit_ratio_says_whether_all_hits_are_in_it():
    stored = [BlockStored(2**40 + block, 5) for block in range(1000)]
    assert hit_ratio(summary(stored)) == "– (no hit was reported)"
    found_again = PrefixStored(2**40, 6)  # as vLLM publishes for requests that ask for it
    assert hit_ratio(summary([*stored, found_again])) == "0.001 (only some requests report hits)"


CAUSES = MissCauses(
    followed=1_000,
    rate=0.25,
    never_stored=0.5,
    evicted=0.3,
    cleared=0.0,
    other_tier={"cpu": 0.15},
    other_salt=None,
    unknown=0.05,
    memory_seconds=None,
    evicted_ago_p50=12.0,
    evicted_ago_p90=60.0,
    pressure=1_234.4,
)
SHARED = SharedContent(
    engines=4,
    rate=0.5,
    followed=100,
    held_by=[0.6, 0.4],
    duplicates=0.2,
    misses=500,
    held_elsewhere=0.25,
    stored_before=0.5,
    routing_gain=0.1,
    shared_tier_gain=None,
)


def test_causes_of_misses_are_said_in_shares_without_those_that_nothing_has():
    assert misses(CAUSES) == (
        "50% never stored before, 30% evicted (half of them came back within 12 s, "
        "at 1,234 evictions a second), 15% in cpu, 5% unknown"
    )
    assert "15% in cpu, 2% under another salt" in misses(replace(CAUSES, other_salt=0.02))
    forgotten = replace(CAUSES, never_stored=0.0, memory_seconds=1_800.0, evicted_ago_p50=0.0, pressure=None)
    assert misses(forgotten) == (
        "30% evicted (half of them came back at once), 15% in cpu, "
        "5% unknown (not there in the 1,800 s before)"
    )


def test_of_a_tier_only_what_is_known_is_said():
    use = TierUse(
        tier="cpu",
        hit_share=None,
        found=0.25,
        copied=None,
        demoted=1.0,
        promoted=None,
        dropped=None,
        dropped_unused=None,
    )
    assert tier_use(use) == "found: 25% of the misses of faster tiers; came in: 100% demoted"
    assert tier_use(replace(use, found=None, demoted=None)) == "–"


def test_what_engines_share_is_said_with_what_it_would_gain_or_that_it_is_unknown():
    assert shared(SHARED) == [
        "20% of the blocks in 4 engines are further copies of content that another engine holds.",
        "Another engine held 25% of what was missed: prefix-aware routing could make hits of that "
        "(hit ratio + 0.100).",
        "50% of what was missed had been stored before by some engine: a shared tier could hold that.",
    ]
    (unknown,) = shared(replace(SHARED, held_elsewhere=None, stored_before=None))
    assert unknown.startswith("No content was seen in more than one of the 4 engines")
