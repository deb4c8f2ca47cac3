"""Mutated payloads of real captures for the decoders of KV events.

    python -m tests.sources.fuzz_wire COUNT [SEED] [CAPTURE...]

Each mutant goes through the reader of the core and through the reference, which must agree; nothing may be
raised. Prints how many mutants there were, and how many got past the outermost header of a batch.
"""

import gzip
import random
import resource
import struct
import sys
from collections import Counter
from copy import deepcopy

import msgspec
import numpy as np

from kvstream._core.kv_events import KVEventReader
from kvstream.sources.kv_events import HOST_POOLS, TIER_OF_MEDIUM, _tier_of
from kvstream.sources.wire_capture import wire_message_parser
from tests.publisher import captured
from tests.sources.kv_events_reference import ReferenceReader, nanoseconds
from tests.strategies import mutated

HEADER_BYTES = 11  # of a batch: the head of the array, the time, the head of the events
LONGEST = 1500  # bytes of a payload that is mutated
ODD = [
    None,
    True,
    0,
    -1,
    2**63,
    2**64 - 1,
    -(2**63),
    1e300,
    float("nan"),
    float("inf"),
    "",
    "GPU",
    "x" * 300,
    b"",
    b"\xff" * 32,
    [],
    msgspec.Raw(b"\x91" * 1_000_000 + b"\xc0"),
    {},
    {"type": "BlockStored"},
    ["BlockRemoved", [1]],
    [1, b"\x01", -1, 2**64 - 1],
    [1, None],
    ["1"],
]


def payloads(paths=()):
    """Short payloads of captures: of those given, or of those in the tests."""
    found = []
    for path in paths:
        with gzip.open(path) as file:
            found += [message.payload for message in wire_message_parser(path).feed(file.read())]
    for name in () if paths else ("chat", "scan"):
        found += captured(name)
    return [payload for payload in found if len(payload) <= LONGEST][:2_000]


def with_an_odd_value(rng, payload):
    """The batch with a value anywhere in it replaced by another kind of value."""
    batch = msgspec.msgpack.decode(payload)
    for _ in range(rng.randrange(1, 3)):
        holder, depth = batch, rng.randrange(1, 5)
        while True:
            keys = range(len(holder)) if isinstance(holder, list) else [*holder]
            if not keys:
                break
            key = rng.choice(keys)
            if depth > 1 and isinstance(holder[key], (list, dict)) and holder[key]:
                holder, depth = holder[key], depth - 1
                continue
            holder[key] = deepcopy(rng.choice(ODD))
            break
    return msgspec.msgpack.encode(batch)


def mutant(rng, seeds):
    """A payload with changed bytes anywhere, with changed bytes behind its header, or with odd values."""
    payload = rng.choice(seeds)
    kind = rng.randrange(8)
    if kind == 0:
        return mutated(rng, payload)
    if kind == 1:
        return payload[:HEADER_BYTES] + mutated(rng, payload[HEADER_BYTES:])
    if kind < 4:
        data = bytearray(payload)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(HEADER_BYTES, len(data))] = rng.randrange(256)
        return bytes(data)
    return with_an_odd_value(rng, payload)


def has_header(payload):
    """Whether this begins as a batch does: an array of a time that is one, and an array of events."""
    head = payload[:HEADER_BYTES]
    if len(head) < HEADER_BYTES or head[0] & 0xF0 != 0x90 or head[0] < 0x92 or head[1] != 0xCB:
        return False
    is_array = head[10] & 0xF0 == 0x90 or head[10] in (0xDC, 0xDD)
    return is_array and nanoseconds(struct.unpack(">d", head[2:10])[0]) is not None


def rows_of(reader):
    """Return the rows that a reader of the core has, as the reference has them."""
    rows = {}
    for rank, tier, ops, blocks, ts, label_of, labels, sizes in reader.take():
        names = [None, *labels]
        adapters = [None] * len(ops) if label_of is None else [names[number] for number in label_of.tolist()]
        assert labels or label_of is None
        tokens = np.zeros(len(ops), np.int64)
        for row, size in sizes:
            tokens[row:] = size
        columns = (ops.tolist(), blocks.tolist(), ts.tolist(), adapters, tokens.tolist())
        rows[rank, tier] = list(zip(*columns, strict=True))
    return rows


def same(reader, reference, payloads):
    """Read batches with both and return what could not be read.

    Raises:
        AssertionError: If they disagree.
    """
    payloads = list(payloads)
    failures = []
    for place, unit, reason, count in reader.read(payloads):
        event = int(reason.split()[1]) if unit == "event" else None
        assert reason.startswith("event" if unit == "event" else ("not a batch", "batch of", "the time of"))
        failures.append((place, unit, event, count))
    reference.read(payloads)
    assert failures == reference.failures
    assert rows_of(reader) == {place: rows for place, rows in reference.rows.items() if rows}
    for name in ("batches", "last_ts", "unknown_events"):
        assert getattr(reader, name) == getattr(reference, name)
    return failures


def fuzz(kind, count, seed, seeds, at_once=5):
    """Read mutants with a class of readers and the reference; return how many there were of each kind.

    Raises:
        AssertionError: If they disagree.
    """
    rng = random.Random(seed)
    reader, reference = kind(_tier_of, TIER_OF_MEDIUM.values(), HOST_POOLS), ReferenceReader()
    counts = Counter()
    while counts["mutants"] < count:
        mutants = [mutant(rng, seeds) for _ in range(at_once)]
        failures = same(reader, reference, mutants)
        counts["mutants"] += at_once
        counts["past the header"] += sum(map(has_header, mutants))
        counts["refused whole"] += sum(unit == "batch" for _, unit, _, _ in failures)
        counts["with events refused"] += len({batch for batch, unit, _, _ in failures if unit == "event"})
        counts["rows"] += sum(map(len, reference.rows.values()))
        assert reader.batches + counts["refused whole"] == counts["mutants"]
    counts["decoded"] = reader.batches
    counts["unknown events"] = reader.unknown_events
    return counts


if __name__ == "__main__":
    result = fuzz(
        KVEventReader, int(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else 1), payloads(sys.argv[3:])
    )
    print(", ".join(f"{name} {number:,}" for name, number in result.items()))
    print(f"memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
