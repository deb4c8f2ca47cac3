"""Snapshots: the state of a stream in bytes, a section a source, each with a checksum.

A snapshot is the 8 bytes of ``MAGIC``, 4 bytes of its version, then records of a length, a CRC-32 (4 bytes
each, all little-endian) and that many bytes of msgpack: first a ``Header``, then a section each, last an
``_End``. It holds scalars and arrays and no code: nothing of it is run when it is read.

Versions: a reader of version n reads n and n - 1. The version changes when the meaning of a section does;
fields that are added to one do not change it, as a part that is restored takes defaults for what is missing.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.errors import StateError

MAGIC = b"KVSTATE\n"
VERSION = 2
MAX_SECTION_BYTES = 2**34
"""Bytes that a section may have when unpacked: a cache of some hundred million blocks."""

_OLDEST_READABLE = 1
_VERSION = struct.Struct("<I")
_RECORD = struct.Struct("<II")
_ARRAY_CODE = 1
_PIECE_BYTES = 2**20
_TOKEN_HEADER = bytes([0xD8, _ARRAY_CODE])  # of an extension of 16 bytes
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


def _plain_pieces(body: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a body, piece by piece.

    Encoded as a whole, what is large would be copied while no other thread may run. So a token stands for
    each large array in what is encoded, and gives way to the array's own bytes.
    """
    token, large = os.urandom(16), list[npt.NDArray[Any]]()

    def pack_other(value: object) -> object:
        if callable(value):
            return value()
        array = _storable(value)
        if array.nbytes <= _PIECE_BYTES:
            packed = (array.dtype.str, array.shape, _planes(array).tobytes())
            return msgspec.msgpack.Ext(_ARRAY_CODE, msgspec.msgpack.encode(packed))
        large.append(array)
        return msgspec.msgpack.Ext(_ARRAY_CODE, token)

    encoded = msgspec.msgpack.Encoder(enc_hook=pack_other).encode(body)
    first, *others = encoded.split(_TOKEN_HEADER + token) if large else (encoded,)
    yield first
    for array, after in zip(large, others, strict=True):
        head = _with_bin_of(msgspec.msgpack.encode((array.dtype.str, array.shape, b"")), array.nbytes)
        yield b"\xc9" + (len(head) + array.nbytes).to_bytes(4, "big") + bytes([_ARRAY_CODE]) + head
        planes = _planes(array).reshape(-1).data
        for start in range(0, len(planes), _PIECE_BYTES):
            yield planes[start : start + _PIECE_BYTES]
        yield after


def _storable(value: object) -> npt.NDArray[Any]:
    """Return an array as it is stored: contiguous and little-endian.

    Raises:
        NotImplementedError: If a snapshot holds nothing like that.
    """
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"a snapshot holds no {type(value).__name__}")
    array = np.ascontiguousarray(value).reshape(value.shape)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.str not in _DTYPES:
        raise NotImplementedError(f"a snapshot holds no arrays of {array.dtype}")
    return array


def _planes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the first bytes of all elements, then the second: they compress better than whole numbers."""
    bytes_of = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize)
    planes = np.empty(bytes_of.shape[::-1], dtype=np.uint8)
    planes[:] = bytes_of.T
    return planes


def _with_bin_of(encoded: bytes, size: int) -> bytes:
    """Return msgpack that ends with empty ``bin`` as the head of what ends with that many bytes."""
    return encoded[:-2] + b"\xc6" + size.to_bytes(4, "big")


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
_encoder = msgspec.msgpack.Encoder()
_body_decoder = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_unpack_array)
_record_decoder = msgspec.msgpack.Decoder(Header | _Packed | _End)


def _record(value: object) -> bytes:
    payload = _encoder.encode(value)
    return _RECORD.pack(len(payload), zlib.crc32(payload)) + payload


def pack_header(header: Header) -> bytes:
    """Return the bytes that a snapshot begins with."""
    return MAGIC + _VERSION.pack(VERSION) + _record(header)


def pack_section(section: Section) -> list[bytes]:
    """Return a section's bytes in pieces; takes some milliseconds a megabyte, and may run in a thread.

    Compressed by zstd where ``kvstream[zstd]`` is installed, else by zlib.

    Raises:
        NotImplementedError: If the body holds anything but scalars, lists, dicts and arrays of numbers.
    """
    compressor: Any
    try:
        import zstandard
    except ImportError:
        compression, compressor = "zlib", zlib.compressobj(_ZLIB_LEVEL)
    else:
        compression, compressor = "zstd", zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    plain_bytes, data = 0, list[bytes]()
    for piece in _plain_pieces(section.body):
        plain_bytes += len(piece)
        data.append(compressor.compress(piece))
    data.append(compressor.flush())
    size = sum(map(len, data))
    packed = _Packed(section.kind, section.name, compression, plain_bytes, b"")
    pieces = [_with_bin_of(_encoder.encode(packed), size), *data]
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    pieces.insert(0, _RECORD.pack(len(pieces[0]) + size, checksum))
    return [b"".join(pieces)] if size <= _PIECE_BYTES else pieces


def pack_end(sections: int) -> bytes:
    """Return the bytes that a snapshot of ``sections`` sections ends with."""
    return _record(_End(sections))


def pack(header: Header, sections: Iterable[Section]) -> bytes:
    """Return a whole snapshot."""
    packed = [pack_section(section) for section in sections]
    pieces = [piece for each in packed for piece in each]
    return b"".join([pack_header(header), *pieces, pack_end(len(packed))])


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
