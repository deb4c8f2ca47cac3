"""Traces of requests by the hashes of their blocks, run through a simulated cache to make an event stream.

Each format of such traces reads its rows into requests (``mooncake.py``, ``bailian.py``, ``lmcache.py``);
what becomes of them is the same for all.
"""

import heapq
import logging
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count, groupby
from typing import NamedTuple

import msgspec
import numpy as np

from kvstream._core.ids import folded
from kvstream._core.reuse import PrefixCache
from kvstream._core.table import mix
from kvstream.errors import MalformedInputError
from kvstream.events.frame import I64, EventFrame, as_int64
from kvstream.events.types import DEFAULT_TIER
from kvstream.sources.lines import OnBad
from kvstream.sources.options import NS_OF_UNIT, ReadOptions, TimeUnit
from kvstream.sources.request import Request
from kvstream.sources.sessions import MOST_BLOCKS, MOST_SESSIONS, Sessions
from kvstream.sources.vllm_cache import VLLMCache
from kvstream.text.escape import for_terminal

SIMULATED = (
    "the cache is simulated: it serves each request at once and takes no room for output, so that its hit "
    "ratio is 0.3 to 1.7 points above that of vLLM's rules"
)

_LATEST_ARRIVAL_NS = 2**62 - 1  # in 2116; what is served after it still has a time of 64 bits
_ROW_NS = 1_000_000_000  # between rows that have no times
_TIE_NS = 1_000_000  # by which requests of one time may be set apart
_MOST_SESSIONS = 65_536
_MOST_WAITING = 65_536  # requests
_MOST_WAITING_BLOCKS = 8 * 1024 * 1024
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no power of it is 0


logger = logging.getLogger("kvstream")


class TraceDecoder:
    """Serves the requests of a trace from a simulated cache.

    What a block holds depends on all blocks before it, so a block is known by its hash and all hashes before
    it in its request. Where hashes cover the whole prefix this changes no figure; in traces that
    hash each block alone it keeps content after another beginning apart, which no engine could reuse.

    Requests of one time come a nanosecond after one another, so that what a request looked up has a time of
    its own. Rows without times come a second after one another.

    Args:
        source: Source of the events.
        options: Capacity of the cache, and the unit of times if the trace's is not to be believed.
        read: Makes a request of a line; raises what msgspec raises if it is none.
        unit: Unit of the times in such traces.
        block_tokens: Tokens of each block, in rows that do not say.
    """

    remembers = True

    def __init__(
        self,
        source: str,
        options: ReadOptions,
        read: Callable[[bytes], Request],
        unit: TimeUnit,
        block_tokens: int,
    ) -> None:
        self._source, self._read, self._options = source, read, options
        self._cache = PrefixCache(options.capacity or 1)
        self._vllm: VLLMCache | None = None  # made for the size of the first request's blocks
        self._block_tokens = block_tokens
        self._sessions = Sessions(block_tokens) if options.rows == "added" else None
        self._schedule = _Schedule(NS_OF_UNIT[options.time_unit or unit])
        self._last_ns = -1

    def decode_lines(self, chunk: bytes, on_bad: OnBad) -> Iterator[EventFrame]:
        """Yield the events of a chunk of whole lines as a frame; requests that come later wait.

        Args:
            chunk: JSON lines; blank ones are passed over.
            on_bad: Called with the line's number in the chunk (from 1) and the reason for each bad line.
        """
        bad: list[tuple[int, str]] = []
        requests: list[tuple[int, Request]] = []
        hashes: list[I64] = []
        for number, line in enumerate(chunk.split(b"\n"), 1):
            if not line or line.isspace():
                continue
            try:
                request = self._read(line)
                plain = _plain(request.hashes)
                if self._sessions is not None:
                    request, plain = self._sessions.join(request, plain, self._options.engine == "vllm")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
                bad.append((number, str(error)))
            else:
                requests.append((number, request))
                hashes.append(plain)
        due: list[_Lookup] = []
        for (number, request), blocks in zip(requests, _chained(hashes), strict=True):
            try:
                if self._options.engine == "vllm":
                    self._vllm_for(request).check(*self._tokens(request))
                due += self._schedule.add(request, blocks)
            except MalformedInputError as error:
                bad.append((number, str(error)))
        for number, reason in sorted(bad):
            on_bad(number, reason)
        return self._served(due)

    def finish(self) -> Iterator[EventFrame]:
        """Yield the events of the requests that wait, or still run; say how many sessions were forgotten."""
        if self._sessions is not None and self._sessions.forgotten:
            logger.warning(
                "%s: %d sessions were forgotten, as more than %d, or %d blocks of them, were open: "
                "what came of them later counts as whole prompts",
                for_terminal(self._source),
                self._sessions.forgotten,
                MOST_SESSIONS,
                MOST_BLOCKS,
            )
        yield from self._served(self._schedule.rest())
        if self._vllm is not None:
            self._vllm.finish()
            yield from self._taken(self._vllm)

    def _vllm_for(self, request: Request) -> VLLMCache:
        """Return the cache by vLLM's rules; its blocks are all of one size."""
        tokens = request.block_tokens or self._block_tokens
        if self._vllm is None:
            self._block_tokens = tokens
            self._vllm = VLLMCache(self._source, self._options.capacity or 1, tokens, self._options.service)
        elif tokens != self._block_tokens:
            raise MalformedInputError(f"blocks of {tokens:,} tokens after some of {self._block_tokens:,}")
        return self._vllm

    def _tokens(self, request: Request) -> tuple[int, int]:
        """Return the tokens of a request's prompt and output; those of its blocks where the row says none."""
        blocks = len(request.hashes) * self._block_tokens
        prompt = blocks if request.prompt_tokens is None else request.prompt_tokens
        return max(1, prompt), request.output_tokens or 0

    def _run(self, cache: VLLMCache, due: list["_Lookup"]) -> Iterator[EventFrame]:
        for at_ns, blocks, request in due:
            self._last_ns = max(at_ns, self._last_ns + 1)  # a request that goes back in time comes at once
            cache.arrive(self._last_ns, blocks.tolist(), *self._tokens(request), request.has_output)
        yield from self._taken(cache)

    def _taken(self, cache: VLLMCache) -> Iterator[EventFrame]:
        if (frame := cache.take()) is not None:
            yield frame

    def _served(self, due: list["_Lookup"]) -> Iterator[EventFrame]:
        if self._vllm is not None:
            yield from self._run(self._vllm, due)
            return
        for tokens, lookups in groupby(due, lambda lookup: lookup.request.block_tokens or self._block_tokens):
            wanted: list[I64] = []
            times: list[int] = []
            for at_ns, blocks, _ in lookups:
                if self._last_ns - _TIE_NS < at_ns <= self._last_ns:
                    at_ns = self._last_ns + 1
                self._last_ns = at_ns
                times.append(at_ns)
                wanted.append(blocks)
            ends = np.cumsum([len(blocks) for blocks in wanted])
            ops, changed, counts = self._cache.serve(np.concatenate(wanted), ends)
            if len(ops):
                ts = np.repeat(np.array(times, dtype=np.int64), counts)
                yield EventFrame(ops, changed, ts, self._source, DEFAULT_TIER, block_tokens=tokens)


class _Lookup(NamedTuple):
    """A request at its time: when, ns; the ids of its blocks; its row."""

    at_ns: int
    blocks: I64
    request: Request


class _Schedule:
    """Puts requests in order of time: a row with a delay can come long before its time.

    Args:
        unit_ns: Nanoseconds of the trace's unit.
    """

    def __init__(self, unit_ns: int) -> None:
        self._unit_ns = unit_ns
        self._latest_ns = -_ROW_NS  # of the rows so far
        self._of_session: OrderedDict[int | str, int] = OrderedDict()  # newest time, ns
        self._waiting: list[tuple[int, int, _Lookup]] = []
        self._waiting_blocks = 0
        self._order = count()

    def add(self, request: Request, blocks: I64) -> list[_Lookup]:
        """Return what is due, in order.

        Raises:
            MalformedInputError: If its time is before 1970 or after 2116.
        """
        before = self._of_session.pop(request.session, None) if request.session is not None else None
        if request.at is not None:
            at_ns = self._ns(request.at)
        elif request.delay is not None:
            at_ns = max(0, self._latest_ns if before is None else before) + self._ns(request.delay)
        elif before is not None:
            at_ns = before
        else:
            at_ns = self._latest_ns + _ROW_NS
        if at_ns > _LATEST_ARRIVAL_NS:
            raise MalformedInputError(f"time {at_ns} ns is after 2116")
        if request.session is not None:
            self._of_session[request.session] = at_ns
            if len(self._of_session) > _MOST_SESSIONS:
                self._of_session.popitem(last=False)
        waits = request.at is None and (request.delay is not None or before is not None)
        if not waits:
            self._latest_ns = at_ns
            return [*self._due(at_ns), _Lookup(at_ns, blocks, request)]
        heapq.heappush(self._waiting, (at_ns, next(self._order), _Lookup(at_ns, blocks, request)))
        self._waiting_blocks += len(blocks)
        too_many = len(self._waiting) > _MOST_WAITING or self._waiting_blocks > _MOST_WAITING_BLOCKS
        return self._due(self._waiting[0][0]) if too_many else []

    def rest(self) -> list[_Lookup]:
        """Return all that still waits, in order."""
        return self._due(_LATEST_ARRIVAL_NS)

    def _due(self, until_ns: int) -> list[_Lookup]:
        due = []
        while self._waiting and self._waiting[0][0] <= until_ns:
            _, _, lookup = heapq.heappop(self._waiting)
            self._waiting_blocks -= len(lookup.blocks)
            due.append(lookup)
        return due

    def _ns(self, value: float) -> int:
        """Return a time or a delay in ns."""
        if not 0 <= value * self._unit_ns <= _LATEST_ARRIVAL_NS:
            raise MalformedInputError(f"time {value} is before 1970 or after 2116")
        return value * self._unit_ns if isinstance(value, int) else round(value * self._unit_ns)


def _plain(hashes: list[int | str]) -> I64:
    """Return hashes as 64-bit integers.

    Raises:
        ValueError: If one does not fit into 64 bits, or is text that is no hexadecimal number.
    """
    try:
        return np.frombuffer(array("q", hashes), dtype=np.int64)  # type: ignore[type-var]
    except (TypeError, OverflowError):  # text, or beyond the signed ones
        ids = [each if isinstance(each, int) else folded(each) for each in hashes]
    if not (min(ids) >= -(2**63) and max(ids) < 2**64):
        raise ValueError("a hash does not fit into 64 bits")
    return as_int64(ids)


def _chained(requests: list[I64]) -> list[I64]:
    """Return the ids of the blocks of each request: a hash of the block's hash and of all before it.

    It is a polynomial of the mixed hashes, modulo 2**64, so that the blocks of all requests are done at once.

    Args:
        requests: Hashes of each, int64 (n,).

    Returns:
        int64 of shape (n,) for each request of n blocks.
    """
    if not requests:
        return []
    lengths = np.array([len(hashes) for hashes in requests], dtype=np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    place = np.arange(ends[-1]) - np.repeat(starts, lengths)
    powers = np.cumprod(np.full(lengths.max(), _FACTOR, dtype=np.uint64))
    plain = np.concatenate(requests)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(mix(plain ^ np.int64(_FACTOR >> 1)) * powers[place])])
    chained = sums[1:] - np.repeat(sums[starts], lengths)
    ids = mix(chained.view(np.int64)).view(np.int64)
    return [ids[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
