"""A simulated engine: requests over shared prefixes through an LRU prefix cache, as frames of events."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from kvstream.events.frame import EventFrame
from kvstream.events.types import Op

SECOND = 1_000_000_000
START = 1_767_225_600  # seconds since the Unix epoch


class Engine(msgspec.Struct, kw_only=True):
    """What an engine is and how it is used; functions are of seconds since the start.

    Attributes:
        seconds: How long it runs.
        rate: Requests a second, with Poisson arrivals.
        capacity: Blocks of its cache; fewer than before are leaked, not evicted.
        prefixes: Shared prefixes in use; the i-th is asked for in proportion to 1 / i ** skew.
        skew: See ``prefixes``.
        prefix_blocks: Blocks of a shared prefix.
        own_blocks: Blocks that a request has of its own, on average; it never comes again.
        scan: Share of requests that read a long document once.
        scan_blocks: Blocks of such a document.
        lost_prefix: Share of requests whose beginning is no longer the same, so that nothing is found.
        drift: Prefixes a second that go out of use for others.
        burst: Requests that come at once.
        silent: Whether it hangs.
        restarts: Times at which it begins anew.
        clock: Seconds that its clock is off.
    """

    seconds: int = 200
    rate: Callable[[float], float] = lambda t: 20.0
    capacity: Callable[[float], int] = lambda t: 600
    prefixes: Callable[[float], int] = lambda t: 30
    skew: float = 0.8
    prefix_blocks: int = 12
    own_blocks: float = 4.0
    scan: Callable[[float], float] = lambda t: 0.0
    scan_blocks: int = 48
    lost_prefix: Callable[[float], float] = lambda t: 0.0
    drift: float = 0.0
    burst: int = 1
    silent: Callable[[float], bool] = lambda t: False
    restarts: tuple[float, ...] = ()
    clock: Callable[[float], float] = lambda t: 0.0
    seed: int = 0

    def seconds_of_frames(self) -> Iterator[tuple[int, EventFrame | None]]:
        """Each second since the start, and the frame of what happens in it, if anything does."""
        rng = np.random.default_rng(self.seed)
        cache: OrderedDict[int, int] = OrderedDict()  # content -> slot
        free: list[int] = []
        slots, fresh = 0, 1 << 20
        chances: dict[int, np.ndarray] = {}
        restarts = [*self.restarts]
        epoch, seq = 1, 0
        for t in range(self.seconds):
            if restarts and restarts[0] <= t:
                restarts.pop(0)
                cache.clear()
                free, slots = [], 0
                epoch, seq = epoch + 1, 0
            if self.silent(t):
                yield t, None
                continue
            room = self.capacity(t)
            while len(cache) > room:
                cache.popitem(last=False)  # held for ever by nobody, without an event
            rows: list[tuple[int, int, int]] = []
            arrivals = rng.poisson(self.rate(t) / self.burst)
            at = np.sort(rng.random(arrivals)) * SECOND
            count = self.prefixes(t)
            if count not in chances:
                weights = 1.0 / np.arange(1, count + 1) ** self.skew
                chances[count] = (weights / weights.sum()).cumsum()
            popular = chances[count].searchsorted(rng.random((arrivals, self.burst))).clip(0, count - 1)
            chance = rng.random((arrivals, self.burst, 2))
            own = rng.poisson(self.own_blocks, (arrivals, self.burst))
            gone = int(t * self.drift)
            for i in range(arrivals):
                for b in range(self.burst):
                    if chance[i, b, 0] < self.scan(t):
                        blocks = range(fresh, fresh + self.scan_blocks)
                        fresh += self.scan_blocks
                    else:
                        n = int(own[i, b])
                        if chance[i, b, 1] < self.lost_prefix(t):
                            n += self.prefix_blocks
                            shared = range(0)
                        else:
                            p = int(popular[i, b])
                            p += -(-(gone - p) // count) * count if gone > p else 0
                            shared = range(p << 5, (p << 5) + self.prefix_blocks)
                        blocks = [*shared, *range(fresh, fresh + n)]
                        fresh += n
                    now = int(at[i])
                    for content in blocks:
                        slot = cache.get(content)
                        if slot is not None:
                            cache.move_to_end(content)
                            rows.append((Op.ACCESS, slot, now))
                            continue
                        while len(cache) >= room:
                            taken = cache.popitem(last=False)[1]
                            free.append(taken)
                            rows.append((Op.EVICT, taken, now))
                        if free:
                            slot = free.pop()
                        else:
                            slot, slots = slots, slots + 1
                        cache[content] = slot
                        rows.append((Op.ALLOC, slot, now))
            if not rows:
                yield t, None
                continue
            columns = np.array(rows, dtype=np.int64)
            base = round((START + t + self.clock(t)) * SECOND)
            ops, blocks = columns[:, 0].astype(np.uint8), columns[:, 1].copy()
            yield t, EventFrame(ops, blocks, columns[:, 2] + base, "engine", epoch=epoch, seq=seq)
            seq += 1
