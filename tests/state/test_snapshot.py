import struct
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kvstream.errors import StateError
from kvstream.state.snapshot import (
    MAGIC,
    VERSION,
    Header,
    Section,
    pack,
    pack_end,
    pack_header,
    pack_section,
    unpack,
)

HEADER = Header(number=3, taken_at=1_800_000_000.5, writer="0.1.0")
BODY = {
    "rows": np.arange(12, dtype=np.int64).reshape(4, 3),
    "empty": np.empty((0, 4), dtype=np.float64),
    "flags": np.array([True, False]),
    "sum": 2**64 - 1,
    "since": float("-inf"),
    "nothing": None,
    "names": ["a", "b"],
    "inner": {"x": 1},
}
DATA = pack(HEADER, [Section("source", "engine-0", BODY), Section("stream", "", {"sent": 7})])

FIRST_RECORD = len(MAGIC) + 4
DTYPES = ("bool", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float64")

any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_dims=3))
)


def equal(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    return one == other


def test_what_is_packed_is_unpacked():
    header, (source, stream) = unpack(DATA)
    assert header == HEADER
    assert (source.kind, source.name, stream.body) == ("source", "engine-0", {"sent": 7})
    assert source.body.keys() == BODY.keys()
    assert all(equal(source.body[name], value) for name, value in BODY.items())


@given(any_array)
def test_any_array_comes_back_as_it_was(array):
    _, (section,) = unpack(pack(HEADER, [Section("source", "x", {"array": array})]))
    assert equal(section.body["array"], array)


def test_arrays_that_are_not_contiguous_come_back_as_they_look():
    array = np.arange(20, dtype=np.int64).reshape(4, 5)[::2, 1::2]
    _, (section,) = unpack(pack(HEADER, [Section("source", "x", {"array": array})]))
    assert equal(section.body["array"], array)


def test_a_restored_array_can_be_written_to():
    _, (section, _) = unpack(DATA)
    section.body["rows"][0, 0] = 99
    assert section.body["rows"][0, 0] == 99


@pytest.mark.parametrize("value", [object(), np.array(["a"]), 1j])
def test_what_a_snapshot_cannot_hold_is_refused(value):
    with pytest.raises((NotImplementedError, TypeError)):
        pack(HEADER, [Section("source", "x", {"value": value})])


def test_a_snapshot_cut_anywhere_is_refused():
    for end in range(len(DATA)):
        with pytest.raises(StateError):
            unpack(DATA[:end])


def test_a_snapshot_with_any_bit_flipped_is_refused():
    for at in range(len(DATA)):
        for bit in range(8):
            flipped = bytearray(DATA)
            flipped[at] ^= 1 << bit
            with pytest.raises(StateError):
                unpack(bytes(flipped))


def test_bytes_after_the_end_are_refused():
    with pytest.raises(StateError, match="something follows its end"):
        unpack(DATA + DATA[FIRST_RECORD:])


def test_a_version_to_come_says_what_to_do():
    newer = MAGIC + (VERSION + 1).to_bytes(4, "little") + DATA[FIRST_RECORD:]
    with pytest.raises(StateError, match="a newer one"):
        unpack(newer)


def test_a_section_of_a_claimed_length_is_not_unpacked_beyond_it():
    """A checksum holds out accidents alone: what was made on purpose must not fill memory."""
    bomb = zlib.compress(bytes(64 * 2**20))
    payload = msgspec.msgpack.encode(["section", "source", "x", "zlib", 10, bomb])
    record = struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    with pytest.raises(StateError, match="10 bytes were to be unpacked"):
        unpack(pack_header(HEADER) + record)


def test_functions_are_called_when_a_section_is_packed():
    called = []

    def body():
        called.append(True)
        return {"array": np.arange(3), "of": lambda: 5}

    section = Section("source", "x", {"later": body})
    assert not called
    _, (restored,) = unpack(pack(HEADER, [section]))
    assert restored.body["later"]["array"].tolist() == [0, 1, 2]
    assert restored.body["later"]["of"] == 5


@pytest.mark.parametrize("dtype", ["<i8", "<u4", "|u1", "<f8"])
def test_large_arrays_are_packed_in_pieces_and_come_back_as_they_were(dtype):
    rng = np.random.default_rng(1)
    large = rng.integers(0, 200, (3, 700_001)).astype(dtype)
    body = {"first": large, "small": np.arange(3), "nested": [large[1:, ::2], {"last": large[0]}], "end": 1}
    pieces = pack_section(Section("source", "x", body))
    assert max(map(len, pieces)) < 2**21
    _, (section,) = unpack(b"".join([pack_header(HEADER), *pieces, pack_end(1)]))
    assert equal(section.body["first"], large)
    assert equal(section.body["small"], body["small"])
    assert equal(section.body["nested"][0], body["nested"][0])
    assert equal(section.body["nested"][1]["last"], large[0])
    assert section.body["end"] == 1
