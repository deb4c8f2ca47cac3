"""State that follows from the records of a partition alone."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kvstream.errors import StateError
from kvstream.events.codec import encode_frame
from kvstream.faults.log import FaultLog
from kvstream.fleet.partition import TICK, Record
from kvstream.state.snapshot import Header, Section, pack, unpack
from tests.fleet.partitions import CONFIG, START_MS, engine, partition, records, seen

TWO_ENGINES = records(
    [*engine("a"), *engine("b", seed=1)[:40]], until_ms=START_MS + 60_000
)  # of which one falls silent


def apply(part, log, cuts=()):
    alerts, edges = [], [0, *sorted(cuts), len(log)]
    for start, end in pairwise(edges):
        alerts += part.apply(log[start:end])
    return alerts


def through_a_snapshot(part):
    _, sections = unpack(pack(Header(number=part.offset, taken_at=0.0, writer="test"), part.sections()))
    restored = partition()
    assert restored.restore(sections) == []
    return restored


@given(st.lists(st.integers(0, len(TWO_ENGINES)), max_size=12))
@pytest.mark.slow
def test_however_records_are_cut_they_come_to_the_same(cuts):
    whole, cut = partition(), partition()
    assert sorted(map(repr, apply(cut, TWO_ENGINES, cuts))) == sorted(map(repr, apply(whole, TWO_ENGINES)))
    assert seen(cut) == seen(whole)


@given(st.integers(0, len(TWO_ENGINES)), st.integers(0, 50))
@pytest.mark.slow
def test_whoever_goes_on_from_a_snapshot_comes_to_the_same(at, again):
    whole, before = partition(), partition()
    expected = apply(whole, TWO_ENGINES)
    said = apply(before, TWO_ENGINES[:at])
    after = through_a_snapshot(before)
    assert after.offset == at
    said += after.apply(TWO_ENGINES[max(0, at - again) :])  # of which it knows some already
    assert sorted(map(repr, said)) == sorted(map(repr, expected))
    assert seen(after) == seen(whole)


def test_an_engine_that_falls_silent_is_noticed_by_ticks():
    log = records([*engine("a", 24_000), *engine("b", 12_000, seed=1)], until_ms=START_MS + 120_000)
    alerts = partition().apply(log)
    assert {(a.source, a.state) for a in alerts if a.rule == "engine_stalled"} == {
        ("a", "firing"),
        ("b", "firing"),
    }
    began = {alert.source: alert.timestamp for alert in alerts if alert.rule == "engine_stalled"}
    assert began["b"] < began["a"]
    before = [r for r in log if r.timestamp_ms < began["b"] * 1e3]
    assert not [alert for alert in partition().apply(before) if alert.rule == "engine_stalled"]


def test_without_ticks_nobody_is_silent():
    part = partition()
    assert not [
        a for a in part.apply([r for r in TWO_ENGINES if r.value != TICK]) if a.rule == "engine_stalled"
    ]


def test_ticks_of_two_workers_are_those_of_one():
    """As of one that still writes while another has taken over."""
    twice = [
        each for record in TWO_ENGINES for each in ([record, record] if record.value == TICK else [record])
    ]
    twice = [record._replace(offset=offset) for offset, record in enumerate(twice)]
    one, two = partition(), partition()
    assert list(map(repr, two.apply(twice))) == list(map(repr, one.apply(TWO_ENGINES)))
    two.read_from(one.offset)
    assert seen(two) == seen(one)


def test_while_nobody_ticked_nobody_was_silent():
    """As all workers, or the broker, were away."""
    log = records(engine("a"))
    late = log[-1].timestamp_ms + 3_600_000
    later = [Record(len(log) + i, late + i * 1000, TICK) for i in range(5)]
    part = partition(replace(CONFIG, forget_seconds=1800.0))
    part.apply(log)
    assert part.apply(later) == []
    assert list(part.monitor.sources) == ["a"]


@pytest.mark.parametrize("back_ms", [3_000, 86_400_000 * 366])
def test_silence_is_judged_on_where_the_brokers_clock_is_set_back(back_ms):
    log = records([*engine("a", 24_000), *engine("b", 12_000, seed=1)], until_ms=START_MS + 120_000)
    half = len(log) // 3
    back = [*log[:half], *(each._replace(timestamp_ms=each.timestamp_ms - back_ms) for each in log[half:])]

    def silent(records):
        alerts = partition().apply(records)
        return [(alert.source, alert.state) for alert in alerts if alert.rule == "engine_stalled"]

    assert silent(back) == silent(log) == [("b", "firing"), ("a", "firing")]


def test_a_source_that_is_silent_for_long_is_forgotten_with_its_counts_kept():
    log = records(engine("a"), until_ms=START_MS + 700_000)
    part = partition()
    part.apply(log)
    accounts = part.accounts()
    assert part.monitor.sources == {}
    assert part.take_gone() == [("a", "gpu")]
    assert part.take_gone() == []
    assert (accounts.processed, accounts.forgotten_sources) == (4000, 1)
    assert through_a_snapshot(part).accounts() == accounts


def test_frames_that_come_twice_are_counted_once():
    once = engine("a")
    log = records([frame for frame in once for _ in range(2)])
    part = partition()
    part.apply(log)
    assert (part.accounts().processed, part.accounts().duplicate_frames) == (4000, len(once))


@pytest.mark.parametrize("value", [b"", b"\x00", b"tic", encode_frame(engine("a")[0])[:-1]])
def test_what_is_no_frame_is_counted_with_its_place(value, caplog):
    log = records(engine("a"))
    broken = [*log[:10], log[10]._replace(value=value), *log[11:]]
    faults = FaultLog()
    part = partition(faults=faults)
    part.apply(broken)
    assert part.malformed == faults.counts["frames", "malformed"] == 1
    assert "t.frames[0]: record 10: " in caplog.text
    assert part.offset == len(log)
    assert through_a_snapshot(part).malformed == 1


def test_sources_beyond_the_limit_are_refused_and_forgotten_by_time():
    part = partition(replace(CONFIG, max_caches=1))
    part.apply(records([*engine("a"), *engine("b", seed=1)], until_ms=START_MS + 5_000))
    assert len(part.monitor.sources) == 1
    assert part.accounts().dropped == {"too_many_caches": 4000}


@pytest.mark.parametrize("kind", ["source", "stream", "partition"])
def test_a_snapshot_without_one_of_its_parts_is_none(kind):
    part = partition()
    part.apply(TWO_ENGINES)
    sections = [section for section in part.sections() if section.kind != kind]
    with pytest.raises(StateError):
        partition().restore(sections)


def test_a_snapshot_with_a_damaged_part_is_none():
    part = partition()
    part.apply(TWO_ENGINES)
    sections = [
        Section(each.kind, each.name, {} if each.kind == "partition" else each.body)
        for each in part.sections()
    ]
    with pytest.raises(StateError, match="partition cannot be restored"):
        partition().restore(sections)


def test_each_cache_has_a_summary():
    part = partition()
    part.apply(TWO_ENGINES)
    shown = {(source, tier): msgspec.json.decode(text) for source, tier, text in part.summaries()}
    assert sorted(shown) == [("a", "gpu"), ("b", "gpu")]
    assert shown["a", "gpu"]["accounts"]["processed"] == 4000
