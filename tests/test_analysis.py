import msgspec
import numpy as np
import pytest

from kvstream.analysis import Analysis
from kvstream.config import MetricsConfig
from kvstream.events.frame import EventFrame
from kvstream.events.types import Labels
from kvstream.sources.synthetic import generate
from kvstream.sources.traces import PrefixCacheTrace


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
    told = {point.factor: point.hit_ratio for point in found.summary.sizes.points}
    assert told[1.0] == pytest.approx(found.summary.hit_rate_estimate, abs=0.01)
    contents = requests_of(generate(workload, 150_000, blocks=2048, seed=3))
    for factor in (0.5, 2.0):
        assert told[factor] == pytest.approx(lru_hit_ratio(contents, round(2048 * factor)), abs=0.015)


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
    cache = PrefixCacheTrace("x", blocks)
    ops, found = [], []
    for content in contents:
        cache._serve([content], ops, found)
    return ops.count(1) / len(contents)


def test_the_verdict_says_what_would_help():
    found = analyzed(generate("chat", 100_000, blocks=2048, seed=3), block_bytes=2**20)
    said = " ".join(found.verdict)
    assert "of evictions were premature" in said
    assert "× the memory (" in said
    assert "GiB) would lift the hit ratio" in said
    assert found.summary.premature.count > 1_000
    assert found.summary.sizes.blocks_for_90 is not None
    assert 0.0 < found.summary.sizes.asked_once < 1.0
    assert (
        f"{found.summary.sizes.asked_once:.0%} of the content was asked for only once" in said
        or found.summary.sizes.asked_once <= 0.5
    )
    assert len(found.hottest) == len(found.longest_held) == 10


def test_the_verdict_does_not_say_what_it_cannot_know():
    n = 3_000
    ops, blocks = np.tile(np.array([0, 2], np.uint8), n), np.repeat(np.arange(n) + 2**40, 2)
    silent = EventFrame(ops, blocks, np.arange(2 * n) * 1_000_000)
    assert "No hit was reported, so that hit ratios are not known." in analyzed([silent]).verdict
    slots = [msgspec.structs.replace(f, keys=None) for f in generate("scan", 50_000, blocks=512)]
    assert any("Content is not known" in sentence for sentence in analyzed(slots).verdict)
    assert analyzed(slots).summary.sizes.points == []
    quiet = analyzed(generate("chat", 1_000, blocks=4096))
    assert quiet.verdict[0] == "Nothing was evicted: the cache holds all that is asked of it."


def test_where_memory_does_not_help_that_is_said():
    once = np.arange(20_000) % 10_000_000
    ops = np.tile(np.array([0, 1, 2], np.uint8), len(once))
    frame = EventFrame(ops, np.repeat(once + 2**40, 3), np.arange(len(ops)) * 1_000_000)
    found = analyzed([frame], config=MetricsConfig(capacity=100))
    assert found.summary.sizes.asked_once == 0.0, "each was asked for twice"
    assert any("More memory would hardly help" in sentence for sentence in found.verdict)
    assert "0.25× the memory would do as well as what there is." in found.verdict


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


def test_a_hash_trace_is_content():
    lines = [b'{"timestamp":%d,"hash_ids":[0,1,%d]}' % (n, 2 + n % 40) for n in range(400)]
    frames = PrefixCacheTrace("trace", 20).decode_lines(b"\n".join(lines), lambda *bad: None)
    found = analyzed(frames, config=MetricsConfig(capacity=20))
    assert found.summary.premature.share > 0.9
    assert {point.factor: round(point.hit_ratio, 1) for point in found.summary.sizes.points}[4.0] == 1.0
