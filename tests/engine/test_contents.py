"""What the same content in several caches shows, against a comparison of every stay with every other one."""

import itertools
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstream.config import MetricsConfig
from kvstream.engine.contents import MOST_EVENTS, ContentGathering
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import frames_from_events
from kvstream.events.types import BlockStored, Labels, Op
from kvstream.metrics.contents import TIERS
from kvstream.testing import ReferenceTable
from tests.interpreted import needs_compiled
from tests.reference import ReferenceContents, ReferenceSources, ReferenceStays
from tests.strategies import fewer, frame

SECOND = 10**9
ORDER = [*TIERS, "tape"]
OPS = [Op.ALLOC, Op.EVICT, Op.STORE, Op.PREFIX, Op.ACCESS, Op.REMOVE, Op.CLEAR, Op.RESIDENT]
SHARES = [0.4, 0.38, 0.05, 0.05, 0.04, 0.03, 0.02, 0.03]


@st.composite
def events_of_caches(draw):
    """Events (cache, op, block, ts, reason, key) of some sources and tiers, in order of time.

    Blocks are contents or, with keys, slots of which several can hold one content.
    """
    caches = draw(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from(ORDER)), min_size=1, max_size=4, unique=True
        )
    )
    rng, ts, rows = np.random.default_rng(draw(st.integers(0, 2**32))), 1_000, []
    keyed = draw(st.booleans())
    is_whole, tables = draw(st.booleans()), {cache: ReferenceTable() for cache in caches}
    for _ in range(draw(st.integers(0, 90))):
        is_apart = bool(rows) and rows[-1][1] == Op.ACCESS
        ts += is_apart + int(rng.choice([0, 0, 1, 5]))
        cache, op = caches[rng.integers(len(caches))], int(rng.choice(OPS, p=SHARES))
        block, key = (0 if keyed else 2**40) + int(rng.integers(6)), 0
        if keyed and op in (Op.ALLOC, Op.STORE, Op.PREFIX):
            key = 2**40 + int(rng.integers(4))
        if (
            is_whole
            and op not in (Op.ALLOC, Op.STORE, Op.PREFIX, Op.CLEAR)
            and block not in tables[cache].live
        ):
            continue
        if op == Op.ACCESS and block not in tables[cache].live:
            ts += 2  # apart from what else happens to the block, which its time alone shows
        tables[cache].apply(op, block, ts)
        rows.append((cache, op, block, ts, "capacity", key))
    return caches, rows, keyed


def plain_stays(rows, keyed):
    contents, stays = ReferenceContents(keyed), ReferenceStays()
    for op, block, ts, _, key in rows:
        known, was_live = len(contents.changes), block in contents.live
        contents.apply(op, block, ts, key)
        if op == Op.ALLOC:
            stays.late.discard(block)
        if op in (Op.ACCESS, Op.RESIDENT) and not was_live:
            if not keyed:
                stays.late.add(block)
            continue
        for change in contents.changes[known:]:
            if change is None:
                stays.clear(ts)
            else:
                stays.change(*change)
    return stays.end()


def share(flags):
    """Share of what is true; None of nothing."""
    flags = list(flags)
    return pytest.approx(sum(flags) / len(flags)) if flags else None


def frames_of(rows):
    """Each run of events of one cache as a frame."""
    return [
        keyed_frame([row[1:] for row in of_cache], *cache)
        for cache, of_cache in itertools.groupby(rows, key=lambda row: row[0])
    ]


def keyed_frame(rows, source, tier):
    keys = [row[4] for row in rows]
    return replace(frame(rows, source, tier), keys=np.array(keys, np.int64) if any(keys) else None)


def run(frames, config=None):
    monitor = Monitor(config)
    for each in frames:
        monitor.process(each)
    return monitor


@given(events_of_caches())
def test_causes_of_misses_ways_and_shared_content_equal_a_comparison_of_every_stay(drawn):
    caches, rows, keyed = drawn
    caches = [cache for cache in caches if any(row[0] == cache for row in rows)]
    monitor = run(frames_of(rows))
    plain = ReferenceSources(
        {cache: plain_stays([row[1:] for row in rows if row[0] == cache], keyed) for cache in caches}, ORDER
    )
    whole = dict.fromkeys(plain.fastest, True)
    for source, tier in caches:
        counts = monitor.summary(source, tier).accounts
        whole[source] &= not (counts.unknown_births or counts.unknown_evictions)
    for source in plain.fastest:
        check_misses(monitor.summary(source).misses, plain, [source], whole)
    everything = monitor.summary()
    check_misses(everything.misses, plain, list(plain.fastest), whole)
    check_tiers(everything.tiers, plain)
    check_shared(everything.shared, plain)


def check_misses(misses, plain, asked, is_whole):
    causes = [plain.cause(miss, is_whole) for miss in plain.misses(asked)]
    if not causes:
        assert misses is None
        return
    assert misses.followed == len(causes)
    assert misses.rate == 1.0
    for name in ("never_stored", "evicted", "cleared", "unknown"):
        assert getattr(misses, name) == share(cause == name for cause in causes), name
    assert misses.other_tier == {
        tier: share(cause == tier for cause in causes) for tier in ORDER if tier in causes
    }
    ago = [
        (miss["born"] - miss["before"]["ended"]) / 1e9
        for miss, cause in zip(plain.misses(asked), causes, strict=True)
        if cause == "evicted"
    ]
    assert misses.evicted_ago_p50 == (pytest.approx(np.median(ago)) if ago else None)
    assert misses.memory_seconds is None
    meanwhile = [
        plain.evicted_meanwhile(miss)
        for miss, cause in zip(plain.misses(asked), causes, strict=True)
        if cause == "evicted"
    ]
    assert misses.pressure == (pytest.approx(sum(meanwhile) / sum(ago)) if sum(ago) else None)


def check_tiers(uses, plain):
    if len(plain.order) < 2 or not plain.stays():
        assert uses == []
        return
    assert [use.tier for use in uses] == plain.order
    misses = plain.misses(list(plain.fastest))
    for use in uses:
        arrivals, evictions = plain.arrivals(use.tier), plain.evictions(use.tier)
        assert use.copied == share(way == "copied" for way in arrivals)
        assert use.demoted == share(way == "demoted" for way in arrivals)
        assert use.dropped == share(dropped for dropped, _, _ in evictions)
        assert use.promoted == share(promoted for _, promoted, is_slower in evictions if is_slower)
        assert use.dropped_unused == share(
            dropped and not promoted for dropped, promoted, is_slower in evictions if is_slower
        )
        if use.found is not None:
            assert use.found == share(plain.found_in(miss) == use.tier for miss in misses)


def check_shared(shared, plain):
    sources = {source for source in plain.fastest if plain.stays(source)}
    if len(sources) < 2:
        assert shared is None
        return
    held = plain.held_by()
    assert shared.engines == len(sources)
    assert shared.followed == held.total()
    highest = max(held, default=0)
    assert shared.held_by == [pytest.approx(held[n] / held.total()) for n in range(1, highest + 1)]
    if held:
        once = sum(count / n for n, count in held.items())
        assert shared.duplicates == pytest.approx(1 - once / held.total())
    misses = plain.misses(list(plain.fastest))
    seen = Counter(content for content, _ in {(s["content"], s["source"]) for s in plain.stays()})
    if max(seen.values()) < 2 or not misses:
        assert shared.held_elsewhere is shared.stored_before is None
        return
    missed = [plain.found_in(miss) is None for miss in misses]
    assert shared.held_elsewhere == share(
        none and plain.held_elsewhere(miss) for none, miss in zip(missed, misses, strict=True)
    )
    assert shared.stored_before == share(
        none and plain.stored_before(miss) for none, miss in zip(missed, misses, strict=True)
    )


@fewer
@given(events_of_caches(), st.integers(1, 5))
def test_joined_frames_lead_to_the_same_figures(drawn, at_once):
    frames = frames_of(drawn[1])
    monitor, joined = run(frames), Monitor()
    for source in "ab":
        of_source = [each for each in frames if each.source == source]
        for start in range(0, len(of_source), at_once):
            joined.process_batch(of_source[start : start + at_once])
    one, other = monitor.summary(), joined.summary()
    assert (one.misses, one.tiers, one.shared) == (other.misses, other.tiers, other.shared)


def stored(content, ts, **where):
    return frame([(int(Op.ALLOC), 2**40 + content, ts, "capacity")], **where)


@pytest.mark.parametrize(
    ("first", "later", "never_stored"),
    [(0, 1, 1.0), (-1, -1, 1.0), (5, 6, 0.0), (0, 3, 0.0)],
    ids=["from the beginning", "without numbers", "later", "with a gap"],
)
def test_what_is_new_to_who_has_not_seen_everything_may_have_been_stored_before(first, later, never_stored):
    monitor = Monitor()
    monitor.process(stored(1, 1_000, seq=first))
    monitor.process(stored(2, 2_000, seq=later, tier="cpu"))
    assert monitor.summary().misses.never_stored == never_stored
    assert monitor.summary().misses.unknown == 1.0 - never_stored


def salted(content, ts, salt):
    """A store under a salt, by an engine that hashes content without it."""
    (made,) = frames_from_events([BlockStored(2**40 + content, ts, labels=Labels(salt=salt))])
    return made


def test_content_that_is_there_under_another_salt_is_missed_for_that():
    monitor = Monitor()
    for content, salt in [(1, "x"), (2, "x"), (3, "x"), (1, "y")]:
        monitor.process(salted(content, 1_000, salt))
    misses = monitor.summary().misses
    assert (misses.other_salt, misses.never_stored, misses.unknown) == (0.25, 0.75, 0.0)
    monitor.process(stored(1, 2_000, source="without salts"))
    assert monitor.summary("without salts").misses.other_salt is None


def test_what_was_dropped_on_its_way_may_have_been_a_store():
    monitor = Monitor()
    monitor.process(stored(1, 1_000))
    monitor.note_lost("s", 3)
    monitor.process(stored(2, 2_000))
    assert monitor.summary().misses.unknown == 1.0


@pytest.mark.parametrize("op", [Op.RESIDENT, Op.ACCESS])
def test_what_was_there_before_anybody_listened_is_held_but_no_miss(op):
    monitor = Monitor()
    monitor.process(frame([(int(op), 2**40 + 1, 1_000, "")], source="a"))
    assert monitor.summary("a").misses is None
    monitor.process(stored(1, 2_000, source="b"))
    shared = monitor.summary().shared
    assert shared.held_by == [0.0, 1.0]
    assert (shared.misses, shared.held_elsewhere) == (1, 1.0)
    monitor.process(frame([(int(Op.EVICT), 2**40 + 1, 3_000, "capacity")], source="a"))
    assert monitor.summary().shared.held_elsewhere == 1.0
    assert monitor.summary().shared.held_by == [1.0]


def engines(seed, count=4, requests=2_500, blocks=400, offloaded=500, contents=4_000):
    """Engines with LRU caches of two tiers that serve the same contents, some of them more than others."""
    rng = np.random.default_rng(seed)
    frames = []
    for engine in range(count):
        tiers, rows = {"gpu": {}, "cpu": {}}, {"gpu": [], "cpu": []}
        room = {"gpu": blocks, "cpu": offloaded}

        def store(tier, content, ts, tiers=tiers, rows=rows, room=room):
            held = tiers[tier]
            known = held.pop(content, False)
            held[content] = True
            if known:
                rows[tier].append((int(Op.ACCESS), content, ts, "capacity", 0))
                return
            if len(held) > room[tier]:
                oldest = next(iter(held))
                del held[oldest]
                rows[tier].append((int(Op.EVICT), oldest, ts, "capacity", 0))
                if tier == "gpu":
                    store("cpu", oldest, ts)
            rows[tier].append((int(Op.ALLOC), content, ts, "capacity", 0))

        for n in range(requests):
            first = int(rng.zipf(1.15) * 7_919 + engine % 2 * 3) % contents
            for step in range(4):
                store("gpu", 2**40 + (first + step) % contents, (n * 10 + step) * SECOND // 100)
        frames += [keyed_frame(of_tier, f"engine-{engine}", tier) for tier, of_tier in rows.items()]
    return frames


def shown(monitor):
    """What all caches show together, however much there is of it."""
    gathering = ContentGathering(most_events=2**40)
    gathering.add_all(monitor.caches())
    return gathering.figures


@needs_compiled
@pytest.mark.parametrize("size", [1024, 4096])
def test_a_sample_of_the_content_comes_near_what_all_of_it_shows(size):
    frames = engines(seed=1)
    exact = shown(run(frames, MetricsConfig(content_sample=2**20)))
    near = shown(run(frames, MetricsConfig(content_sample=size)))
    assert exact.misses.rate == 1.0
    assert near.misses.rate < 0.5
    close = 3 / np.sqrt(near.misses.followed)
    for name in ("never_stored", "evicted", "unknown"):
        assert getattr(near.misses, name) == pytest.approx(getattr(exact.misses, name), abs=close), name
    for ours, theirs in zip(near.tiers, exact.tiers, strict=True):
        for name in ("hit_share", "found", "copied", "demoted", "promoted", "dropped", "dropped_unused"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=close), name
    for name in ("duplicates", "held_elsewhere", "stored_before", "routing_gain", "shared_tier_gain"):
        assert getattr(near.shared, name) == pytest.approx(getattr(exact.shared, name), abs=close), name
    assert near.shared.held_by == pytest.approx(exact.shared.held_by, abs=2 * close)


@pytest.mark.parametrize("seed", range(4))
def test_a_few_contents_that_always_return_do_not_outweigh_a_small_sample(seed):
    rng, length = np.random.default_rng(seed), 20_000
    hot = rng.zipf(1.3, length) % 400
    content = np.where(rng.random(length) < 0.7, hot, 1_000 + np.arange(length))
    rows = [
        (op, 2**40 + int(block), 2 * at + (op == Op.EVICT), "capacity", 0)
        for at, block in enumerate(content)
        for op in (Op.ALLOC, Op.EVICT)
    ]
    misses = run([frame(rows, "a", "gpu")]).summary().misses
    never_stored = len(np.unique(content)) / length
    assert misses.rate < 0.2
    first = misses.rate * len(np.unique(content))
    assert misses.never_stored == pytest.approx(never_stored, rel=3 / np.sqrt(first))
    assert misses.never_stored + misses.evicted == pytest.approx(1.0)
    assert msgspec.convert(msgspec.to_builtins(misses), type(misses)) == misses, "no number of numpy's"


def test_tiers_without_end_take_no_time_without_end():
    monitor = Monitor()
    for number in range(600):
        source, tier = f"s{number // 60}", f"tier-{number:03}"
        monitor.process(stored(1, 1_000 + number, source=source, tier=tier))
    summary = monitor.summary()
    assert [use.tier for use in summary.tiers] == [*(f"tier-00{n}" for n in range(7)), "other"]
    assert summary.shared.held_by == [0.0] * 7 + [1.0], "by ten sources"
    counted = monitor.summary("s0").tiers
    assert sum(use.copied == 1.0 for use in counted) == 7


@needs_compiled
def test_of_many_caches_less_content_is_looked_at():
    monitor = run(engines(seed=2), MetricsConfig(content_sample=2**20))
    summary = monitor.summary()
    assert 1000 < summary.misses.followed < MOST_EVENTS
    assert summary.misses.never_stored == pytest.approx(shown(monitor).misses.never_stored, abs=0.05)
