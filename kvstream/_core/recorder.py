# cython: boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, always_allow_keywords=False, embedsignature=True, embedsignature.format=clinic
# cython: autotestdict=False, auto_pickle=False
"""Recorders: one call a block from an engine's own loop, written straight into the columns of a frame.

Any thread may call. Compiled, a call holds the interpreter's lock (GIL) from reading the clock to writing the
last column, as no Python code runs in between; that is also why a fork copies no half-written event.
Interpreted, or with a clock written in Python, the recorder's own lock does the same. The compiled module
does not declare that it runs without a GIL, so a free-threaded Python turns its GIL on when it loads it.
"""

import threading
import time
from operator import index
from types import MemberDescriptorType, MethodDescriptorType

import numpy as np

from kvstream.errors import MalformedInputError
from kvstream.events.clock import Clock
from kvstream.events.frame import as_int64, checked_keys
from kvstream.events.types import REASON_CODE as _REASON_CODE
from kvstream.events.types import UNKNOWN_REASON as _UNKNOWN_REASON
from kvstream.events.types import checked_labels

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

if cython.compiled:  # pragma: no cover
    from cython.cimports.cpython.buffer import Py_buffer, PyBuffer_Release
    from cython.cimports.kvstream._core.block_number import (
        block_number,
        load_ahead,
        monotonic_ns,
        open_row,
        own_method,
        slot_of,
    )
    from cython.cimports.kvstream._core.native import ACCESS, ALLOC, CLEAR, EVICT
else:
    from kvstream._core.native import ACCESS, ALLOC, CLEAR, EVICT

_FIRST_ROOM = 4096
_ROWS = (list, tuple, range, np.ndarray)  # that are certainly several blocks


@cython.cfunc
def _reason_code(reason) -> cython.uchar:
    return _REASON_CODE.get(reason, _UNKNOWN_REASON)


def checked_time(ts):
    """Return a time in nanoseconds since the Unix epoch, as it is.

    Raises:
        MalformedInputError: If it is none.
    """
    if not isinstance(ts, int) or not 0 <= ts < 2**63:
        raise MalformedInputError(f"ts must be whole nanoseconds since 1970, not {ts!r}")
    return ts


def hash_tails(hashes, skipped: cython.Py_ssize_t):
    """Return eight bytes of each hash, big-endian, as native 64-bit integers in a ``bytearray``.

    Args:
        hashes: A list of hashes as bytes; None or one that is too short has 0.
        skipped: Bytes at the end of each that are passed over.

    Returns:
        These, and whether any byte that was passed over is not 0.
    """
    count: cython.Py_ssize_t = len(hashes)
    tails = bytearray(8 * count)
    if not count:
        return tails, False
    rest: cython.int = 0
    column: cython.ulonglong[::1] = memoryview(tails).cast("Q")
    i: cython.Py_ssize_t
    j: cython.Py_ssize_t
    end: cython.Py_ssize_t
    for i in range(count):
        found = hashes[i]
        if type(found) is bytes:
            text: bytes = found
            end = len(text) - skipped
            if end >= 8:
                number: cython.ulonglong = 0
                for j in range(end - 8, end):
                    number = number << 8 | text[j]
                column[i] = number
                for j in range(end, end + skipped):
                    rest |= text[j]
    return tails, rest != 0


@cython.final
@cython.cclass
class _Columns:
    """Events in columns with room for some more."""

    ops: cython.uchar[::1]
    reasons: cython.uchar[::1]
    blocks: cython.longlong[::1]
    ts: cython.longlong[::1]
    room: cython.Py_ssize_t
    n: cython.Py_ssize_t
    timed: cython.Py_ssize_t  # events that have their time
    malformed: cython.Py_ssize_t
    with_reasons: cython.bint  # whether any event has another reason than the usual one
    notes: list  # [first row or rows, how many, keys or None, labels or None] of allocations that have some
    fresh: list  # blocks allocated in this step, where their keys are asked for at its end
    batch: cython.Py_ssize_t  # how often all has been taken out

    def __init__(self, room):
        self.ops, self.reasons = memoryview(bytearray(room)), memoryview(bytearray(room))
        self.blocks = memoryview(bytearray(8 * room)).cast("q")
        self.ts = memoryview(bytearray(8 * room)).cast("q")
        self.room = room
        self.n = self.timed = self.malformed = self.batch = 0
        self.with_reasons = False
        self.notes, self.fresh = [], []

    @cython.cfunc
    @cython.exceptval(check=False)
    def stamp(self, ts: cython.longlong) -> cython.void:
        """Give the events that have no time yet this one."""
        i: cython.Py_ssize_t
        for i in range(self.timed, self.n):
            self.ts[i] = ts if ts > 0 else 0
        self.timed = self.n

    @cython.cfunc
    def recorded(self):
        """Return a copy of all events as ``kvstream.events.recorded.Recorded``, and empty the columns."""
        n: cython.Py_ssize_t = self.n
        notes, self.notes, self.fresh = self.notes, [], []
        taken = (
            bytes(self.ops[:n]),
            bytes(self.blocks[:n]),
            bytes(self.ts[:n]),
            bytes(self.reasons[:n]) if self.with_reasons else b"",
            notes,
            self.malformed,
        )
        self.n = self.timed = self.malformed = 0
        self.batch += 1
        self.with_reasons = False
        return taken


@cython.cfunc
@cython.exceptval(check=False)
def _copy(columns: _Columns, larger: _Columns) -> cython.void:
    """Copy all events to columns that have room for them."""
    i: cython.Py_ssize_t
    for i in range(columns.n):
        larger.ops[i] = columns.ops[i]
        larger.reasons[i] = columns.reasons[i]
        larger.blocks[i] = columns.blocks[i]
        larger.ts[i] = columns.ts[i]
    larger.n, larger.timed = columns.n, columns.timed
    larger.malformed, larger.with_reasons = columns.malformed, columns.with_reasons
    larger.notes, larger.fresh = columns.notes, columns.fresh


@cython.cclass
class _Recorder:
    """The columns that calls are written to, the clock, and how a block's number is found."""

    _columns: _Columns
    _spare: _Columns
    _batch_events: cython.Py_ssize_t  # events that are worth being taken out
    _ticks: object  # callable, nanoseconds; None for the monotonic clock
    _offset: cython.longlong  # of the time from the ticks
    _guard: object  # lock: see the module
    _block_type: object  # of the last block object
    _type_id: cython.Py_ssize_t  # its address
    _slot: cython.Py_ssize_t  # where in such a block its block_id is; 0 if that is not known

    def __init__(self, clock, batch_events):
        self._columns, self._spare = _Columns(_FIRST_ROOM), None
        self._batch_events = batch_events
        self._ticks, self._offset = (None, clock.offset) if isinstance(clock, Clock) else (clock, 0)
        self._guard = threading.RLock()
        self._block_type, self._type_id, self._slot = None, 0, 0

    @cython.final
    @cython.cfunc
    def _time(self) -> cython.longlong:
        """Return the time now, ns since the Unix epoch."""
        if self._ticks is not None:
            return self._offset + cython.cast(cython.longlong, self._ticks())
        if cython.compiled:
            return self._offset + monotonic_ns()
        return self._offset + time.monotonic_ns()

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _make_room(self, more: cython.Py_ssize_t) -> cython.int:
        """See to columns with room for ``more`` events."""
        while self._columns.n + more > self._columns.room:
            # To make them may run other code, which may record or take.
            larger: _Columns = _Columns(max(2 * self._columns.room, self._columns.n + more, _FIRST_ROOM))
            if self._columns.n + more <= larger.room:
                _copy(self._columns, larger)
                self._columns = larger
        return 0

    @cython.final
    @cython.cfunc
    def _replace_columns(self) -> _Columns:
        """Return the columns and go on in empty ones."""
        fresh: _Columns = self._spare
        self._spare = None
        if fresh is None:
            fresh = _Columns(_FIRST_ROOM)
        columns: _Columns = self._columns
        self._columns = fresh
        return columns

    @cython.final
    @cython.cfunc
    def _copy_out(self, columns: _Columns):
        """Return what columns hold that have been replaced, and keep them for next time."""
        recorded = columns.recorded()
        if columns.room <= 2 * max(self._batch_events, _FIRST_ROOM):
            self._spare = columns
        return recorded

    @cython.final
    @cython.cfunc
    def _number(self, block):
        """Return the number of any kind of block; None if it has none."""
        try:
            number = block
            if type(block) is not int:
                number = index(block if hasattr(block, "__index__") else self._block_id(block))
        except Exception:  # whatever the engine's own code raises
            return None
        if not -(2**63) <= number < 2**64:
            return None
        return number - 2**64 if number >= 2**63 else number

    @cython.final
    @cython.cfunc
    def _block_id(self, block):
        """Return a block's ``block_id``; where ``__slots__`` hold it, the next ones are read from there."""
        if cython.compiled and type(block) is not self._block_type:
            member = getattr(type(block), "block_id", None)
            is_slot = type(member) is MemberDescriptorType and issubclass(type(block), member.__objclass__)
            slot: cython.Py_ssize_t = slot_of(member) if is_slot else 0
            before = self._block_type  # kept until both are set, as its end may run other code
            self._block_type, self._type_id, self._slot = type(block), id(type(block)), slot
            del before
        return block.block_id

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _append(
        self, block: cython.longlong, op: cython.uchar, reason: cython.uchar, ts: cython.longlong
    ) -> cython.void:
        """Append one event, for which there must be room."""
        n: cython.Py_ssize_t = self._columns.n
        self._columns.blocks[n] = block
        self._columns.ts[n] = ts
        self._columns.ops[n] = op
        self._columns.reasons[n] = reason
        if reason:
            self._columns.with_reasons = True
        self._columns.n = n + 1

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _append_noted(self, row, note, ts: cython.longlong) -> cython.int:
        """Append allocations, int64 (n,), for which there is room, and a note of their keys and labels."""
        if not self._append_row(row, ALLOC, 0, ts):
            for number in row.tolist():
                self._append(number, ALLOC, 0, ts)
        # From the last row on nothing has run that could have taken it out.
        note[0] = self._columns.n - len(row)
        self._columns.notes.append(note)
        return 0

    @cython.final
    @cython.cfunc
    def _append_row(self, blocks, op: cython.uchar, reason: cython.uchar, ts: cython.longlong) -> cython.bint:
        """Append a contiguous row of native 64-bit integers; return whether it was one."""
        if cython.compiled:
            row = cython.declare(Py_buffer)
            if not open_row(blocks, cython.address(row)):
                return False
            try:
                self._make_room(row.shape[0])
                columns: _Columns = self._columns
                numbers = cython.cast(cython.pointer(cython.longlong), row.buf)
                start: cython.Py_ssize_t = columns.n
                i: cython.Py_ssize_t
                for i in range(row.shape[0]):
                    columns.blocks[start + i] = numbers[i]
                _fill(columns, start + row.shape[0], op, reason, ts)
            finally:
                PyBuffer_Release(cython.address(row))
            return True
        return False


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _fill(
    columns: _Columns, end: cython.Py_ssize_t, op: cython.uchar, reason: cython.uchar, ts: cython.longlong
) -> cython.void:
    """Make events of the blocks up to ``end``."""
    i: cython.Py_ssize_t
    for i in range(columns.n, end):
        columns.ops[i] = op
        columns.reasons[i] = reason
        columns.ts[i] = ts
    if reason:
        columns.with_reasons = True
    columns.n = end


@cython.final
@cython.cclass
class StepRecorder(_Recorder):
    """Records the blocks of one engine, made by ``Producer.recorder``.

    All events of a step carry the time at which it began, if ``begin_step`` was called, or else at which it
    ended, or of a flush before that.

    Call it from any thread. A block is a 64-bit integer, signed or not, or has one as its ``block_id``;
    several are a sequence of these or a numpy array. Anything else is counted as ``malformed`` among the
    producer's drops, never raised.

    Args:
        clock: Nanoseconds since the Unix epoch.
        frame_events: Recorded events that are worth a call of ``on_full``.
        on_step: Called as a step ends, at least where it is the first since all was taken.
        on_full: Called instead where there is enough.
        keys_of: Given the blocks that a step allocated, as the step ends, returns the content key of each, 0
            where it has none: for engines that know a block's content only after they have handed it out.
            What it raises leaves the step's blocks without keys.

    Attributes:
        began_ns: When the step began, ns since the Unix epoch; 0 without ``begin_step``.

    Examples:
        >>> recorder = StepRecorder(lambda: 5, 4096, on_step=lambda: None, on_full=lambda: None)
        >>> recorder.allocated_nowait(7)
        >>> recorder.accessed_nowait([7, 8])
        >>> recorder.end_step()
        >>> ops, blocks, ts, reasons, notes, malformed = recorder.take()
        >>> list(ops), list(memoryview(blocks).cast("q"))
        ([0, 1, 1], [7, 7, 8])
    """

    began_ns = cython.declare(cython.longlong, visibility="public")
    _on_step: object
    _on_full: object
    _closed: cython.bint
    _called: cython.bint  # whether on_step or on_full has been called since all was taken
    _keys_of: object
    _asks: cython.bint  # whether keys_of is there

    def __init__(self, clock, frame_events, on_step, on_full, keys_of=None):
        _Recorder.__init__(self, clock, frame_events)
        self._keys_of, self._asks = keys_of, keys_of is not None
        self.began_ns = 0
        self._on_step, self._on_full = on_step, on_full
        self._called = self._closed = False

    def allocated_nowait(self, blocks, /):
        """Record that a block, or each of several, was handed out."""
        self._put(blocks, ALLOC, 0)

    def allocated_with_nowait(self, blocks, /, keys=None, labels=None):
        """Record that a block, or each of several, was handed out, and what is known of it.

        A verb of its own, as optional arguments take a third of the time of a call. What has no such key or
        labels that can be used is counted as ``malformed``.

        Args:
            blocks: The block or blocks.
            keys: The content key of each, 0 or None where it has none.
            labels: The label set of the blocks.
        """
        self._put_noted(blocks, keys, labels)

    def accessed_nowait(self, blocks, /):
        """Record that a live block, or each of several, was found by a request."""
        self._put(blocks, ACCESS, 0)

    def evicted_nowait(self, blocks, /, reason=None):
        """Record that a block, or each of several, was given up, by default for lack of capacity."""
        self._put(blocks, EVICT, 0 if reason is None else _reason_code(reason))

    def cleared_nowait(self):
        """Record that every block was given up at once."""
        self._put(0, CLEAR, 0)

    def begin_step(self):
        """Begin a step: its events carry this time."""
        self.began_ns = self._time()

    def end_step(self, ts=None):
        """Give everything since the last step its time: ``ts`` (ns since 1970), or as the class says.

        Raises:
            MalformedInputError: If ``ts`` is no time.
        """
        now: cython.longlong = self.began_ns
        if ts is not None:
            now = checked_time(ts)
        elif not now:
            now = self._time()
        if self._asks:
            self._ask_keys(self._columns)
        if cython.compiled:
            self._columns.stamp(now)
        else:
            with self._guard:
                self._columns.stamp(now)
        self.began_ns = 0
        if self._columns.n >= self._batch_events:
            self._called = True
            self._on_full()
        elif not self._called:
            self._called = True
            self._on_step()

    def close(self):
        """Call ``on_full`` also between steps from now on, as nobody else empties the recorder any more."""
        self._closed = True

    def close_after_fork(self):
        """Close the copy in a forked child."""
        self._guard = threading.RLock()  # another thread may have held it
        self.close()

    def __bool__(self):
        """Return whether there is anything to take."""
        return self._columns.n > 0 or self._columns.malformed > 0

    def take(self):
        """Take out everything recorded.

        Events of a step that goes on carry the time at which it began, or now.
        """
        now: cython.longlong = self.began_ns or self._time()
        if cython.compiled:
            return self._taken(now)
        with self._guard:
            return self._taken(now)

    @cython.cfunc
    def _taken(self, now: cython.longlong):
        columns: _Columns = self._replace_columns()
        if self._asks:
            self._ask_keys(columns)
        columns.stamp(now)
        self._called = False
        return self._copy_out(columns)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _put(self, blocks, op: cython.uchar, reason: cython.uchar) -> cython.int:
        return 0 if self._put_plain(blocks, op, reason) else self._put_any(blocks, op, reason)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _put_plain(self, block, op: cython.uchar, reason: cython.uchar) -> cython.bint:
        """Record a block if its number can be read without running Python code; return whether it was."""
        if cython.compiled:
            number: cython.longlong = 0
            if block_number(block, self._type_id, self._slot, cython.address(number)):
                if self._columns.n == self._columns.room:
                    self._empty_or_grow(1)
                self._append(number, op, reason, 0)
                if op == ALLOC and self._asks:
                    self._columns.fresh.append(block)
                return True
        return False

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_any(self, blocks, op: cython.uchar, reason: cython.uchar) -> cython.int:
        """Record a block with a number that has to be asked for, or several; count what is neither."""
        if type(blocks) not in _ROWS:
            number = self._number(blocks)
            if number is not None or not _is_iterable(blocks):
                return self._put_number(blocks, number, op, reason)
        if self._closed:
            self._empty_or_grow(1)
        if self._asks or not self._append_row(blocks, op, reason, 0):
            for block in _each(blocks):
                if not self._put_plain(block, op, reason):
                    self._put_number(block, self._number(block), op, reason)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_noted(self, blocks, keys, labels) -> cython.int:
        """Record allocations with their keys and labels; count what is no block or has no such key."""
        numbers = None
        if type(blocks) not in _ROWS:
            numbers = [self._number(blocks)]
            if numbers[0] is None and _is_iterable(blocks):
                numbers = None
        if numbers is None:
            numbers = [self._number(block) for block in _each(blocks)]
        count: cython.Py_ssize_t = len(numbers)
        row = None
        try:
            note = _note(keys, labels, count)
            if None in numbers:
                which = np.array([number is not None for number in numbers])
                numbers = [number for number in numbers if number is not None]
                note = [0, len(numbers), None if note[2] is None else note[2][which], note[3]]
            row = np.array(numbers, dtype=np.int64)
        except Exception:  # whatever the engine's own objects raise
            numbers = []
        strangers = [None] * len(numbers)
        if self._closed:
            self._empty_or_grow(1)
        with self._guard:
            self._columns.malformed += count - len(numbers)
            if numbers:
                self._make_room(len(numbers))
                self._append_noted(row, note, 0)
                if self._asks:
                    self._columns.fresh += strangers
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _ask_keys(self, columns: _Columns) -> cython.int:
        """Have the keys of the blocks noted that were allocated since the last step."""
        if not columns.fresh:
            return 0
        fresh, columns.fresh = columns.fresh, []
        batch: cython.Py_ssize_t = columns.batch
        rows = [row for row in range(columns.timed, columns.n) if columns.ops[row] == ALLOC]
        try:
            note = [rows, len(rows), checked_keys(self._keys_of(fresh), len(rows)), None]
        except Exception:  # whatever the engine's own code raises
            return 0
        if columns.batch == batch:  # and nobody has taken out the rows meanwhile
            columns.notes.append(note)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_number(self, block, number, op: cython.uchar, reason: cython.uchar) -> cython.int:
        """Record the number of a block; count None as malformed."""
        if self._columns.n == self._columns.room:
            self._empty_or_grow(1)
        if cython.compiled:
            return self._append_number(block, number, op, reason)
        with self._guard:
            return self._append_number(block, number, op, reason)

    @cython.cfunc
    @cython.exceptval(-1)
    def _append_number(self, block, number, op: cython.uchar, reason: cython.uchar) -> cython.int:
        if number is None:
            self._columns.malformed += 1
            return 0
        if self._columns.n == self._columns.room:  # another thread may have used the room
            self._make_room(1)
        self._append(number, op, reason, 0)
        if op == ALLOC and self._asks:
            self._columns.fresh.append(block)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _empty_or_grow(self, more: cython.Py_ssize_t) -> cython.int:
        """Make room; closed, by having everything taken out, as it must not grow for ever."""
        if self._closed and self._columns.n >= self._batch_events:
            self._on_full()
        if cython.compiled:
            return self._make_room(more)
        with self._guard:
            return self._make_room(more)


@cython.cclass
class CallRecorder(_Recorder):
    """Records the blocks of one cache, each call with its time; ``KVCacheMetricsCollector`` is one.

    Its ``_apply_recorded`` is called where about ``batch_events`` wait.

    Args:
        clock: Nanoseconds since the Unix epoch.
        batch_events: Events that are applied at once.
    """

    def __init__(self, clock, batch_events):
        _Recorder.__init__(self, clock, batch_events)

    def _apply_recorded(self):
        """Take everything out and apply it."""
        raise NotImplementedError

    @cython.always_allow_keywords(True)
    def allocated_nowait(self, block, keys=None, labels=None):
        """Record that a block, or each of several, was handed out.

        Args:
            block: The block or blocks.
            keys: The content key of each, 0 or None where it has none.
            labels: The label set of the blocks.

        Raises:
            MalformedInputError: If one is no block, a key no 64-bit integer or a label no name; nothing is
                recorded then.
        """
        if keys is None and labels is None:
            self._put(block, ALLOC, 0)
        else:
            self._put_noted(block, keys, labels)

    @cython.always_allow_keywords(True)
    def accessed_nowait(self, block):
        """Record that a live block, or each of several, was found by a request."""
        self._put(block, ACCESS, 0)

    def evicted_nowait(self, block, reason="capacity"):
        """Record that a block, or each of several, was given up."""
        self._put(block, EVICT, _reason_code(reason))

    def cleared_nowait(self):
        """Record that every block was given up at once."""
        self._put(0, CLEAR, 0)

    def record(self, op, ids, reason="capacity"):
        """Record one event for each id, all with the time of this call.

        Raises:
            MalformedInputError: If an id is no 64-bit integer; nothing is recorded then.
        """
        self._put_all(op, ids, _reason_code(reason))

    def _take_recorded(self):
        """Take out everything recorded, as ``kvstream.events.recorded.Recorded``."""
        if cython.compiled:
            return self._copy_out(self._replace_columns())
        with self._guard:
            return self._copy_out(self._replace_columns())

    def _is_full(self):
        """Return whether there is a batch to apply."""
        return self._columns.n >= self._batch_events

    def _record_after_fork(self):
        """Drop what a forked child has copied, and have its next call call ``_apply_recorded``."""
        self._guard = threading.RLock()  # another thread may have held it
        self._columns, self._spare = _Columns(0), None

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _put(self, block, op: cython.uchar, reason: cython.uchar) -> cython.int:
        if cython.compiled:
            if self._ticks is None:
                # The clock waits for what is being loaded, but not for what is being loaded ahead.
                load_ahead(block, self._type_id, self._slot)
                ts: cython.longlong = self._offset + monotonic_ns()
                number: cython.longlong = 0
                if block_number(block, self._type_id, self._slot, cython.address(number)):
                    if self._columns.n == self._columns.room:
                        self._empty()
                        ts = self._offset + monotonic_ns()
                    self._append(number, op, reason, ts)
                    return 0
        return self._put_any(block, op, reason)

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _put_any(self, block, op: cython.uchar, reason: cython.uchar) -> cython.int:
        number = self._number(block)
        if number is None:
            return self._put_all(op, block.block_id if hasattr(block, "block_id") else block, reason)
        if self._columns.n == self._columns.room:
            self._empty()
        with self._guard:
            ts: cython.longlong = self._time()
            self._make_room(1)  # for this one, where the clock has recorded others
            self._append(number, op, reason, ts)
        return 0

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _put_noted(self, block, keys, labels) -> cython.int:
        """Record allocations with their keys and labels."""
        number = self._number(block)
        if number is None:
            number = block.block_id if hasattr(block, "block_id") else block
        row = _as_row(number)
        note = _note(keys, labels, len(row))
        if self._columns.n >= self._batch_events or self._columns.n == self._columns.room:
            self._apply_recorded()
        with self._guard:
            ts: cython.longlong = self._time()
            self._make_room(len(row))  # also for what the clock has recorded
            self._append_noted(row, note, ts)
        return 0

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _put_all(self, op: cython.uchar, ids, reason: cython.uchar) -> cython.int:
        if self._columns.n >= self._batch_events or self._columns.n == self._columns.room:
            self._apply_recorded()
        if cython.compiled:
            if self._ticks is None and type(ids) in (list, tuple) and self._append_ints(ids, op, reason):
                return 0
        row = _as_row(ids)
        with self._guard:
            self._make_room(len(row))  # first, as other threads may record meanwhile
            ts: cython.longlong = self._time()
            if not self._append_row(row, op, reason, ts):
                self._make_room(len(row))
                for number in row.tolist():
                    self._append(number, op, reason, ts)
        return 0

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def _empty(self) -> cython.int:
        """Have everything applied, and see to room."""
        self._apply_recorded()
        if cython.compiled:
            return self._make_room(1)
        with self._guard:
            return self._make_room(1)

    @cython.final
    @cython.cfunc
    def _append_ints(self, ids, op: cython.uchar, reason: cython.uchar) -> cython.bint:
        """Append a list or a tuple, and no kind of these, of integers alone; return whether it was one."""
        if cython.compiled:
            self._make_room(len(ids))  # first, as other threads may record meanwhile
            ts: cython.longlong = self._time()
            columns: _Columns = self._columns
            end: cython.Py_ssize_t = columns.n
            number: cython.longlong = 0
            for block in ids:
                if not block_number(block, 0, 0, cython.address(number)):
                    return False
                columns.blocks[end] = number
                end += 1
            _fill(columns, end, op, reason, ts)
            return True
        return False


def with_own_methods(recorder):
    """Make the methods that a subclass of ``CallRecorder`` inherits its own, and return it.

    CPython calls a method without a detour where the object's type is exactly the one that has it:
    ``CALL_METHOD_DESCRIPTOR_O`` and its kin in Python/bytecodes.c.
    """
    if cython.compiled:
        for name in dir(recorder):
            method = getattr(recorder, name, None)
            if type(method) is MethodDescriptorType and method.__objclass__ is CallRecorder:
                setattr(recorder, name, own_method(recorder, method))
    return recorder


def _note(keys, labels, count):
    """Return a note of allocations, checked, of which the first row is yet to be set."""
    column = None if keys is None else checked_keys(keys, count)
    return [0, count, column, None if labels is None else checked_labels(labels)]


def _as_row(ids):
    """Return ids as int64 of shape (n,)."""
    if not isinstance(ids, (list, tuple, np.ndarray)):
        ids = list(ids) if hasattr(ids, "__iter__") else [ids]
    return as_int64(ids).reshape(-1)


def _is_iterable(blocks):
    """Return whether an object that is no block holds several."""
    try:
        return (
            not isinstance(blocks, (str, bytes))
            and not hasattr(blocks, "block_id")
            and hasattr(blocks, "__iter__")
        )
    except Exception:  # whatever the engine's own code raises
        return False


def _each(blocks):
    """Return several blocks as a list or a tuple; as one that is no block where they cannot be listed."""
    try:
        if isinstance(blocks, np.ndarray):
            blocks = np.atleast_1d(blocks)
        return blocks if isinstance(blocks, (list, tuple)) else list(blocks)
    except Exception:  # whatever the engine's own code raises
        return (None,)
