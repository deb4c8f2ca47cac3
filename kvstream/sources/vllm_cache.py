"""A prefix cache by vLLM's rules: requests that run for a while, to the events that vLLM's collector sees.

Source: ``vllm/v1/core/block_pool.py``, ``single_type_kv_cache_manager.py`` (full attention) and
``sched/scheduler.py`` of vLLM 0.33, whose own block manager gives the same events for the same requests:
``tests/sources/test_vllm_cache.py``.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from itertools import count

import msgspec
import numpy as np

from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.frame import EventFrame, packed_int64
from kvstream.events.types import DEFAULT_TIER, Op

_NO_KEY = 0
_LEAST_RATE, _MOST_RATE = 0.001, 1e9  # tokens a second
_LATEST_NS = 2**63 - 1


class ServiceTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long a request runs: its prompt tokens that were not found, then its output tokens.

    Every request runs at this pace, however many run beside it.

    Attributes:
        prefill_rate: Prompt tokens a second.
        decode_rate: Output tokens a second of one request.

    Raises:
        ConfigError: If a rate is not from 0.001 to 10⁹.
    """

    prefill_rate: float = 10_000.0
    decode_rate: float = 50.0

    def __post_init__(self) -> None:
        if not all(_LEAST_RATE <= rate <= _MOST_RATE for rate in (self.prefill_rate, self.decode_rate)):
            rates = f"from {_LEAST_RATE} to {_MOST_RATE:,.0f} tokens a second"
            raise ConfigError(f"the rates of prefill and decode must be {rates}")


def simulated_by_vllm(service: ServiceTime) -> str:
    """Describe the assumptions of the simulation."""
    return (
        f"the cache is simulated by vLLM's rules: a request holds its blocks while it runs, for its prompt "
        f"tokens that are not found at {service.prefill_rate:,.10g} a second and its output tokens at "
        f"{service.decode_rate:,.10g} a second, whatever runs beside it"
    )


class VLLMCache:
    """Serves requests as vLLM's scheduler and block pool do.

    - The blocks of a running request are pinned. A request waits, first come first served, until its whole
      prompt has room.
    - A lookup ends at the first block that is missing, and never finds the last token of a prompt.
    - Output takes blocks. Where none is left, the request that started last is preempted, and starts again
      before all that wait.
    - Of a request that ends, blocks without complete content are given out again first, the others last,
      in order from its last block to its first.
    - Requests that miss the same content at once hold it once each. Block 0 is never given out.

    Each request runs for its ``ServiceTime``; vLLM's steps, its most concurrent requests and its budget of
    tokens a step are left out.

    Blocks are slots, from 1, as in vLLM's own collector. An allocation has the content that was looked up as
    its key; blocks of output have none, as nobody asked for them.

    Args:
        source: Source of the events.
        capacity: Blocks of the pool, block 0 included, as vLLM reports them.
        block_tokens: Tokens in a block.
        service: How long requests run.

    Attributes:
        preemptions: How often a request had to give its blocks up while it ran.
    """

    def __init__(self, source: str, capacity: int, block_tokens: int, service: ServiceTime) -> None:
        self.preemptions = 0
        self._source, self._capacity, self._block_tokens = source, capacity, block_tokens
        self._service = service
        self._prefill_ns = 1e9 / service.prefill_rate
        self._decode_ns = round(1e9 / service.decode_rate)
        self._pool = BlockPool(capacity)
        self._waiting: deque[_Request] = deque()
        self._running: dict[_Request, None] = {}  # the one that started last is the last
        self._agenda: list[tuple[int, int, _Request]] = []  # time, start
        self._starts = count(1)

    def arrive(
        self,
        at_ns: int,
        contents: Sequence[int],
        prompt_tokens: int,
        output_tokens: int,
        has_output: bool = False,
    ) -> None:
        """Take in a request, after everything that happens before it.

        Args:
            at_ns: When it comes, not before the one that came before.
            contents: What each block of its prompt holds together with all before it, as 64-bit integers.
            prompt_tokens: Tokens of its prompt, at least 1; a last block that is not full can not be found.
            output_tokens: Tokens that it makes; 0 counts as 1.
            has_output: Whether the contents go on with those of the blocks that its output fills.

        Raises:
            ConfigError: If requests run for so long that their times do not fit into 64 bits.
            MalformedInputError: If it needs more blocks than the pool has; it is left out then.
        """
        self.check(prompt_tokens, output_tokens)
        self._run_until(at_ns)
        known_tokens = prompt_tokens + output_tokens if has_output else prompt_tokens
        known = contents[: known_tokens // self._block_tokens]
        self._waiting.append(_Request(known, prompt_tokens, max(1, output_tokens)))
        self._admit(at_ns)

    def check(self, prompt_tokens: int, output_tokens: int) -> None:
        """Raise ``MalformedInputError`` if a request needs more blocks than the pool has."""
        needed = self._blocks_of(prompt_tokens + max(1, output_tokens) - 1)
        if needed >= self._capacity:
            raise MalformedInputError(f"a request of {needed:,} blocks never has room in {self._capacity:,}")

    def finish(self) -> None:
        """Run every request to its end.

        Raises:
            ConfigError: As ``arrive`` does.
        """
        while self._agenda:
            self._run_until(self._agenda[0][0])

    def take(self) -> EventFrame | None:
        """Return the events since the last call; None if there are none."""
        events, self._pool.events = self._pool.events, []
        if not events:
            return None
        ops, blocks, keys, ts = zip(*events, strict=True)
        return EventFrame(
            np.frombuffer(bytes(ops), dtype=np.uint8),
            packed_int64(blocks),
            packed_int64(ts),
            self._source,
            DEFAULT_TIER,
            packed_int64(keys),
            block_tokens=self._block_tokens,
        )

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)

    def _run_until(self, at_ns: int) -> None:
        while self._agenda and self._agenda[0][0] <= at_ns:
            now, start, request = heapq.heappop(self._agenda)
            if start != request.start:
                continue  # it was preempted
            if self._next_step(request) < request.output_tokens:
                self._grow(request, now)
            else:
                self._stop(request, self._steps(request, now))
                self._admit(now)

    def _admit(self, now: int) -> None:
        """Start requests that wait, in order, up to the first that has no room."""
        pool = self._pool
        while self._waiting:
            request = self._waiting[0]
            found = pool.find(request.contents[: (request.tokens - 1) // self._block_tokens])
            needed = self._blocks_of(request.tokens) - len(found)
            if needed + pool.count_free(found) > pool.free_count:
                return
            self._waiting.popleft()
            self._running[request], request.start = None, next(self._starts)
            pool.access(found, now)
            request.blocks, request.cached = found, len(found)
            self._allocate(request, needed, now)
            missing = request.tokens - request.cached * self._block_tokens
            self._cache(request, request.tokens)
            request.first_token_ns = now + round(missing * self._prefill_ns)
            self._plan(request)

    def _grow(self, request: "_Request", now: int) -> None:
        """Give a running request one more block for its output."""
        while not self._pool.free_count:
            last = next(reversed(self._running))
            # Steps of one time are taken in the order in which requests started: that of the last is to come.
            self._preempt(last, self._steps(last, now if last is request else now - 1))
            if last is request:
                return
        self._allocate(request, 1, now)
        self._plan(request)

    def _allocate(self, request: "_Request", blocks: int, now: int) -> None:
        for place in range(len(request.blocks), len(request.blocks) + blocks):
            request.blocks.append(self._pool.allocate(request.key(place), now))

    def _preempt(self, request: "_Request", steps: int) -> None:
        self.preemptions += 1
        self._stop(request, steps)
        request.tokens, request.output_tokens = request.tokens + steps, request.output_tokens - steps
        self._waiting.appendleft(request)

    def _stop(self, request: "_Request", steps: int) -> None:
        self._cache(request, request.tokens + steps)
        self._pool.free(request.blocks)
        request.blocks, request.cached, request.start = [], 0, 0
        del self._running[request]

    def _cache(self, request: "_Request", tokens: int) -> None:
        """Make what full blocks hold known, ``tokens`` being those that they hold or are given now."""
        full = min(tokens // self._block_tokens, len(request.blocks))
        for place in range(request.cached, full):
            self._pool.cache(request.blocks[place], request.content(place))
        request.cached = max(request.cached, full)

    def _plan(self, request: "_Request") -> None:
        """Note when a running request needs its next block, or else ends."""
        step = min(self._next_step(request), request.output_tokens)
        at_ns = request.first_token_ns + (step - 1) * self._decode_ns
        if at_ns > _LATEST_NS:
            raise ConfigError(
                f"requests run until after 2262 at {self._service.prefill_rate:g} prompt tokens and "
                f"{self._service.decode_rate:g} output tokens a second: raise the rates of prefill and decode"
            )
        heapq.heappush(self._agenda, (at_ns, request.start, request))

    def _next_step(self, request: "_Request") -> int:
        """Return the step of decoding, from 1, that needs one more block."""
        return len(request.blocks) * self._block_tokens + 1 - request.tokens

    def _steps(self, request: "_Request", now: int) -> int:
        """Return the steps of decoding that have begun; the last output token needs none."""
        if now < request.first_token_ns:
            return 0
        return min((now - request.first_token_ns) // self._decode_ns + 1, request.output_tokens - 1)


class _Request:
    """A request that waits or runs."""

    def __init__(self, contents: Sequence[int], prompt_tokens: int, output_tokens: int) -> None:
        self.tokens, self.output_tokens = prompt_tokens, output_tokens  # known at its start; still to come
        self.asked = len(contents)  # blocks that others can ask for, too
        self.contents: list[Hashable] = list(contents)
        self.blocks: list[int] = []
        self.cached = 0  # blocks whose content is known to the pool
        self.first_token_ns = 0
        self.start = 0  # its place among the starts of all requests; 0 while it does not run

    def key(self, place: int) -> int:
        """Return the content key of an allocation."""
        return self.contents[place] if place < self.asked else _NO_KEY  # type: ignore[return-value]

    def content(self, place: int) -> Hashable:
        """Return what a full block holds; output is like nothing else."""
        while place >= len(self.contents):
            self.contents.append(object())
        return self.contents[place]


class BlockPool:
    """Hands out blocks as vLLM's block pool, and notes what a collector in it sees.

    Blocks that are free come in this order: those that were freed without complete content, the last one
    first; those that were never handed out; those whose content can still be found, the first freed first.

    Args:
        blocks: How many there are, block 0 included, which is never handed out.

    Attributes:
        events: Operation code, block, content key and time of each event.
        free_count: Blocks that can be handed out.
    """

    def __init__(self, blocks: int) -> None:
        self.events: list[tuple[int, int, int, int]] = []
        self.free_count = blocks - 1
        self._blocks = blocks
        self._empty: list[int] = []  # given out from its end
        self._fresh = 1
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._pins: dict[int, int] = {}
        self._content_of: dict[int, Hashable] = {}
        self._holders: dict[Hashable, dict[int, None]] = {}

    def find(self, contents: Sequence[Hashable]) -> list[int]:
        """Return a block for each content, up to the first that is missing."""
        found = []
        for content in contents:
            holders = self._holders.get(content)
            if holders is None:
                break
            found.append(next(iter(holders)))
        return found

    def count_free(self, blocks: Sequence[int]) -> int:
        """Return how many of some blocks no request holds."""
        return sum(block not in self._pins for block in blocks)

    def access(self, blocks: Sequence[int], now: int) -> None:
        """Pin blocks that were found."""
        for block in blocks:
            if block not in self._pins:
                del self._evictable[block]
                self.free_count -= 1
            self._pins[block] = self._pins.get(block, 0) + 1
            self.events.append((Op.ACCESS, block, _NO_KEY, now))

    def allocate(self, key: int, now: int) -> int:
        """Return a block that is pinned from now on; there must be a free one."""
        if self._empty:
            block, is_first = self._empty.pop(), False
        elif is_first := self._fresh < self._blocks:
            block, self._fresh = self._fresh, self._fresh + 1
        else:
            block, _ = self._evictable.popitem(last=False)
        if not is_first:
            self.events.append((Op.EVICT, block, _NO_KEY, now))
            self._forget(block)
        self.free_count -= 1
        self._pins[block] = 1
        self.events.append((Op.ALLOC, block, key, now))
        return block

    def cache(self, block: int, content: Hashable) -> None:
        """Have a block found by its content from now on."""
        self._content_of[block] = content
        self._holders.setdefault(content, {})[block] = None

    def free(self, blocks: Sequence[int]) -> None:
        """Unpin the blocks of a request, given in its order."""
        empty = []
        for block in reversed(blocks):
            self._pins[block] -= 1
            if self._pins[block]:
                continue
            del self._pins[block]
            self.free_count += 1
            if block in self._content_of:
                self._evictable[block] = None
            else:
                empty.append(block)
        self._empty += reversed(empty)

    def _forget(self, block: int) -> None:
        if block not in self._content_of:
            return
        content = self._content_of.pop(block)
        holders = self._holders[content]
        del holders[block]
        if not holders:
            del self._holders[content]
