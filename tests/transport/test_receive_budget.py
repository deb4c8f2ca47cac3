import anyio
import pytest

from kvstream.transport.receive_budget import ReceiveBudget
from tests.transport.test_server import DEADLINE


class Peer:
    """A connection that stands for one."""

    def __init__(self, budget):
        self.budget = budget
        self.scope = anyio.CancelScope()
        self.share = budget.join(self.scope.cancel)
        self.may_read = False

    async def read_on(self):
        with self.scope:
            await self.budget.room(self.share)
            self.may_read = True
        if self.scope.cancelled_caught:
            self.budget.leave(self.share)


async def test_there_is_room_below_the_limit():
    budget = ReceiveBudget(100)
    peer = Peer(budget)
    budget.resize(peer.share, 100)
    await peer.read_on()
    assert peer.may_read


async def test_reading_waits_for_complete_frames_to_go_on():
    budget = ReceiveBudget(100)
    reader, busy = Peer(budget), Peer(budget)
    budget.resize(reader.share, 60)
    budget.resize(busy.share, 60)
    busy.share.is_reading = False
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.read_on)
            await anyio.wait_all_tasks_blocked()
            assert not reader.may_read
            budget.resize(busy.share, 0)
        assert reader.may_read
    assert budget.cut_off == 0


async def test_where_only_peers_could_make_room_who_holds_most_is_cut_off():
    budget = ReceiveBudget(100)
    peers = [Peer(budget) for _ in range(4)]
    for peer, held in zip(peers, (10, 70, 30, 20), strict=True):
        budget.resize(peer.share, held)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            for peer in peers:
                tasks.start_soon(peer.read_on)
    assert [peer.may_read for peer in peers] == [True, False, True, True]
    assert (budget.cut_off, budget.held) == (1, 60)


@pytest.mark.parametrize("held", [101, 10_000])
async def test_one_connection_alone_does_not_wait_for_ever(held):
    budget = ReceiveBudget(100)
    peer = Peer(budget)
    budget.resize(peer.share, held)
    with anyio.fail_after(DEADLINE):
        await peer.read_on()
    assert not peer.may_read
    assert budget.held == 0
