"""The KV-cache events that vLLM and SGLang publish: msgpack batches to frames, in every shape in the wild.

Token ids and extra keys may hold what users wrote. They are passed over undecoded and go nowhere.
"""

import struct
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta, Raw
from msgspec.structs import replace

from kvstream.blocks.hashing import folded, group_salt
from kvstream.compiled import compiled_loop
from kvstream.errors import MalformedInputError
from kvstream.events.frame import I64, MAX_FRAME_EVENTS, EventFrame, joined_frames, label_number
from kvstream.events.types import Labels, Op, Rank
from kvstream.text.escape import shortened
from kvstream.text.names import bounded_name

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
TIER_OF_MEDIUM = {None: "gpu", "GPU": "gpu", "CPU": "cpu", "STORAGE": "disk", "DISK": "disk"}
"""Tiers of the media that engines name; of any other, the name in small letters."""
NO_RANK = -1
"""In place of the rank of batches that have none."""

MAX_BATCH_EVENTS = 262_144
"""Events in a batch, each of which may be about many blocks."""

_MAX_NAME = 64
_OTHER_TIERS = 16  # of media that are not known here; any further ones are the tier "other"
_READ_AT_ONCE = 1024 * 1024  # bytes of batches, about: as much as a core's cache holds
_LARGE_PAYLOAD = 4 * 1024 * 1024  # bytes; decoded event by event, as its hashes may take ten times the room
_MAX_REJECTED = 1000  # malformed events in a batch, after which the rest of it counts as malformed, too
_LONGEST_REASON = 300  # characters
_MAX_REASONS = 10  # of a batch's malformed events; the others are counted together
_Hashes = Annotated[list[int | bytes], Meta(max_length=MAX_FRAME_EVENTS)]
_LoraId = int | str | None


# As maps tagged by "type", with only the fields that are used.


class _Stored(msgspec.Struct, tag="BlockStored", gc=False):
    block_hashes: _Hashes
    lora_id: _LoraId = None
    medium: str | None = None
    lora_name: str | None = None
    group_idx: int | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved", gc=False):
    block_hashes: _Hashes
    lora_id: ClassVar = None
    lora_name: ClassVar = None
    medium: str | None = None
    group_idx: int | None = None


class _Cleared(msgspec.Struct, tag="AllBlocksCleared", gc=False):
    block_hashes: ClassVar = (0,)  # a clear has no block; it is one of the device's tier
    medium: ClassVar = "GPU"
    group_idx: ClassVar = None
    lora_id: ClassVar = None
    lora_name: ClassVar = None


# As arrays that begin with the tag, with fields up to the last that is used.


class _StoredRow(msgspec.Struct, tag="BlockStored", array_like=True, gc=False):
    block_hashes: _Hashes
    parent_block_hash: Raw = Raw()
    token_ids: Raw = Raw()
    block_size: Raw = Raw()
    lora_id: _LoraId = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: Raw = Raw()
    group_idx: int | None = None


class _RemovedRow(msgspec.Struct, tag="BlockRemoved", array_like=True, gc=False):
    block_hashes: _Hashes
    lora_id: ClassVar = None
    lora_name: ClassVar = None
    medium: str | None = None
    group_idx: int | None = None


class _ClearedRow(msgspec.Struct, tag="AllBlocksCleared", array_like=True, gc=False):
    block_hashes: ClassVar = (0,)
    medium: ClassVar = "GPU"
    group_idx: ClassVar = None
    lora_id: ClassVar = None
    lora_name: ClassVar = None


_Event = _Stored | _Removed | _Cleared
_Row = _StoredRow | _RemovedRow | _ClearedRow


def _batch_decoder(event: Any, *, array: bool) -> Callable[[bytes], Any]:
    events = Annotated[list[event], Meta(max_length=MAX_BATCH_EVENTS)]
    fields: list[Any] = [("ts", float), ("events", events), ("data_parallel_rank", Rank | None, None)]
    kind = msgspec.defstruct("Batch", fields, array_like=array, gc=False)
    return msgspec.msgpack.Decoder(kind).decode


class _Tag(msgspec.Struct):
    type: str


class _TagRow(msgspec.Struct, array_like=True):
    type: str


# By whether the batch is an array, then by what its events are.
_BATCH = {array: [_batch_decoder(kind, array=array) for kind in (_Event, _Row)] for array in (True, False)}
_LENIENT_BATCH = {array: _batch_decoder(Raw, array=array) for array in (True, False)}
_EVENT: dict[bool, Callable[[Any], Any]] = {
    False: msgspec.msgpack.Decoder(_Event).decode,
    True: msgspec.msgpack.Decoder(_Row).decode,
}
_TAG: dict[bool, Callable[[Any], Any]] = {
    False: msgspec.msgpack.Decoder(_Tag).decode,
    True: msgspec.msgpack.Decoder(_TagRow).decode,
}
_KNOWN = {"BlockStored", "BlockRemoved", "AllBlocksCleared"}
_OP: dict[Any, int] = {
    _Stored: Op.STORE,
    _StoredRow: Op.STORE,
    _Removed: Op.EVICT,
    _RemovedRow: Op.EVICT,
    _Cleared: Op.CLEAR,
    _ClearedRow: Op.CLEAR,
}
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Rejected(msgspec.Struct, frozen=True):
    """What of a batch could not be decoded.

    Attributes:
        batch: Number of the batch among those that ``frames`` decoded, from 0.
        unit: ``batch`` if none of it was decoded, or ``event``.
        reason: What is wrong.
        count: Batches or events that this is about.
    """

    batch: int
    unit: str
    reason: str
    count: int = 1


def _is_array(data: Any) -> bool:
    head = bytes(memoryview(data)[:1])
    return b"\x90" <= head <= b"\x9f" or head in (b"\xdc", b"\xdd")


class KVEventDecoder:
    r"""Turns the batches of one publisher into numbered frames.

    ``BlockStored`` becomes a store, ``BlockRemoved`` an eviction, ``AllBlocksCleared`` a clear of the
    tier ``gpu``. The medium is the tier; a data-parallel rank becomes part of the source. Blocks of
    another ``group_idx`` than 0 get ids of their own, as the same content can be held once a group. A LoRA
    adapter, by name or else by number, is the label ``lora``.

    Args:
        source: Name of the publisher; batches of rank 1 belong to ``{source}/dp1``.
        epoch: Number of the publisher's first life; each restart adds one.

    Attributes:
        unknown_events: Events of a type that is not known here, which were skipped.
        batches: Batches decoded.
        last_ts: Time of the last batch, ns since the Unix epoch; 0 before the first.
        rejected: What the last ``frames`` could not decode. Other parts of a batch are in the frames.
        undecoded: Batches that the last ``frames`` had no memory to decode; they count as lost.

    Example:
        >>> decoder = KVEventDecoder("vllm-0")
        >>> decoder.add(b'\x92\xcb\x3f\xf0\0\0\0\0\0\0\x91\x92\xacBlockRemoved\x91\x07')
        >>> [frame.blocks.tolist() for frame in decoder.frames()]
        [[7]]
    """

    def __init__(self, source: str, epoch: int = 0) -> None:
        self.source, self.epoch = source, epoch
        self.unknown_events = 0
        self.batches = 0
        self.last_ts = 0
        self.rejected: list[Rejected] = []
        self.undecoded = 0
        self._waiting: list[bytes] = []
        self._columns: dict[tuple[int, str], _Columns] = {}
        self._numbers: dict[str, int] = {}
        self._other_tiers: set[str] = set()
        self._lost = 0
        self._bad_events = 0  # of the batch that is being decoded
        self._decode = _BATCH[True][0]  # the shape that batches had last
        self._read = compiled_loop("kvstream.sources.kv_events_compiled", "read_batches")

    def add(self, payload: bytes) -> None:
        """Takes a batch, to be decoded by the next ``frames``."""
        self._waiting.append(payload)

    def _take_in_waiting(self) -> None:
        waiting, self._waiting, self.rejected, self.undecoded = self._waiting, [], [], 0
        if self._read is None:
            for number, payload in enumerate(waiting):
                self._take_in(number, payload)
            return
        start = size = 0
        for number, payload in enumerate(waiting, 1):
            size += len(payload)
            if size >= _READ_AT_ONCE or number == len(waiting):
                self._take_in_read(start, waiting[start:number], size)
                start, size = number, 0

    def _take_in_read(self, start: int, payloads: list[bytes], size: int) -> None:
        """Decodes batches from a number on, ``size`` bytes in all, as far as possible at once."""
        assert self._read is not None  # noqa: S101
        small = payloads
        if size > _LARGE_PAYLOAD:
            small = [payload if len(payload) <= _LARGE_PAYLOAD else b"" for payload in payloads]
        read, first = self._read(small), 0
        for left in [*(~read.is_read).nonzero()[0].tolist(), len(payloads)]:
            for rank, tier, rows in read.frames(first, left):
                self._of(rank, tier).append(rows)
            if left > first:
                self.batches += left - first
                self.last_ts = int(read.times[left - 1])
            if left < len(payloads):
                self._take_in(start + left, payloads[left])
            first = left + 1

    def _take_in(self, number: int, payload: bytes) -> None:
        """Decodes one batch."""
        rejected = len(self.rejected)
        self._bad_events = 0
        try:
            try:
                batch = self._decode(payload) if len(payload) <= _LARGE_PAYLOAD else None
            except _UNDECODABLE:
                batch = None
            if batch is None:
                batch = self._decoded_otherwise(number, payload)
            ts = _nanoseconds(batch.ts)
        except (*_UNDECODABLE, MalformedInputError) as error:
            what = "" if isinstance(error, MalformedInputError) else "not a batch of KV events: "
            reason = shortened(f"{what}{error}", _LONGEST_REASON)
            self.rejected[rejected:] = [Rejected(number, "batch", reason)]
            return
        except MemoryError:
            self._lost += 1
            self.undecoded += 1
            return
        self.batches += 1
        self.last_ts = ts
        medium = "GPU"
        rank = NO_RANK if batch.data_parallel_rank is None else batch.data_parallel_rank
        columns = self._columns.get((rank, "gpu")) or self._of(rank, "gpu")
        ops, ids = columns.ops, columns.hashes
        columns.times.append(ts)
        columns.until.append(len(ops))
        # Written out for speed: a call for each event would cost as much as decoding it.
        for event in batch.events:
            if event.medium != medium:
                name = event.medium
                if name is not None and not 0 < len(name) <= _MAX_NAME:
                    reason = f"a medium has 1 to {_MAX_NAME} characters, not {len(name):,}"
                    self._reject_event(number, reason)
                    continue
                medium = name
                columns = self._of(rank, self._tier(medium))
                ops, ids = columns.ops, columns.hashes
                columns.times.append(ts)
                columns.until.append(len(ops))
            hashes = event.block_hashes
            if event.group_idx:
                salt = group_salt(event.group_idx)
                hashes = [folded(block_hash) ^ salt for block_hash in hashes]
            if event.lora_id is not None or event.lora_name is not None:
                adapter = event.lora_name or ("" if event.lora_id is None else str(event.lora_id))
                if adapter:
                    columns.label(adapter, len(hashes))
            ids += hashes
            if len(hashes) == 1:
                ops.append(_OP[type(event)])
            else:
                ops += [_OP[type(event)]] * len(hashes)

    def _reject_event(self, batch: int, reason: str, count: int = 1) -> None:
        """Counts malformed events of a batch; from the tenth on they are counted together."""
        self._bad_events += count
        if self._bad_events > _MAX_REASONS and self.rejected and self.rejected[-1].batch == batch:
            last = self.rejected.pop()
            reason, count = last.reason, last.count + count
        self.rejected.append(Rejected(batch, "event", shortened(reason, _LONGEST_REASON), count))

    def _of(self, rank: int, tier: str) -> "_Columns":
        found = self._columns.get((rank, tier))
        if found is None:
            found = self._columns[rank, tier] = _Columns()
        return found

    def _tier(self, medium: str | None) -> str:
        known = TIER_OF_MEDIUM.get(medium)
        if known is not None:
            return known
        name = str(medium).lower()
        if name not in self._other_tiers:
            if len(self._other_tiers) >= _OTHER_TIERS:
                return "other"
            self._other_tiers.add(name)
        return name

    def _decoded_otherwise(self, number: int, payload: bytes) -> Any:
        """The batch in whatever shape it has; counts the events of it that are left out."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise MalformedInputError(f"batch of {len(payload):,} bytes is longer than {MAX_PAYLOAD_BYTES:,}")
        array = _is_array(payload)
        if len(payload) <= _LARGE_PAYLOAD:
            for decode in _BATCH[array]:
                try:
                    batch = decode(payload)
                except _UNDECODABLE:
                    continue
                self._decode = decode
                return batch
        batch = _LENIENT_BATCH[array](payload)
        events: list[Any] = []
        blocks = 0
        for place, raw in enumerate(batch.events):
            is_row = _is_array(raw)
            try:
                event = _EVENT[is_row](raw)
            except _UNDECODABLE as error:
                if _is_of_unknown_type(raw, is_row):
                    self.unknown_events += 1
                else:
                    self._reject_event(number, f"event {place} of the batch: {error}")
            else:
                blocks += len(event.block_hashes)
                events.append(event)
            if blocks > MAX_FRAME_EVENTS or self._bad_events >= _MAX_REJECTED:
                if left := len(batch.events) - place - 1:
                    why = "it comes after too many blocks or malformed events"
                    self._reject_event(number, f"event {place + 1} of the batch: {why}", left)
                break
        batch.events = events
        return batch

    def lost(self, batches: int) -> None:
        """Tells of batches that are missing before the next one."""
        self._lost += batches

    def restart(self) -> None:
        """Tells that the publisher has begun again, with an empty cache; call ``frames`` before."""
        self.epoch += 1
        self._numbers.clear()

    def frames(self) -> list[EventFrame]:
        """Decodes what was added since the last call, to a frame or more for each rank and tier.

        Frames are numbered one by one, with holes as large as the batches that were lost.
        """
        batches = len(self._waiting)
        try:
            return self._frames()
        except MemoryError:
            self._columns.clear()
            self._lost += batches - self.undecoded
            self.undecoded = batches
            return []

    def _frames(self) -> list[EventFrame]:
        self._take_in_waiting()
        columns, self._columns = self._columns, {}
        made: list[EventFrame] = []
        for rank, tier in sorted(columns):
            rows = columns[rank, tier].take()
            if rows is None:
                continue
            source = self.source if rank == NO_RANK else f"{self.source}/dp{rank}"
            for part in rows.cut(MAX_FRAME_EVENTS):
                number = self._numbers.get(source, 0) + self._lost
                self._lost = 0
                self._numbers[source] = number + 1
                made.append(replace(part, source=source, tier=tier, epoch=self.epoch, seq=number))
        return made


class _Columns:
    """Events of one rank and tier, in order."""

    __slots__ = ("hashes", "label_of", "labels", "ops", "rows", "times", "until")

    def __init__(self) -> None:
        self.rows: list[EventFrame] = []  # those before the following
        self._clear()

    def _clear(self) -> None:
        self.ops: list[int] = []
        self.hashes: list[int | bytes] = []
        self.times: list[int] = []  # each time, and how many events come before it
        self.until: list[int] = []
        self.labels: dict[Labels, int] = {}
        self.label_of: list[int] = []  # of the events up to the last that has labels

    def label(self, adapter: str, events: int) -> None:
        """Says whose the next events are."""
        self.label_of += [0] * (len(self.ops) - len(self.label_of))
        self.label_of += [label_number(self.labels, Labels(lora=bounded_name(adapter)))] * events

    def append(self, rows: EventFrame) -> None:
        """Adds events that are rows already."""
        self._make_rows()
        self.rows.append(rows)

    def take(self) -> EventFrame | None:
        """The events as a frame without a name; None if there are none."""
        self._make_rows()
        return joined_frames(self.rows) if self.rows else None

    def _make_rows(self) -> None:
        if not self.ops:
            return
        label_of = None
        if self.labels:
            label_of = np.zeros(len(self.ops), dtype=np.uint16)
            label_of[: len(self.label_of)] = self.label_of
        self.rows.append(
            EventFrame(
                np.frombuffer(bytes(self.ops), dtype=np.uint8),
                _ids(self.hashes),
                np.array(self.times).repeat(np.diff(self.until, append=len(self.ops))),
                labels=tuple(self.labels),
                label_of=label_of,
            )
        )
        self._clear()


def _ids(hashes: _Hashes) -> I64:
    """Hashes as int64 ids; unsigned ones are the same bits."""
    try:
        packed = struct.pack(f"{len(hashes)}Q", *hashes)
    except struct.error:
        packed = struct.pack(f"{len(hashes)}Q", *map(folded, hashes))
    return np.frombuffer(packed, dtype=np.int64)


def _nanoseconds(seconds: float) -> int:
    if not 0 <= seconds < 2**63 / 1e9:
        raise MalformedInputError("the time of the batch is no number of seconds since 1970")
    # Apart, as the product of a whole time of today has no room for nanoseconds.
    whole = int(seconds)
    return whole * 1_000_000_000 + round((seconds - whole) * 1e9)


def _is_of_unknown_type(raw: Raw, is_row: bool) -> bool:
    """Whether this is an event, but of none of the types here."""
    try:
        return _TAG[is_row](raw).type not in _KNOWN
    except _UNDECODABLE:
        return False
