from pathlib import Path

import msgspec
import numpy as np
import pytest

from kvstream._core.reuse import PrefixCache
from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame
from kvstream.events.types import Labels
from kvstream.metrics.trend import Trend
from kvstream.reports.verdict import Analysis, verdict
from kvstream.sources.mooncake import mooncake_trace
from kvstream.sources.options import ReadOptions
from kvstream.sources.reader import EventReader
from kvstream.sources.synthetic import generate
from kvstream.text.numbers import live_blocks


def analyzed(frames, **options):
    analysis = Analysis(**options)
    for frame in frames:
        analysis.process(frame)
    (result,) = analysis.results()
    return result


@pytest.mark.parametrize("workload", ["chat", "mixed"])
def test_the_curve_tells_what_caches_of_other_sizes_really_do(workload):
    """The same requests on a cache of twice the size, and on one of half of it, are generated again."""
    found = analyzed(generate(workload, 150_000, blocks=2048, seed=3))
    assert found.summary.sizes.blocks == 2048
    curve = {point.factor: point.hit_ratio for point in found.summary.sizes.points}
    assert curve[1.0] == pytest.approx(found.summary.hit_rate_estimate, abs=0.01)
    contents = requests_of(generate(workload, 150_000, blocks=2048, seed=3))
    for factor in (0.5, 2.0):
        assert curve[factor] == pytest.approx(lru_hit_ratio(contents, round(2048 * factor)), abs=0.015)


def requests_of(frames):
    """Contents asked for, one after the other."""
    held, asked = {}, []
    for frame in frames:
        for op, block, key in zip(
            frame.ops.tolist(), frame.blocks.tolist(), frame.keys.tolist(), strict=True
        ):
            if op == 0:
                held[block] = key
            if op in (0, 1):
                asked.append(held[block])
    return asked


def lru_hit_ratio(contents, blocks):
    ops, _, _ = PrefixCache(blocks).serve(np.array(contents), np.arange(len(contents)) + 1)
    return np.count_nonzero(ops == 1) / len(contents)


def test_the_verdict_says_what_would_help():
    found = analyzed(generate("chat", 100_000, blocks=2048, seed=3), config=MetricsConfig(block_bytes=2**20))
    said = " ".join(found.verdict)
    assert "of evictions were premature" in said
    assert "× the memory (" in said
    assert "GiB) would lift the hit ratio" in said
    assert found.summary.premature.count > 1_000
    assert found.summary.sizes.blocks_for_90 is not None
    assert 0.0 < found.summary.sizes.asked_once < 1.0
    assert (
        f"{found.summary.sizes.asked_once * 100:.0f} % of the content was looked up only once" in said
        or found.summary.sizes.asked_once <= 0.5
    )
    assert len(found.hottest) == len(found.longest_held) == 10


def test_the_verdict_does_not_say_what_it_cannot_know():
    n = 3_000
    ops, blocks = np.tile(np.array([0, 2], np.uint8), n), np.repeat(np.arange(n) + 2**40, 2)
    silent = EventFrame(ops, blocks, np.arange(2 * n) * 1_000_000)
    assert any("docs/engines.md says what publishes hits" in each for each in analyzed([silent]).verdict)
    slots = [msgspec.structs.replace(f, keys=None) for f in generate("scan", 50_000, blocks=512)]
    assert any("or content keys of allocations" in sentence for sentence in analyzed(slots).verdict)
    assert analyzed(slots).summary.sizes.points == []
    quiet = analyzed(generate("chat", 1_000, blocks=4096))
    assert quiet.verdict[0] == "Nothing was evicted: the cache holds all that is asked of it."


def test_where_memory_does_not_help_that_is_said():
    once = np.arange(20_000) % 10_000_000
    ops = np.tile(np.array([0, 1, 2], np.uint8), len(once))
    frame = EventFrame(ops, np.repeat(once + 2**40, 3), np.arange(len(ops)) * 1_000_000)
    found = analyzed([frame], config=MetricsConfig(capacity=100))
    assert found.summary.sizes.asked_once == 0.0, "each was asked for twice"
    assert "More memory would hardly help: 16× would leave the hit ratio at 0.50." in found.verdict
    assert "The cache was never full (1 of 100 blocks at most)." in found.verdict
    assert not any("would do as well" in sentence for sentence in found.verdict)


def test_the_verdict_names_who_takes_more_than_they_use():
    labels = (Labels(tenant="acme", lora="sql"), Labels(tenant="umbrella"))
    frame = EventFrame(
        np.array([0, 0, 1, 1, 1, 1], np.uint8),
        np.array([1, 2, 2, 2, 2, 2]),
        np.arange(6) * 1_000_000,
        labels=labels,
        label_of=np.array([1, 2, 0, 0, 0, 0], np.uint16),
    )
    verdict = analyzed([frame]).verdict
    assert "Tenant acme holds 56% of block time for 0% of hits." in verdict
    assert "Adapter sql holds 56% of block time for 0% of hits." in verdict
    assert not any("umbrella" in sentence for sentence in verdict)


def trace(contents, blocks):
    """Requests of one block each, through an LRU cache."""
    lines = [b'{"timestamp":%d,"hash_ids":[%d]}' % (n * 100, content) for n, content in enumerate(contents)]
    return decoded(lines, blocks)


def decoded(lines, blocks):
    """The frames of a trace."""
    trace = mooncake_trace("trace", ReadOptions(capacity=blocks))
    return list(trace.decode_lines(b"\n".join(lines), lambda *bad: None))


def said_of(contents, blocks, capacity=None):
    found = analyzed(trace(contents, blocks), config=MetricsConfig(capacity=capacity or blocks))
    return " ".join(found.verdict), found.summary


def test_where_hits_are_not_reported_nothing_is_said_of_reuse():
    reader = EventReader("hits_unknown.wire")
    wire = (Path(__file__).parents[1] / "data" / "hits_unknown.wire").read_bytes()
    frames = [frame for frame in [*reader.feed(wire), *reader.finish()] if isinstance(frame, EventFrame)]
    found = analyzed(frames, config=MetricsConfig(capacity=20))
    (sentence,) = found.verdict
    assert sentence.startswith("No hit was reported, so that hit ratios are not known: docs/engines.md")
    summary = found.summary.to_dict()
    on_hits = {"hit_rate_estimate", "avg_access_count", "avg_reuse_gap_seconds", "first_reuse", "reuse_gap"}
    on_hits |= {"zero_access_rate", "single_access_rate", "multi_access_rate"}
    assert [name for name in on_hits if summary[name] is not None] == []
    on_hits = ("hit_ratio", "never_reused_ratio", "first_reuse", "reuse_gap")
    assert [name for name in on_hits if summary["recent"][name] is not None] == []
    assert summary["reuse_by_idle"] == summary["sizes"]["points"] == []
    assert summary["sizes"]["asked_once"] is None
    assert summary["total_evictions"] == 40


def test_caches_whose_hits_are_unknown_are_left_out_of_the_hit_ratio_of_all():
    monitor = Monitor()
    ops, ts = np.array([0, 1, 0, 1, 1], np.uint8), np.arange(5)
    monitor.process(EventFrame(ops, np.array([1, 1, 2, 2, 2]), ts, source="a", tier="gpu"))
    monitor.process(EventFrame(np.zeros(5, np.uint8), np.arange(5), ts, source="a", tier="cpu"))
    assert monitor.summary("a", "gpu").hit_rate_estimate == 0.6
    assert monitor.summary("a", "cpu").hit_rate_estimate is None
    assert monitor.summary().hit_rate_estimate == monitor.summary().recent.hit_ratio == 0.6


def test_that_nothing_came_twice_is_said():
    said, _ = said_of(range(3_000), 200)
    assert "Nothing came twice, as far as is reported: no cache size helps." in said
    said, _ = said_of([*range(3_000), 2_999], 200)
    assert "Hardly anything came twice (> 99.9% came once): no cache size helps." in said
    assert "memory" not in said


@pytest.mark.parametrize("hot", [False, True])
def test_a_scan_that_a_little_more_memory_would_catch_is_said(hot):
    """220 contents in turn through 200 blocks: an LRU cache finds none; 20 blocks more hold them all."""
    scan = [n % 220 for n in range(4_500)]
    if hot:
        scan = [content for each in scan for content in (1_000, each)]
    said, summary = said_of(scan, 201 if hot else 200)
    assert "as in a scan that goes round and round: a cache larger by 10% would hold it." in said
    assert summary.premature.extra_blocks_p50 == pytest.approx(20, rel=0.03)
    if hot:
        assert "1.25× the memory would lift the hit ratio from 0.50 to 0.98." in said


def test_no_advice_where_the_curve_and_the_measured_hit_ratio_differ():
    contents = np.random.default_rng(1).zipf(1.3, 8_000) % 2_000
    said, summary = said_of(contents, 200, capacity=400)
    assert abs(lru_hit_ratio(contents.tolist(), 400) - lru_hit_ratio(contents.tolist(), 200)) > 0.03
    assert "hits are partly reported, or the capacity is not what was given" in said
    assert "the memory" not in said
    said, summary = said_of(contents, 200)
    assert summary.sizes.measured == pytest.approx(lru_hit_ratio(contents.tolist(), 200))
    assert "the memory" in said


def test_more_live_blocks_than_the_capacity_are_a_warning_and_no_share():
    contents = np.random.default_rng(1).zipf(1.3, 3_000) % 2_000
    said, _ = said_of(contents, 200, capacity=20)
    assert said.startswith("WARNING: 200 blocks are live, more than the capacity of 20")
    assert "the memory" not in said
    assert "1,000%" not in live_blocks(200, 20)
    assert "MORE THAN THE CAPACITY" in live_blocks(200, 20)


def test_less_memory_is_not_advised_by_a_recording_that_was_too_short():
    """Hot content, and new blocks that are never reused: less would do, once the cache was turned over."""
    contents = [n % 30 if n % 2 else 1_000 + n for n in range(1_500)]
    short, _ = said_of(contents[:1_000], 300)
    assert "would do as well" not in short, "200 evictions of 300 blocks"
    long, _ = said_of(contents, 300)
    assert "0.25× the memory would do as well." in long


def test_falling_evictions_are_no_bad_news():
    summary = analyzed(generate("chat", 20_000, blocks=512, seed=3)).summary
    falling = Trend("falling", -1.0, -0.5, 0.001, 60)
    summary.trends = {"eviction_rate": falling, "idle_time": falling}
    assert not any("trend" in sentence for sentence in verdict(summary))
    summary.trends["hit_ratio"] = falling
    assert "Recent trend: hit ratio falling." in verdict(summary)


def test_a_hash_trace_is_content():
    lines = [b'{"timestamp":%d,"hash_ids":[0,1,%d]}' % (n, 2 + n % 40) for n in range(400)]
    found = analyzed(decoded(lines, 20), config=MetricsConfig(capacity=20))
    assert found.summary.premature.share > 0.9
    assert {point.factor: round(point.hit_ratio, 1) for point in found.summary.sizes.points}[4.0] == 1.0
