"""Traffic of a chat service through an LRU prefix cache, as frames of events, one a second.

Sessions begin as a Poisson process and have a geometric number of turns with exponential pauses between
them. A turn asks for a system prompt (popular by a Zipf law), all that the session said before, and a
lognormal number of new blocks. What goes wrong is a function of the seconds since the start.
"""

import heapq
import math
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from kvstream.events.frame import EventFrame
from kvstream.events.types import Op

SECOND = 1_000_000_000
START = 1_767_225_600  # seconds since the Unix epoch

Setting = Callable[[float], float]

_WARM_UP = 600.0  # seconds before the start in which sessions begin whose later turns are served
_LONGEST_HISTORY = 160  # blocks


def constant(value: float) -> Setting:
    return lambda t: value


@dataclass(kw_only=True)
class Traffic:
    """Who asks for what; settings are functions of seconds since the start.

    Attributes:
        rate: Requests a second.
        peak: Largest value that ``rate`` reaches.
        turn_blocks: New blocks of a turn, on average.
        growth: Factor on the new blocks of a turn.
        prompts: System prompts in use.
        skew: The i-th prompt is asked for in proportion to ``1 / i ** skew``.
        version: Prompts change, all at once, when its whole part does; its fraction is the share of
            prompts that already have.
        turns: Turns of a session, on average.
        pause: Seconds between turns, on average.
        batch: Seconds of requests that come at one time, 0 for none.
        elsewhere: Share of turns whose session was served by another engine before.
        unique: Share of requests that begin with something never seen.
        scan: One-off requests a second.
        scan_blocks: Blocks of such a request.
        documents: Times and blocks of single long requests.
    """

    rate: Setting
    peak: float
    turn_blocks: float = 6.0
    growth: Setting = lambda t: 1.0
    prompts: Setting = lambda t: 40
    prompt_blocks: tuple[int, int] = (6, 20)
    skew: Setting = lambda t: 1.0
    version: Setting = lambda t: 0.0
    turns: float = 5.0
    pause: float = 35.0
    batch: float = 0.0
    elsewhere: Setting = lambda t: 0.0
    unique: Setting = lambda t: 0.0
    scan: Setting = lambda t: 0.0
    scan_blocks: int = 40
    documents: tuple[tuple[float, int], ...] = ()
    seed: int = 0

    def requests(self, seconds: float) -> Iterator[tuple[float, list[int]]]:
        """Yields (time, contents) of each request, in order of time."""
        rng = np.random.default_rng(self.seed)
        fresh = count(1 << 32)
        prompts: dict[tuple[int, int], list[int]] = {}
        lengths = rng.integers(*self.prompt_blocks, size=4096, endpoint=True)
        chances: dict[tuple[int, float], np.ndarray] = {}
        sigma = 0.9
        shift = -sigma * sigma / 2  # so that the mean is 1
        # Of each session: its next turn, its prompt, what was said, turns left.
        waiting: list[tuple[float, int, int, list[int], int]] = []
        starts = _arrivals(
            lambda t: self.rate(max(0.0, t)) / self.turns, self.peak / self.turns, -_WARM_UP, seconds, rng
        )
        scans = _arrivals(self.scan, _peak_of(self.scan, seconds), 0.0, seconds, rng)
        others: list[tuple[float, int]] = sorted([*((t, self.scan_blocks) for t in scans), *self.documents])
        number = count()

        def content(prompt: int, t: float) -> list[int]:
            version = self.version(t)
            of = int(version) + (prompt % 997 / 997 < version % 1)
            found = prompts.get((prompt, of))
            if found is None:
                found = prompts[prompt, of] = [next(fresh) for _ in range(lengths[prompt % 4096])]
            return found

        def pick(t: float) -> int:
            kind = (max(1, int(self.prompts(t))), self.skew(t))
            if kind not in chances:
                weights = 1.0 / np.arange(1, kind[0] + 1) ** kind[1]
                chances[kind] = (weights / weights.sum()).cumsum()
            return int(min(chances[kind].searchsorted(rng.random()), kind[0] - 1))

        begin = next(starts, None)
        other = 0
        while True:
            at = min(
                math.inf if begin is None else begin,
                waiting[0][0] if waiting else math.inf,
                others[other][0] if other < len(others) else math.inf,
            )
            if at >= seconds:
                return
            if other < len(others) and others[other][0] == at:
                yield self._served(at), [next(fresh) for _ in range(others[other][1])]
                other += 1
                continue
            if begin is not None and begin == at:
                turns = int(rng.geometric(1.0 / self.turns))
                heapq.heappush(waiting, (at, next(number), pick(max(0.0, at)), [], turns))
                begin = next(starts, None)
                continue
            _, _, prompt, said, left = heapq.heappop(waiting)
            new = max(
                1, round(self.turn_blocks * self.growth(max(0.0, at)) * math.exp(rng.normal(shift, sigma)))
            )
            if at < 0:
                said = [*said, *(next(fresh) for _ in range(new))]
            else:
                known = said
                if self.elsewhere(at) > rng.random():
                    known = [next(fresh) for _ in said]
                beginning = content(prompt, at)
                if self.unique(at) > rng.random():
                    beginning = [next(fresh) for _ in beginning]
                    known = [next(fresh) for _ in said]
                said = [*known, *(next(fresh) for _ in range(new))]
                yield self._served(at), [*beginning, *said]
            if left > 1 and len(said) < _LONGEST_HISTORY:
                heapq.heappush(
                    waiting, (at + rng.exponential(self.pause), next(number), prompt, said, left - 1)
                )

    def _served(self, at: float) -> float:
        return math.ceil(at / self.batch) * self.batch if self.batch else at


def _peak_of(setting: Setting, seconds: float) -> float:
    return max(setting(t) for t in np.arange(0.0, seconds, 1.0).tolist()) or 1.0


def _arrivals(
    rate: Setting, peak: float, start: float, end: float, rng: np.random.Generator
) -> Iterator[float]:
    """Times of a Poisson process of changing rate, by thinning."""
    t = start
    while (t := t + rng.exponential(1.0 / peak)) < end:
        if rng.random() * peak < rate(t):
            yield t


@dataclass(kw_only=True)
class Engine:
    """One engine: a prefix cache and what befalls it.

    Attributes:
        capacity: Blocks that it holds.
        keyed: Blocks are slots with content keys; otherwise content hashes.
        silent: Whether it hangs: nothing is served.
        clears: Times at which the cache is cleared.
        restarts: Times at which it begins anew with a new epoch.
        dropped: Whether its frames get lost.
        clock: Seconds that its clock is off.
        joined_at: Seconds after which the stream begins; what was before is not seen.
    """

    traffic: Traffic
    capacity: Setting
    source: str = "engine"
    keyed: bool = True
    silent: Callable[[float], bool] = lambda t: False
    clears: tuple[float, ...] = ()
    restarts: tuple[float, ...] = ()
    dropped: Callable[[float], bool] = lambda t: False
    numbered: bool = False
    clock: Setting = lambda t: 0.0
    joined_at: float = 0.0

    def frames(self, seconds: float) -> Iterator[EventFrame]:
        """Yields a frame for each second in which something happens, up to ``seconds``."""
        return self.serve(self.traffic.requests(seconds))

    def serve(self, requests: Iterable[tuple[float, list[int]]]) -> Iterator[EventFrame]:
        """Yields the frames of requests given in order of time."""
        cache: OrderedDict[int, int] = OrderedDict()  # content -> block id, least recently used first
        free: list[int] = []
        slots = 0
        rows = _Rows()
        epoch, seq, second = 1, 0, 0
        losses = sorted([*((t, False) for t in self.clears), *((t, True) for t in self.restarts)])
        for at, contents in requests:
            if int(at) != second:
                if len(rows):
                    if not self.dropped(second) and second >= self.joined_at:
                        yield rows.frame(self, second, epoch, seq)
                    seq += 1
                    rows = _Rows()
                second = int(at)
            while losses and losses[0][0] <= at:
                _, restarts = losses.pop(0)
                cache.clear()
                free, slots = [], 0
                if restarts:
                    epoch, seq = epoch + 1, 0
                else:
                    rows.add(Op.CLEAR, 0, 0, at)
            if self.silent(at):
                continue
            room = int(self.capacity(at))
            # Only a leading run is found: what comes after a hole is stored anew.
            found = 0
            for each in contents:
                if each not in cache:
                    break
                found += 1
            for each in contents[:found]:
                cache.move_to_end(each)
                rows.add(Op.ACCESS, cache[each], 0, at)
            for each in contents[found:]:
                if each in cache:
                    cache.move_to_end(each)
                    continue
                while len(cache) >= room:
                    _, block = cache.popitem(last=False)
                    rows.add(Op.EVICT, block, 0, at)
                    if self.keyed:
                        free.append(block)
                if not self.keyed:
                    block = each
                elif free:
                    block = free.pop()
                else:
                    block, slots = slots, slots + 1
                cache[each] = block
                rows.add(Op.ALLOC, block, each, at)
            for each in reversed(contents):  # the end of a prefix leaves before its beginning
                if each in cache:
                    cache.move_to_end(each)
        if len(rows) and not self.dropped(second) and second >= self.joined_at:
            yield rows.frame(self, second, epoch, seq)


@dataclass
class _Rows:
    """Events of one second."""

    ops: bytearray = field(default_factory=bytearray)
    blocks: array = field(default_factory=lambda: array("q"))
    keys: array = field(default_factory=lambda: array("q"))
    ts: array = field(default_factory=lambda: array("q"))

    def add(self, op: int, block: int, key: int, at: float) -> None:
        self.ops.append(op)
        self.blocks.append(block)
        self.keys.append(key)
        self.ts.append(int(at * SECOND))

    def __len__(self) -> int:
        return len(self.ops)

    def frame(self, engine: Engine, second: int, epoch: int, seq: int) -> EventFrame:
        shift = int((START + engine.clock(second)) * SECOND)
        blocks = np.frombuffer(self.blocks, dtype=np.int64)
        if not engine.keyed:
            blocks = (blocks.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
        return EventFrame(
            np.frombuffer(self.ops, dtype=np.uint8),
            blocks,
            np.frombuffer(self.ts, dtype=np.int64) + shift,
            engine.source,
            keys=np.frombuffer(self.keys, dtype=np.int64) if engine.keyed else None,
            epoch=epoch if engine.numbered or engine.restarts else 0,
            seq=seq if engine.numbered or engine.restarts else -1,
        )
