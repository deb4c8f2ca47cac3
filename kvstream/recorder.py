"""StepRecorder: block by block from an engine's own loop, for little more than appending to a list."""

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from kvstream.clock import Clock
from kvstream.errors import MalformedInputError
from kvstream.events.frame import I64, U8, EventFrame
from kvstream.events.types import REASON_CODE, REASONS, UNKNOWN_REASON, Op

_COMPILED = "kvstream.recorder_compiled"

# In the list of recorded ids, reserved numbers say what the ids after them are. Ids alone are accesses.
_LOWEST = -32
_STEP = _LOWEST  # a time follows: that of all events since the last step
_ALLOC = _LOWEST + 1  # one id follows
_ALLOC_ALL = _LOWEST + 2  # a count and so many ids follow
_EVICT = [_LOWEST + 3 + code for code in range(len(REASONS) + 1)]  # one id follows; the last: unknown reason
_EVICT_ALL = [mark + len(_EVICT) for mark in _EVICT]  # a count and so many ids follow
_MARKS = range(_LOWEST, _EVICT_ALL[-1] + 1)
_RESERVED = range(_LOWEST, 0)

Recorded = tuple[Any, Any, Any, Any, int]
"""Columns in native byte order: operation codes (uint8), blocks and times (int64), reason codes (uint8, or
nothing if none was given); and how many recorded things were no blocks."""

_REASON_OF = np.array([*range(len(REASONS)), UNKNOWN_REASON], dtype=np.uint8)


class HasBlockId(Protocol):
    """Anything with a block number, such as vLLM's ``KVCacheBlock``."""

    block_id: int


Block = int | HasBlockId
Blocks = Sequence[Block] | npt.NDArray[Any]


class StepRecorder:
    """Records the blocks of one engine, made by ``Producer.recorder``.

    ``accessed(block)`` is a list's own ``append``; nothing is looked at before the step ends. All events of
    a step carry the time at which it began, if that was told, or else at which it ended, or of a flush
    before that.

    Where the package was built with a C compiler, ``recorder_compiled.c`` stands in its place.

    Call it from any thread. A block is a 64-bit integer, signed or not (-32 to -1 are reserved), or has one
    as its ``block_id``. What is neither is counted as ``malformed`` among the producer's drops, never raised.

    Attributes:
        accessed: A live block was found by a request.
        began_ns: When the step began, ns since the Unix epoch; 0 if that was not told.

    Example:
        >>> recorder = StepRecorder(lambda: 5, 4096, on_step=lambda: None, on_full=lambda: None)
        >>> recorder.allocated(7)
        >>> recorder.accessed_all([7, 8])
        >>> recorder.end_step()
        >>> recorded_frame(recorder.take(), "engine-0", "gpu").blocks.tolist()
        [7, 7, 8]
    """

    __slots__ = (
        "_clock",
        "_extend",
        "_frame_events",
        "_on_full",
        "_on_step",
        "_recorded",
        "accessed",
        "began_ns",
    )

    def __init__(
        self,
        clock: Callable[[], int],
        frame_events: int,
        on_step: Callable[[], None],
        on_full: Callable[[], None],
    ) -> None:
        self.began_ns = 0
        self._clock = clock
        self._frame_events = frame_events
        self._on_step, self._on_full = on_step, on_full
        # One list, changed by single calls of its own methods, which are atomic, needs no lock.
        self._recorded: list[Block] = []
        self._extend: Callable[[Iterable[Block]], None] = self._recorded.extend
        self.accessed: Callable[[Block], None] = self._recorded.append

    def accessed_all(self, blocks: Blocks, /) -> None:
        """Several live blocks were found by a request."""
        self._extend(_listed(blocks))

    def allocated(self, block: Block, /) -> None:
        """A block was handed out."""
        self._extend((_ALLOC, block))

    def allocated_all(self, blocks: Blocks, /) -> None:
        """Several blocks were handed out."""
        self._extend((_ALLOC_ALL, len(blocks), *_listed(blocks)))

    def evicted(self, block: Block, /, reason: str | None = None) -> None:
        """A block was given up, for lack of capacity if no reason is given."""
        self._extend((_EVICT[0 if reason is None else REASON_CODE.get(reason, -1)], block))

    def evicted_all(self, blocks: Blocks, /, reason: str | None = None) -> None:
        """Several blocks were given up."""
        mark = _EVICT_ALL[0 if reason is None else REASON_CODE.get(reason, -1)]
        self._extend((mark, len(blocks), *_listed(blocks)))

    def begin_step(self) -> None:
        """Notes that the events of a step come now."""
        self.began_ns = self._clock()

    def end_step(self, ts: int | None = None) -> None:
        """Gives everything since the last step its time: ``ts`` (ns since 1970), or as the class says.

        Raises:
            MalformedInputError: If ``ts`` is no time.
        """
        self._extend((_STEP, (self.began_ns or self._clock()) if ts is None else checked_time(ts)))
        self.began_ns = 0
        if len(self._recorded) >= self._frame_events:
            self._on_full()
        else:
            self._on_step()

    def close(self) -> None:
        """Call ``on_full`` also between steps from now on, as nobody else empties the recorder any more."""
        self._extend = self._extend_closed
        self.accessed = lambda block: self._extend_closed((block,))

    def _extend_closed(self, items: Iterable[Block]) -> None:
        self._recorded.extend(items)
        if len(self._recorded) >= self._frame_events:
            self._on_full()

    def __bool__(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._recorded)

    def take(self) -> Recorded:
        """Takes out everything recorded.

        Events of a step that goes on carry the time at which it began, or now.
        """
        recorded = tuple(self._recorded)
        del self._recorded[: len(recorded)]
        malformed, packed = 0, _packed(recorded)
        if packed is None:
            numbers = _numbers(recorded)
            packed = _packed(numbers)
            if packed is None:
                numbers, malformed = _mended(numbers)
                packed = _packed(numbers) or b""
        packed += struct.pack("2q", _STEP, self.began_ns or self._clock())
        return (*_decoded(np.frombuffer(packed, dtype=np.int64)), malformed)


def is_compiled() -> bool:
    """Whether the package was built with a C compiler."""
    return find_spec(_COMPILED) is not None


def new_recorder(
    clock: Callable[[], int], frame_events: int, on_step: Callable[[], None], on_full: Callable[[], None]
) -> StepRecorder:
    """A recorder, compiled where the package was built with a C compiler.

    Args:
        clock: Nanoseconds since the Unix epoch.
        frame_events: How many recorded things are worth a call of ``on_full``.
        on_step: Called as a step ends, at least where it is the first since all was taken.
        on_full: Called instead where there is enough.
    """
    if not is_compiled():
        return StepRecorder(clock, frame_events, on_step, on_full)
    compiled: Callable[..., object] = import_module(_COMPILED).StepRecorder
    ticks, offset = (time.monotonic_ns, clock.offset) if isinstance(clock, Clock) else (clock, 0)
    made = compiled(ticks, offset, frame_events, on_step, on_full, REASON_CODE, UNKNOWN_REASON, checked_time)
    return cast("StepRecorder", made)


def recorded_frame(recorded: Recorded, source: str, tier: str) -> EventFrame:
    """The events that a recorder gave, as a frame."""
    ops, blocks, ts, reasons, _ = recorded
    return EventFrame(
        np.frombuffer(ops, dtype=np.uint8),
        np.frombuffer(blocks, dtype=np.int64),
        np.frombuffer(ts, dtype=np.int64),
        source,
        tier,
        None,
        np.frombuffer(reasons, dtype=np.uint8) if len(reasons) else None,
    )


def checked_time(ts: object) -> int:
    """A time in nanoseconds since the Unix epoch, as it is.

    Raises:
        MalformedInputError: If it is none.
    """
    if not isinstance(ts, int) or not 0 <= ts < 2**63:
        raise MalformedInputError(f"ts must be whole nanoseconds since 1970, not {ts!r}")
    return ts


def _listed(blocks: Blocks) -> Sequence[Block]:
    """Blocks as Python's own integers or objects, which are read faster than numpy's."""
    return blocks.tolist() if isinstance(blocks, np.ndarray) else blocks


def _packed(numbers: Sequence[Any]) -> bytes | None:
    """Signed 64-bit integers one after the other; None if not all are such."""
    try:
        return struct.pack(f"{len(numbers)}q", *numbers)
    except Exception:  # struct.error, or whatever the engine's own numbers raise
        return None


def _numbers(recorded: Sequence[Any]) -> list[Any]:
    """Recorded numbers and blocks as numbers only, or what was given instead of one."""
    try:
        return [item if type(item) is int else item.block_id for item in recorded]
    except Exception:  # some are neither
        return [_number(item) for item in recorded]


def _number(block: Any) -> Any:
    """A block's number, or what was given instead of one; None where that cannot be told."""
    try:
        return block if hasattr(block, "__index__") else block.block_id
    except Exception:  # whatever the engine's own code raises
        return None


def _mended(recorded: Sequence[Any]) -> tuple[list[int], int]:
    """Recorded numbers with unsigned hashes folded, and how many were no ids and have been left out."""
    numbers: list[int] = []
    malformed = 0
    rest = iter(recorded)
    for item in rest:
        mark = item if type(item) is int and item in _MARKS else None
        if mark == _STEP:
            numbers += (mark, min(next(rest, 0), 2**63 - 1))
            continue
        several = mark == _ALLOC_ALL or mark in _EVICT_ALL
        if several:
            given = list(islice(rest, min(max(0, next(rest, 0)), len(recorded))))
        else:
            given = [item] if mark is None else list(islice(rest, 1))
        ids = [folded for number in given if (folded := _folded(number)) is not None]
        malformed += len(given) - len(ids)
        if mark is not None and several:
            numbers += (mark, len(ids), *ids)
        elif ids:
            numbers += ids if mark is None else (mark, *ids)
    return numbers, malformed


def _folded(number: object) -> int | None:
    """A 64-bit integer, signed or unsigned, as a signed one of the same bits; None for anything else."""
    if not isinstance(number, (int, np.integer)) or not -(2**63) <= number < 2**64:
        return None
    folded = int(number) - 2**64 if number >= 2**63 else int(number)
    return None if folded in _RESERVED else folded


def _decoded(numbers: I64) -> tuple[U8, I64, I64, U8]:
    is_id = numbers.view(np.uint64) < 2**64 + _LOWEST  # as unsigned ones, reserved numbers are the highest
    marks = (~is_id).nonzero()[0]
    kind = numbers.take(marks)
    steps = marks.compress(kind == _STEP)
    is_id[steps + 1] = False
    ops = np.full(len(numbers), Op.ACCESS, dtype=np.uint8)
    reasons: U8 | None = None
    if len(steps) < len(marks):
        reasons = _mark_others(numbers, marks, kind, ops, is_id)
    until = is_id.cumsum().take(steps)
    until[1:] -= until[:-1].copy()
    return (
        ops.compress(is_id),
        numbers.compress(is_id),
        np.maximum(numbers.take(steps + 1), 0).repeat(until),
        np.empty(0, np.uint8) if reasons is None else reasons.compress(is_id),
    )


def _mark_others(numbers: I64, marks: I64, kind: I64, ops: U8, is_id: npt.NDArray[np.bool_]) -> U8 | None:
    """Enters allocations and evictions into ``ops``, uint8 (n,), and counts out of ``is_id``, bool (n,).

    Returns:
        Reason codes, uint8 (n,); None if all are ``capacity``.
    """
    ops[marks.compress(kind == _ALLOC) + 1] = Op.ALLOC
    is_evict = (kind >= _EVICT[0]) & (kind <= _EVICT[-1])
    evicted = marks.compress(is_evict) + 1
    ops[evicted] = Op.EVICT
    several = marks.compress(
        (kind == _ALLOC_ALL) | (kind >= _EVICT_ALL[0]) & (kind <= _EVICT_ALL[-1])
    ).tolist()
    is_id[[at + 1 for at in several]] = False
    reasons = None
    if ((kind > _EVICT[0]) & (kind <= _EVICT_ALL[-1]) & (kind != _EVICT_ALL[0])).any():
        reasons = np.zeros(len(numbers), dtype=np.uint8)
        reasons[evicted] = _REASON_OF.take(kind.compress(is_evict) - _EVICT[0])
    for at in several:
        mark, those = int(numbers[at]), slice(at + 2, at + 2 + int(numbers[at + 1]))
        ops[those] = Op.ALLOC if mark == _ALLOC_ALL else Op.EVICT
        if reasons is not None and mark != _ALLOC_ALL:
            reasons[those] = _REASON_OF[mark - _EVICT_ALL[0]]
    return reasons
