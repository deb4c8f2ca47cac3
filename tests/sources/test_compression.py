"""Compressed input: however much a few bytes hold, memory stays bounded."""

import gzip
import struct
import tracemalloc
import zlib

import pytest
import zstandard

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.compression import Decompressor
from kvstream.sources.reader import EventReader

MIB = 2**20
LINE = b'{"type":"alloc","block":1,"ts":1767225600000000000}\n'
KVLOG = b"KVLOG\x00\x01\n"


def gzip_bomb(start, byte, mib):
    part = zlib.compressobj(wbits=31)
    packed = part.compress(start) + part.compress(byte * (16 * MIB)) + part.flush()
    more = gzip.compress(byte * (16 * MIB))
    return packed + more * (mib // 16 - 1)


def zstd_bomb(start, byte, mib):
    """A frame of run-length blocks, 4 bytes for each 128 KiB."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0x38])  # a window of 128 KiB
    first = struct.pack("<I", len(start) << 3)[:3] + start
    block = struct.pack("<I", (2**17 << 3) | 2)[:3] + byte
    last = struct.pack("<I", (1 << 3) | 3)[:3] + byte
    return head + first + block * (mib * 8) + last


BOMBS = {"gzip": gzip_bomb, "zstd": zstd_bomb}
INSIDE = {
    "empty lines": (LINE, b"\n", 0),
    "a line without end": (LINE, b"x", 1),
    "a damaged log": (KVLOG, b"\x00", 1),
    "nested arrays": (LINE, b"[", 1),
}


def peak_mib(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packing", BOMBS)
@pytest.mark.parametrize("inside", INSIDE)
def test_a_bomb_takes_no_more_than_a_line_of_64_mib_does(packing, inside):
    start, byte, malformed = INSIDE[inside]
    bomb = BOMBS[packing](start, byte, 128)
    reader = EventReader("bomb")
    found = []

    def read():
        for at in range(0, len(bomb), 4 * MIB):
            found.extend(reader.feed(bomb[at : at + 4 * MIB]))
        found.extend(reader.finish())

    assert peak_mib(read) < 96
    assert sum(isinstance(item, Malformed) for item in found) == malformed
    assert reader.events == (start == LINE)


@pytest.mark.parametrize("packing", BOMBS)
def test_a_bomb_of_events_comes_in_bounded_pieces(packing):
    """It would be some millions of events at once."""
    many = LINE * 20_000
    packed = (gzip.compress if packing == "gzip" else zstandard.ZstdCompressor().compress)(many) * 20
    events = most = 0
    for items in EventReader("bomb").pieces(packed):
        held = sum(len(item) for item in items if isinstance(item, EventFrame))
        events, most = events + held, max(most, held)
    assert events == 400_000
    assert most < 262_144


def test_many_small_parts_let_others_have_their_turn():
    turns = list(Decompressor("x").feed(gzip.compress(b"") * 10_000))
    assert turns.count(b"") > 10


def test_zstd_with_a_large_window_is_refused_and_says_why():
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    part = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = part.compress(LINE * 100) + part.flush()
    (bad,) = (item for item in Decompressor("x").feed(packed) if isinstance(item, Malformed))
    assert "--long" in bad.reason


@pytest.mark.parametrize("size", [1, 3, 4 * MIB])
def test_what_follows_compressed_data_is_no_input_however_it_is_read(size):
    packed = gzip.compress(LINE) + b"garbage"
    plain = Decompressor("x")
    pieces = [piece for at in range(0, len(packed), size) for piece in plain.feed(packed[at : at + size])]
    pieces += plain.finish()
    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == LINE
    assert sum(isinstance(piece, Malformed) for piece in pieces) == 1


def test_a_lack_of_memory_is_not_damaged_input():
    class Short:
        eof = False

        def decompress(self, data, most=0):
            raise MemoryError

    plain = Decompressor("x")
    list(plain.feed(gzip.compress(LINE)[:10]))
    plain._inflate = Short()
    with pytest.raises(MemoryError):
        list(plain.feed(b"more"))
