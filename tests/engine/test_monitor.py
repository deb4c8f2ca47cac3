import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream._core.ids import below_rate, generation_hash, source_seed
from kvstream.alerts.types import AlertLevel
from kvstream.config import MetricsConfig
from kvstream.engine import cache
from kvstream.engine.joining import joined_frames
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame
from kvstream.events.types import BIRTH_UNKNOWN, REASONS
from kvstream.metrics.histogram import IntervalStats
from kvstream.metrics.miss_ratio import CacheSizes
from kvstream.testing import ReferenceTable
from tests.blocks.test_table import apply_plain
from tests.reference import ReferenceSource
from tests.strategies import cuts, fewer, frame, plain_events


@st.composite
def streams(draw):
    """Frames of several sources and tiers with repeats, holes, late frames and restarts among them."""
    frames = []
    for source in draw(st.sampled_from([["a"], ["a", "b"]])):
        seq, epoch = 0, 0
        for tier in draw(st.lists(st.sampled_from(["gpu", "cpu"]), min_size=1, max_size=4)):
            events = draw(plain_events())
            for start, end in draw(cuts(len(events))):
                what = draw(
                    st.sampled_from(["next"] * 6 + ["hole", "repeat", "old epoch", "restart", "bare"])
                )
                if what == "hole":
                    seq += draw(st.integers(1, 3))
                elif what == "restart":
                    epoch, seq = epoch + 1, draw(st.sampled_from([0, 0, 2]))
                number = {"repeat": seq - 1, "bare": -1}.get(what, seq)
                of = epoch - 1 if what == "old epoch" else epoch
                frames.append((source, tier, of, number, events[start:end]))
                if what in ("next", "hole", "restart"):
                    seq += 1
    return draw(st.permutations(frames)) if draw(st.integers(0, 9)) == 0 else frames


@fewer
@given(streams())
def test_monitor_equals_the_plain_twin_over_sources_tiers_and_numbers(frames):
    monitor, plain, records = Monitor(), {}, {}
    for source, tier, epoch, seq, events in frames:
        outcome = monitor.process(frame(events, source, tier, epoch, seq), records=True)
        records.setdefault((source, tier), []).extend(outcome.eviction_events())
        reference = plain.setdefault(source, ReferenceSource())
        table = reference.table(tier)
        if reference.admit(epoch, seq, len(events)):
            apply_plain(table, events)
    for name, reference in plain.items():
        source = monitor.sources[name]
        for field in ("lost_frames", "duplicate_frames", "duplicate_events", "restarts"):
            assert getattr(source.counts, field) == getattr(reference, field), field
        for tier, table in reference.tiers.items():
            summary = monitor.summary(name, tier)
            accounts = summary.accounts
            assert accounts.allocations == table.allocations
            assert accounts.live == len(table.live) == summary.blocks_live
            assert accounts.cleared == table.cleared
            assert accounts.unknown_births == table.unknown_births
            assert accounts.unknown_lifetimes == table.unknown_lifetimes
            assert accounts.unknown_accesses == table.unknown_accesses
            assert accounts.unknown_evictions == table.unknown_evictions
            assert accounts.unknown_reasons == table.unknown_reasons
            assert accounts.time_regressions == table.time_regressions
            assert summary.accesses == table.accesses
            expected = {**table.evictions, "cleared": table.evictions["cleared"] + table.cleared}
            assert summary.evictions_by_reason == expected
            lifetimes = [e.lifetime for e in table.evicted if e.lifetime is not None]
            assert summary.lifetime.count == len(lifetimes)
            mean = pytest.approx(sum(lifetimes) / len(lifetimes) / 1e9) if lifetimes else None
            assert summary.avg_lifetime_seconds == mean
            assert (summary.reuse_gap or IntervalStats()).count == len(table.reuse_gaps)
            longest = max(table.reuse_gaps) / 1e9 if table.reuse_gaps else None
            assert (summary.reuse_gap or IntervalStats()).max == longest
            assert (summary.first_reuse or IntervalStats()).count == len(table.first_reuses)
            assert (summary.hit_rate_estimate is None) == (not table.accesses)
            assert [e.block_id for e in records.get((name, tier), [])] == [e.block for e in table.evicted]
    total = monitor.summary().accounts
    assert total.balanced
    assert total.offered == sum(len(events) for *_, events in frames)


@fewer
@given(streams(), st.data())
def test_joining_frames_changes_nothing(frames, data):
    config = MetricsConfig(windows=4, trend_window=4)
    joined, single = Monitor(config), Monitor(config)
    second, alerts, records = 10**9, ([], []), ([], [])
    by_source = {}
    for source, tier, epoch, seq, events in frames:
        at = data.draw(st.sampled_from([0, 0, 0, 1, 2, 3, 40])) * second  # also steps back past all windows
        moved = [(op, block, ts + at, reason) for op, block, ts, reason in events]
        by_source.setdefault(source, []).append(frame(moved, source, tier, epoch, seq))
    for source, of in by_source.items():
        for start, end in data.draw(cuts(len(of))):
            batch = of[start:end]
            for made, outcomes, kept in (
                (joined.process_batch(batch, records=True) if batch else [], alerts[0], records[0]),
                ([single.process(one, records=True) for one in batch], alerts[1], records[1]),
            ):
                outcomes.extend(a for outcome in made for a in outcome.alerts)
                kept.extend(e for outcome in made for e in outcome.eviction_events())
        for tier, monitor in joined.sources[source].tiers.items():
            twin = single.sources[source].tiers[tier]
            assert [(w.index, w.live, w.lost) for w in monitor.ring.closed()] == [
                (w.index, w.live, w.lost) for w in twin.ring.closed()
            ]
            assert monitor.classic["lifetime"].cumulative() == twin.classic["lifetime"].cumulative()
            assert monitor.last_ts == twin.last_ts
    assert sorted(map(str, alerts[0])) == sorted(map(str, alerts[1]))
    assert sorted(map(str, records[0])) == sorted(map(str, records[1]))
    assert joined.summary().to_dict() == single.summary().to_dict()


@given(plain_events(), st.floats(0.05, 0.95))
def test_sampling_follows_whole_generations_and_counts_everything(events, rate):
    whole, sampled = Monitor(), Monitor(MetricsConfig(sample_rate=rate))
    everything = whole.process(frame(events), records=True).eviction_events()
    chosen = sampled.process(frame(events), records=True).eviction_events()
    seed = source_seed("s", "gpu")

    def is_sampled(event):
        birth = BIRTH_UNKNOWN
        if event.lifetime_seconds is not None:
            birth = round(event.timestamp * 1e9) - round(event.lifetime_seconds * 1e9)
        hashes = generation_hash(seed, np.array([event.block_id]), np.array([birth]))
        return bool(below_rate(hashes, rate)[0])

    assert set(map(str, chosen)) <= set(map(str, everything))
    # A generation with a negative lifetime, taken as 0, does not tell its birth.
    honest = [e for e in everything if e.lifetime_seconds != 0]
    assert [e for e in honest if is_sampled(e)] == [e for e in chosen if e.lifetime_seconds != 0]
    a, b = whole.summary(), sampled.summary()
    assert (a.accounts, a.accesses, a.evictions_by_reason) == (b.accounts, b.accesses, b.evictions_by_reason)
    assert b.total_blocks_sampled <= a.total_blocks_sampled


def test_sampled_share_is_about_the_rate():
    monitor = Monitor(MetricsConfig(sample_rate=0.1))
    monitor.process(frame([(0, i, 1000 + i, "") for i in range(50_000)]))
    assert 0.09 < monitor.summary().total_blocks_sampled / 50_000 < 0.11


def test_lost_frames_raise_an_alert_once():
    monitor, alerts = Monitor(), []
    second = 10**9
    for seq, t in [(0, 0), (1, 1), (5, 2), (6, 3), (7, 4)]:
        alerts += monitor.process(frame([(0, seq, t * second, "")], seq=seq)).alerts
    assert [(a.rule, a.state, a.value) for a in alerts] == [("lost_frames", "firing", 3.0)]


def test_events_of_all_reasons_are_named():
    events = [e for i, r in enumerate(REASONS) for e in [(0, i, 10, ""), (2, i, 20, r)]]
    found = Monitor().process(frame(events), records=True).eviction_events()
    assert [e.reason for e in found] == list(REASONS)


def test_occupancy_is_of_all_tiers_together():
    monitor = Monitor(MetricsConfig(capacity=10))
    for tier in ("gpu", "cpu"):
        monitor.process(frame([(0, i, 10, "") for i in range(5)], tier=tier))
    assert monitor.summary().occupancy == 0.5
    assert monitor.summary("s", "cpu").occupancy == 0.5


def test_rules_reach_every_level():
    rises = {AlertLevel.CRITICAL for rule in Monitor().rules if rule.page}
    assert {rule.level for rule in Monitor().rules} | rises == set(AlertLevel)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_accounts_survive_steps_of_the_clock(days):
    monitor = Monitor()
    for n, day in enumerate(days, 1):
        monitor.process(frame([(0, n, day * 86_400 * 10**9, ""), (1, n, day * 86_400 * 10**9 + 5, "")]))
        accounts = monitor.summary().accounts
        assert (accounts.allocations, accounts.live, accounts.processed) == (n, n, 2 * n)
        assert accounts.balanced
    assert accounts.clock_steps == sum(b < a for a, b in itertools.pairwise(days))


TIMES = st.sampled_from([0, 1, 10**9, 1_767_225_600 * 10**9, 2**62, 2**63 - 2, 2**63 - 1]) | st.integers(
    0, 2**63 - 1
)
FAR_APART = st.sampled_from([-(2**63), -1, 0, 1, 2**16, 2**32 - 1, 2**32, 2**63 - 1]) | st.integers(
    -(2**63), 2**63 - 1
)


def smallest_hashes():
    """Blocks that the fixed hash places lowest, so that they alone are followed by the curve in the end."""
    found = []
    for hashed in range(4):
        x = hashed
        for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, None)):
            y = x
            for _ in range(64 // shift):
                y = x ^ y >> shift
            x = y if factor is None else y * pow(factor, -1, 2**64) % 2**64
        found.append((x - 0x9E3779B97F4A7C15) % 2**64)
    return np.array(found, np.uint64).view(np.int64).tolist()


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 77, 255]),
                FAR_APART | st.sampled_from(smallest_hashes()),
                TIMES,
                st.integers(0, 255),
            ),
            min_size=1,
            max_size=30,
        ),
        max_size=5,
    ),
    st.booleans(),
    st.sampled_from([0.0011, 1.0, 86400.0]),
)
def test_any_block_and_any_time_can_be_processed(frames, keyed, window_seconds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_CURVE_LOOKUPS", 4)
        check_any_block_and_any_time(frames, keyed, window_seconds)


def check_any_block_and_any_time(frames, keyed, window_seconds):
    monitor, plain = Monitor(MetricsConfig(window_seconds=window_seconds)), ReferenceTable()
    offered = 0
    for rows in frames:
        ops, blocks, ts, reasons = (list(column) for column in zip(*rows, strict=True))
        keys = np.array(blocks, np.int64) if keyed else None
        monitor.process(
            EventFrame(
                *(np.array(ops, np.uint8), np.array(blocks, np.int64), np.array(ts, np.int64), "s"),
                keys=keys,
                reasons=np.array(reasons, np.uint8),
            )
        )
        offered += len(rows)
        apply_plain(plain, [(op, b, t, "capacity") for op, b, t in zip(ops, blocks, ts, strict=True)])
        accounts = monitor.summary().accounts
        assert accounts.balanced
        assert (accounts.processed, accounts.live, accounts.cleared) == (
            offered,
            len(plain.live),
            plain.cleared,
        )
    for tier in monitor.caches():
        tier.pass_time(2**63 + 10**18)
    assert monitor.summary("s", "gpu").to_dict()
    monitor.finish()


@fewer
@given(streams(), st.data())
def test_slices_of_frames_come_to_the_same_as_whole_frames(frames, data):
    sliced, whole = Monitor(), Monitor()
    step = data.draw(st.sampled_from([0, 10**8, 10**9, 90 * 10**9]))
    for source, tier, epoch, seq, events in frames:
        slow = [(op, block, ts * step // 50 + ts, reason) for op, block, ts, reason in events]
        for monitor, slicing in ((sliced, True), (whole, False)):
            made = frame(slow, source, tier, epoch, seq)
            if not slicing:
                outcome = monitor.process(made)
                continue
            settled = 0
            for part in monitor.slices([made]):
                settled += part.settled
                assert monitor.summary().accounts.balanced
            assert settled == len(events)
        assert outcome.settled == len(events)
    assert sliced.summary().to_dict() == whole.summary().to_dict()


def test_without_a_curve_nothing_is_said_of_other_sizes():
    monitor = Monitor(MetricsConfig(curve_keys=0))
    monitor.process(frame([(0, 2**40, 1000, ""), (1, 2**40, 2000, ""), (0, 2**41, 3000, "")]))
    assert monitor.summary("s", "gpu").sizes == CacheSizes(blocks=2, peak=2)


def test_means_percentiles_and_shares_of_nothing_are_unknown():
    monitor = Monitor()
    monitor.process(EventFrame(np.zeros(3, np.uint8), np.arange(3) + 2**40, np.full(3, 10**18)))
    monitor.process(EventFrame(np.ones(1, np.uint8), np.array([2**40]), np.full(1, 10**18 + 1)))
    for summary in (monitor.summary(), monitor.summary("default", "gpu")):
        nothing = IntervalStats()
        assert (nothing.count, nothing.mean, nothing.p50, nothing.max) == (0, None, None, None)
        assert (summary.lifetime, summary.idle, summary.premature.return_time) == (nothing,) * 3
        assert (summary.recent.lifetime, summary.recent.idle) == (nothing, nothing)
        unknown = (
            *(summary.avg_lifetime_seconds, summary.avg_idle_seconds, summary.avg_access_count),
            *(summary.p50_lifetime, summary.p95_lifetime, summary.p99_lifetime, summary.zero_access_rate),
            *(summary.single_access_rate, summary.multi_access_rate, summary.premature.share),
            *(summary.premature.extra_blocks_p50, summary.premature.extra_blocks_p90),
            *(summary.recent.never_reused_ratio, summary.recent.premature_ratio),
        )
        assert set(unknown) == {None}
        assert summary.hit_rate_estimate == summary.recent.hit_ratio == 0.25


@fewer
@given(st.lists(st.integers(1, 30_000), min_size=2, max_size=12))
def test_frames_are_joined_up_to_what_is_applied_at_once(lengths):
    ends = np.cumsum(lengths).tolist()
    whole = EventFrame(np.ones(ends[-1], np.uint8), np.zeros(ends[-1], np.int64), np.arange(ends[-1]))
    frames = [whole.take(slice(end - n, end)) for n, end in zip(lengths, ends, strict=True)]
    together, single, joined = Monitor(), Monitor(), []

    def join(some):
        joined.append(sum(map(len, some)))
        return joined_frames(some)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "joined_frames", join)
        together.process_batch(frames)
    for each in frames:
        single.process(each)
    assert max(joined) <= cache.EVENTS_AT_ONCE < min(map(sum, itertools.pairwise(joined)), default=2**62)
    assert sum(joined) == ends[-1]
    assert together.summary().to_dict() == single.summary().to_dict()
