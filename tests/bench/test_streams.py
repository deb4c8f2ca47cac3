import numpy as np
import pytest

from kvstream.bench.streams import busy, filling, keyed, labelled
from kvstream.engine.joining import joined_frames
from kvstream.engine.monitor import Monitor
from kvstream.events.types import Op


@pytest.mark.parametrize("content", [False, True], ids=["slots", "content"])
def test_a_busy_cache_is_consistent_and_mixed_as_said(content):
    whole = joined_frames([filling(16_384, content=content), busy(16_384, 383_616, content=content)])
    monitor = Monitor()
    monitor.process(whole)
    accounts = monitor.summary().accounts
    assert (accounts.unknown_accesses, accounts.unknown_evictions, accounts.time_regressions) == (0, 0, 0)
    assert 16_383 <= accounts.live <= 16_384  # an eviction at the very end waits for its allocation
    share = np.bincount(whole.ops, minlength=3) / len(whole)
    assert share == pytest.approx([0.11, 0.82, 0.07], abs=0.01)


def test_content_ids_are_new_for_each_allocation():
    frame = joined_frames([filling(100, content=True), busy(100, 5_000, content=True)])
    allocated = frame.blocks[frame.ops == Op.ALLOC]
    assert len(np.unique(allocated)) == len(allocated)


def test_keys_and_labels_are_those_of_allocations():
    frame = labelled(keyed(joined_frames([filling(100), busy(100, 5_000)])))
    allocated = frame.ops == Op.ALLOC
    assert not frame.keys[~allocated].any()
    assert set(frame.label_of[allocated].tolist()) == set(range(1, len(frame.labels) + 1))
    assert set(frame.label_of[~allocated].tolist()) == {0}
