"""Plain twins of what follows the block table, in lists and dictionaries: slow, and written to be read."""

import itertools
from bisect import bisect_left
from collections import Counter, OrderedDict

from kvstream.events.types import BIRTH_UNKNOWN, Op
from kvstream.metrics.buckets import VLLM_BUCKETS_SECONDS, upper_bounds
from kvstream.testing import ReferenceTable


class ReferenceSequence:
    """The rules of sequence numbers, one after the other; a life is a dictionary, its past a list."""

    def __init__(self, ahead: int, signs: int, lives: int, silent: int) -> None:
        self.ahead, self.signs, self.most_lives, self.silent = ahead, signs, lives, silent
        self.lives: list[dict] = []
        self.latest: dict | None = None
        self.arrivals = 0

    def arrive(self, epoch: int, seq: int) -> tuple[str, int]:
        """What the frame is, and how many were lost before it."""
        if seq < 0:
            return "next", 0
        self.arrivals += 1
        known = [life for life in self.lives if life["epoch"] == epoch]
        if not known:
            return self.begin(epoch, seq)
        (life,) = known
        if life is not self.latest:
            if self.arrivals - life["seen"] > self.silent:
                life["left"] = True
            if life["left"] and not self.shows_signs(life, seq):
                return "stale", 0
        lost = self.place(life, seq)
        if lost is None:
            return "repeat", 0
        life["seen"] = self.arrivals
        same, self.latest = life is self.latest, life
        return ("next" if same else "conflict"), lost

    def begin(self, epoch: int, seq: int) -> tuple[str, int]:
        for life in self.lives:
            life["left"], life["run"] = True, []
        is_first = not self.lives
        self.latest = {
            "epoch": epoch,
            "first": seq,
            "last": seq,
            "left": False,
            "run": [],
            "seen": self.arrivals,
        }
        self.lives = [*self.lives, self.latest][-self.most_lives :]
        if is_first:
            return "next", 0
        return "restart", seq if seq <= self.ahead else 0

    def shows_signs(self, life: dict, seq: int) -> bool:
        if seq <= life["last"]:
            return False
        self.extend(life, seq)
        if len(life["run"]) < self.signs:
            return False
        life["left"], life["run"], life["last"] = False, [], seq - 1
        return True

    @staticmethod
    def extend(life: dict, seq: int) -> None:
        """Adds a number to those that came in order out of place."""
        in_order = life["run"] and life["run"][-1] + 1 == seq
        life["run"] = [*life["run"], seq] if in_order else [seq]

    def place(self, life: dict, seq: int) -> int | None:
        """Frames lost before this one; None for a repeat."""
        first, last, run = life["first"], life["last"], life["run"]
        if last < seq <= last + 1 + self.ahead:
            life["last"], life["run"] = seq, []
            return seq - last - 1
        if first <= seq <= last:
            return None
        if seq < first:
            self.extend(life, seq)
            if len(life["run"]) < self.signs:
                return None
            life["first"] = life["last"] = seq
            life["run"] = []
            return 0
        if run and run[-1] == seq:
            return None
        if run and run[-1] > last and run[-1] < seq <= run[-1] + 1 + self.ahead:
            life["first"], life["last"], life["run"] = run[-1], seq, []
            return min(seq - last - 2, 2**32)
        life["run"] = [seq]
        return 0


class ReferenceSource:
    """The tiers of one source, and its sequence numbers."""

    def __init__(self) -> None:
        self.tiers: dict[str, ReferenceTable] = {}
        self.sequence = ReferenceSequence(ahead=1024, signs=3, lives=16, silent=1024)
        self.lost_frames = self.duplicate_frames = self.duplicate_events = self.restarts = 0

    def admit(self, epoch: int, seq: int, events: int) -> bool:
        arrival, lost = self.sequence.arrive(epoch, seq)
        if arrival in ("repeat", "stale"):
            self.duplicate_frames += 1
            self.duplicate_events += events
            return False
        if arrival == "restart":
            self.restarts += 1
            for table in self.tiers.values():
                table.restart()
        self.lost_frames += lost
        return True

    def table(self, tier: str) -> ReferenceTable:
        return self.tiers.setdefault(tier, ReferenceTable())


class ReferenceGhosts:
    """Content that was evicted not long ago, in a dictionary."""

    def __init__(self, most: int, longest_ns: int) -> None:
        self.most, self.longest_ns = most, longest_ns
        self.evictions = 0
        self.gone: dict[int, tuple[int, int]] = {}
        self.returned: list[tuple[int, int]] = []

    def apply(self, content: int, ts: int, begins: bool) -> None:
        if not begins:
            self.gone.pop(content, None)  # so that they are in order
            self.gone[content] = (self.evictions, ts)
            self.evictions += 1
            return
        if content in self.gone:
            number, then = self.gone[content]
            later = itertools.takewhile(lambda gone: gone[0] > number, reversed(self.gone.values()))
            not_back = max(1, sum(1 for _ in later))
            del self.gone[content]
            passed = min(max(0, ts - then), 2**63 - 1)
            if self.evictions - number <= self.most and passed <= self.longest_ns:
                self.returned.append((passed, not_back))


class ReferenceContents:
    """Which content comes into a table and goes, event by event.

    Args:
        keyed: Content is what allocations say; otherwise the block itself.
    """

    def __init__(self, keyed: bool) -> None:
        self.keyed = keyed
        self.live: dict[int, int] = {}
        self.copies: Counter[int] = Counter()  # beside the first
        self.changes: list[tuple[int, int, bool] | None] = []
        self.lookups: list[int] = []

    def apply(self, op: int, block: int, ts: int, key: int) -> None:
        content = key if self.keyed else block
        if op == Op.STORE and block in self.live:
            self.copies[block] += 1
            return
        if op == Op.REMOVE:
            op, self.copies[block] = Op.EVICT, 0
        if op == Op.EVICT and self.copies[block]:
            self.copies[block] -= 1
            return
        if op in (Op.STORE, Op.PREFIX):
            op = Op.ACCESS if block in self.live else Op.ALLOC
        if op == Op.ALLOC:
            self._look_up(content)
        elif op == Op.ACCESS and block in self.live:
            self._look_up(self.live[block])
        if op in (Op.ACCESS, Op.RESIDENT) and block not in self.live:
            self.live[block] = content
            self.copies[block] = 0
            if op == Op.ACCESS:  # since when it is back, a snapshot does not say
                self._change(content, ts, True)
            return
        if op == Op.CLEAR:
            self.live.clear()
            self.copies.clear()
            self.changes.append(None)
        elif op == Op.EVICT and block in self.live:
            self._change(self.live.pop(block), ts, False)
        elif op == Op.ALLOC:
            before = self.live.get(block)
            self.live[block] = content
            self.copies[block] = 0
            if before == content:
                return
            if before is not None:
                self._change(before, ts, False)
            self._change(content, ts, True)

    def _look_up(self, content: int) -> None:
        if content or not self.keyed:
            self.lookups.append(content)

    def _change(self, content: int, ts: int, begins: bool) -> None:
        if content or not self.keyed:
            self.changes.append((content, ts, begins))


class ReferenceStack:
    """One list of contents, the one accessed last at the end."""

    def __init__(self):
        self.stack, self.accesses, self.others = [], {}, []

    def access(self, content, furthest):
        if content in self.stack:
            self.others.append(len(self.stack) - self.stack.index(content) - 1)
            self.stack.remove(content)
        elif len(self.stack) == furthest:
            self.forget(self.stack[0])
        self.stack.append(content)
        self.accesses[content] = self.accesses.get(content, 0) + 1

    def forget(self, content):
        self.stack.remove(content)
        del self.accesses[content]


class ReferencePrefixCache:
    """An LRU cache of the blocks of requests, the one used last at the end."""

    def __init__(self, capacity):
        self.capacity, self.held = capacity, OrderedDict()

    def serve(self, wanted):
        """The events of a request: operation and block."""
        found = list(itertools.takewhile(lambda block: block in self.held, wanted))
        events = [(Op.ACCESS, block) for block in found]
        for block in found:
            self.held.move_to_end(block)
        for place, block in enumerate(wanted[len(found) :], len(found)):
            if block not in self.held:
                if len(self.held) == self.capacity:
                    gone = wanted[place - 1] if place >= self.capacity else next(iter(self.held))
                    del self.held[gone]
                    events.append((Op.EVICT, gone))
                self.held[block] = None
            self.held.move_to_end(block)
            events.append((Op.ALLOC, block))
        if len(wanted) > self.capacity:
            wanted = [*wanted[: self.capacity - 1], wanted[-1]]
        for block in reversed(wanted):
            self.held.move_to_end(block)
        return events


def reference_hit_ratios(contents: list[int], sizes: list[int]) -> list[float]:
    """Hit ratio of LRU caches of some sizes, by exact stack distances (Fenwick tree over time)."""
    n = len(contents)
    tree = [0] * (n + 1)

    def add(at: int, value: int) -> None:
        while at <= n:
            tree[at] += value
            at += at & -at

    def total(at: int) -> int:
        found = 0
        while at:
            found += tree[at]
            at -= at & -at
        return found

    last: dict[int, int] = {}
    hits = [0] * (n + 2)  # by stack position
    for now, content in enumerate(contents, 1):
        before = last.get(content)
        if before is not None:
            hits[len(last) - total(before) + 1] += 1
            add(before, -1)
        add(now, 1)
        last[content] = now
    within = list(itertools.accumulate(hits))
    return [within[min(size, n)] / n if n else 0.0 for size in sizes]


def interval_fields(values, scale):
    """What an exponential histogram of a scale holds of intervals in ns, as ``fields`` of one reads it."""
    lowest, bounds = upper_bounds(scale)
    bounds = bounds.tolist()
    counts = Counter(lowest + bisect_left(bounds, value) for value in values if value)
    held = [(0.0, values.count(0))] if 0 in values else []
    held += [(2.0 ** ((bucket + 1) / 2**scale), n) for bucket, n in sorted(counts.items())]
    return held, len(values), values.count(0), sum(values), min(values, default=0), max(values, default=0)


def at_most_bounds(values):
    """How many intervals in ns are at most each of vLLM's bounds, and how many there are."""
    return [sum(v <= round(b * 1e9) for v in values) for b in VLLM_BUCKETS_SECONDS] + [len(values)]


class ReferenceStays:
    """Stays of contents in one cache, from what came into it and went, in dictionaries."""

    def __init__(self):
        self.blocks: Counter[int] = Counter()
        self.stays: list[dict] = []
        self.live: dict[int, dict] = {}
        self.late: set[int] = set()  # of which nothing is known but that they are there

    def stay(self, content, born, ended=None):
        before = [stay for stay in self.stays if stay["content"] == content]
        self.stays.append(
            {
                "content": content,
                "born": born,
                "ended": ended,
                "cleared": False,
                "before": before[-1] if before else None,
            }
        )
        return self.stays[-1]

    def is_known(self, content):
        return any(stay["content"] == content for stay in self.stays)

    def change(self, content, ts, begins):
        if begins:
            self.blocks[content] += 1
            if self.blocks[content] == 1:
                self.live[content] = self.stay(content, ts)
        elif self.blocks[content]:
            self.blocks[content] -= 1
            if not self.blocks[content]:
                stay = self.live.pop(content)
                stay["ended"] = max(ts, stay["born"])
        elif not self.is_known(content):
            self.stay(content, BIRTH_UNKNOWN, ts)
            self.late.discard(content)

    def clear(self, ts):
        for stay in self.live.values():
            stay["ended"], stay["cleared"] = max(ts, stay["born"]), True
        self.live.clear()
        self.late.clear()
        self.blocks.clear()

    def end(self):
        for content in sorted(self.late):
            if not self.is_known(content):
                self.stay(content, BIRTH_UNKNOWN)
        return self


def went_on(stay, ts):
    """Whether a stay had begun before a time, and had not ended before it."""
    return stay["born"] < ts and (stay["ended"] is None or stay["ended"] >= ts)


class ReferenceSources:
    """What contents show that several caches hold: every stay is compared with every other one.

    Args:
        caches: The stays in each cache, by source and tier.
        order: Every tier, the fastest first.
    """

    def __init__(self, caches, order):
        self.order = [tier for tier in order if any(tier == name for _, name in caches)]
        self.caches = caches
        self.fastest = {
            source: min((tier for name, tier in caches if name == source), key=order.index)
            for source in {source for source, _ in caches}
        }

    def stays(self, source=None):
        return [
            {**stay, "source": name, "tier": tier}
            for (name, tier), cache in self.caches.items()
            if source in (None, name)
            for stay in cache.stays
        ]

    def misses(self, asked):
        return [
            stay
            for stay in self.stays()
            if self.fastest[stay["source"]] == stay["tier"]
            and stay["source"] in asked
            and stay["born"] != BIRTH_UNKNOWN
        ]

    def found_in(self, miss):
        """The fastest tier of its source that held what was missed."""
        holders = [
            stay["tier"]
            for stay in self.stays(miss["source"])
            if stay["content"] == miss["content"]
            and went_on(stay, miss["born"])
            and stay["tier"] != miss["tier"]
        ]
        return min(holders, key=self.order.index, default=None)

    def cause(self, miss, is_whole):
        tier = self.found_in(miss)
        if tier is not None:
            return tier
        if miss["before"] is not None:
            return "cleared" if miss["before"]["cleared"] else "evicted"
        return "never_stored" if is_whole[miss["source"]] else "unknown"

    def evicted_meanwhile(self, miss):
        """Contents that were evicted later than this one was before, and before it came back."""
        return sum(
            stay["ended"] is not None
            and not stay["cleared"]
            and miss["before"]["ended"] < stay["ended"] < miss["born"]
            for stay in self.caches[miss["source"], miss["tier"]].stays
        )

    def held_elsewhere(self, miss):
        return any(
            stay["content"] == miss["content"]
            and went_on(stay, miss["born"])
            and stay["source"] != miss["source"]
            for stay in self.stays()
        )

    def stored_before(self, miss):
        return self.held_elsewhere(miss) or any(
            stay["content"] == miss["content"] and stay["born"] < miss["born"] and not stay["cleared"]
            for stay in self.stays()
        )

    def arrivals(self, tier):
        """Whether each arrival in a slower tier was copied, demoted or neither."""
        ways = []
        for stay in self.stays():
            if stay["tier"] != tier or self.fastest[stay["source"]] == tier or stay["born"] == BIRTH_UNKNOWN:
                continue
            above = [
                each
                for each in self.stays(stay["source"])
                if each["content"] == stay["content"]
                and self.order.index(each["tier"]) < self.order.index(tier)
                and each["born"] <= stay["born"]
            ]
            on = any(each["ended"] is None or each["ended"] > stay["born"] for each in above)
            ways.append("copied" if on else "demoted" if above else "neither")
        return ways

    def evictions(self, tier):
        """Whether each eviction from a tier left it nowhere, and whether it had come into a faster one."""
        ways = []
        for stay in self.stays():
            if stay["tier"] != tier or stay["cleared"] or stay["ended"] is None:
                continue
            same = [s for s in self.stays(stay["source"]) if s["content"] == stay["content"]]
            dropped = not any(
                each["born"] <= stay["ended"] and (each["ended"] is None or each["ended"] > stay["ended"])
                for each in same
            )
            promoted = any(
                self.order.index(each["tier"]) < self.order.index(tier)
                and stay["born"] < each["born"] <= stay["ended"]
                for each in same
            )
            ways.append((dropped, promoted, self.fastest[stay["source"]] != tier))
        return ways

    def held_by(self):
        """Blocks live now by how many sources hold their content, each content once for each source."""
        holders = {}
        for stay in self.stays():
            if stay["ended"] is None:
                holders.setdefault(stay["content"], set()).add(stay["source"])
        return Counter(len(sources) for sources in holders.values() for _ in sources)
