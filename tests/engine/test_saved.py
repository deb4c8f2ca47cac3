"""State that goes on from what was saved, as if nothing had happened."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstream.bench.streams import busy, filling, keyed, labelled
from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.errors import StateError
from kvstream.events.types import Labels, Op
from kvstream.metrics.measurements import save_measurements
from tests.engine.test_monitor import streams
from tests.state.saved import through_a_snapshot
from tests.strategies import fewer, frame

SMALL = MetricsConfig(
    window_seconds=0.002,
    windows=12,
    trend_window=4,
    remembered_evictions=16,
    curve_keys=4,
    content_sample=16,
    curve_half_life_seconds=0.01,
    label_sets=2,
)
CONFIGS = (
    SMALL,
    replace(SMALL, sample_rate=0.5, capacity=8),
    replace(SMALL, remembered_evictions=0, curve_keys=0, content_sample=0, label_sets=0),
    replace(SMALL, curve_half_life_seconds=0.0),
)
LABELS = (Labels(tenant="a"), Labels(tenant="b", lora="x"), Labels(group="more than are told apart"))
_NS_A_STEP = 200_000  # so that streams of small steps last for some windows


def went_on(monitor, config):
    """A new monitor that goes on from what another one has saved."""
    after = Monitor(config)
    after.restore(through_a_snapshot(monitor.save()))
    for name, source in monitor.sources.items():
        assert after.restore_source(name, through_a_snapshot(source.save())) == []
    return after


def figures(monitor):
    """All that can be asked of a monitor."""
    return {
        "all": monitor.summary(),
        "sources": {name: monitor.summary(name) for name in monitor.sources},
        "duplicates": {name: source.duplicates for name, source in monitor.sources.items()},
        "caches": {
            (cache.source, cache.tier): of_cache(cache, monitor.summary(cache.source, cache.tier))
            for cache in monitor.caches()
        },
    }


def of_cache(cache, summary):
    """All that can be asked of one cache; of blocks that are alike, any may come first."""
    live, now = cache.table.live_count, cache.last_ts
    return {
        "summary": summary,
        "classic": {name: histogram.cumulative() for name, histogram in cache.classic.items()},
        "windows": [rows.tolist() for rows in (cache.ring.newest(100), cache.ring.since(0)[0])],
        "recent": [plain(save_measurements([cache.recent(n)])) for n in (1, 5, 100)],
        "trends": cache.trends(),
        "anomalies": cache.anomalies(),
        "sizes": cache.sizes(),
        "hottest": sorted(map(repr, cache.table.hottest(live, now))),
        "longest held": sorted(map(repr, cache.table.longest_held(live, now))),
        "map": cache.table.block_map(now),
        "blocks": sorted(map(repr, cache.table.live_blocks())),
        "by hash": cache.table.by_hash,
        "due": cache.rules.due(),
    }


def plain(value):
    return msgspec.to_builtins(value, enc_hook=lambda array: array.tolist())


@st.composite
def labelled_frames(draw):
    """Frames of ``streams`` with keys and labels, some of them, and a step of time that fills windows."""
    frames = []
    for source, tier, epoch, seq, events in draw(streams()):
        made = frame(events, source, tier, epoch, seq)
        keys = labels = None
        if draw(st.booleans()):
            keys = draw(st.lists(st.integers(0, 6), min_size=len(events), max_size=len(events)))
        if draw(st.booleans()):
            labels = draw(st.lists(st.integers(0, 3), min_size=len(events), max_size=len(events)))
        frames.append(
            replace(
                made,
                ts=made.ts * _NS_A_STEP,
                keys=None if keys is None else np.array(keys, np.int64),
                labels=LABELS if labels else (),
                label_of=None if not labels else np.array(labels, np.uint16),
            )
        )
    return frames


def assert_equal_runs(frames, saved_at, config, forgotten_at=()):
    straight, monitor = Monitor(config), Monitor(config)
    for at, each in enumerate(frames):
        if at in saved_at:
            monitor = went_on(monitor, config)
        if at in forgotten_at and each.source in straight.sources:
            assert monitor.forget(each.source, "gone") == straight.forget(each.source, "gone")
        ours, theirs = monitor.process(each, records=True), straight.process(each, records=True)
        assert ours.alerts == theirs.alerts
        assert ours.settled == theirs.settled
        assert ours.eviction_events() == theirs.eviction_events()
    if len(frames) in saved_at:
        monitor = went_on(monitor, config)
    assert figures(monitor) == figures(straight)
    assert monitor.finish() == straight.finish()
    assert figures(monitor) == figures(straight)


@fewer
@given(
    labelled_frames(),
    st.lists(st.integers(0, 20), max_size=4),
    st.lists(st.integers(0, 20), max_size=1),
    st.sampled_from(CONFIGS),
)
def test_saved_and_restored_anywhere_every_figure_is_what_it_would_have_been(
    frames, saved_at, forgotten_at, config
):
    assert_equal_runs(frames, saved_at, config, forgotten_at)


def stores(ops, first=0):
    """Events of blocks that may have several copies, as engines publish them."""
    rng = np.random.default_rng(7)
    events = zip(rng.choice(ops, 6000), rng.integers(first, first + 60, 6000), range(6000), strict=True)
    made = frame([(op, block, ts * 5_000, "capacity") for op, block, ts in events])
    return made.cut(400)


SLOTS = [filling(200), *busy(200, 20_000).cut(1500)]
CONTENTS = [filling(200, content=True), *busy(200, 20_000, content=True).cut(1500)]
LARGE = {
    "slots": SLOTS,
    "slots with keys": list(map(keyed, SLOTS)),
    "slots that get keys and labels": [*SLOTS[:7], *(keyed(labelled(each)) for each in SLOTS[7:])],
    "contents": CONTENTS,
    "contents with labels": list(map(labelled, CONTENTS)),
    "copies by slot": stores([Op.STORE, Op.STORE, Op.PREFIX, Op.EVICT, Op.EVICT, Op.REMOVE]),
    "copies of contents": stores([Op.STORE, Op.STORE, Op.EVICT, Op.EVICT], 2**40),
    "contents of two sizes": [
        replace(each, block_tokens=16 * (1 + number // 4)) for number, each in enumerate(CONTENTS)
    ],
    "slots known late": stores([Op.RESIDENT, Op.ACCESS, Op.EVICT, Op.EVICT, Op.ALLOC]),
    "contents known late, that get labels": [
        *stores([Op.RESIDENT, Op.ACCESS, Op.EVICT, Op.STORE], 2**40)[:8],
        *map(labelled, stores([Op.RESIDENT, Op.ACCESS, Op.EVICT, Op.STORE], 2**40)[8:]),
    ],
    "slots that turn out to be contents": [*map(keyed, SLOTS[:6]), *CONTENTS],
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("config", [SMALL, replace(SMALL, sample_rate=0.5, curve_keys=64), MetricsConfig()])
def test_large_frames_lead_to_the_same_figures(name, config):
    assert_equal_runs(LARGE[name], {1, 5, 8, 13, len(LARGE[name])}, config)


def test_what_has_grown_by_slots_goes_on_by_slots():
    """A slot that a table had room for is no content hash, however few blocks are live now."""
    events = [(0, block, 1000 + block, "") for block in range(100_000)]
    cleared = [(3, 0, 200_000, "")]
    again = [(0, 99_999, 300_000, "")]
    frames = [frame(events), frame(cleared), frame(again)]
    assert_equal_runs(frames, {2}, SMALL)
    monitor = Monitor(SMALL)
    for each in frames[:2]:
        monitor.process(each)
    monitor = went_on(monitor, SMALL)
    monitor.process(frames[2])
    (cache,) = monitor.caches()
    assert not cache.table.by_hash


@pytest.mark.parametrize("setting", [{"window_seconds": 0.5}, {"sample_rate": 0.25}])
def test_what_was_measured_in_other_terms_is_not_gone_on_with(setting):
    monitor = Monitor(SMALL)
    monitor.process(frame([(0, 1, 1000, "")]))
    after = Monitor(replace(SMALL, **setting))
    with pytest.raises(StateError, match=f"source 's': it was saved with {next(iter(setting))}"):
        after.restore_source("s", through_a_snapshot(monitor.sources["s"].save()))
    assert after.sources == {}


def test_damaged_state_is_refused_and_changes_nothing():
    monitor = Monitor(SMALL)
    monitor.process(frame([(0, 1, 1000, "")]))
    saved = through_a_snapshot(monitor.sources["s"].save())
    del saved["tiers"]["gpu"]["table"]["blocks"]
    after = Monitor(SMALL)
    with pytest.raises(StateError, match="source 's' cannot be restored: KeyError"):
        after.restore_source("s", saved)
    assert after.sources == {}
    after.restore_source("s", through_a_snapshot(monitor.sources["s"].save()))
    with pytest.raises(StateError, match="there already"):
        after.restore_source("s", through_a_snapshot(monitor.sources["s"].save()))


def test_a_source_for_which_there_is_no_place_is_refused():
    monitor = Monitor(SMALL)
    for tier in ("gpu", "cpu"):
        monitor.process(frame([(0, 1, 1000, "")], tier=tier))
    after = Monitor(replace(SMALL, max_caches=1))
    with pytest.raises(StateError, match="more than 1 caches"):
        after.restore_source("s", through_a_snapshot(monitor.sources["s"].save()))
    assert after.admits("another")


def test_live_blocks_that_are_restored_take_room():
    monitor = Monitor(SMALL)
    monitor.process(frame([(0, block, 1000, "") for block in range(8)]))
    limited = replace(SMALL, max_live_blocks=10)
    after = went_on(monitor, limited)
    after.process(frame([(0, block, 2000, "") for block in range(8, 16)]))
    assert after.summary().accounts.live == 10
    assert after.summary().accounts.dropped == {"too_many_blocks": 6}


def test_labels_that_are_passed_over_now_leave_no_trace():
    monitor = Monitor(SMALL)
    monitor.process(labelled(frame([(0, block, 1000, "") for block in range(8)])))
    after = went_on(monitor, replace(SMALL, label_sets=0))
    assert after.summary().labels == {}
    assert after.summary().accounts.live == 8


@pytest.mark.parametrize("label_sets", [1, 4096])
def test_labels_are_kept_where_fewer_or_more_are_followed_now(label_sets):
    monitor = Monitor(replace(SMALL, label_sets=64))
    monitor.process(labelled(frame([(0, block, 1000, "") for block in range(8)])))
    after = went_on(monitor, replace(SMALL, label_sets=label_sets))
    assert after.summary().labels == monitor.summary().labels != {}


def each_without_one_key(value, path=()):
    """Yield state once for each key in it, without that key, and where that was."""
    if isinstance(value, list):
        for at, part in enumerate(value):
            for where, without in each_without_one_key(part, (*path, at)):
                yield where, [*value[:at], without, *value[at + 1 :]]
    elif isinstance(value, dict):
        for key, part in value.items():
            yield (*path, key), {name: other for name, other in value.items() if name != key}
            for where, without in each_without_one_key(part, (*path, key)):
                yield where, {**value, key: without}


def test_state_that_lacks_anything_is_refused_or_takes_a_default():
    monitor = Monitor(SMALL)
    for each in LARGE["slots that get keys and labels"]:
        monitor.process(replace(each, seq=-1))
    (source,) = monitor.sources.values()
    saved, refused = through_a_snapshot(source.save()), set()
    for path, without in each_without_one_key(saved):
        after = Monitor(SMALL)
        try:
            after.restore_source("bench", without)
        except StateError:
            assert after.sources == {}
            refused.add(path)
    tier = ("tiers", "gpu")
    wanted = {(*tier, part) for part in saved["tiers"]["gpu"]} | {
        (*tier, "table", part) for part in saved["tiers"]["gpu"]["table"]
    }
    assert wanted <= refused
