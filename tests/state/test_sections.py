"""A stream that goes on from a snapshot, each source from its own place in what it was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.alerts.drops import DropWatch
from kvstream.alerts.inputs import InputWatch
from kvstream.alerts.rules_file import default_rules
from kvstream.alerts.silences import Silences
from kvstream.config import MetricsConfig
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import Monitor, accounts_of
from kvstream.errors import StateError
from kvstream.state.sections import StreamParts, restore, source_section, stream_section
from kvstream.state.snapshot import Header, pack, unpack
from tests.engine.test_saved import SMALL, of_cache
from tests.strategies import fewer, frame, plain_events

NAMES = "abcd"


class Stream:
    """The state of a stream with some consumers, to which frames are given one by one."""

    def __init__(self, consumers=1, config=SMALL):
        limits, silences = StreamLimits(config), Silences()
        monitors = [Monitor(config, None, silences, limits) for _ in range(consumers)]
        drops = DropWatch(default_rules(), silences, limits.descriptions())
        inputs = InputWatch(default_rules(), silences)
        self.parts = StreamParts(monitors, limits, silences, drops, input_watch=inputs)

    def monitor_of(self, name):
        return self.parts.monitors[ord(name[0]) % len(self.parts.monitors)]

    def process(self, each):
        return self.monitor_of(each.source).process(each).alerts

    def forget(self, name):
        if name in self.monitor_of(name).sources:
            self.monitor_of(name).forget(name, "gone")

    def figures(self):
        caches = {
            (cache.source, cache.tier): of_cache(cache, monitor.summary(cache.source, cache.tier))
            for monitor in self.parts.monitors
            for cache in monitor.caches()
        }
        return accounts_of(self.parts.monitors, None, None), caches


def written(sections):
    return unpack(pack(Header(number=0, taken_at=0.0, writer="test"), sections))[1]


@st.composite
def frames_of_sources(draw):
    """Frames of several sources that come in turns, numbered by source."""
    frames, numbers = [], dict.fromkeys(NAMES, 0)
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=16)):
        frames.append(frame(draw(plain_events()), name, epoch=1, seq=numbers[name]))
        numbers[name] += 1
    return frames


@fewer
@given(frames_of_sources(), st.data())
def test_each_source_goes_on_from_its_own_place(frames, data):
    """A snapshot is taken while frames are applied and sources forgotten; then the process dies."""
    straight, stream = Stream(), Stream(data.draw(st.integers(1, 3)))
    places = data.draw(st.lists(st.integers(0, len(frames)), min_size=5, max_size=5).map(sorted))
    forgotten = data.draw(st.dictionaries(st.integers(0, len(frames)), st.sampled_from(NAMES), max_size=3))
    # What each source was sent since it was last forgotten.
    sent = {name: [] for name in NAMES}
    sections, saved, cursors = [], {}, {}
    for at in range(places[-1] + 1):
        if at in forgotten:
            straight.forget(forgotten[at])
            stream.forget(forgotten[at])
            sent[forgotten[at]] = []
        for name in [name for name, place in zip(NAMES, places, strict=False) if place == at]:
            if (source := stream.monitor_of(name).sources.get(name)) is not None:
                sections.append(source_section(source))
                saved[name], cursors[name] = source, len(sent[name])
        if at == places[-1]:
            sections.append(stream_section(stream.parts, saved))
        else:
            for each in (straight, stream):
                each.process(frames[at])
            sent[frames[at].source].append(frames[at])
    after = Stream(data.draw(st.integers(1, 3)))
    restored = restore(after.parts, written(sections), after.monitor_of, 0.0)
    assert (restored.problems, restored.alerts) == ({}, [])
    for name in NAMES:
        for each in sent[name][cursors[name] if name in restored.sources else 0 :]:
            after.process(each)
    for each in frames[places[-1] :]:
        straight.process(each)
        after.process(each)
    assert after.figures() == straight.figures()


def test_a_source_that_cannot_be_restored_begins_with_nothing_and_is_named():
    stream = Stream()
    for name in NAMES:
        stream.process(frame([(0, 1, 1000, "")], name))
    saved = dict(stream.parts.sources())
    sections = [source_section(source) for source in saved.values()]
    del sections[1].body["tiers"]["gpu"]["ring"]
    after = Stream()
    sections = written([*sections, stream_section(stream.parts, saved)])
    del sections[2]
    restored = restore(after.parts, sections, after.monitor_of, 0.0)
    assert restored.sources == ["a", "d"]
    assert restored.problems == {
        "b": "source 'b' cannot be restored: KeyError('ring')",
        "c": "source 'c': its section is missing",
    }
    assert list(after.parts.sources()) == restored.sources


def test_without_the_section_of_the_stream_nothing_is_restored():
    stream, after = Stream(), Stream()
    stream.process(frame([(0, 1, 1000, "")], "a"))
    (source,) = stream.parts.sources().values()
    with pytest.raises(StateError, match="section of the stream is missing"):
        restore(after.parts, written([source_section(source)]), after.monitor_of, 0.0)
    assert after.parts.sources() == {}


@pytest.mark.parametrize("part", ["sources", "monitors", "refused", "silences", "drops"])
def test_a_section_of_the_stream_that_lacks_a_part_is_refused(part):
    stream, after = Stream(), Stream()
    stream.process(frame([(0, 1, 1000, "")], "a"))
    saved = stream.parts.sources()
    of_stream = stream_section(stream.parts, saved)
    del of_stream.body[part]
    with pytest.raises(StateError, match="section of the stream cannot be restored: KeyError"):
        restore(
            after.parts, written([*map(source_section, saved.values()), of_stream]), after.monitor_of, 0.0
        )
    assert after.parts.sources() == {}


def test_a_source_is_not_saved_in_the_middle_of_a_batch():
    stream = Stream(config=MetricsConfig())
    frames = [frame([(0, block, second * 10**9, "") for block in range(9)], "a") for second in range(40)]
    slices = stream.monitor_of("a").slices(frames)
    next(slices)
    (source,) = stream.parts.sources().values()
    with pytest.raises(RuntimeError, match="in the middle of a batch"):
        source_section(source)
    list(slices)
    assert source_section(source).name == "a"


def test_what_was_refused_goes_on_being_counted():
    limited = MetricsConfig(max_caches=1)
    stream, after = Stream(2, limited), Stream(1, limited)
    for name in "ab":
        stream.process(frame([(0, 1, 1000, "")], name))
    saved = dict(stream.parts.sources())
    sections = [*map(source_section, saved.values()), stream_section(stream.parts, saved)]
    restore(after.parts, written(sections), after.monitor_of, 0.0)
    accounts = accounts_of(after.parts.monitors, None, None)
    assert (accounts.offered, accounts.dropped) == (2, {"too_many_caches": 1})
