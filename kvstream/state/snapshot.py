"""Snapshots: the state of a stream in bytes, a section a source, each with a checksum.

A snapshot is the 8 bytes of ``MAGIC``, 4 bytes of its version, then records of a length, a CRC-32 (4 bytes
each, all little-endian) and that many bytes of msgpack: first a ``Header``, then a section each, last an
``_End``. It holds scalars and arrays and no code: nothing of it is run when it is read.

Versions: a reader of version n reads n and n - 1. The version changes when the meaning of a section does;
fields that are added to one do not change it, as a part that is restored takes defaults for what is missing.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.errors import StateError

MAGIC = b"KVSTATE\n"
VERSION = 1
MAX_SECTION_BYTES = 2**34
"""Bytes that a section may have when unpacked: a cache of some hundred million blocks."""

_OLDEST_READABLE = 1
_VERSION = struct.Struct("<I")
_RECORD = struct.Struct("<II")
_ARRAY_CODE = 1
_DTYPES = frozenset({"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f8"})
_ZLIB_LEVEL = 1
_ZSTD_LEVEL = 1


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header", array_like=True):
    """What a snapshot begins with.

    Attributes:
        number: How many snapshots there were before it.
        taken_at: When it was begun, seconds since the Unix epoch.
        writer: Version of kvstream that wrote it.
    """

    number: int
    taken_at: float
    writer: str


class Section(msgspec.Struct, frozen=True):
    """The state of one part, which can be restored without the others.

    Attributes:
        kind: What it is of: ``source``, ``stream``, …
        name: Which one, such as the name of a source.
        body: Scalars, strings, lists, dicts with string keys, and numpy arrays; or functions without
            arguments that return such, which are called when it is packed.
        stored_bytes: Bytes that it takes in the snapshot that it was read from; 0 otherwise.
    """

    kind: str
    name: str
    body: dict[str, Any]
    stored_bytes: int = 0


class _Packed(msgspec.Struct, frozen=True, tag="section", array_like=True):
    kind: str
    name: str
    compression: str
    plain_bytes: int
    data: bytes


class _End(msgspec.Struct, frozen=True, tag="end", array_like=True):
    sections: int


def _pack_other(value: object) -> object:
    """Return an array as dtype, shape and bytes, the first bytes of all elements first, then the second.

    Such planes of bytes compress to a fraction of what whole numbers do. What is to be called is called.
    """
    if callable(value):
        return value()
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"a snapshot holds no {type(value).__name__}")
    array = np.ascontiguousarray(value)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.str not in _DTYPES:
        raise NotImplementedError(f"a snapshot holds no arrays of {array.dtype}")
    planes = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T
    parts = (array.dtype.str, value.shape, planes.tobytes())
    return msgspec.msgpack.Ext(_ARRAY_CODE, msgspec.msgpack.encode(parts))


def _unpack_array(code: int, data: memoryview) -> npt.NDArray[Any]:
    if code != _ARRAY_CODE:
        raise StateError(f"unknown extension {code}")
    dtype, shape, planes = _array_decoder.decode(data)
    if dtype not in _DTYPES:
        raise StateError(f"an array of {dtype!r}")
    size = int(dtype[2:])
    array = np.frombuffer(planes, dtype=np.uint8).reshape(size, -1).T.copy()
    return array.reshape(-1).view(np.dtype(dtype)).reshape(shape)


_array_decoder = msgspec.msgpack.Decoder(tuple[str, list[int], bytes])
_encoder = msgspec.msgpack.Encoder(enc_hook=_pack_other)
_body_decoder = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_unpack_array)
_record_decoder = msgspec.msgpack.Decoder(Header | _Packed | _End)


def _record(value: object) -> bytes:
    payload = _encoder.encode(value)
    return _RECORD.pack(len(payload), zlib.crc32(payload)) + payload


def pack_header(header: Header) -> bytes:
    """Return the bytes that a snapshot begins with."""
    return MAGIC + _VERSION.pack(VERSION) + _record(header)


def pack_section(section: Section) -> bytes:
    """Return a section's bytes; takes some milliseconds a megabyte, and may run in a thread.

    Compressed by zstd where ``kvstream[zstd]`` is installed, else by zlib.

    Raises:
        NotImplementedError: If the body holds anything but scalars, lists, dicts and arrays of numbers.
    """
    plain = _encoder.encode(section.body)
    try:
        import zstandard
    except ImportError:
        compression, data = "zlib", zlib.compress(plain, _ZLIB_LEVEL)
    else:
        compression, data = "zstd", zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(plain)
    return _record(_Packed(section.kind, section.name, compression, len(plain), data))


def pack_end(sections: int) -> bytes:
    """Return the bytes that a snapshot of ``sections`` sections ends with."""
    return _record(_End(sections))


def pack(header: Header, sections: Iterable[Section]) -> bytes:
    """Return a whole snapshot."""
    packed = [pack_section(section) for section in sections]
    return b"".join([pack_header(header), *packed, pack_end(len(packed))])


def unpack(data: bytes) -> tuple[Header, list[Section]]:
    """Return the header and the sections of a whole snapshot.

    Raises:
        StateError: If anything of it is missing, damaged, or of a version that this one does not read.
    """
    records = _records(memoryview(data))
    header = next(records, None)
    if not isinstance(header, Header):
        raise StateError("its header is missing")
    sections: list[Section] = []
    for record in records:
        if isinstance(record, _Packed):
            sections.append(_unpacked(record))
        elif isinstance(record, _End) and record.sections == len(sections):
            if next(records, None) is not None:
                raise StateError("something follows its end")
            return header, sections
        else:
            raise StateError(f"record {len(sections) + 1} is out of place")
    raise StateError("its end is missing")


def _records(data: memoryview) -> Iterator[Header | _Packed | _End]:
    """Yield the records; the first is a header of a readable version."""
    if data[: len(MAGIC)] != MAGIC:
        raise StateError("this is no snapshot of kvstream")
    at = len(MAGIC) + _VERSION.size
    if len(data) < at:
        raise StateError(f"torn at byte {len(data)}")
    _require_readable(_VERSION.unpack_from(data, len(MAGIC))[0])
    while at < len(data):
        if at + _RECORD.size > len(data):
            raise StateError(f"torn at byte {at:,}")
        length, checksum = _RECORD.unpack_from(data, at)
        payload = data[at + _RECORD.size : at + _RECORD.size + length]
        if len(payload) < length:
            raise StateError(f"torn at byte {at:,}: {length:,} bytes should follow")
        if zlib.crc32(payload) != checksum:
            raise StateError(f"the checksum at byte {at:,} differs")
        try:
            yield _record_decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StateError(f"the record at byte {at:,} cannot be decoded: {error}") from error
        at += _RECORD.size + length


def _require_readable(version: int) -> None:
    if not _OLDEST_READABLE <= version <= VERSION:
        raise StateError(
            f"it has version {version}, and this kvstream reads {_OLDEST_READABLE} to {VERSION}"
            + ("; use the kvstream that wrote it, or a newer one" if version > VERSION else "")
        )


def _unpacked(packed: _Packed) -> Section:
    where = f"section {packed.kind} {packed.name!r}"
    if not 0 <= packed.plain_bytes <= MAX_SECTION_BYTES:
        raise StateError(f"{where} claims {packed.plain_bytes:,} bytes")
    try:
        body = _body_decoder.decode(_plain(packed))
    except StateError as error:
        raise StateError(f"{where}: {error}") from error
    except (msgspec.DecodeError, RecursionError, OverflowError, ValueError) as error:
        raise StateError(f"{where} cannot be decoded: {error}") from error
    return Section(packed.kind, packed.name, body, len(packed.data))


def _plain(packed: _Packed) -> bytes:
    """Return a section's bytes as they were before compression."""
    if packed.compression == "zlib":
        inflate = zlib.decompressobj()
        try:
            plain = inflate.decompress(packed.data, packed.plain_bytes + 1)
        except zlib.error as error:
            raise StateError(f"its compression is damaged: {error}") from error
    elif packed.compression == "zstd":
        try:
            import zstandard
        except ImportError:
            raise StateError(
                "it is compressed by zstd, which needs an optional package: pip install 'kvstream[zstd]'"
            ) from None
        try:
            reader = zstandard.ZstdDecompressor().stream_reader(packed.data)
            plain = reader.read(packed.plain_bytes + 1)
        except zstandard.ZstdError as error:
            raise StateError(f"its compression is damaged: {error}") from error
    else:
        raise StateError(f"unknown compression {packed.compression!r}")
    if len(plain) != packed.plain_bytes:
        raise StateError(f"{packed.plain_bytes:,} bytes were to be unpacked")
    return plain
