"""What FrameSequence makes of numbers and epochs, also against a plain twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.engine.monitor import Monitor
from kvstream.events import sequence as module
from kvstream.events.frame import EventFrame
from kvstream.events.sequence import Arrival, FrameSequence
from tests.reference import ReferenceSequence

LARGEST = 2**63 - 1
NOTHING = np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64)
ONE = np.zeros(1, np.uint8), np.zeros(1, np.int64), np.zeros(1, np.int64)


def numbered(epoch, seq, columns=NOTHING):
    return EventFrame(*columns, "s", epoch=epoch, seq=seq)


def arrivals(sequence, *numbers):
    return [sequence.arrive(numbered(epoch, seq)).value for epoch, seq in numbers]


def test_the_first_frame_seen_sets_the_number():
    sequence = FrameSequence()
    assert arrivals(sequence, (7, 5000)) == ["next"]
    assert sequence.missing == 0
    assert arrivals(sequence, (7, 5001), (7, 5004)) == ["next", "next"]
    assert sequence.missing == 2


def test_a_lower_epoch_is_a_restart_and_what_it_left_behind_is_stale():
    sequence = FrameSequence()
    arrivals(sequence, *((1000, seq) for seq in range(50)))
    assert arrivals(sequence, (400, 0), (400, 1)) == ["restart", "next"]
    assert arrivals(sequence, (1000, 48), (1000, 49), (1000, 50)) == ["stale"] * 3
    assert arrivals(sequence, (400, 2)) == ["next"]
    assert (sequence.stale, sequence.repeats, sequence.conflicts) == (3, 0, 0)


def test_frames_lost_at_the_start_of_a_new_life_are_missing():
    sequence = FrameSequence()
    arrivals(sequence, (1, 0), (2, 3))
    assert sequence.missing == 3


@pytest.mark.parametrize("poison", [(LARGEST, LARGEST), (LARGEST, 0), (5, LARGEST), (-(2**63), 0)])
@pytest.mark.parametrize("before", [0, 50])
def test_one_absurd_frame_costs_its_source_two_frames_at_most(poison, before):
    monitor = Monitor()
    for seq in range(before):
        monitor.process(numbered(5, seq, ONE))
    monitor.process(numbered(*poison, ONE))
    for seq in range(before, before + 100):
        monitor.process(numbered(5, seq, ONE))
    accounts = monitor.summary().accounts
    assert accounts.processed >= before + 99
    assert accounts.duplicate_frames <= 2
    assert accounts.lost_frames == 0
    assert accounts.restarts <= 2


def test_a_large_gap_is_lost_once_the_next_frame_confirms_it():
    sequence = FrameSequence()
    arrivals(sequence, (1, 0), (1, 1))
    assert arrivals(sequence, (1, 1_000_000)) == ["next"]
    assert sequence.missing == 0
    assert arrivals(sequence, (1, 1_000_000)) == ["repeat"]
    assert arrivals(sequence, (1, 1_000_001)) == ["next"]
    assert sequence.missing == 1_000_000 - 2


def test_two_live_producers_of_one_name_are_both_processed_and_counted_as_a_conflict():
    monitor = Monitor()
    for seq in range(500):
        for epoch in (1, 2):
            monitor.process(numbered(epoch, seq, ONE))
    accounts = monitor.summary().accounts
    assert accounts.processed >= 996
    assert accounts.restarts == 1
    assert monitor.sources["s"]._sequence.conflicts > 900


def test_an_old_life_that_falls_silent_is_left():
    sequence = FrameSequence()
    for seq in range(10):
        arrivals(sequence, (1, seq), (2, seq))
    arrivals(sequence, *((2, 10 + seq) for seq in range(module.SILENT + 1)))
    assert arrivals(sequence, (1, 10)) == ["stale"]


def test_repeats_of_a_live_producer_are_counted_apart():
    sequence = FrameSequence()
    arrivals(sequence, *((1, seq) for seq in range(10)))
    assert arrivals(sequence, (1, 3), (1, 9), (1, 10)) == ["repeat", "repeat", "next"]
    assert (sequence.repeats, sequence.stale) == (2, 0)


def test_what_is_remembered_is_bounded():
    sequence = FrameSequence()
    arrivals(sequence, *((epoch, 0) for epoch in range(1000)))
    assert len(sequence._runs) == module.RUNS


def test_frames_without_a_number_are_always_next():
    sequence = FrameSequence()
    assert arrivals(sequence, (0, 3), (0, -1), (9, -1), (0, 4)) == ["next"] * 4


@st.composite
def numbers(draw):
    """Numbers of a few epochs: runs, holes, repeats, jumps and stray ones."""
    made, places = [], {}
    for _ in range(draw(st.integers(1, 40))):
        epoch = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4, LARGEST]))
        place = places.get(epoch, draw(st.sampled_from([0, 0, 3, 30])))
        kind = draw(st.sampled_from(["run", "run", "run", "hole", "repeat", "far", "stray", "reset"]))
        if kind == "hole":
            place += draw(st.integers(1, 6))
        elif kind == "far":
            place += draw(st.integers(4, 50))
        elif kind == "reset":
            place = draw(st.integers(0, 5))
        start = {"repeat": max(0, place - draw(st.integers(1, 6))), "stray": LARGEST - 3}.get(kind, place)
        length = draw(st.integers(1, 4))
        made += [(epoch, seq) for seq in range(start, start + length)]
        if kind not in ("repeat", "stray"):
            place += length
        places[epoch] = place
    return made


@given(numbers(), st.booleans())
def test_it_equals_the_plain_twin(given_numbers, shuffled):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AHEAD", 4), ("SIGNS", 3), ("RUNS", 3), ("SILENT", 6)):
            patch.setattr(module, name, value)
        sequence, plain = FrameSequence(), ReferenceSequence(ahead=4, signs=3, lives=3, silent=6)
        if shuffled:
            given_numbers = given_numbers[::2] + given_numbers[1::2]
        counts = dict.fromkeys(Arrival, 0)
        for epoch, seq in given_numbers:
            arrival = sequence.arrive(numbered(epoch, seq))
            counts[arrival] += 1
            assert (arrival.value, sequence.missing) == plain.arrive(epoch, seq), (epoch, seq)
        assert sequence.repeats == counts[Arrival.REPEAT]
        assert sequence.stale == counts[Arrival.STALE]
        assert sequence.conflicts == counts[Arrival.CONFLICT]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.data())
def test_frames_sent_again_after_breaks_count_once(runs, data):
    """A producer's side sends frames again from any place since the last acknowledged; all count once."""
    sequence, taken, sent = FrameSequence(), [], 0
    for run in runs:
        start = data.draw(st.integers(max(0, sent - 20), sent))
        again = range(start, sent + run)
        taken += [seq for seq in again if not sequence.arrive(numbered(9, seq)).is_dropped]
        sent += run
    assert taken == list(range(sent))
