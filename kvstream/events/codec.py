"""Frames as msgpack and events as JSON lines: one frame or one chunk of lines at a time.

docs/formats.md has the rule of how frames may change: later releases may add fields at the end, which older
readers ignore; what those would misunderstand gets a new version, and a reader of version n also reads n - 1.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from kvstream.errors import MalformedInputError
from kvstream.events.frame import (
    MAX_BLOCK_TOKENS,
    MAX_FRAME_EVENTS,
    U16,
    UNNUMBERED,
    EventFrame,
    as_int64,
    frames_from_events,
)
from kvstream.events.types import EVENT_TYPES, BlockAllocated, CacheCleared, Event, Labels, Name
from kvstream.text.escape import for_unicode

FRAME_VERSION = 1
MAX_FRAME_BYTES = 64 * 1024 * 1024
FRAME_START = re.compile(rb"[\x9a-\x9f][\x01\x02]")
"""First bytes of every encoded frame: a msgpack array of 10 to 15, then this version or the next one.

Ten fields are written without labels, twelve with them, thirteen with a block's tokens. The next version is
known here, so that it is refused as such instead of being taken for damage.
"""

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class WireFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A frame as it stands on the wire; columns are little-endian bytes.

    They are copies: what lies anywhere in a message would have to be copied before it is applied.

    Fields after the last are those of later releases, and are ignored.
    """

    version: int
    source: Name
    tier: Name
    epoch: Int64
    seq: Annotated[int, Meta(ge=UNNUMBERED, le=2**63 - 1)]
    ops: bytes
    blocks: bytes
    ts: bytes
    keys: bytes | None
    reasons: bytes | None
    labels: bytes | None = None
    label_of: bytes | None = None
    block_tokens: Any = 0


_WIDE = np.dtype("<i8")
_BYTE = np.dtype(np.uint8)
_FEW = 4096  # events
_KNOWN_OPS = bytes(range(len(EVENT_TYPES)))
_frame_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(WireFrame)
_labels_decoder = msgspec.msgpack.Decoder(tuple[Labels, ...])
_line_encoder = msgspec.json.Encoder()
_line_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_any_decoder = msgspec.json.Decoder()


def _column(array: npt.NDArray[Any] | None, dtype: str) -> memoryview | None:
    if array is None:
        return None
    data = np.ascontiguousarray(array, dtype=dtype)
    return data.data.cast("B") if data.size else memoryview(b"")


def encode_frame(frame: EventFrame) -> bytes:
    """Return a frame as array-like msgpack.

    Returns:
        ``[version, source, tier, epoch, seq, ops, blocks, ts, keys|nil, reasons|nil]``, the columns
        as msgpack ``bin``: uint8 for ``ops`` and ``reasons``, little-endian int64 for the others. Where
        there are labels, two more follow: ``labels``, a msgpack list of maps by name, itself as ``bin``,
        and ``label_of``, little-endian uint16; then ``block_tokens`` where it is known, after nil for both
        where there are no labels.

    Raises:
        MalformedInputError: If the frame has more than 1,048,576 events.
    """
    if len(frame) > MAX_FRAME_EVENTS:
        raise MalformedInputError(f"a frame holds at most {MAX_FRAME_EVENTS:,} events, not {len(frame):,}")
    try:
        return _encoded(frame)
    except UnicodeEncodeError:  # a program gave a name with a lone surrogate
        return _encoded(_in_unicode(frame))


def _in_unicode(frame: EventFrame) -> EventFrame:
    labels = [
        Labels(**{name: for_unicode(value) for name, value in msgspec.structs.asdict(each).items() if value})
        for each in frame.labels
    ]
    source, tier = for_unicode(frame.source), for_unicode(frame.tier)
    return msgspec.structs.replace(frame, source=source, tier=tier, labels=tuple(labels))


def _encoded(frame: EventFrame) -> bytes:
    labels: tuple[Any, ...] = ()
    if frame.label_of is not None:
        labels = (_frame_encoder.encode(frame.labels), _column(frame.label_of, "<u2"))
    if frame.block_tokens:
        labels = (*(labels or (None, None)), frame.block_tokens)
    return _frame_encoder.encode(
        (
            FRAME_VERSION,
            frame.source,
            frame.tier,
            frame.epoch,
            frame.seq,
            _column(frame.ops, "u1"),
            _column(frame.blocks, "<i8"),
            _column(frame.ts, "<i8"),
            _column(frame.keys, "<i8"),
            _column(frame.reasons, "u1"),
            *labels,
        )
    )


def decode_frame(data: bytes | memoryview) -> EventFrame:
    """Return the frame of one msgpack message.

    Raises:
        MalformedInputError: If the message is no frame, is of a later version, or its columns do not agree.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise MalformedInputError(f"frame of {len(data):,} bytes is longer than {MAX_FRAME_BYTES:,}")
    try:
        wire = _frame_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if FRAME_START.match(data) and data[1] != FRAME_VERSION:
            raise _of_another_version(data[1]) from error
        raise MalformedInputError(f"not a frame: {error}") from error
    if wire.version != FRAME_VERSION:
        raise _of_another_version(wire.version)
    n = len(wire.ops)
    if n > MAX_FRAME_EVENTS:
        raise MalformedInputError(f"a frame holds at most {MAX_FRAME_EVENTS:,} events, not {n:,}")
    if not len(wire.blocks) == len(wire.ts) == 8 * n:
        raise MalformedInputError(f"{len(wire.blocks)} and {len(wire.ts)} bytes of columns for {n} events")
    if wire.keys is not None and len(wire.keys) != 8 * n:
        raise MalformedInputError(f"column keys has {len(wire.keys)} bytes for {n} events")
    if wire.reasons is not None and len(wire.reasons) != n:
        raise MalformedInputError(f"column reasons has {len(wire.reasons)} bytes for {n} events")
    labels, label_of = ((), None) if wire.labels is None else _labels(wire, n)
    if unknown := _unknown_ops(wire.ops):
        raise MalformedInputError(f"operation code {max(unknown)} is unknown")
    if _has_negative(wire.ts):
        raise MalformedInputError("a time is before 1970")
    return EventFrame(  # by position, which takes half as long as by name
        np.frombuffer(wire.ops, _BYTE),
        np.frombuffer(wire.blocks, _WIDE),
        np.frombuffer(wire.ts, _WIDE),
        wire.source,
        wire.tier,
        None if wire.keys is None else np.frombuffer(wire.keys, _WIDE),
        None if wire.reasons is None else np.frombuffer(wire.reasons, _BYTE),
        wire.epoch,
        wire.seq,
        labels,
        label_of,
        None,
        _block_tokens(wire.block_tokens),
    )


def _block_tokens(value: Any) -> int:
    """Return the tokens in a block, 0 for an invalid number."""
    return value if type(value) is int and 0 < value <= MAX_BLOCK_TOKENS else 0


def _of_another_version(version: int) -> MalformedInputError:
    return MalformedInputError(
        f"frame version {version} cannot be read, only {FRAME_VERSION}: update kvstream"
    )


# Of a few events, bytes tell in a fifth of the time that numpy takes, which shows where frames are small.


def _unknown_ops(column: bytes) -> bytes:
    """Return the operation codes that are none."""
    if len(column) > _FEW:
        ops = np.frombuffer(column, np.uint8)
        last = len(EVENT_TYPES) - 1
        return ops.compress(ops > last).tobytes() if ops.max() > last else b""
    return column.translate(None, _KNOWN_OPS)


def _has_negative(column: bytes) -> bool:
    """Return whether a column of little-endian int64 holds a negative number."""
    if len(column) > 8 * _FEW:
        return bool(np.frombuffer(column, _WIDE).min() < 0)
    return not column[7::8].isascii()


def _labels(wire: WireFrame, n: int) -> tuple[tuple[Labels, ...], U16]:
    try:
        labels = _labels_decoder.decode(wire.labels or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedInputError(f"labels: {error}") from error
    if wire.label_of is None or len(wire.label_of) != 2 * n:
        raise MalformedInputError(f"column label_of does not have {2 * n} bytes")
    label_of = np.frombuffer(wire.label_of, np.dtype("<u2"))
    if n and np.maximum.reduce(label_of) > len(labels):
        raise MalformedInputError(f"label_of has {label_of.max()} of {len(labels)} labels")
    return labels, label_of


def encode_lines(events: Iterable[Event]) -> bytes:
    """Return events as JSON lines, each ended by a newline."""
    return _line_encoder.encode_lines(list(events))


def decode_lines(chunk: bytes | memoryview, on_bad: Callable[[int, str], None]) -> Iterator[EventFrame]:
    """Return the events of a chunk of whole lines as frames; decode in bulk, by line only after an error.

    Args:
        chunk: JSON lines; blank ones are passed over.
        on_bad: Called with the line's number in the chunk (from 1) and the reason for each bad line.

    Yields:
        Frames in order of the lines, of one source and tier each.
    """
    try:
        yield from frames_from_events(_line_decoder.decode_lines(chunk))
    except (msgspec.DecodeError, MalformedInputError, UnicodeDecodeError, RecursionError):
        events: list[Event] = []
        for number, line in enumerate(bytes(chunk).split(b"\n"), 1):
            if line and not line.isspace():
                try:
                    events.append(decode_line(line))
                except MalformedInputError as error:
                    on_bad(number, str(error))
        yield from frames_from_events(events)


def decode_line(line: bytes | str) -> Event:
    """Return the event of one JSON line.

    Unknown fields are ignored. A ``ts`` written as a float is taken when it is a whole number; a
    fraction could be seconds or milliseconds and is rejected.

    Raises:
        MalformedInputError: With the reason, if the line is no event.
    """
    try:
        event = _line_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        event = _decode_lenient(line, str(error))
    if not isinstance(event, CacheCleared):
        as_int64([event.block])
        if isinstance(event, BlockAllocated) and event.key is not None:
            as_int64([event.key])
    return event


def _decode_lenient(line: bytes | str, reason: str) -> Event:
    """Decode a line that is not strictly an event: whole floats in ``ts`` are accepted."""
    try:
        value = _any_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedInputError(reason) from None
    if not isinstance(value, dict) or not isinstance(ts := value.get("ts"), float):
        raise MalformedInputError(reason)
    if not ts.is_integer():
        raise MalformedInputError(f"ts must be whole nanoseconds, not {ts!r}: could be another unit")
    try:
        event: Event = msgspec.convert({**value, "ts": int(ts)}, Event)
    except msgspec.ValidationError as error:
        raise MalformedInputError(str(error)) from None
    return event
