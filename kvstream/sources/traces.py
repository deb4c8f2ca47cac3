"""Request traces of block hashes, run through a simulated LRU prefix cache to make an event stream.

A line is a request, as in the traces published with Mooncake (https://github.com/kvcache-ai/Mooncake):
``{"timestamp": ms, "input_length": …, "output_length": …, "hash_ids": […]}``. A hash stands for a block of
tokens together with all tokens before it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
import numpy as np

from kvstream._core.table import mix
from kvstream.events.frame import EventFrame, packed_int64
from kvstream.events.types import DEFAULT_TIER, Op

_Milliseconds = Annotated[float, msgspec.Meta(ge=0, lt=2**63 / 1e6)]
_Hash = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Request(msgspec.Struct):
    timestamp: _Milliseconds
    hash_ids: list[_Hash]


_decoder = msgspec.json.Decoder(_Request)


class PrefixCacheTrace:
    """An LRU prefix cache that serves the requests of a trace.

    The blocks of a request that are held are accessed, the others allocated, each in place of the least
    recently used one. Within a request the last block counts as the least recently used, as in vLLM, so
    that no block outlives those that it builds on. Hashes in such traces are small numbers; they are mixed
    into 64 bits, one to one, as they are no slots. Of a request that is larger than the cache, only the
    beginning finds room.

    Args:
        source: Source of the events.
        capacity: Blocks that the cache holds.
    """

    def __init__(self, source: str, capacity: int) -> None:
        self._source, self._capacity = source, capacity
        self._held: OrderedDict[int, None] = OrderedDict()  # the least recently used first

    def decode_lines(self, chunk: bytes, on_bad: Callable[[int, str], None]) -> Iterator[EventFrame]:
        """Yield the events of a chunk of whole lines as a frame.

        Args:
            chunk: JSON lines; blank ones are passed over.
            on_bad: Called with the line's number in the chunk (from 1) and the reason for each bad line.
        """
        ops: list[int] = []
        blocks: list[int] = []
        ts: list[int] = []
        for number, line in enumerate(chunk.split(b"\n"), 1):
            if not line or line.isspace():
                continue
            try:
                request = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                on_bad(number, str(error))
                continue
            before = len(ops)
            self._serve(request.hash_ids, ops, blocks)
            ts += [round(request.timestamp * 1e6)] * (len(ops) - before)
        if ops:
            yield EventFrame(
                np.array(ops, dtype=np.uint8),
                mix(packed_int64(blocks)).view(np.int64),
                packed_int64(ts),
                self._source,
                DEFAULT_TIER,
            )

    def _serve(self, hashes: list[int], ops: list[int], blocks: list[int]) -> None:
        wanted = list(dict.fromkeys(hashes))[: self._capacity]
        held = [content for content in wanted if content in self._held]
        for content in held:  # before room is made, so that none of them is given up for it
            self._held.move_to_end(content)
        ops += [Op.ACCESS] * len(held)
        blocks += held
        for content in wanted:
            if content in self._held:
                continue
            if len(self._held) >= self._capacity:
                ops.append(Op.EVICT)
                blocks.append(self._held.popitem(last=False)[0])
            self._held[content] = None
            ops.append(Op.ALLOC)
            blocks.append(content)
        for content in reversed(wanted):
            self._held.move_to_end(content)
