# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, auto_pickle=False
"""Reads KV events: the bytes of msgpack batches straight into columns.

Every value of a batch is walked over, so that one that is torn is refused as a whole; what it has added until
then is taken back. Only the fields that are used are looked at, and of a field that is given twice the last
one. Token ids and extra keys may hold what users wrote: they are passed over by their size, but for vLLM's
cache salt, of which a keyed hash is kept.

Source: the msgpack format, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import struct

import numpy as np

if cython.compiled:  # pragma: no cover
    from cython.cimports.kvstream._core.native import CLEAR, EVICT, PREFIX, REMOVE, RESIDENT, STORE, as_signed
    from cython.cimports.libc.string import memcmp, memcpy
else:
    from kvstream._core.native import CLEAR, EVICT, PREFIX, REMOVE, RESIDENT, STORE, as_signed

from kvstream._core.ids import group_salt, name_salt
from kvstream.errors import MalformedInputError
from kvstream.events.frame import MAX_BLOCK_TOKENS, MAX_FRAME_EVENTS, label_number
from kvstream.events.types import MAX_RANK, Labels
from kvstream.text.names import bounded_name
from kvstream.text.pseudonym import pseudonym

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""Bytes of a batch."""

MAX_BATCH_EVENTS = 262_144
"""Events of a batch, each of which may be about many blocks."""

MAX_DEPTH = 500
"""Arrays and maps within each other."""

NO_RANK = -1
"""In place of the rank of batches that have none."""

_MAX_MALFORMED = 1000  # events of a batch, after which the rest of it counts as malformed, too
_MAX_OTHER_TIERS = 16  # that are not known beforehand; what is of any further ones is of the tier "other"
_FIRST_ROOM = 16  # rows of new columns, of which hostile batches may ask for many
_KEPT_MEDIA = 64  # of which the columns are found by their bytes
_FIRST_HASHES, _MOST_KEPT = 256, 65_536  # of an event, for which room is made at first, and kept
_MOST_SALTED = 16_384  # events with a salt that those that go on from them have, too; and those of a batch
_SPARE_ROOM, _SPARE_COLUMNS = 16_384, 2  # rows of columns that are kept empty, and how many of them

_UNKNOWN = cython.declare(cython.int, -1)
_NIL = cython.declare(cython.int, 0xC0)
_UINT64 = cython.declare(cython.int, 0xCF)
_NO_RANK = cython.declare(cython.int, NO_RANK)
_MOST_BYTES = cython.declare(cython.Py_ssize_t, MAX_PAYLOAD_BYTES)
_MOST_EVENTS = cython.declare(cython.longlong, MAX_BATCH_EVENTS)
_MOST_MALFORMED = cython.declare(cython.longlong, _MAX_MALFORMED)
_MOST_RANK = cython.declare(cython.int, MAX_RANK)
_MOST_NS = cython.declare(cython.double, 2.0**63)
_MILLISECONDS = cython.declare(cython.double, 1e11)  # as seconds these would be of the year 5138
_DEEPEST = cython.declare(cython.Py_ssize_t, MAX_DEPTH)
_MOST_TOKENS = cython.declare(cython.longlong, MAX_BLOCK_TOKENS)
_MOST_ROWS = cython.declare(cython.longlong, MAX_FRAME_EVENTS)


def _value_sizes():
    """Return the bytes of a value by its first byte; 0 where that alone does not say."""
    sizes = bytearray(256)
    sizes[:0x80] = b"\1" * 0x80  # integers in one byte
    sizes[0xE0:] = b"\1" * 0x20
    sizes[0xA0:0xC0] = bytes(range(1, 33))  # short strings
    sizes[0xC0] = sizes[0xC2] = sizes[0xC3] = 1  # nil, false, true
    sizes[0xCA:0xCC] = 5, 9  # floats
    sizes[0xCC:0xD0] = sizes[0xD0:0xD4] = 2, 3, 5, 9  # integers
    sizes[0xD4:0xD9] = 3, 4, 6, 10, 18  # short extensions
    return sizes


def _number_widths():
    """Return the bytes of the number that follows the first byte of a value: of its items, pairs or bytes."""
    widths = bytearray(256)
    widths[0xC4:0xC7] = widths[0xC7:0xCA] = widths[0xD9:0xDC] = 1, 2, 4  # bytes, extensions, strings
    widths[0xDC:0xDE] = widths[0xDE:0xE0] = 2, 4  # arrays, maps
    return widths


_SIZES = cython.declare(cython.uchar[::1], memoryview(_value_sizes()))
_WIDTHS = cython.declare(cython.uchar[::1], memoryview(_number_widths()))
_KINDS = (
    *((0x7F, "integer"), (0x8F, "map"), (0x9F, "array"), (0xBF, "string"), (0xC0, "nil"), (0xC3, "boolean")),
    *((0xC6, "bytes"), (0xC9, "extension"), (0xCB, "float"), (0xD3, "integer"), (0xD8, "extension")),
    *((0xDB, "string"), (0xDD, "array"), (0xDF, "map"), (0xFF, "integer")),
)
"""The last first byte of each kind of value, ascending."""


@cython.final
@cython.cclass
class _Columns:
    """The events of one rank and tier, in order."""

    place: tuple  # that rank and tier
    ops: cython.uchar[::1]
    blocks: cython.longlong[::1]
    ts: cython.longlong[::1]
    label_of: cython.ushort[::1]  # only where there are labels
    arrays: list  # those four
    sizes: list  # (row, tokens in a block) wherever that becomes another number, in order
    block_tokens: cython.longlong  # in the block stored last, 0 if that is unknown
    labels: dict  # numbers of labels in label_of
    numbers: dict  # the same by what the events say, as to make a label takes longer
    count: cython.Py_ssize_t  # rows
    room: cython.Py_ssize_t
    has_labels: cython.bint
    batch: cython.longlong  # the last one that it may have events of
    count_before: cython.Py_ssize_t  # that batch
    labels_before: cython.Py_ssize_t
    sizes_before: cython.Py_ssize_t
    size_before: cython.longlong

    def __init__(self):
        self.sizes_before = self.block_tokens = self.size_before = 0
        self.sizes = []
        self.count = self.room = self.count_before = self.labels_before = 0
        self.batch = 0
        self.place = ()
        self.labels, self.numbers = {}, {}
        self.arrays = [np.empty(0, dtype=kind) for kind in (np.uint8, np.int64, np.int64, np.uint16)]
        self._resize(_FIRST_ROOM, False)

    def _resize(self, room: cython.Py_ssize_t, has_labels: cython.bint):
        """Make room for rows, and for their labels if they have some."""
        lengths = room, room, room, room if has_labels else 0
        arrays = [np.empty(n, dtype=old.dtype) for n, old in zip(lengths, self.arrays, strict=True)]
        arrays[3].fill(0)
        for old, new in zip(self.arrays, arrays, strict=True):
            kept = min(self.count, len(old))
            new[:kept] = old[:kept]
        self.ops, self.blocks, self.ts, self.label_of = map(memoryview, arrays)
        self.arrays, self.room, self.has_labels = arrays, room, has_labels

    @cython.cfunc
    @cython.exceptval(-1)
    def see_to_room(self, rows: cython.Py_ssize_t) -> cython.int:
        """Have room for more rows."""
        if self.count + rows > self.room:
            self._resize(max(2 * self.room, self.count + rows), self.has_labels)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def label(self, given: tuple) -> cython.int:
        """Return the number, among the labels, of what an event says (``KVEventReader._given_labels``)."""
        number = self.numbers.get(given)
        if number is None:
            if not self.has_labels:
                self._resize(self.room, True)
            adapter, session, salt, group, kind = given
            labels = Labels(
                lora=bounded_name(adapter) if adapter else None,
                session=pseudonym("session", session) if session else None,
                salt=salt,
                cache_group=group,
                spec_kind=bounded_name(kind) if kind else None,
            )
            number = label_number(self.labels, labels)
            self.numbers[given] = number
        return number

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def append(
        self, op: cython.int, block: cython.longlong, ts: cython.longlong, label: cython.int
    ) -> cython.void:
        """Add a row, for which there is room."""
        self.ops[self.count] = op
        self.blocks[self.count] = block
        self.ts[self.count] = ts
        if self.has_labels:
            self.label_of[self.count] = label
        self.count += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def begin(self, batch: cython.longlong) -> cython.int:
        """Keep what there is, whatever becomes of the batch."""
        self.batch = batch
        self.count_before, self.labels_before = self.count, len(self.labels)
        self.sizes_before, self.size_before = len(self.sizes), self.block_tokens
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def note_size(self, tokens: cython.longlong) -> cython.int:
        """Take note of the tokens in the blocks that are stored from here on."""
        self.block_tokens = tokens
        self.sizes.append((self.count, tokens))
        return 0

    def undo(self):
        """Forget what the batch has added."""
        self.count = self.count_before
        self.batch = 0
        del self.sizes[self.sizes_before :]
        self.block_tokens = self.size_before
        while len(self.labels) > self.labels_before:
            self.labels.popitem()
            self.numbers.clear()

    def clear(self):
        """Forget all rows and labels."""
        self.count = self.batch = self.block_tokens = 0
        self.labels, self.numbers, self.sizes = {}, {}, []

    def taken(self):
        """Return copies of the columns (ops, blocks, ts, label_of or None), the labels, and the sizes."""
        ops, blocks, ts, label_of = self.arrays
        n = self.count
        labels = label_of[:n].copy() if self.labels else None
        return ops[:n].copy(), blocks[:n].copy(), ts[:n].copy(), labels, tuple(self.labels), self.sizes


@cython.final
@cython.cclass
class KVEventReader:
    """Reads batches of KV events into the columns of each rank and tier.

    Args:
        tier_of: Returns the tier of a medium, which is a string or None; raises ``MalformedInputError`` for a
            medium that is no valid one.
        known_tiers: Tiers that there are always room for, however many others are named.
        host_pools: Media that an engine clears with its device.

    Attributes:
        batches: Batches that were read.
        last_ts: Time of the last one, ns since the Unix epoch; 0 before the first.
        unknown_events: Events of a type that is not known here, which were skipped.
        is_snapshot: Whether what comes says what is cached, not what was stored; to be set.
    """

    is_snapshot = cython.declare(cython.bint, visibility="public")
    batches = cython.declare(cython.longlong, visibility="readonly")
    last_ts = cython.declare(cython.longlong, visibility="readonly")
    unknown_events = cython.declare(cython.longlong, visibility="readonly")
    _tier_of: object
    _pool_media: frozenset
    _tiers: dict  # all that have been seen, as keys
    _most_tiers: cython.Py_ssize_t
    _host_pools: dict  # ranks and tiers that a clear of the device ends as well, as keys
    _columns: dict  # by rank and tier
    _spare: list  # empty columns, as to make room again would take longer than to fill it
    _by_medium: dict  # columns by the bytes of a medium, for the current rank
    _current: _Columns  # those of the last medium
    _medium: bytes
    _rank: cython.longlong
    _group: cython.longlong
    _has_groups: cython.bint  # whether any other than 0 has come
    _salt: cython.longlong  # of that group
    _ownership: str
    _ownership_salt: cython.longlong
    _salted: dict  # pseudonyms of vLLM's cache salts by the last hash of an event
    _pseudonyms: dict  # of cache salts as they are, until the columns are taken
    _failures: list
    # The batch that is read:
    _batch: cython.longlong  # its number among all
    _place: cython.Py_ssize_t  # its place among those that are read now
    _payload: bytes
    _data: cython.p_const_uchar  # its bytes
    _end: cython.Py_ssize_t
    _ts: cython.longlong
    _rows: cython.longlong
    _unknown: cython.longlong
    _malformed: cython.longlong
    _failures_before: cython.Py_ssize_t
    _tiers_before: cython.Py_ssize_t
    _pools_before: cython.Py_ssize_t
    _salted_before: cython.Py_ssize_t
    _had_groups: cython.bint
    _touched: list  # columns that it may have added to
    # The event that is read:
    _event: cython.longlong  # its place in the batch
    _event_at: cython.Py_ssize_t
    _hashes: cython.longlong[::1]
    _left: cython.longlong[::1]  # values to come in each container around the one that is passed over
    # Places of what was found last, 0 for what is missing:
    _name_at: cython.Py_ssize_t
    _name_size: cython.Py_ssize_t
    _type_at: cython.Py_ssize_t
    _hashes_at: cython.Py_ssize_t
    _block_size_at: cython.Py_ssize_t
    _lora_id_at: cython.Py_ssize_t
    _session_at: cython.Py_ssize_t
    _cache_salt_at: cython.Py_ssize_t
    _kind_at: cython.Py_ssize_t
    _medium_at: cython.Py_ssize_t
    _lora_name_at: cython.Py_ssize_t
    _group_at: cython.Py_ssize_t
    _locality_at: cython.Py_ssize_t
    _parent_at: cython.Py_ssize_t
    _origin_at: cython.Py_ssize_t
    _remaining_at: cython.Py_ssize_t
    _ownership_at: cython.Py_ssize_t
    _extra_keys_at: cython.Py_ssize_t  # where the first of them are not nil, or there are many
    # The last removal of one block in the batch, as the next ones mostly are the same but for their hash:
    _removal_at: cython.Py_ssize_t  # 0 for none
    _removal_hash: cython.Py_ssize_t  # bytes before its hash
    _removal_size: cython.Py_ssize_t
    _removal_salt: cython.longlong
    _removal_columns: _Columns
    _is_map: cython.bint  # whether the event is a map
    _has_rare: cython.bint  # whether it has a field that few have, so that all others need not look for it

    def __init__(self, tier_of, known_tiers, host_pools):
        self.batches = self.last_ts = self.unknown_events = 0
        self.is_snapshot = self._has_groups = False
        self._tier_of, self._pool_media = tier_of, frozenset(host_pools)
        self._tiers = dict.fromkeys(known_tiers)
        self._most_tiers = len(self._tiers) + _MAX_OTHER_TIERS
        self._columns, self._by_medium, self._host_pools = {}, {}, {}
        self._current, self._medium = None, b""
        self._removal_columns = None
        self._ownership, self._ownership_salt = "", as_signed(name_salt(""))
        self._rank = NO_RANK
        self._batch = self._group = self._salt = 0
        self._has_rare = True  # so that the first event begins with none
        self._salted, self._pseudonyms = {}, {}
        self._touched, self._spare = [], []
        self._payload = b""
        self._data = self._payload
        self._left = memoryview(np.zeros(MAX_DEPTH, dtype=np.int64))
        self._hashes = memoryview(np.zeros(_FIRST_HASHES, dtype=np.int64))

    def read(self, payloads):
        """Add the events of some batches to the columns.

        A batch that cannot be read adds nothing; a malformed event is skipped.

        Args:
            payloads: The bytes of each batch.

        Returns:
            What could not be read, in order: (place of the batch in ``payloads``, what of it: ``batch``,
            ``event`` or, if there was no memory for the batch, ``memory``; what is wrong; how many of them).
        """
        failures = self._failures = []
        for place, payload in enumerate(payloads):
            self._place = place
            try:
                self._read_payload(payload)
            except MalformedInputError as error:
                self._undo()
                failures.append((place, "batch", str(error), 1))
            except MemoryError:
                self._undo()
                failures.append((place, "memory", "", 1))
        self._failures, self._payload = None, b""
        return failures

    def take(self):
        """Return what was read: (rank, tier, ops, blocks, ts, label_of or None, labels, sizes) of each cache.

        Each rank (or ``NO_RANK``) and tier that has events is there once, in ascending order. Sizes are rows
        at which the tokens in a block change, each with their new number. What is taken is not kept.
        """
        every, self._columns, self._current = self._columns, {}, None
        self._by_medium.clear()
        self._pseudonyms.clear()
        if len(self._hashes) > _MOST_KEPT:
            self._hashes = memoryview(np.zeros(_FIRST_HASHES, dtype=np.int64))
        taken = []
        columns: _Columns
        for place, columns in sorted(every.items()):
            if columns.count:
                taken.append((*place, *columns.taken()))
            self._put_away(columns)
        return taken

    # The batch.

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_payload(self, payload: object) -> cython.int:
        """Read a batch."""
        self._batch += 1
        self._failures_before, self._tiers_before = len(self._failures), len(self._tiers)
        self._pools_before = len(self._host_pools)
        if len(self._salted) > _MOST_SALTED:
            self._salted = dict(list(self._salted.items())[_MOST_SALTED // 2 :])
        self._salted_before = len(self._salted)
        self._had_groups = self._has_groups
        self._touched.clear()
        self._end = len(payload)
        if self._end > _MOST_BYTES:
            raise MalformedInputError(f"batch of {self._end:,} bytes is longer than {_MOST_BYTES:,}")
        self._payload = payload
        self._data = self._payload
        try:
            if self._end == 0:
                raise _torn()
            if _is_array(self._data[0]):
                self._read_array()
            elif _is_map(self._data[0]):
                self._read_map()
            else:
                raise self._unexpected("the message", 0)
        except MalformedInputError as error:
            raise MalformedInputError(f"not a batch of KV events: {error}") from None
        if self._ts < 0:
            raise MalformedInputError("the time of the batch is no number of seconds since 1970")
        self.batches += 1
        self.last_ts = self._ts
        self.unknown_events += self._unknown
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_array(self) -> cython.int:
        """Read a batch that is an array: its time, its events, perhaps its rank, and what nobody knows.

        The rank comes last. Until it is there it is taken to be that of the batch before.
        """
        items: cython.longlong = self._count(0)
        if items < 2:
            raise MalformedInputError("it has no ts or no events")
        ts_at: cython.Py_ssize_t = self._inside(0)
        events_at: cython.Py_ssize_t = self._after(ts_at)
        self._ts = self._time(ts_at)
        at: cython.Py_ssize_t = self._read_events(events_at)
        rank_at: cython.Py_ssize_t = at if items > 2 else 0
        _: cython.longlong
        for _ in range(2, items):
            at = self._after(at)
        self._see_to_end(at)
        if self._is_new_rank(rank_at):
            self._undo()
            self._read_events(events_at)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_map(self) -> cython.int:
        """Read a batch that is a map."""
        fields: cython.longlong = self._count(0)
        at: cython.Py_ssize_t = self._inside(0)
        ts_at: cython.Py_ssize_t = 0
        events_at: cython.Py_ssize_t = 0
        rank_at: cython.Py_ssize_t = 0
        _: cython.longlong
        for _ in range(fields):
            at = self._after_name(at)
            if self._is_name(b"ts", 2):
                ts_at = at
            elif self._is_name(b"events", 6):
                events_at = at
            elif self._is_name(b"data_parallel_rank", 18):
                rank_at = at
            at = self._after(at)
        self._see_to_end(at)
        if ts_at == 0 or events_at == 0:
            raise MalformedInputError("it has no ts or no events")
        self._ts = self._time(ts_at)
        self._is_new_rank(rank_at)
        self._read_events(events_at)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _see_to_end(self, at: cython.Py_ssize_t) -> cython.int:
        """Refuse a payload that goes on behind the batch."""
        if at < self._end:
            raise MalformedInputError(f"{self._end - at:,} bytes follow it")
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _is_new_rank(self, at: cython.Py_ssize_t) -> cython.int:
        """Return whether the rank of the batch is not that of the one before, and make it the current one."""
        rank: cython.longlong = _NO_RANK
        if not self._is_missing(at):
            rank = self._bits(at) if _is_integer(self._data[at]) else -1
            if not 0 <= rank <= _MOST_RANK:
                raise MalformedInputError(f"data_parallel_rank: not an integer from 0 to {MAX_RANK}")
        if rank == self._rank:
            return 0
        self._rank, self._current = rank, None
        self._by_medium.clear()
        return 1

    @cython.cfunc
    @cython.exceptval(-2, check=True)
    def _time(self, at: cython.Py_ssize_t) -> cython.longlong:
        """Return the time of the batch, ns since the Unix epoch; -1 for a number that is no such time."""
        head: cython.int = self._data[at]
        seconds: cython.double
        if head == 0xCB:
            seconds = _double(self._word(at + 1, 8))
        elif head == 0xCA:
            seconds = struct.unpack_from(">f", self._payload, at + 1)[0]
        elif _is_integer(self._data[at]):
            seconds = float(self._integer(at))
        else:
            raise self._unexpected("ts", at)
        return _nanoseconds(seconds)

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_events(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Add the events of the batch to the columns; return their end."""
        self._rows = self._unknown = self._malformed = self._removal_at = 0
        if at >= self._end:
            raise _torn()
        if not _is_array(self._data[at]):
            raise self._unexpected("events", at)
        count: cython.longlong = self._count(at)
        if count > _MOST_EVENTS:
            raise MalformedInputError(f"{count:,} events are more than {_MOST_EVENTS:,}")
        self._event, self._event_at = 0, self._inside(at)
        while self._event < count and self._rows <= _MOST_ROWS and self._malformed < _MOST_MALFORMED:
            try:
                self._read_good_events(count)
            except MalformedInputError as error:
                # Where the batch itself is malformed, to pass over the event raises again.
                self._event_at = self._after(self._event_at)
                self._fail(str(error), 1)
                self._event += 1
                self._malformed += 1
        if self._event < count:
            self._fail("it comes after too many blocks or malformed events", count - self._event)
        while self._event < count:
            self._event_at = self._after(self._event_at)
            self._event += 1
        return self._event_at

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_good_events(self, count: cython.longlong) -> cython.int:
        """Read events up to one that is malformed, which raises, or to a bound."""
        while self._event < count and self._rows <= _MOST_ROWS:
            if self._removal_at and self._is_such_removal(self._event_at):
                self._add_such_removal()
            else:
                self._event_at = self._read_event(self._event_at)
            self._event += 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _is_such_removal(self, at: cython.Py_ssize_t) -> cython.bint:
        """Return whether an event is the same as the last removal, but for its hash."""
        before: cython.Py_ssize_t = self._removal_hash
        after: cython.Py_ssize_t = before + 8
        size: cython.Py_ssize_t = self._removal_size
        return (
            at + size <= self._end
            and _is_same(self._data, at, self._removal_at, before)
            and _is_same(self._data, at + after, self._removal_at + after, size - after)
        )

    @cython.cfunc
    @cython.exceptval(-1)
    def _add_such_removal(self) -> cython.int:
        """Add a row for an event that is the same as the last removal, but for its hash."""
        columns: _Columns = self._removal_columns
        columns.see_to_room(1)
        block: cython.longlong = as_signed(self._eight(self._event_at + self._removal_hash))
        columns.append(EVICT, block ^ self._removal_salt, self._ts, 0)
        self._rows += 1
        self._event_at += self._removal_size
        return 0

    def _fail(self, why, events):
        """Note that events of the batch, from the current one on, cannot be read."""
        self._failures.append((self._place, "event", f"event {self._event} of the batch: {why}", events))

    def _undo(self):
        """Forget what the batch has added."""
        columns: _Columns
        for columns in self._touched:
            columns.undo()
            if columns.count == 0:
                # Or else refused batches of ever new ranks and tiers would fill the memory.
                del self._columns[columns.place]
                self._put_away(columns)
        self._touched.clear()
        self._current = None
        self._by_medium.clear()
        while len(self._tiers) > self._tiers_before:
            self._tiers.popitem()
        while len(self._host_pools) > self._pools_before:
            self._host_pools.popitem()
        while len(self._salted) > self._salted_before:
            self._salted.popitem()
        del self._failures[self._failures_before :]
        self._has_groups = self._had_groups

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_away(self, columns: _Columns) -> cython.int:
        """Keep columns for the next place that needs some, if they are small and few."""
        if columns.room <= _SPARE_ROOM and len(self._spare) < _SPARE_COLUMNS:
            columns.clear()
            self._spare.append(columns)
        return 0

    # An event.

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_event(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Add the rows of an event to the columns; return its end."""
        self._type_at = self._hashes_at = self._medium_at = self._group_at = 0
        self._parent_at = self._block_size_at = self._kind_at = 0
        if self._has_rare:
            self._has_rare = False
            self._lora_id_at = self._lora_name_at = self._locality_at = self._ownership_at = 0
            self._origin_at = self._remaining_at = self._session_at = self._cache_salt_at = 0
            self._extra_keys_at = 0
        end: cython.Py_ssize_t
        if at >= self._end:
            raise _torn()
        self._is_map = _is_map(self._data[at])
        if self._is_map:
            end = self._find_fields(at)
        elif _is_array(self._data[at]):
            end = self._find_items(at)
        else:
            raise self._unexpected("the event", at)
        op: cython.int = self._operation()
        if op == _UNKNOWN:
            self._unknown += 1
        elif op == CLEAR:
            self._add_clear()
        else:
            self._add_blocks(op)
            if op == EVICT and not self._has_rare and self._count(self._hashes_at) == 1:
                self._note_removal(at, end)
        return end

    @cython.cfunc
    @cython.exceptval(-1)
    def _note_removal(self, at: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """Take note of a removal of one block, which was added last, if its hash has eight bytes."""
        hash_at: cython.Py_ssize_t = self._inside(self._hashes_at)
        if self._data[hash_at] == _UINT64:
            self._removal_at, self._removal_hash, self._removal_size = at, hash_at + 1 - at, end - at
            self._removal_salt, self._removal_columns = self._read_salt(), self._current
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_fields(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Find the fields of an event that is a map; return its end."""
        fields: cython.longlong = self._count(at)
        _: cython.longlong
        name: cython.Py_ssize_t
        size: cython.Py_ssize_t
        data: cython.p_const_uchar = self._data
        end: cython.Py_ssize_t = self._end
        at = self._inside(at)
        for _ in range(fields):
            if at < end and 0xA0 <= data[at] <= 0xBF:  # as all names are: a call would take longer
                name, size = at + 1, data[at] & 0x1F
                at = name + size
                if at >= end:
                    raise _torn()
            else:
                at = self._after_name(at)
                name, size = self._name_at, self._name_size
            # By size, so that it becomes a jump; by first letter, where nearly all names of a size are alike.
            if size == 12:
                if _is_at(data, name, b"block_hashes", 12):
                    self._hashes_at = at
            elif size == 9:
                if data[name] == 0x67:  # g
                    if _is_at(data, name, b"group_idx", 9):
                        self._group_at = at
                elif data[name] == 0x6C:  # l
                    if (self._has_rare or at >= end or data[at] != _NIL) and _is_at(
                        data, name, b"lora_name", 9
                    ):
                        self._lora_name_at, self._has_rare = at, True
                elif data[name] == 0x6F and _is_at(data, name, b"ownership", 9):  # o
                    self._ownership_at, self._has_rare = at, True
            elif size == 10:
                if data[name] == 0x62:  # b
                    if _is_at(data, name, b"block_size", 10):
                        self._block_size_at = at
                elif data[name] == 0x65:  # e
                    if (self._has_rare or at + 1 >= end or data[at + 1] != _NIL) and _is_at(
                        data, name, b"extra_keys", 10
                    ):
                        self._extra_keys_at, self._has_rare = at, True
                elif _is_at(data, name, b"session_id", 10):
                    self._session_at, self._has_rare = at, True
                elif _is_at(data, name, b"cache_salt", 10):
                    self._cache_salt_at, self._has_rare = at, True
            elif size == 6:
                if _is_at(data, name, b"medium", 6):
                    self._medium_at = at
                elif _is_at(data, name, b"origin", 6):
                    self._origin_at, self._has_rare = at, True
            elif size == 4:
                if _is_at(data, name, b"type", 4):
                    self._type_at = at
            elif size == 17:
                if _is_at(data, name, b"parent_block_hash", 17):
                    self._parent_at = at
            elif size == 7:
                if (self._has_rare or at >= end or data[at] != _NIL) and _is_at(data, name, b"lora_id", 7):
                    self._lora_id_at, self._has_rare = at, True
            elif size == 8:
                if _is_at(data, name, b"locality", 8):
                    self._locality_at, self._has_rare = at, True
            elif size == 18:
                if _is_at(data, name, b"kv_cache_spec_kind", 18):
                    self._kind_at = at
            elif size == 21:
                if _is_at(data, name, b"remaining_copy_counts", 21):
                    self._remaining_at, self._has_rare = at, True
            at = self._next(at)
        if at > end:
            raise _torn()
        return at

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_items(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Find the fields of an event that is an array, which begins with its type; return its end."""
        items: cython.longlong = self._count(at)
        item: cython.longlong
        if items == 0:
            raise MalformedInputError("an empty array")
        at = self._type_at = self._inside(at)
        op: cython.int = self._operation()
        self._has_rare = items > (3 if op == EVICT else 5)
        for item in range(items):
            if op == CLEAR:
                if item == 1:
                    self._medium_at = at
            elif item == 1:
                self._hashes_at = at
            elif op == EVICT:
                if item == 2:
                    self._medium_at = at
                elif item == 3:
                    self._group_at = at
                elif item == 4:
                    self._locality_at = at
                elif item == 5:
                    self._ownership_at = at
            elif item == 2:
                self._parent_at = at
            elif item == 4:
                self._block_size_at = at
            elif item == 5:
                self._lora_id_at = at
            elif item == 6:
                self._medium_at = at
            elif item == 7:
                if at >= self._end or not _is_map(self._data[at]):
                    self._lora_name_at = at
                else:  # SGLang has its cache salt here
                    self._find_salt(at)
            elif item == 8:
                self._extra_keys_at = at
            elif item == 9:
                self._group_at = at
            elif item == 10:
                self._kind_at = at
            elif item == 12:
                self._locality_at = at
            elif item == 13:
                self._ownership_at = at
            elif item == 14:
                self._session_at = at
            at = self._after(at)
        return at

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_salt(self, at: cython.Py_ssize_t) -> cython.int:
        """Find the cache salt in a map."""
        fields: cython.longlong = self._count(at)
        _: cython.longlong
        at = self._inside(at)
        for _ in range(fields):
            if at >= self._end:
                raise _torn()
            if _is_text(self._data[at]):
                at = self._after_name(at)
                if self._is_name(b"cache_salt", 10):
                    self._cache_salt_at = at
            else:
                at = self._after(at)
            at = self._after(at)
        return 0

    @cython.cfunc
    @cython.exceptval(-2)
    def _operation(self) -> cython.int:
        """Return what the event's type means; ``_UNKNOWN`` for a type that is not known here."""
        at: cython.Py_ssize_t = self._type_at
        if at == 0:
            raise MalformedInputError("it has no type")
        if at + 13 <= self._end:  # as nearly all types are
            if self._data[at] == 0xAC and _is_at(self._data, at + 1, b"BlockRemoved", 12):
                return EVICT
            if self._data[at] == 0xAB and _is_at(self._data, at + 1, b"BlockStored", 11):
                return STORE
        self._after_name(at)
        if self._is_name(b"BlockRemoved", 12):
            return EVICT
        if self._is_name(b"BlockStored", 11):
            return STORE
        if self._is_name(b"AllBlocksCleared", 16):
            return CLEAR
        self._text(self._type_at, "type")  # as a name must be text
        return _UNKNOWN

    def _add_clear(self):
        """Add a clear of the event's medium, or else of the device and of host pools that go with it."""
        if not self._is_missing(self._medium_at) or not self._is_missing(self._locality_at):
            cleared = [self._columns_of_medium()]
        else:
            cleared = [self._columns_of("GPU")]
            cleared += [self._columns_at(place) for place in self._host_pools if place[0] == self._rank]
        columns: _Columns
        for columns in cleared:
            columns.see_to_room(1)
            columns.append(CLEAR, 0, self._ts, 0)
        self._rows += len(cleared)

    @cython.cfunc
    @cython.exceptval(-1)
    def _add_blocks(self, op: cython.int) -> cython.int:
        """Add a row for each block of the event; nothing if any field of it is malformed."""
        count: cython.longlong = self._read_hashes()
        salt: cython.longlong = self._read_salt()
        labels: tuple = None
        is_reused: cython.bint = False
        has_groups: cython.bint = self._has_groups
        if not has_groups and self._group_at and self._group and not self._is_missing(self._group_at):
            has_groups = True
        if op == STORE:
            if self._has_rare or has_groups or self._salted:
                labels = self._given_labels(has_groups)
            if self.is_snapshot:
                op = RESIDENT
            elif self._is_map and self._is_prefix(count):
                op, is_reused = PREFIX, not self._is_missing(self._origin_at)
        elif not self._is_missing(self._remaining_at):
            op, count = REMOVE, self._keep_gone(count)
        columns: _Columns = self._columns_of_medium()
        if self._block_size_at and count and op not in (EVICT, REMOVE):
            self._note_size(columns)
        columns.see_to_room(2 * count if is_reused else count)
        label: cython.int = 0
        if labels is not None:
            label = columns.label(labels)
            if labels[2] is not None and count:
                self._salted.setdefault(self._hashes[count - 1], labels[2])
        place: cython.longlong
        for place in range(count):
            if is_reused:  # so that it was there before, whether that was seen or not
                columns.append(RESIDENT, self._hashes[place] ^ salt, self._ts, label)
            columns.append(op, self._hashes[place] ^ salt, self._ts, label)
        self._rows += 2 * count if is_reused else count
        self._has_groups = has_groups
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _note_size(self, columns: _Columns) -> cython.int:
        """Take note of the event's block size, if it is one."""
        at: cython.Py_ssize_t = self._block_size_at
        tokens: cython.longlong = self._bits(at) if _is_integer(self._data[at]) else 0
        if tokens != columns.block_tokens and 0 < tokens <= _MOST_TOKENS:
            columns.note_size(tokens)
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _is_prefix(self, count: cython.longlong) -> cython.int:
        """Return whether a store, a map, is about a request's prefix, also what of it was in the cache.

        Its origin says so. Where none is given, vLLM's report mode ``full`` gives all that a request found
        from the first block on, as a map without a parent: what it has computed anew has one then. A single
        such block may as well be another copy, which a prompt makes whose only block was found. Arrays are of
        SGLang, whose split nodes are no hits, or of vLLM before that mode.
        """
        if not self._is_missing(self._origin_at):
            return self._text(self._origin_at, "origin") == "REUSED"
        return count > 1 and self._is_missing(self._parent_at)

    @cython.cfunc
    @cython.exceptval(-1)
    def _read_hashes(self) -> cython.longlong:
        """Read the hashes of the event as ids; return how many there are."""
        at: cython.Py_ssize_t = self._hashes_at
        if at == 0:
            raise MalformedInputError("it has no block_hashes")
        if not _is_array(self._data[at]):
            raise self._unexpected("block_hashes", at)
        count: cython.longlong = self._count(at)
        if count > _MOST_ROWS:
            raise MalformedInputError(f"{count:,} block hashes are more than {_MOST_ROWS:,}")
        if count > len(self._hashes):
            self._hashes = memoryview(np.empty(count, dtype=np.int64))
        place: cython.longlong
        at = self._inside(at)
        for place in range(count):
            if self._data[at] == 0xCF:  # as hashes are, but for one in thousands
                self._hashes[place] = as_signed(self._eight(at + 1))
                at += 9
            else:
                self._hashes[place] = self._hash(at)
                at = self._after(at)
        return count

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def _hash(self, at: cython.Py_ssize_t) -> cython.longlong:
        """Return a block hash as an id.

        Of bytes these are the last eight, big-endian, as vLLM folds them; signed and unsigned integers of the
        same bits are the same.
        """
        head: cython.int = self._data[at]
        if not _is_hash(head):
            raise self._unexpected("a block hash", at)
        if _is_integer(head):
            return self._bits(at)
        size: cython.Py_ssize_t = self._count(at)
        at = self._inside(at) + size
        size = min(size, 8)
        return as_signed(self._word(at - size, size))

    @cython.cfunc
    @cython.exceptval(-1)
    def _keep_gone(self, count: cython.longlong) -> cython.longlong:
        """Keep the hashes of which no copy remains; return how many these are."""
        at: cython.Py_ssize_t = self._remaining_at
        if not _is_array(self._data[at]):
            raise self._unexpected("remaining_copy_counts", at)
        if self._count(at) != count:
            raise MalformedInputError("remaining_copy_counts and block_hashes differ in length")
        gone: cython.longlong = 0
        place: cython.longlong
        at = self._inside(at)
        for place in range(count):
            if not _is_integer(self._data[at]):
                raise self._unexpected("a count of copies", at)
            if self._bits(at) == 0:
                self._hashes[gone] = self._hashes[place]
                gone += 1
            at += _SIZES[self._data[at]]
        return gone

    @cython.cfunc
    @cython.exceptval(-1, check=True)
    def _read_salt(self) -> cython.longlong:
        """Return what is xored to the ids, by the event's cache group and ownership."""
        at: cython.Py_ssize_t = self._group_at
        salt: cython.longlong = 0
        if not self._is_missing(at):
            if not _is_integer(self._data[at]):
                raise self._unexpected("group_idx", at)
            group: cython.longlong = self._bits(at)
            if group != self._group:
                self._salt = as_signed(group_salt(group)) if group else 0
                self._group = group
            salt = self._salt
        if self._ownership_at and not self._is_missing(self._ownership_at):
            ownership = self._text(self._ownership_at, "ownership")
            if ownership != self._ownership:
                self._ownership, self._ownership_salt = ownership, as_signed(name_salt(ownership))
            salt ^= self._ownership_salt
        return salt

    def _given_labels(self, has_groups: cython.bint):
        """Return what the event says of (adapter, session, salt, group, kind); None if nothing.

        Groups are labels where there are several, from the first on that is not 0.
        """
        adapter, session = self._adapter(), self._opaque(self._session_at)
        group = kind = None
        if has_groups:
            group = str(0 if self._is_missing(self._group_at) else self._group)
            if self._kind_at and _is_text(self._data[self._kind_at]):
                kind = self._opaque(self._kind_at)
        given = adapter, session, self._cache_salt(bool(adapter)), group, kind
        return given if any(given) else None

    def _cache_salt(self, has_adapter: cython.bint):
        """Return the pseudonym of the event's cache salt; None if it has none.

        vLLM publishes it among the extra keys of a prompt's first block alone; what follows that has it, too.
        """
        at: cython.Py_ssize_t = self._cache_salt_at
        if self._is_missing(at):
            if not self._is_missing(self._parent_at):
                is_known = self._salted and _is_hash(self._data[self._parent_at])
                return self._salted.get(self._hash(self._parent_at)) if is_known else None
            at = self._salt_in_extra_keys(has_adapter)
        return self._pseudonym(self._opaque(at))

    def _pseudonym(self, salt):
        """Return the pseudonym of a cache salt; None for none."""
        if not salt:
            return None
        name = self._pseudonyms.get(salt)
        if name is None:
            name = self._pseudonyms[salt] = pseudonym("salt", salt)
        return name

    @cython.cfunc
    @cython.exceptval(-1)
    def _salt_in_extra_keys(self, has_adapter: cython.bint) -> cython.Py_ssize_t:
        """Return where the cache salt is among the extra keys of the event's first block; 0 if it is not.

        There are, in order: the name of an adapter; pairs for what is not text; the salt; digests, as bytes.
        """
        at: cython.Py_ssize_t = self._extra_keys_at
        if at == 0 or not _is_array(self._data[at]) or self._count(at) == 0:
            return 0
        at = self._inside(at)
        if not _is_array(self._data[at]):
            return 0
        keys: cython.longlong = self._count(at)
        key: cython.longlong
        at = self._inside(at)
        for key in range(keys):
            if _is_text(self._data[at]) and not (has_adapter and key == 0):
                return at
            at = self._after(at)
        return 0

    def _opaque(self, at: cython.Py_ssize_t):
        """Return the bytes of a string, of bytes, or of the digits of an integer; none of anything else."""
        if self._is_missing(at):
            return b""
        head: cython.int = self._data[at]
        if _is_text(head) or 0xC4 <= head <= 0xC6:
            start = self._inside(at)
            return self._payload[start : start + self._count(at)]
        return str(self._integer(at)).encode() if _is_integer(head) else b""

    def _adapter(self):
        """Return the event's LoRA adapter, by its name or else by its number; an empty string for none."""
        name, at = self._text(self._lora_name_at, "lora_name"), self._lora_id_at
        is_number = at and _is_integer(self._data[at])
        number = str(self._integer(at)) if is_number else self._text(at, "lora_id")
        return name or number or ""

    @cython.cfunc
    def _columns_of_medium(self) -> _Columns:
        """Return the columns of the event's medium, or of remote blocks where its locality says so."""
        if self._locality_at and self._text(self._locality_at, "locality") == "REMOTE":
            self._tier_of(self._text(self._medium_at, "medium"))  # as it must be a name
            return self._columns_of("REMOTE")
        at: cython.Py_ssize_t = self._medium_at
        size: cython.Py_ssize_t = self._next(at) - at if at else 0
        if (
            self._current is None
            or size != len(self._medium)
            or not _is_at(self._data, at, self._medium, size)
        ):
            medium: bytes = self._payload[at : at + size]
            columns = self._by_medium.get(medium)
            if columns is None:
                columns = self._columns_of(self._text(at, "medium"))
                if len(self._by_medium) < _KEPT_MEDIA:
                    self._by_medium[medium] = columns
            self._current, self._medium = columns, medium
        self._touch(self._current)
        return self._current

    def _columns_of(self, medium):
        """Return the columns of a medium by its name, or None."""
        tier = self._tier_of(medium)
        if tier not in self._tiers:
            if len(self._tiers) < self._most_tiers:
                self._tiers[tier] = None
            else:
                tier = "other"
        if medium in self._pool_media:
            self._host_pools[self._rank, tier] = None
        return self._columns_at((self._rank, tier))

    def _columns_at(self, place):
        """Return the columns of a rank and tier."""
        columns: _Columns = self._columns.get(place)
        if columns is None:
            columns = self._spare.pop() if self._spare else _Columns()
            columns.place = place
            self._columns[place] = columns
        self._touch(columns)
        return columns

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _touch(self, columns: _Columns) -> cython.int:
        """Let columns be as they are now if the batch is refused."""
        if columns.batch != self._batch:
            columns.begin(self._batch)
            self._touched.append(columns)
        return 0

    # A value. What says where it ends looks out for the end of the payload; the rest is for whole values.

    @cython.cfunc
    @cython.exceptval(-1)
    def _after(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Return the end of a value.

        Raises:
            MalformedInputError: If it is torn, nested too deep, or has a byte that is not of msgpack.
        """
        left: cython.longlong = 1  # values to come in the innermost container
        depth: cython.Py_ssize_t = 0
        head: cython.int
        size: cython.Py_ssize_t
        data: cython.p_const_uchar = self._data
        end: cython.Py_ssize_t = self._end
        while True:
            while left == 0:
                if depth == 0:
                    if at > end:
                        raise _torn()
                    return at
                depth -= 1
                left = self._left[depth]
            if at >= end:
                raise _torn()
            head = data[at]
            left -= 1
            if head == 0xCD:  # as most token ids: branches that are foreseen are faster than a size looked up
                at += 3
                while (
                    left >= 4
                    and at + 9 < end
                    and data[at] == 0xCD
                    and data[at + 3] == 0xCD
                    and data[at + 6] == 0xCD
                    and data[at + 9] == 0xCD
                ):
                    at += 12
                    left -= 4
                while left and at < end and data[at] == 0xCD:
                    at += 3
                    left -= 1
                continue
            size = _SIZES[head]
            if size:
                at += size
            elif head <= 0x9F or head >= 0xDC:
                if depth == _DEEPEST:
                    raise MalformedInputError(f"it is nested more than {MAX_DEPTH} deep")
                self._left[depth] = left
                depth += 1
                left = self._count(at) if _is_array(head) else 2 * self._count(at)
                at = self._inside(at)
            elif head != 0xC1:
                at = self._inside(at) + self._count(at) + (0xC7 <= head <= 0xC9)  # the kind of an extension
            else:
                raise MalformedInputError(f"byte {at} is 0xc1, with which no value begins")

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _next(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Return the end of a value, which may be beyond that of the payload."""
        head: cython.int = self._data[at] if at < self._end else 0xC1
        if head <= 0x7F or head == 0xC0:
            return at + 1
        if 0xA0 <= head <= 0xBF:
            return at + 1 + (head & 0x1F)
        if head == 0xCF:
            return at + 9
        return self._after(at)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _after_name(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Find the characters of a name, which is a string; return its end."""
        if at < self._end and 0xA0 <= self._data[at] <= 0xBF:
            self._name_at, self._name_size = at + 1, self._data[at] & 0x1F
        else:
            self._find_long_name(at)
        at = self._name_at + self._name_size
        if at > self._end:
            raise _torn()
        return at

    @cython.cfunc
    @cython.exceptval(-1)
    def _find_long_name(self, at: cython.Py_ssize_t) -> cython.int:
        """Find the characters of a name of any size."""
        if at >= self._end:
            raise _torn()
        if not _is_text(self._data[at]):
            raise self._unexpected("a name", at)
        self._name_at, self._name_size = self._inside(at), self._count(at)
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _count(self, at: cython.Py_ssize_t) -> cython.longlong:
        """Return the number that the head of a value gives: of items, of pairs, or of bytes."""
        head: cython.int = self._data[at]
        if head <= 0x9F:
            return head & 0x0F
        if head <= 0xBF:
            return head & 0x1F
        return self._long_count(at)

    @cython.cfunc
    @cython.exceptval(-1)
    def _long_count(self, at: cython.Py_ssize_t) -> cython.longlong:
        """Return the number behind the first byte of a value."""
        if self._inside(at) > self._end:
            raise _torn()
        return self._word(at + 1, _WIDTHS[self._data[at]])

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _inside(self, at: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Return what is behind the first byte of a value and the number that may follow it."""
        return at + 1 + _WIDTHS[self._data[at]]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _word(self, at: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.ulonglong:
        """Return the unsigned integer of up to eight bytes, big-endian."""
        word: cython.ulonglong = 0
        place: cython.Py_ssize_t
        for place in range(at, at + size):
            word = word << 8 | self._data[place]
        return word

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _eight(self, at: cython.Py_ssize_t) -> cython.ulonglong:
        """Return the unsigned integer of eight bytes; written out, as compilers make one load of it."""
        word: cython.ulonglong = self._data[at]
        word = word << 8 | self._data[at + 1]
        word = word << 8 | self._data[at + 2]
        word = word << 8 | self._data[at + 3]
        word = word << 8 | self._data[at + 4]
        word = word << 8 | self._data[at + 5]
        word = word << 8 | self._data[at + 6]
        return word << 8 | self._data[at + 7]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _bits(self, at: cython.Py_ssize_t) -> cython.longlong:
        """Return an integer; of one that is too large for a signed one the same 64 bits."""
        head: cython.int = self._data[at]
        if head <= 0x7F:
            return head
        if head >= 0xE0:
            return head - 256
        size: cython.Py_ssize_t = _SIZES[head] - 1
        word: cython.ulonglong = self._word(at + 1, size)
        if head < 0xCF:
            return word
        sign: cython.ulonglong = 1
        sign <<= 8 * size - 1
        return (word ^ sign) - sign

    def _integer(self, at: cython.Py_ssize_t):
        """Return an integer, whatever its size."""
        bits = self._bits(at)
        return bits & 0xFFFF_FFFF_FFFF_FFFF if self._data[at] == _UINT64 else bits

    def _text(self, at: cython.Py_ssize_t, field):
        """Return a string, None where there is none."""
        if self._is_missing(at):
            return None
        if not _is_text(self._data[at]):
            raise self._unexpected(field, at)
        start, size = self._inside(at), self._count(at)
        try:
            return self._payload[start : start + size].decode()
        except UnicodeDecodeError:
            raise MalformedInputError(f"{field}: not UTF-8") from None

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _is_missing(self, at: cython.Py_ssize_t) -> cython.bint:
        """Return whether there is no value, or nil."""
        return at == 0 or self._data[at] == _NIL

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _is_name(self, name: cython.p_const_uchar, size: cython.Py_ssize_t) -> cython.bint:
        """Return whether the name that was found last is this one."""
        return size == self._name_size and _is_at(self._data, self._name_at, name, size)

    def _unexpected(self, what, at: cython.Py_ssize_t):
        """Return the error for a value of a wrong kind."""
        head = self._data[at]
        kind = next(kind for last, kind in _KINDS if head <= last)
        return MalformedInputError(f"{what}: unexpected {kind} at byte {at}")


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_array(head: cython.int) -> cython.bint:
    """Return whether an array begins with this byte."""
    return 0x90 <= head <= 0x9F or 0xDC <= head <= 0xDD


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_map(head: cython.int) -> cython.bint:
    """Return whether a map begins with this byte."""
    return 0x80 <= head <= 0x8F or 0xDE <= head <= 0xDF


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_text(head: cython.int) -> cython.bint:
    """Return whether a string begins with this byte."""
    return 0xA0 <= head <= 0xBF or 0xD9 <= head <= 0xDB


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_integer(head: cython.int) -> cython.bint:
    """Return whether an integer begins with this byte."""
    return head <= 0x7F or head >= 0xE0 or 0xCC <= head <= 0xD3


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_hash(head: cython.int) -> cython.bint:
    """Return whether an integer or bytes begin with this byte."""
    return _is_integer(head) or 0xC4 <= head <= 0xC6


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_at(
    data: cython.p_const_uchar, at: cython.Py_ssize_t, text: cython.p_const_uchar, size: cython.Py_ssize_t
) -> cython.bint:
    """Return whether a text is at a place of the data."""
    if cython.compiled:  # pragma: no cover
        return memcmp(data + at, text, size) == 0
    return data[at : at + size] == text


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _is_same(
    data: cython.p_const_uchar, at: cython.Py_ssize_t, other: cython.Py_ssize_t, size: cython.Py_ssize_t
) -> cython.bint:
    """Return whether the same bytes are at two places of the data."""
    if cython.compiled:  # pragma: no cover
        return memcmp(data + at, data + other, size) == 0
    return data[at : at + size] == data[other : other + size]


def _torn():
    return MalformedInputError("it ends in the middle of a value")


@cython.cfunc
@cython.exceptval(check=False)
def _double(bits: cython.ulonglong) -> cython.double:
    """Return the float of these 64 bits."""
    number: cython.double = 0.0
    if cython.compiled:  # pragma: no cover
        memcpy(cython.address(number), cython.address(bits), 8)
    else:
        (number,) = struct.unpack("d", struct.pack("Q", bits))
    return number


@cython.cfunc
@cython.exceptval(-2, check=True)
def _nanoseconds(seconds: cython.double) -> cython.longlong:
    """Return a time since the Unix epoch in nanoseconds, -1 if it is none; 1e11 and more are milliseconds."""
    scale: cython.longlong = 1_000_000_000
    if seconds >= _MILLISECONDS:
        scale = 1_000_000
    if not 0 <= seconds < _MOST_NS / scale:
        return -1
    # Apart, as the product of a whole time of today has no room for nanoseconds. Halves become even.
    whole: cython.longlong = int(seconds)
    part: cython.double = (seconds - whole) * scale
    ns: cython.longlong = int(part)
    if part - ns > 0.5 or (part - ns == 0.5 and ns & 1):
        ns += 1
    return whole * scale + ns
