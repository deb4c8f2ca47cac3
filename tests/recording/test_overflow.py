from collections import Counter
from typing import get_args

import numpy as np
import pytest

from kvstream.config import POLICIES, OverflowPolicy
from kvstream.events.frame import EventFrame
from kvstream.recording.overflow import OVERFLOW, Block, DropNewest, DropOldest, Sample
from kvstream.recording.queue import FrameQueue
from kvstream.recording.registry import SentFrames

ROOM = 64


def frame(first, events=16):
    return EventFrame(
        np.zeros(events, np.uint8), np.arange(first, first + events), np.ones(events, np.int64), "s", "gpu"
    )


async def settled(policy, frames):
    """What a queue with room for four frames holds after some, and what was dropped."""
    queue, sender = FrameQueue(ROOM), SentFrames()
    kept = [policy.settle(each, queue, sender) for each in frames]
    return kept, [item for item, _ in queue.abandon()], sender.dropped


FRAMES = [frame(16 * n) for n in range(6)]


def test_every_policy_of_the_settings_has_a_class():
    assert tuple(OVERFLOW) == POLICIES == get_args(OverflowPolicy)


async def test_block_keeps_what_does_not_fit():
    kept, queued, dropped = await settled(Block(), FRAMES)
    assert kept == [True] * 4 + [False] * 2
    assert queued == FRAMES[:4]
    assert not dropped


async def test_drop_newest_drops_what_does_not_fit():
    kept, queued, dropped = await settled(DropNewest(), FRAMES)
    assert all(kept)
    assert queued == FRAMES[:4]
    assert dropped == {"queue_full": 32}


async def test_drop_oldest_drops_the_oldest_frames():
    kept, queued, dropped = await settled(DropOldest(), FRAMES)
    assert all(kept)
    assert queued == FRAMES[2:]
    assert dropped == {"displaced": 32}


async def test_drop_oldest_leaves_the_frames_of_other_senders():
    queue, other, sender = FrameQueue(ROOM), SentFrames(), SentFrames()
    for each in FRAMES[:4]:
        assert queue.offer(each, other)
    assert DropOldest().settle(FRAMES[4], queue, sender)
    assert (other.dropped, sender.dropped) == (Counter(), {"queue_full": 16})


async def test_sample_keeps_the_whole_history_of_fewer_blocks_until_the_queue_is_calm():
    queue, sender, policy = FrameQueue(ROOM), SentFrames(), Sample()
    for _ in range(8):
        assert policy.settle(frame(0, 32), queue, sender)
    assert policy.sample_rate < 1
    queued = [item for item, _ in queue.abandon()]
    assert sum(map(len, queued)) + sender.dropped["sampled"] == 8 * 32
    last = set(queued[-1].blocks.tolist())
    assert all(last <= set(item.blocks.tolist()) for item in queued), "the same blocks, and some more before"
    rate = policy.sample_rate
    for _ in range(64):
        policy.settle(frame(0, 1), queue, sender)
        queue.abandon()
    assert policy.sample_rate == 2 * rate


@pytest.mark.parametrize("policy", OVERFLOW)
async def test_a_frame_larger_than_the_queue_is_let_in_where_it_is_empty(policy):
    kept, queued, dropped = await settled(OVERFLOW[policy](), [frame(0, 2 * ROOM)])
    assert (kept, len(queued), dropped) == ([True], 1, Counter())
