from kvstream import KVStream, StreamConfig
from kvstream.bench.consumers import SOURCES, measure_consumers
from kvstream.bench.growth import measure_endurance, measure_growth
from kvstream.stream import consumers_of
from tests.interpreted import needs_compiled


@needs_compiled
def test_growth_is_measured_at_every_size_of_both_kinds_of_table():
    grown = measure_growth(lambda size: None, (1_000, 20_000))
    assert [(at.what, at.size) for at in grown] == [
        (f"live blocks: {kind}", size) for kind in ("slots", "content hashes") for size in (1_000, 20_000)
    ]
    assert [at.of_smallest for at in grown[::2]] == [1.0, 1.0]
    assert all(at.ns_per_event > 0 for at in grown)


@needs_compiled
def test_a_cache_is_measured_after_more_and_more_events():
    shown = []
    grown = measure_endurance(shown.append, (400_000, 6_000_000))
    assert [at.size for at in grown] == [400_000, 6_000_000]
    assert grown[1].of_smallest > 0
    assert shown[-1].endswith("of 6,000,000")


def test_the_sources_that_are_measured_belong_to_different_consumers():
    stream = KVStream(StreamConfig(consumers=2))
    assert len({consumers_of(stream).of(source) for source in SOURCES}) == 2


def test_two_consumers_are_measured_beside_two_processes():
    gain = measure_consumers(lambda repeat: None, events=100_000, repeats=1)
    assert min(gain.ns_per_event, gain.two_processes, gain.two_consumers) > 0
