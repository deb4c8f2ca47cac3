"""Frames of an input that is read again: each event is applied once, wherever the process died."""

import itertools
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.events.frame import UNNUMBERED
from kvstream.events.position import Place
from kvstream.events.sequence import Cursor
from kvstream.state.progress import InputProgress
from kvstream.state.resumption import InputMarker, add_saved
from tests.state.saved import through_a_snapshot
from tests.strategies import fewer, frame

CACHES = [("a", "gpu"), ("a", "cpu"), ("b", "gpu"), ("c", "gpu")]
INPUT = "file x"


class Process:
    """Reads an input of events, each of one cache, and applies them source by source, some time later.

    Args:
        events: The cache of each event of the input.
        saved: The sections that it goes on from, by source; of all others under None.
    """

    def __init__(self, events, saved):
        self.events = events
        inputs, self.applied = {}, {cache: [] for cache in CACHES}
        for source, (places, applied) in saved.items():
            add_saved(inputs, places, source)
            self.applied.update({cache: list(ids) for cache, ids in applied.items()})
        self.progress = InputProgress()
        self.progress.restore(inputs)
        self.marker = InputMarker(INPUT, inputs.get(INPUT), {})
        self.at = 0 if self.marker.start is None else self.marker.start.at
        self.waiting = {source: deque() for source in "abc"}
        self.states = {source for source in saved if source}
        self.sections = {}

    def read(self, size):
        """Take the next part of the input, as large as this or up to where another must begin."""
        end = self.marker.next_place(0, self.at)
        end = min(len(self.events), self.at + size, len(self.events) if end is None else end)
        self.marker.begin(Place(0, self.at))
        part = range(self.at, end)
        frames = [
            frame([(0, at, at, "") for at in part if self.events[at] == cache], *cache) for cache in CACHES
        ]
        for each in self.marker.marked([each for each in frames if len(each)], renumber=False):
            self.progress.take(each)
            self.waiting[each.source].append(each)
        self.at = end

    def apply(self, source):
        if self.waiting[source]:
            each = self.waiting[source].popleft()
            self.applied[each.source, each.tier] += each.blocks.tolist()
            self.progress.apply([each], True)
            self.states.add(source)

    def enter(self, source):
        """Save a source that has state."""
        if source in self.states:
            applied = {cache: list(ids) for cache, ids in self.applied.items() if cache[0] == source}
            places = through_a_snapshot(self.progress.of_source(source))
            self.sections[source] = (places, applied)

    def finish(self):
        """Save the sources that came meanwhile, and what is of none; return the snapshot."""
        for source in self.states - self.sections.keys():
            self.enter(source)
        others = through_a_snapshot(self.progress.of_others(set(self.sections)))
        return {**self.sections, None: (others, {})}

    def finish_reading(self):
        while self.at < len(self.events):
            self.read(1 << 20)
        for source in "abc":
            while self.waiting[source]:
                self.apply(source)


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 9)),
    st.tuples(st.just("apply"), st.sampled_from("abc")),
    st.tuples(st.just("enter"), st.sampled_from("abc")),
    st.tuples(st.just("finish"), st.just(0)),
    st.tuples(st.just("die"), st.just(0)),
)


@fewer
@given(st.lists(st.sampled_from(CACHES), min_size=1, max_size=40), st.lists(STEPS, max_size=80))
def test_each_event_is_applied_once_wherever_the_process_died(events, steps):
    snapshot = {}
    process = Process(events, snapshot)
    for step, argument in steps:
        if step == "finish":
            snapshot, process.sections = process.finish(), {}
        elif step == "die":
            process = Process(events, snapshot)
        else:
            getattr(process, step)(argument)
    process = Process(events, snapshot)
    process.finish_reading()
    assert process.applied == {
        cache: [at for at, other in enumerate(events) if other == cache] for cache in CACHES
    }


@pytest.mark.parametrize("seed", range(40))
def test_long_inputs_are_applied_once_however_they_are_cut_the_next_time(seed):
    rng, snapshot = random.Random(seed), {}
    events = rng.choices(CACHES, k=400)
    process = Process(events, snapshot)
    for _ in range(400):
        step = rng.random()
        if step < 0.02:
            snapshot, process.sections = process.finish(), {}
        elif step < 0.04:
            process = Process(events, snapshot)
        elif step < 0.4:
            process.read(rng.randint(1, 12))
        else:
            (process.apply if step < 0.95 else process.enter)(rng.choice("abc"))
    process.finish_reading()
    assert process.applied == {
        cache: [at for at, other in enumerate(events) if other == cache] for cache in CACHES
    }


@fewer
@given(st.lists(st.sampled_from(CACHES), min_size=1, max_size=30), st.lists(st.integers(1, 9), max_size=8))
def test_reading_that_is_begun_again_passes_over_what_was_taken(events, sizes):
    process = Process(events, {})
    for size in sizes:
        process.read(size)
        process.marker.go_back()
        process.at = process.marker.start.at if process.marker.start else 0
    process.finish_reading()
    assert process.applied == {
        cache: [at for at, other in enumerate(events) if other == cache] for cache in CACHES
    }


def test_a_cache_that_is_silent_does_not_hold_the_input_back():
    process = Process([("a", "gpu"), *[("b", "gpu")] * 9], {})
    for _ in range(5):
        process.read(2)
        for source in "ab":
            process.apply(source)
    process.enter("a")
    again = Process(process.events, process.finish())
    assert again.at == 8


def test_numbers_go_on_from_those_of_the_source_with_holes_as_they_are():
    marker = InputMarker("zmq x", None, {"a": Cursor(5, 100), "b": Cursor(4, 7)})
    marker.begin(Place(5, 0))
    given = [("a", 5, 2), ("a", 5, 3), ("a", 5, 7), ("b", 5, 0), ("a", 6, 0), ("a", 5, UNNUMBERED)]
    frames = [frame([(0, 1, 1, "")], source, epoch=epoch, seq=seq) for source, epoch, seq in given]
    marked = [(each.source, each.epoch, each.seq) for each in marker.marked(frames, renumber=True)]
    assert marked == [
        *(("a", 5, 102), ("a", 5, 103), ("a", 5, 107)),
        *(("b", 5, 0), ("a", 6, 0), ("a", 5, UNNUMBERED)),
    ]


def test_frames_that_are_held_leave_no_holes():
    inputs = {}
    add_saved(inputs, {"x": {"reached": [1, 4, ""], "caches": [["a", "gpu", [1, 4, ""], 3]]}}, None)
    marker = InputMarker("x", inputs["x"], {"a": Cursor(1, 50)})
    numbers = itertools.count()
    left = []
    for at in (2, 4, 6):
        marker.begin(Place(1, at))
        frames = [frame([(0, at, 1, "")] * 2, "a", epoch=1, seq=next(numbers)) for _ in range(2)]
        left += [(each.seq, each.position.events, len(each)) for each in marker.marked(frames, renumber=True)]
    assert left == [(50, 4, 1), (51, 2, 2), (52, 4, 2)]
