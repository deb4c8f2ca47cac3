"""The few highest of many rows, against sorting them all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.blocks import ranking
from kvstream.blocks.ranking import NOT_RANKED, highest


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch):
    monkeypatch.setattr(ranking, "_ROWS_AT_ONCE", 8)


@given(
    st.lists(st.sampled_from([NOT_RANKED, -(2**62), -1, 0, 1, 2, 3, 2**62]), max_size=50), st.integers(1, 20)
)
def test_the_highest_are_those_that_sorting_all_finds(ranks, n):
    rows = np.array(ranks, dtype=np.int64).reshape(-1, 1)
    chosen = highest(rows, lambda part: part[:, 0], n)
    ranked = sorted((rank for rank in ranks if rank != NOT_RANKED), reverse=True)
    assert rows[chosen, 0].tolist() == ranked[:n]
    assert len(set(chosen.tolist())) == len(chosen)


def test_rows_are_ranked_some_at_a_time():
    sizes = []

    def rank(part):
        sizes.append(len(part))
        return part[:, 0]

    highest(np.arange(100).reshape(-1, 1), rank, 3)
    assert sizes == [8] * 12 + [4]
