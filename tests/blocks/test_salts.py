"""Labels that may have any number of values, and content that several salts share."""

import numpy as np
import pytest

from kvstream.blocks.attribution import OTHER, LabelSets
from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import frames_from_events
from kvstream.events.types import BlockEvicted, BlockStored, Labels, PrefixStored
from tests.state.saved import through_a_snapshot

FAR = 2**40


def numbered(sets, *labels):
    """The number that each label set is given, a frame each."""
    numbers = []
    for each in labels:
        (frame,) = frames_from_events([BlockStored(FAR, 1, labels=each)])
        numbers.append(int(sets.numbers(frame)[1]))
    return numbers


def test_sessions_without_end_leave_room_for_other_labels():
    sets = LabelSets(8)
    numbered(sets, *(Labels(session=f"s{n}", lora="sql") for n in range(100)))
    assert len(sets.labels) == 2 + 4 + 1
    assert sets.labels[-1] == Labels(session="other", lora="sql")
    adapters = [Labels(lora=f"a{n}") for n in range(4)]
    numbers = numbered(sets, *adapters)
    assert [sets.labels[number] for number in numbers] == [*adapters[:3], OTHER]
    assert numbered(sets, Labels(session="s0", lora="sql")) == [2], "what was followed goes on"


def test_salts_have_numbers_of_their_own_whatever_else_a_set_has():
    sets = LabelSets(16)
    numbered(sets, Labels(lora="a"))
    assert sets.salts is None
    numbers = numbered(sets, Labels(salt="x"), Labels(salt="y"), Labels(salt="x", lora="a"), Labels(lora="b"))
    found = sets.salts[numbers].tolist()
    assert found[0] == found[2] != found[1]
    assert (found[3], sets.salts[0], sets.salts[1]) == (0, 0, 0)


def stored(block, salt, at, event=BlockStored):
    return event(block, at, labels=None if salt is None else Labels(salt=salt))


@pytest.mark.parametrize("saved", [False, True])
def test_content_that_several_salts_share_is_counted(saved):
    events = [
        stored(FAR, "x", 1),
        stored(FAR, "x", 2),
        stored(FAR, "y", 3),  # shared
        stored(FAR, None, 4),
        stored(FAR + 1, None, 5),
        stored(FAR + 1, "x", 6),
        stored(FAR + 2, "y", 7),
        stored(FAR + 2, "x", 8, PrefixStored),  # shared
        BlockEvicted(FAR + 2, 9),
        stored(FAR + 2, "x", 10),
        stored(FAR + 2, "x", 11, PrefixStored),
    ]
    monitor = Monitor()
    for event in events:
        for frame in frames_from_events([event]):
            monitor.process(frame)
        if saved:
            before, monitor = monitor, Monitor()
            monitor.restore_source("default", through_a_snapshot(before.sources["default"].save()))
    (cache,) = monitor.caches()
    assert cache.measurements().shared_between_salts == monitor.summary().shared_between_salts == 2
    salts = {usage.value: usage.allocations for usage in monitor.summary().labels["salt"]}
    assert salts == {"x": 2, "y": 1, None: 1}


def test_shared_content_is_counted_as_one_by_one_over_random_streams():
    rng = np.random.default_rng(5)
    salts = [None, "x", "y", "z"]
    events, own, shared = [], {}, 0
    for ts in range(3_000):
        block, kind = FAR + int(rng.integers(0, 40)), int(rng.integers(0, 3))
        if kind == 0:
            events.append(BlockEvicted(block, ts))
            copies, salt = own.pop(block, (0, None))
            if copies > 1:
                own[block] = copies - 1, salt
            continue
        salt = salts[rng.integers(0, 4)]
        events.append(stored(block, salt, ts, BlockStored if kind == 1 else PrefixStored))
        if block in own:
            copies, before = own[block]
            shared += None not in (before, salt) and before != salt
            own[block] = copies + (kind == 1), before
        else:
            own[block] = 1, salt
    monitor = Monitor(MetricsConfig())
    for start in range(0, len(events), 700):
        for frame in frames_from_events(events[start : start + 700]):
            monitor.process(frame)
    (cache,) = monitor.caches()
    assert cache.measurements().shared_between_salts == shared > 100
