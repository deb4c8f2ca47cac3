"""Turns: when long work lets other tasks run."""

import anyio
import pytest

from kvstream.streaming import turns
from kvstream.streaming.turns import Turns
from tests.waiting import turns_while


@pytest.mark.parametrize(
    ("seconds", "turns_of_others"),
    [(turns.TURN_SECONDS / 10, 10), (1.0, 100)],
)
async def test_other_tasks_run_once_a_turn_has_taken_long_enough(monkeypatch, seconds, turns_of_others):
    now = [0.0]
    monkeypatch.setattr(turns.anyio, "current_time", lambda: now[0])

    async def work():
        turn = Turns()
        for _ in range(100):
            now[0] += seconds
            await turn.give_way()

    assert turns_of_others - 1 <= await turns_while(work()) <= turns_of_others + 2


async def test_work_that_gives_way_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    done = 0
    with anyio.CancelScope() as scope:
        turn = Turns()
        for done in range(100):
            if done == 3:
                scope.cancel()
            await turn.give_way()
    assert done == 3
