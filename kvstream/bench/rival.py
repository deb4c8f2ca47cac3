"""The rival: a collector of the kind that vLLM has, with state for a sample of the blocks."""

import random
import time
from collections import deque
from itertools import pairwise


class Block:
    """A block as engines hold it."""

    __slots__ = ("block_id",)

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id


class _State:
    __slots__ = ("accesses", "birth", "last")

    def __init__(self) -> None:
        self.birth = self.last = time.monotonic_ns()
        self.accesses: deque[int] = deque(maxlen=4)

    def access(self) -> None:
        self.last = time.monotonic_ns()
        self.accesses.append(self.last)


class PlainCollector:
    """A dictionary of the sampled blocks and one Python call an event; no locks, no windows, no alerts.

    Args:
        sample_rate: Share of allocations that are followed; each draws a random number.
    """

    def __init__(self, sample_rate: float) -> None:
        self.sample_rate = sample_rate
        self.blocks: dict[int, _State] = {}
        self.evicted: list[tuple[float, float, tuple[float, ...]]] = []

    def is_sampled(self) -> bool:
        """Return whether to follow the next block."""
        return random.random() < self.sample_rate  # noqa: S311

    def allocated(self, block: Block) -> None:
        """Record that a block was handed out."""
        if self.is_sampled():
            self.blocks[block.block_id] = _State()

    def accessed(self, block: Block) -> None:
        """Record that a block was found."""
        state = self.blocks.get(block.block_id)
        if state is not None:
            state.access()

    def evict(self, block: Block) -> None:
        """Record that a block was given up."""
        state = self.blocks.pop(block.block_id, None)
        if state is not None:
            now = time.monotonic_ns()
            gaps = tuple((b - a) / 1e9 for a, b in pairwise(state.accesses))
            self.evicted.append(((now - state.birth) / 1e9, (now - state.last) / 1e9, gaps))
