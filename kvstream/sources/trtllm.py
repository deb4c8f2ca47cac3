"""KV-cache events of TensorRT-LLM as JSON lines: an event of ``get_kv_cache_events`` a line, or a poll.

Source: the events' serialisation in TensorRT-LLM's ``tensorrt_llm/_utils.py`` (``KVCacheEventSerializer``).
Tokens are passed over undecoded.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from kvstream._core.ids import folded, group_salt
from kvstream.events.clock import Clock
from kvstream.events.frame import EventFrame, label_number, packed_int64
from kvstream.events.types import REASON_CODE, Labels, Op, Rank, Timestamp

_CAPACITY, _OTHER = REASON_CODE["capacity"], REASON_CODE["other"]


_Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
# The numbers of frames follow from these, and add one or two for each event.
_EventId = Annotated[int, msgspec.Meta(ge=0, le=2**48 - 1)]
BlockHash = int | str
"""An integer, signed or unsigned, or hexadecimal digits."""


class _Created(msgspec.Struct, tag="created"):
    pass


class _Block(msgspec.Struct):
    block_hash: BlockHash
    cache_level: int = 0
    lora_id: _Number | None = None


class _Stored(msgspec.Struct, tag="stored"):
    blocks: list[_Block]


class _Removed(msgspec.Struct, tag="removed"):
    block_hashes: list[BlockHash]


class _Levels(msgspec.Struct):
    old_value: int
    new_value: int


class _Updated(msgspec.Struct, tag="updated"):
    block_hash: BlockHash
    cache_level: _Levels | None = None


class _Line(msgspec.Struct):
    event_id: _EventId
    data: _Created | _Stored | _Removed | _Updated
    window_size: _Number | None = None
    attention_dp_rank: Rank | None = None
    ts: Timestamp | None = None


_decoder = msgspec.json.Decoder(_Line)


def _tier(level: int) -> str:
    """Return the tier of a level: 0 is the memory of the device, 1 that of the host."""
    return ("gpu", "cpu", "disk")[max(0, min(level, 2))]


def _ids(data: _Created | _Stored | _Removed | _Updated) -> list[int]:
    """Return the ids of the blocks that an event is about, folded to 64 bits.

    Raises:
        ValueError: If one is text that is no hexadecimal number.
    """
    match data:
        case _Stored():
            return [folded(block.block_hash) for block in data.blocks]
        case _Removed():
            return [folded(block_hash) for block_hash in data.block_hashes]
        case _Updated():
            return [folded(data.block_hash)]
    return []


class _Rank:
    """State of one attention-DP rank, which numbers its events by itself."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.epoch = self.number = self.next_id = 0
        self.levels: dict[int, int] = {}  # of blocks that are not on level 0
        # By tier: operation, id, time, reason, number of the label.
        self.rows: dict[str, list[tuple[int, int, int, int, int]]] = {}
        self.labels: dict[Labels, int] = {}

    def frames(self) -> Iterator[EventFrame]:
        rows_of, self.rows = self.rows, {}
        for tier, rows in rows_of.items():
            ops, blocks, ts, reasons, label_of = zip(*rows, strict=True)
            yield EventFrame(
                np.array(ops, dtype=np.uint8),
                packed_int64(blocks),
                packed_int64(ts),
                self.source,
                tier,
                None,
                np.array(reasons, dtype=np.uint8) if any(reasons) else None,
                self.epoch,
                self.number,
                tuple(self.labels),
                np.array(label_of, dtype=np.uint16) if self.labels else None,
            )
            self.number += 1
        self.labels = {}


class TensorRTDecoder:
    """Turns the events of one engine into numbered frames.

    ``stored`` becomes a store, ``removed`` an eviction, ``updated`` an eviction from one tier and a store
    in the other. Event ids that are missing are holes in the frames' numbers; ids that begin again with
    ``created`` are a restart. The events carry no time: a field ``ts`` (ns since 1970) is taken if whoever
    wrote the lines added it, otherwise it is the time of reading. An adapter is the label ``lora``, a window
    of attention the label ``cache_group`` where there are several.

    Args:
        source: Name of the engine; events of attention-DP rank 1 belong to ``{source}/dp1``.
        clock: Nanoseconds since the Unix epoch.
    """

    remembers = True

    def __init__(self, source: str, clock: Callable[[], int] | None = None) -> None:
        self._source = source
        self._clock = clock or Clock()
        self._ranks: dict[int | None, _Rank] = {}
        self._window: int | None = None  # the first one seen, whose blocks keep their hashes as ids
        self._has_windows = False  # whether there are several, which are labels then

    def decode_lines(self, chunk: bytes, on_bad: Callable[[int, str], None]) -> Iterator[EventFrame]:
        """Yield the frames of a chunk of whole lines, in order.

        Args:
            chunk: JSON lines; blank ones are passed over.
            on_bad: Called with the line's number in the chunk (from 1) and the reason for each bad line.
        """
        for number, line in enumerate(chunk.split(b"\n"), 1):
            if not line or line.isspace():
                continue
            try:
                event = _decoder.decode(line)
                ids = _ids(event.data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
                on_bad(number, str(error))
                continue
            rank = self._rank(event.attention_dp_rank)
            begins = isinstance(event.data, _Created)
            if event.event_id < rank.next_id and not begins:
                on_bad(number, f"event_id {event.event_id} after {rank.next_id - 1}: it came before")
                continue
            if event.event_id != rank.next_id:
                yield from rank.frames()
                if event.event_id < rank.next_id:
                    rank.epoch, rank.number, rank.next_id = rank.epoch + 1, 0, event.event_id
                    rank.levels.clear()
                rank.number += event.event_id - rank.next_id
            rank.next_id = event.event_id + 1
            self._apply(rank, event, ids)
        for rank in self._ranks.values():
            yield from rank.frames()

    def finish(self) -> Iterator[EventFrame]:
        """Yield nothing: no event is held back."""
        return iter(())

    def _rank(self, number: int | None) -> _Rank:
        if number not in self._ranks:
            self._ranks[number] = _Rank(self._source if number is None else f"{self._source}/dp{number}")
        return self._ranks[number]

    def _apply(self, rank: _Rank, event: _Line, ids: list[int]) -> None:
        data: Any = event.data
        ts = self._clock() if event.ts is None else event.ts
        window = event.window_size
        self._window = window if self._window is None else self._window
        salt = 0 if window is None or window == self._window else group_salt(window)
        self._has_windows = self._has_windows or window not in (None, self._window)
        group = str(window) if self._has_windows and window is not None else None

        blocks = [block ^ salt for block in ids]

        def add(level: int, op: int, block: int, reason: int = 0, lora: int | None = None) -> None:
            labels = None
            if op == Op.STORE and (lora is not None or group is not None):
                labels = Labels(lora=None if lora is None else str(lora), cache_group=group)
            row = (op, block, ts, reason, label_number(rank.labels, labels))
            rank.rows.setdefault(_tier(level), []).append(row)

        if isinstance(data, _Stored):
            for stored, block in zip(data.blocks, blocks, strict=True):
                add(stored.cache_level, Op.STORE, block, lora=stored.lora_id)
                if stored.cache_level:
                    rank.levels[block] = stored.cache_level
        elif isinstance(data, _Removed):
            for block in blocks:
                add(rank.levels.pop(block, 0), Op.EVICT, block)
        elif isinstance(data, _Updated) and data.cache_level is not None:
            (block,) = blocks
            old, new = data.cache_level.old_value, data.cache_level.new_value
            # Moved out for lack of room, or back in because it was wanted.
            add(old, Op.EVICT, block, _CAPACITY if new > old else _OTHER)
            add(new, Op.STORE, block)
            rank.levels.pop(block, None)
            if new:
                rank.levels[block] = new
