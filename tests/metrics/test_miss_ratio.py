from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.ids import are_below
from kvstream.events.types import Op
from kvstream.metrics.miss_ratio import MissRatioCurve
from kvstream.sources.reader import EventReader
from tests.reference import reference_hit_ratios


def streams(seed):
    """Streams of accesses by name."""
    rng = np.random.default_rng(seed)
    n = 120_000
    zipf = rng.zipf(1.1, n) % 60_000
    hot = rng.integers(0, 3_000, n)
    scan = np.where(np.arange(n) % 3 == 0, hot, 100_000 + np.arange(n) % 30_000)
    return {"zipf": zipf, "scan": scan, "uniform": rng.integers(0, 40_000, n)}


@given(st.lists(st.integers(-5, 40), max_size=300))
def test_little_content_gives_the_exact_curve(contents):
    curve = MissRatioCurve()
    for part in np.array_split(np.array(contents, np.int64), 3):
        curve.access(part)
    sizes = list(range(1, 45))
    assert [curve.hit_ratio(size) for size in sizes] == pytest.approx(reference_hit_ratios(contents, sizes))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["zipf", "scan", "uniform"])
def test_a_sample_comes_near_the_exact_curve(name, seed):
    contents = streams(seed)[name]
    curve = MissRatioCurve(8192)
    for part in np.array_split(contents, 20):
        curve.access(part)
    assert curve._stack.held <= 8192
    # Evenly spaced sizes, as the paper averages over; below a few blocks the hottest content decides.
    sizes = np.linspace(1, len(np.unique(contents)), 200).astype(int).tolist()
    exact = reference_hit_ratios(contents.tolist(), sizes)
    errors = np.abs(np.array([curve.hit_ratio(size) for size in sizes]) - exact)
    assert errors.mean() <= 0.01


def test_the_blocks_for_a_hit_ratio_are_those_that_reach_it():
    curve = MissRatioCurve()
    curve.access(np.tile(np.arange(50), 10))  # found again by 50 blocks, by no fewer
    assert curve.blocks_for(0.9) == 50
    assert curve.blocks_for(0.95) is None
    assert curve.hit_ratio(49) == 0.0
    assert curve.hit_ratio(50) == pytest.approx(0.9)


def test_a_bound_of_lookups_leaves_out_content_and_the_curve_stays_near():
    contents = streams(1)["scan"]
    curve = MissRatioCurve(8192, lookups=2_000)
    for part in np.array_split(contents, 40):
        chosen = part.compress(are_below(part, curve.threshold))
        curve.access(chosen, lookups=len(part))
        curve.pass_windows(1)
    assert curve.rate < 1.0
    sizes = np.linspace(1, len(np.unique(contents)), 200).astype(int).tolist()
    exact = reference_hit_ratios(contents.tolist(), sizes)
    errors = np.abs(np.array([curve.hit_ratio(size) for size in sizes]) - exact)
    assert errors.mean() <= 0.03


def test_with_a_half_life_the_curve_follows_what_changes():
    curve = MissRatioCurve(half_life=10)
    for turn in range(100):
        curve.access(np.arange(50) if turn < 50 else turn * 50 + np.arange(50))  # found, then never again
        curve.pass_windows(1)
    assert curve.hit_ratio(50) < 0.1
    forever = MissRatioCurve()
    forever.access(np.tile(np.arange(50), 50))
    forever.access(10_000 + np.arange(2_500))
    assert forever.hit_ratio(50) == pytest.approx(0.49)


def test_without_accesses_there_is_no_curve():
    assert MissRatioCurve().hit_ratio(10) == 0.0
    assert MissRatioCurve().blocks_for(0.5) is None


@pytest.mark.parametrize("name", ["chat", "scan"])
def test_captures_come_near_the_exact_curve(name):
    """What the real engine's hooks saw, with generations of blocks as content."""
    reader = EventReader(name)
    data = (Path(__file__).parent.parent / "data" / f"{name}.wire.gz").read_bytes()
    frames = [*reader.feed(data), *reader.finish()]
    contents = np.concatenate([frame.blocks.compress(frame.ops == Op.STORE) for frame in frames])
    sizes = np.linspace(1, len(np.unique(contents)), 200).astype(int).tolist()
    exact = reference_hit_ratios(contents.tolist(), sizes)
    for samples in (512, 8192):
        curve = MissRatioCurve(samples)
        curve.access(contents)
        errors = np.abs(np.array([curve.hit_ratio(size) for size in sizes]) - exact)
        assert errors.mean() <= (0.01 if samples == 8192 else 0.05)


def test_hit_ratios_are_those_of_another_library():
    libcachesim = pytest.importorskip("libcachesim")  # has no wheels for Python 3.14
    contents = streams(3)["zipf"][:20_000] % 3_000
    curve = MissRatioCurve()
    curve.access(contents)
    for size in (10, 100, 500, 2_000):
        cache = libcachesim.LRU(cache_size=size)
        hits = sum(cache.get(libcachesim.Request(obj_id=int(c), obj_size=1)) for c in contents)
        assert curve.hit_ratio(size) == pytest.approx(hits / len(contents), abs=0.005)
