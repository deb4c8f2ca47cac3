"""The compiled twin of decoding KV events: walks over the bytes of the shapes that engines publish today.

What it does not take in, for a field of another kind or a name that nobody knows, it leaves to msgspec as a
whole batch, so that it need not judge what is malformed.

Source: the msgpack format, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.blocks.hashing import U64
from kvstream.blocks.hashing_compiled import mix_one
from kvstream.compiled import compiled
from kvstream.events.frame import I64, U8, EventFrame
from kvstream.events.types import MAX_RANK, Op
from kvstream.sources.kv_events import NO_RANK

TIERS = ("gpu", "cpu", "disk")
"""Tiers by their number in ``ReadBatches.tiers``."""

_STORE, _EVICT, _CLEAR = int(Op.STORE), int(Op.EVICT), int(Op.CLEAR)
_MOST_CONTAINERS = 200  # in a value that is skipped: more may lie deeper within each other than msgspec goes
_BYTES_AN_EVENT = 8  # at least, for a batch to be read here: room for rows is made beforehand

# Places of the fields of an event in an array of offsets; fields that are not used share the first.
_UNUSED, _TYPE, _HASHES, _LORA_ID, _LORA_NAME, _MEDIUM, _GROUP, _FIELDS = range(8)
# Which field stands where in an event that is an array.
_STORED_ROW = np.array([_TYPE, _HASHES, 0, 0, 0, _LORA_ID, _MEDIUM, _LORA_NAME, 0, _GROUP])
_REMOVED_ROW = np.array([_TYPE, _HASHES, _MEDIUM, _GROUP])


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text[:8], "little"))


def _name_table(names: dict[bytes, int]) -> U64:
    """Names of at most 16 bytes: their length, first eight bytes, mask of these, last eight, and meaning.

    The place of a name follows from its length and first letter. To compare with the one name of a place
    takes no branch, which would be foreseen badly, as names come in every order.
    """
    table = np.zeros((32, 5), dtype=np.uint64)
    for name, meaning in names.items():
        mask = np.uint64(2 ** (8 * min(8, len(name))) - 1)
        last = _word(name[-8:] if len(name) > 8 else b"")
        table[len(name) & 15 | (name[0] & 8) << 1] = len(name), _word(name), mask, last, meaning
    return table


_FIELD_NAMES = _name_table(
    {
        b"type": _TYPE,
        b"block_hashes": _HASHES,
        b"lora_id": _LORA_ID,
        b"lora_name": _LORA_NAME,
        b"medium": _MEDIUM,
        b"group_idx": _GROUP,
    }
)
# One more than the operation, as 0 is no name.
_TYPE_NAMES = _name_table(
    {b"BlockStored": _STORE + 1, b"BlockRemoved": _EVICT + 1, b"AllBlocksCleared": _CLEAR + 1}
)
_GPU, _CPU, _STORAGE, _DISK = _word(b"GPU"), _word(b"CPU"), _word(b"STORAGE"), _word(b"DISK")


def _value_sizes() -> npt.NDArray[np.int64]:
    """Bytes of a value by its first byte; 0 where that alone does not tell."""
    sizes = np.zeros(256, dtype=np.int64)
    sizes[:0x80] = sizes[0xE0:] = 1
    sizes[0xA0:0xC0] = np.arange(1, 33)
    sizes[[0xC0, 0xC2, 0xC3]] = 1
    sizes[0xCA:0xCC] = 5, 9
    sizes[0xCC:0xD0] = sizes[0xD0:0xD4] = 2, 3, 5, 9
    sizes[0xD4:0xD9] = 3, 4, 6, 10, 18
    return sizes


_SIZES = _value_sizes()
_NIL = 0xC0


class ReadBatches(msgspec.Struct, frozen=True, eq=False):
    """What was read of k batches, in n rows.

    Attributes:
        is_read: Which batches were read, bool (k,).
        times: Their times, ns since the Unix epoch, int64 (k,).
        until: Rows of each batch and those before it, int64 (k,).
        ops: Operations, uint8 (n,).
        ids: Block ids, int64 (n,).
        ts: Times of their batches, int64 (n,).
        places: ``len(TIERS)`` times the rank or ``NO_RANK``, plus the place in ``TIERS``, int64 (n,).
    """

    is_read: npt.NDArray[np.bool_]
    times: I64
    until: I64
    ops: U8
    ids: I64
    ts: I64
    places: I64

    def frames(self, start: int, stop: int) -> Iterator[tuple[int, str, EventFrame]]:
        """Yields the rank and the tier of some batches, all of which were read, and their events."""
        rows = slice(int(self.until[start - 1]) if start else 0, int(self.until[stop - 1]) if stop else 0)
        places = self.places[rows]
        every = EventFrame(self.ops[rows], self.ids[rows], self.ts[rows])
        alike = (places == places[:1]).all()
        for at in places[:1].tolist() if alike else np.unique(places).tolist():
            rank, tier = divmod(at, len(TIERS))
            yield rank, TIERS[tier], every if alike else every.take(places == at)


def read_batches(payloads: list[bytes]) -> ReadBatches:
    """Reads what can be read here of some batches; a batch is read whole or not at all."""
    joined = b"".join([*payloads, bytes(32)])  # so that eight bytes can be loaded anywhere
    words: U64 = np.ndarray(len(joined) - 7, dtype="<u8", buffer=joined, strides=(1,))
    ends = np.cumsum([len(payload) for payload in payloads])
    count, room = len(payloads), len(joined) // _BYTES_AN_EVENT
    read = ReadBatches(
        np.zeros(count, dtype=np.bool_),
        np.empty(count, dtype=np.int64),
        np.empty(count, dtype=np.int64),
        np.empty(room, dtype=np.uint8),
        np.empty(room, dtype=np.int64),
        np.empty(room, dtype=np.int64),
        np.empty(room, dtype=np.int64),
    )
    fields, bits = np.zeros(_FIELDS, dtype=np.int64), np.zeros(1, dtype=np.int64)
    columns = (read.is_read, read.times, read.until, read.ops, read.ids, read.ts, read.places)
    _read_all(words, ends, fields, bits, *columns)
    return read


# ``words`` has the eight bytes that begin at each place, as one load is faster than eight, and ``at`` is a
# place. A place of -1 says that there is nothing that can be read here. What is at or beyond ``end`` may be
# loaded, but decides nothing.


@compiled
def _byte(words: U64, at: int) -> Any:
    return np.int64(words[at]) & 255


@compiled
def _big_endian(words: U64, at: int, size: int) -> Any:
    """The last 64 bits of a big-endian integer of 1 to 8 bytes."""
    low, high = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
    word = words[at]
    word = (word & low) << np.uint64(8) | word >> np.uint64(8) & low
    word = (word & high) << np.uint64(16) | word >> np.uint64(16) & high
    return np.int64((word << np.uint64(32) | word >> np.uint64(32)) >> np.uint64(64 - 8 * size))


@compiled
def _skipped(words: U64, at: int, end: int) -> Any:
    """Where the value at a place ends."""
    left = np.int64(1)  # values to come, those within containers among them
    containers = 0
    while left > 0:
        if at >= end:
            return -1
        head = _byte(words, at)
        left -= 1
        if head == 0xCD:  # as most token ids are: a branch foreseen is faster than waiting for a size
            at += 3
        elif _SIZES[head]:
            at += _SIZES[head]
        else:
            size, inner = _sized(words, at, end)
            containers += inner > 0
            if size < 0 or containers > _MOST_CONTAINERS:
                return -1
            left += inner
            at += size
    return at if at <= end else -1


@compiled
def _sized(words: U64, at: int, end: int) -> Any:
    """Bytes of a container's head or of a value with its length, and values within; -1 if it is neither."""
    head = _byte(words, at)
    if 0x90 <= head <= 0x9F:
        return 1, head & 15
    if 0x80 <= head <= 0x8F:
        return 1, (head & 15) * 2
    if 0xC4 <= head <= 0xC6:
        width, more = 1 << (head - 0xC4), 0
    elif 0xC7 <= head <= 0xC9:
        width, more = 1 << (head - 0xC7), 1  # the byte that tells an extension's kind
    elif 0xD9 <= head <= 0xDB:
        width, more = 1 << (head - 0xD9), 0
    elif 0xDC <= head <= 0xDF:
        width, more = 2 << (head & 1), 0
    else:
        return -1, 0
    if at + 1 + width > end:
        return -1, 0
    length = _big_endian(words, at + 1, width)
    if head >= 0xDC:
        return 1 + width, length if head <= 0xDD else length * 2
    return 1 + width + more + length, 0


@compiled
def _items(words: U64, at: int, end: int) -> Any:
    """How many values an array has, and where the first is; -1 if it is none."""
    head = _byte(words, at)
    if at < end and (0x90 <= head <= 0x9F or 0xDC <= head <= 0xDD):
        size, count = _sized(words, at, end)
        if size > 0:
            return count, at + size
    return -1, at


@compiled
def _string(words: U64, at: int, end: int) -> Any:
    """Where the characters of a string of up to 255 bytes begin, and how many they are; -1 if it is none."""
    head = _byte(words, at)
    if 0xA0 <= head <= 0xBF:
        start, length = at + 1, head & 31
    elif head == 0xD9:
        start, length = at + 2, _byte(words, at + 1)
    else:
        return at, -1
    return start, length if start + length <= end else -1


@compiled
def _meaning(words: U64, start: int, length: int, names: U64) -> Any:
    """What a string means among some names; 0 if it is none of them."""
    place = length & 15 | (_byte(words, start) & 8) << 1
    same = length == np.int64(names[place, 0])
    same &= words[start] & names[place, 2] == names[place, 1]
    same &= (length <= 8) | (words[start + max(length - 8, 0)] == names[place, 3])
    return np.int64(names[place, 4]) * same


@compiled
def _is_integer(head: int) -> Any:
    return head < 0x80 or head >= 0xE0 or 0xCC <= head <= 0xD3


@compiled
def _integer(words: U64, at: int) -> Any:
    """The integer at a place, which is complete; of unsigned ones the same 64 bits."""
    head = _byte(words, at)
    if head < 0x80:
        return head
    if head >= 0xE0:
        return head - 256
    size = _SIZES[head] - 1
    value = _big_endian(words, at + 1, size)
    if 0xD0 <= head <= 0xD2 and value >> (8 * size - 1):
        value -= np.int64(1) << (8 * size)
    return value


@compiled
def _number(words: U64, at: int) -> Any:
    """An integer that is not negative, 0 for nil; -1 if it is neither."""
    head = _byte(words, at)
    if head == _NIL:
        return 0
    return max(-1, _integer(words, at)) if _is_integer(head) else -1


@compiled
def _tier(words: U64, at: int, end: int) -> Any:
    """Place in ``TIERS`` of a medium; -1 if it is not known here."""
    if at == 0 or _byte(words, at) == _NIL:
        return 0
    start, length = _string(words, at, end)
    if length < 3 or length > 7:
        return -1
    name = words[start] & (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    if name == _GPU:
        return 0
    if name == _CPU:
        return 1
    return 2 if name in (_STORAGE, _DISK) else -1


@compiled
def _find_in_map(words: U64, at: int, end: int, fields: I64) -> Any:
    """Notes where the fields of an event are; returns its end, or -1."""
    size, items = _sized(words, at, end)
    if size < 0:
        return -1
    at += size
    found = 0
    for _ in range(items // 2):
        start, length = _string(words, at, end)
        if at >= end or length < 0:
            return -1
        field = _meaning(words, start, length, _FIELD_NAMES)
        if found >> field & 1:
            return -1  # given twice
        found |= (1 << field) & -2  # but for the unused ones
        at = start + length
        fields[field] = at
        size = _SIZES[_byte(words, at)]
        at = at + size if size else _skipped(words, at, end)
        if at < 0 or at > end:
            return -1
    return at


@compiled
def _find_in_row(words: U64, at: int, end: int, fields: I64) -> Any:
    """The same, of an event that is an array which begins with its type."""
    items, at = _items(words, at, end)
    if items < 1 or at >= end:
        return -1
    start, length = _string(words, at, end)
    is_removal = length > 0 and _meaning(words, start, length, _TYPE_NAMES) == _EVICT + 1
    row = _REMOVED_ROW if is_removal else _STORED_ROW
    for place in range(items):
        if place < len(row):
            fields[row[place]] = at
        at = _skipped(words, at, end)
        if at < 0:
            return -1
    return at


@compiled
def _operation(words: U64, fields: I64, end: int) -> Any:
    """The operation of an event; -1 if that is not known, or it has what is not read here."""
    if not fields[_TYPE]:
        return -1
    start, length = _string(words, fields[_TYPE], end)
    op = _meaning(words, start, length, _TYPE_NAMES) - 1 if length > 0 else -1
    if op != _CLEAR and not fields[_HASHES]:
        return -1
    if op == _STORE:
        for field in range(_LORA_ID, _LORA_NAME + 1):
            if fields[field] and _byte(words, fields[field]) != _NIL:
                return -1
    return op


@compiled
def _read_event(words: U64, at: int, end: int, fields: I64, ops: U8, ids: I64, places: I64, row: int) -> Any:
    """Writes the rows of an event, with its tier as their place; returns its end and the row after, or -1."""
    for field in range(_FIELDS):
        fields[field] = 0
    head = _byte(words, at)
    is_map = at < end and (0x80 <= head <= 0x8F or 0xDE <= head <= 0xDF)
    at = _find_in_map(words, at, end, fields) if is_map else _find_in_row(words, at, end, fields)
    op = _operation(words, fields, end) if at >= 0 else -1
    if op < 0 or row >= len(ids):
        return -1, row
    if op == _CLEAR:
        ops[row], ids[row], places[row] = op, 0, 0
        return at, row + 1
    tier = _tier(words, fields[_MEDIUM], end)
    group = _number(words, fields[_GROUP]) if fields[_GROUP] else 0
    items, hash_at = _items(words, fields[_HASHES], end)
    if tier < 0 or group < 0 or items < 0 or row + items > len(ids):
        return -1, row
    salt = mix_one(group) if group else 0
    for _ in range(items):
        head = _byte(words, hash_at)
        if head == 0xCF:  # as hashes are, but for one in thousands
            block = _big_endian(words, hash_at + 1, 8)
            hash_at += 9
        elif _is_integer(head):
            block = _integer(words, hash_at)
            hash_at += _SIZES[head]
        elif 0xC4 <= head <= 0xC6:
            size, _ = _sized(words, hash_at, end)
            first = max(hash_at + 1 + (1 << (head - 0xC4)), hash_at + size - 8)
            hash_at += size
            block = _big_endian(words, first, hash_at - first) if first < hash_at else 0
        else:
            return -1, row
        ops[row], ids[row], places[row] = op, block ^ salt, tier
        row += 1
    return at, row


@compiled
def _read_batch(words: U64, at: int, end: int, fields: I64, ops: U8, ids: I64, places: I64, row: int) -> Any:
    """Writes the rows of a batch; returns the row after them or -1, where its time is, and its rank."""
    items, time_at = _items(words, at, end)
    if items < 2 or _byte(words, time_at) != 0xCB:
        return -1, 0, 0
    events, at = _items(words, time_at + 9, end)
    if events < 0:
        return -1, 0, 0
    for _ in range(events):
        at, row = _read_event(words, at, end, fields, ops, ids, places, row)
        if at < 0:
            return -1, 0, 0
    rank = NO_RANK
    for item in range(2, items):
        after = _skipped(words, at, end)
        if after < 0:
            return -1, 0, 0
        if item == 2 and _byte(words, at) != _NIL:
            rank = _number(words, at)
            if rank < 0 or rank > MAX_RANK:
                return -1, 0, 0
        at = after
    return row if at == end else -1, time_at, rank


@compiled
def _read_all(
    words: U64,
    ends: I64,
    fields: I64,
    bits: I64,
    is_read: npt.NDArray[np.bool_],
    times: I64,
    until: I64,
    ops: U8,
    ids: I64,
    ts: I64,
    places: I64,
) -> None:
    """Fills in what ``ReadBatches`` says; ``fields`` and ``bits`` are room to work in."""
    row, start = 0, 0
    for batch in range(len(ends)):
        end, after, time_at, rank = ends[batch], -1, 0, 0
        if start < end:
            after, time_at, rank = _read_batch(words, start, end, fields, ops, ids, places, row)
        if after >= 0:
            bits[0] = _big_endian(words, time_at + 1, 8)
            seconds = bits.view(np.float64)[0]
            if 0 <= seconds < 2**63 / 1e9:
                # Apart, as the product of a whole time of today has no room for nanoseconds.
                whole = np.int64(seconds)
                time = whole * 1_000_000_000 + np.int64(np.rint((seconds - whole) * 1e9))
                is_read[batch], times[batch] = True, time
                for each in range(row, after):
                    ts[each] = time
                    places[each] += rank * len(TIERS)
                row = after
        until[batch] = row
        start = end
